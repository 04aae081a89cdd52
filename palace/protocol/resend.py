"""What becomes of a line that may have been carried out before its broker died.

Rule for this file: pure; the one place that decides it.
"""

import enum

import attrs

from palace.protocol.tools import Kind


class Verdict(enum.Enum):
    RUN = "run"  # it left no trace, or changes nothing
    REPEAT = "repeat"  # it was carried out: its recorded reply goes out again
    UNKNOWN = "unknown"  # it may or may not have been carried out
    QUARANTINE = "quarantine"  # it was under way at the death of several brokers


@attrs.frozen(kw_only=True)
class Trace:
    """What the journal knows of a line; `kept` is False where it may have forgotten."""

    kept: bool = False
    recorded: bool = False
    crashes: int = 0


CRASHES_MAX = 2  # of brokers, with one line under way at each


def judge(kind: Kind, *, maybe_ran: bool, trace: Trace) -> Verdict:
    """Decide on a line; `maybe_ran` says that an earlier owner may have begun it."""
    if not maybe_ran or kind is Kind.QUERY:
        return Verdict.RUN
    if trace.recorded:
        return Verdict.REPEAT
    if kind is Kind.EXTERNAL or not trace.kept:
        return Verdict.UNKNOWN
    if trace.crashes >= CRASHES_MAX:
        return Verdict.QUARANTINE
    return Verdict.RUN
