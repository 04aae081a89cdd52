"""What becomes of a line that may have been carried out before its broker died.

Rule for this file: pure; the one place that decides it.
"""

import enum
import re

import attrs

from palace.protocol.errors import OutcomeUnknown, PalaceError
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

_CLAIM = re.compile(
    r"(?P<before>[;,]? )?[Nn]othing was (?:done|read|changed|stored|forgotten)"
    r"(?:; (?P<next>\w+)|\.)"
)


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


def in_doubt(name: str, problem: PalaceError) -> OutcomeUnknown:
    """Return what a line is told that may have run before, and is refused now for a reason."""
    return OutcomeUnknown(
        f"An earlier broker ended before it had answered {name}, which may or may not have been "
        f"carried out: look before you repeat it. It was not begun again. {reason_of(problem)}"
    )


def reason_of(problem: PalaceError) -> str:
    """Return an error's text without its word that nothing was done, which goes for now alone."""
    return _CLAIM.sub(_without_claim, problem.message)


def _without_claim(found: re.Match[str]) -> str:
    word = found["next"]
    if word is not None:  # it becomes a sentence, unless it is the name of something
        return f"{found['before'] or ''}{word.capitalize() if word.isalpha() else word}"
    return "" if found["before"] in (None, " ") else "."
