"""`palace doctor --fix`: does what can lose nothing, after saying what that is.

`palace doctor` alone is the dry run: a finding that `--fix` would mend says so.
"""

from collections.abc import Iterator

from palace.doctor.finding import Finding, Fix
from palace.protocol.errors import PalaceError

NOTHING = "Nothing here can be mended by --fix; each finding names its remedy."


def fixes_of(findings: list[Finding]) -> list[Fix]:
    """Return the fixes that findings bring, each once."""
    return list({one.fix.text: one.fix for one in findings if one.fix is not None}.values())


def mend(fixes: list[Fix]) -> Iterator[str]:
    """Make the fixes in their order; yield lines for people: all that is to be done, what was done.

    One that fails keeps no other from being made.
    """
    if not fixes:
        yield NOTHING
    for fix in fixes:
        yield f"to do: {fix.text}"
    for fix in fixes:
        problem = _problem_of(fix)
        yield f"not done: {fix.text}: {problem}" if problem else f"done: {fix.text}"


def _problem_of(fix: Fix) -> str:
    try:
        fix.act()
    except PalaceError as error:
        return error.message
    except OSError as error:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return ""
