"""What every check of the doctor returns: findings, each with a level and a remedy."""

import attrs

OK = "ok"  # the level of what was looked at and is as it should be
NOTE = "note"
WARNING = "warning"
ERROR = "error"
DATA_ERROR = 65  # EX_DATAERR of sysexits.h: the exit code for errors


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that `palace doctor` says; a note is nothing to worry about."""

    level: str
    code: str
    text: str
    remedy: str = ""
