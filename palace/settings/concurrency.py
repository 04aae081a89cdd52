"""How many of a command's parts may run at once: a number in the environment.

A sweep must not fail for a typo in a profile, so what makes no sense is told and passed over.
(palace.toml is strict: people write it for a broker, and read its errors.)
"""

import re
from collections.abc import Callable, Mapping

import attrs

UNLIMITED = 1 << 20
_NUMBER = re.compile(r"[0-9]+")


@attrs.frozen
class Concurrency:
    """A setting of the environment, and what it is where nobody has set it."""

    variable: str
    default: int

    def limit(self, environ: Mapping[str, str], complain: Callable[[str], None]) -> int:
        """Return how many run at once; what is wrong with the setting is told in a line."""
        limit, wrong = self.read(environ.get(self.variable))
        if wrong:
            complain(f"warning: ${self.variable} is {wrong}.")
        return limit

    def read(self, text: str | None) -> tuple[int, str]:
        """Return the limit that a setting stands for, and what is wrong with it, "" for nothing.

        None (unset) and blanks are the default, 0 is no limit; what is no whole number in ASCII
        digits is the default, with a warning.
        """
        given = (text or "").strip()
        if not given:
            return self.default, ""
        # int() would take other scripts' digits, underscores and a sign as well.
        if not _NUMBER.fullmatch(given):
            why = f"{given[:40]!a} is no number of 0 or more, so it is taken for {self.default}"
            return self.default, why
        digits = given.lstrip("0")[: len(str(UNLIMITED)) + 1]  # int() refuses more than 4,300
        return min(int(digits or "0"), UNLIMITED) or UNLIMITED, ""


PROVISIONS = Concurrency("PALACE_PROVISION_CONCURRENCY", 3)
BACKFILLS = Concurrency("PALACE_BACKFILL_CONCURRENCY", 4)
