"""How many of a sweep's commands may run at once: a number in the environment.

A sweep must not fail for a typo in a profile, so what makes no sense is told and passed over.
(palace.toml is strict: people write it for a broker, and read its errors.)
"""

import re

DEFAULT = 3
VARIABLE = "PALACE_PROVISION_CONCURRENCY"
UNLIMITED = 1 << 20
_NUMBER = re.compile(r"[0-9]+")


def concurrency(text: str | None, default: int = DEFAULT) -> tuple[int, str]:
    """Return the limit that a setting stands for, and what is wrong with it, "" if nothing is.

    None (unset) and blanks are the default, 0 is no limit; what is no whole number in ASCII digits
    is the default, with a warning.
    """
    given = (text or "").strip()
    if not given:
        return default, ""
    # int() would take other scripts' digits, underscores and a sign as well.
    if not _NUMBER.fullmatch(given):
        return default, f"{given[:40]!a} is no number of 0 or more, so it is taken for {default}"
    digits = given.lstrip("0")[: len(str(UNLIMITED)) + 1]  # int() refuses more than 4,300
    return min(int(digits or "0"), UNLIMITED) or UNLIMITED, ""
