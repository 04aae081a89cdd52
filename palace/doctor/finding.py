"""What every check of the doctor yields: findings, each with a level and a remedy."""

import attrs

OK = "ok"  # examined, and in order
NOTE = "note"
WARNING = "warning"
ERROR = "error"
DATA_ERROR = 65  # EX_DATAERR of sysexits.h: the exit code for errors


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that `palace doctor` reports; a note needs no attention."""

    level: str
    code: str
    text: str
    remedy: str = ""
