"""What a client is told of lines that no broker will answer any more.

Loaded before it is needed: a shim that fails may have no descriptor left to import it with.
"""

from palace.protocol.errors import OutcomeUnknown, PalaceError
from palace.protocol.ledger import DEATHS_MAX


def unanswered(problem: PalaceError, *, maybe_ran: bool) -> PalaceError:
    """Return the error for a line for which no owner can be had."""
    if not maybe_ran:
        return problem
    return OutcomeUnknown(
        f"The broker ended before it answered. {problem.message} If this was a "
        "change, it may or may not have been carried out."
    )


def suspected(lines: int, log: str) -> OutcomeUnknown:
    """Return the error for `lines` lines that may be the cause of so many deaths."""
    others = f" and {lines - 1} more requests" if lines > 1 else ""
    return OutcomeUnknown(
        f"{DEATHS_MAX} brokers ended while they had this{others} to answer. Which request "
        "ended them isn't known here, so none is sent again; this one may or may not have "
        f"been carried out. The broker's log: {log}"
    )
