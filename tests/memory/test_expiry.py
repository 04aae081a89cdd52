"""When memories end: RFC 3339 to the letter, to the microsecond, and over at the instant itself."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.memory.expiry import NEVER_S, is_expired, parse_expires_at, until_s, written
from palace.protocol.errors import InvalidMemory

MICROSECOND = timedelta(microseconds=1)
zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones)  # noqa: DTZ001
near = st.datetimes(datetime(1970, 1, 1), datetime(2242, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2027-01-31T18:00:00Z", "2027-01-31T18:00:00.000000Z"),
        ("2027-01-31t18:00:00z", "2027-01-31T18:00:00.000000Z"),
        ("2027-01-31T18:00:00.5+05:30", "2027-01-31T12:30:00.500000Z"),
        ("2027-01-31T18:00:00-00:00", "2027-01-31T18:00:00.000000Z"),
        ("2027-01-31T23:59:59.123456789-02:00", "2027-02-01T01:59:59.123456Z"),
        ("2028-02-29T00:00:00.0000009Z", "2028-02-29T00:00:00.000000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000000Z"),
        ("2016-12-31T18:59:60.25-05:00", "2017-01-01T00:00:00.250000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_end_is_read_and_written_in_utc(text: str, said: str) -> None:
    assert written(parse_expires_at(text)) == said
    assert parse_expires_at(said) == parse_expires_at(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "tomorrow", "2027-01-31", "2027-01-31T18:00Z", "2027-01-31T18:00:00"),
        *("2027-01-31 18:00:00Z", "2027-01-31T18:00:00 Z", "2027-01-31T18:00:00+0100"),
        *("2027-01-31T18:00:00+24:00", "2027-01-31T18:00:00+01:60", "2027-01-31T18:00:00+1:00"),
        *("2027-02-29T00:00:00Z", "2027-13-01T00:00:00Z", "2027-01-31T24:00:00Z"),
        *("2027-01-31T18:00:61Z", "2027-01-31T18:30:60Z", "2027-01-31T23:59:60+01:00"),
        *("2027-01-31T18:00:00.Z", "2027-01-31T18:00:00,5Z", "2027-01-31T18:00:00Z\n"),
        *(" 2027-01-31T18:00:00Z", "20270131T180000Z", "1800000000", "+2027-01-31T18:00:00Z"),
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01"),
        *(
            "9999-12-31T23:59:60Z",
            "2027-01-31T18:00:00\u2212" + "01:00",
            "\u0662027-01-31T18:00:00Z",
        ),
        *("2027-01-31T18:00:00." + "0" * 60 + "Z", None, 1800000000, 1.5, True, ["2027-01-31"]),
    ],
)
def test_whatever_is_not_rfc_3339_is_refused_and_never_dropped(text: object) -> None:
    with pytest.raises(InvalidMemory, match=r"must be RFC3339.*Write it like"):
        parse_expires_at(text)


@given(moments)
def test_an_end_survives_being_written(moment: datetime) -> None:
    assert parse_expires_at(written(moment)) == moment
    assert parse_expires_at(moment.isoformat()) == moment


@given(near)
def test_a_memory_is_over_at_its_instant_and_not_a_microsecond_before(moment: datetime) -> None:
    until = until_s(moment)

    assert is_expired(until, until_s(moment))
    assert is_expired(until, until_s(moment + MICROSECOND))
    assert not is_expired(until, until_s(moment - MICROSECOND))


def test_a_memory_without_an_end_outlives_every_moment() -> None:
    last = parse_expires_at("9999-12-31T23:59:59.999999Z")

    assert until_s(None) == NEVER_S
    assert not is_expired(NEVER_S, until_s(last))
    assert until_s(last) < NEVER_S
