"""When a memory ends: `expires_at` as it is written (RFC 3339), and as stores compare it.

A memory is invisible from its instant on, on every path, whoever has swept or not.
"""

import re
from datetime import UTC, datetime, timedelta

from palace.protocol.errors import InvalidMemory

# What a memory without an end carries: beyond the year 9999, so that one comparison serves all.
NEVER_S = 9e11
TEXT_CHARS_MAX = 64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d++))?"
    r"(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII | re.IGNORECASE,
)
_LEAP_SECOND = 60


def parse_expires_at(text: object) -> datetime:
    """Return the instant, in UTC, without what is finer than a microsecond.

    Raises InvalidMemory for whatever isn't RFC 3339 to the letter (`2027-01-31T18:00:00Z`).
    """
    found = _RFC_3339.fullmatch(text) if isinstance(text, str) else None
    if found is None or len(found.group()) > TEXT_CHARS_MAX:
        raise _malformed(text)
    fraction = (found[7] or "").ljust(6, "0")[:6]
    parts = (*found.groups()[:6], fraction, found[9] or "0", found[10] or "0")
    year, month, day, hour, minute, second, micros, hours, minutes = map(int, parts)
    offset = timedelta(hours=hours, minutes=minutes)
    leap = second == _LEAP_SECOND
    try:
        local = datetime(year, month, day, hour, minute, second - leap, micros, tzinfo=UTC)
        moment = local + (offset if found[8] == "-" else -offset)
        if leap and (moment.hour, moment.minute) != (23, 59):
            raise _malformed(text)
        return moment + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise _malformed(text) from None


def _malformed(text: object) -> InvalidMemory:
    shown = ascii(text[:TEXT_CHARS_MAX]) if isinstance(text, str) else type(text).__name__
    return InvalidMemory(
        f"expires_at must be RFC3339, with a time zone, and name a moment of the years 1 to 9999, "
        f"not {shown}. Write it like 2027-01-31T18:00:00Z, or leave it out: then it never ends"
    )


def written(moment: datetime) -> str:
    """Return an instant as palace writes it: in UTC, to the microsecond, with a Z."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def until_s(moment: datetime | None) -> float:
    """Return what a store compares: seconds since 1970, NEVER_S for None.

    Up to the year 2242 different microseconds have different values.
    """
    return NEVER_S if moment is None else (moment - _EPOCH) / timedelta(seconds=1)


def is_expired(until: float, now_s: float) -> bool:
    """Tell whether a memory that ends at `until` is over at `now_s`; it is at that very instant."""
    return now_s >= until
