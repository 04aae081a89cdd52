"""What every check of the doctor yields: findings with a level, a remedy, and perhaps a fix."""

from collections.abc import Callable

import attrs

OK = "ok"  # examined, and in order
NOTE = "note"
WARNING = "warning"
ERROR = "error"
DATA_ERROR = 65  # EX_DATAERR of sysexits.h: the exit code for errors


@attrs.frozen(kw_only=True)
class Fix:
    """What `palace doctor --fix` does about a finding; only what can lose nothing.

    `text` says it in the imperative ("remove /x").  `act` does it, as often as it is called,
    and looks again first whether it still has to be done; raises PalaceError or OSError.
    """

    text: str
    act: Callable[[], object]


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that `palace doctor` reports; a note needs no attention."""

    level: str
    code: str
    text: str
    remedy: str = ""
    fix: Fix | None = None
