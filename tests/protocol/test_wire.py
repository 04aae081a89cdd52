from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol import wire
from palace.protocol.errors import WireError

VALUES = st.text(st.characters(), max_size=60)
KEYS = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_header_comes_back_as_it_was(fields: dict[str, str]) -> None:
    line = wire.encode_header("hello", fields)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert wire.decode_header(line[:-1]) == (1, "hello", fields)


@given(st.binary(max_size=200))
def test_header_of_a_stranger_is_refused_or_read_but_never_crashes(line: bytes) -> None:
    with suppress(WireError):
        wire.decode_header(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"palace/",
        b"palace/x hello",
        b"palace/1",
        b"palace/1 hello novalue",
        b"palace/1 hello a=%zz",
        b"palace/1 hello a=%",
        b"palace/1 hello a=%%41",
        b"palace/1 hello a=%ff",
        b"GET / HTTP/1.1",
        b'{"jsonrpc": "2.0"}',
        b"palace/1 hello a=" + b"x" * wire.HEADER_BYTES_MAX,
        "palace/1 hello a=ä".encode(),
    ],
)
def test_broken_header_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_header(line)


def test_header_of_another_version_is_read_so_that_it_can_be_answered() -> None:
    assert wire.decode_header(b"palace/99 hello session=ab") == (99, "hello", {"session": "ab"})


@given(st.integers(0, 10**12), st.one_of(st.none(), st.binary(min_size=1, max_size=50)))
def test_reply_comes_back_as_it_was(ordinal: int, payload: bytes | None) -> None:
    line = wire.encode_reply(ordinal, payload)

    assert wire.decode_reply(line[:-1]) == (ordinal, payload or b"")


@pytest.mark.parametrize("line", [b"", b"x {}", b"-1 {}", b'{"id": 1}', b" 1 {}"])
def test_what_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(WireError, match="not a reply"):
        wire.decode_reply(line)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.booleans()), unique_by=lambda item: item[0]))
def test_resend_list_comes_back_in_order(lines: list[tuple[int, bool]]) -> None:
    lines = sorted(lines)

    assert wire.decode_resend(wire.encode_resend(lines)) == lines


@pytest.mark.parametrize("text", ["1", "a:1", "2:1,1:1", "1:1,1:0", ":", "1:1,"])
def test_broken_resend_list_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="resend list"):
        wire.decode_resend(text)


def test_ordinals_come_back_and_garbage_is_refused() -> None:
    assert wire.decode_ordinals(wire.encode_ordinals([])) == []
    assert wire.decode_ordinals(wire.encode_ordinals([3, 1])) == [3, 1]
    with pytest.raises(WireError, match="broken ordinal list: '1,x'"):
        wire.decode_ordinals("1,x")


@pytest.mark.parametrize(
    ("data", "identity"),
    [
        (None, ""),
        (b"0123456789abcdef" * 2 + b"\n", "0123456789abcdef" * 2),
        (b"", None),
        (b"0123456789abcdef", None),
        (b"0123456789ABCDEF" * 2, None),
        (b"X" + b"0" * 30 + b"X", None),
    ],
)
def test_identity_is_read_and_an_odd_one_told_from_none(
    data: bytes | None, identity: str | None
) -> None:
    assert wire.identity_of(data) == identity


def test_both_sides_speak_the_newest_version_that_both_know() -> None:
    assert wire.common_version(1, 1) == 1
    assert wire.common_version(wire.OLDEST, wire.VERSION + 5) == wire.VERSION
    assert wire.common_version(wire.VERSION + 1, wire.VERSION + 5) == 0
    assert wire.common_version(0, wire.OLDEST - 1) == 0


def test_a_header_is_said_in_another_version() -> None:
    line = wire.encode_header(wire.HELLO, {"session": "a b"})

    assert wire.at_version(line, 7) == wire.encode_header(wire.HELLO, {"session": "a b"}, version=7)
    assert wire.decode_header(wire.at_version(line, 7)) == (7, "hello", {"session": "a b"})


@pytest.mark.parametrize(
    "session", ["", "h", "h" + "0" * 31, "h" + "g" * 32, "x" + "0" * 32, "hX" + "0" * 30 + "X"]
)
def test_a_name_that_an_older_shim_made_up_wants_no_proof(session: str) -> None:
    assert not wire.wants_proof(session)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "٣", "9" * 21, "9" * 5000, "8"])
def test_what_is_no_number_within_its_bound_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        wire.whole_number(text, most=7)


def test_a_number_among_a_headers_fields_is_read_or_refused() -> None:
    assert wire.number_of({"ordinal": "7"}, "ordinal") == 7
    for fields, said in (({}, "ordinal is no number: ''"), ({"ordinal": "-1"}, "number: '-1'")):
        with pytest.raises(WireError, match=said):
            wire.number_of(fields, "ordinal")


def test_a_goodbye_says_what_was_read_up_to() -> None:
    assert wire.decode_read_upto({}) == wire.decode_read_upto({"read_upto": "-1"}) == -1
    assert wire.decode_read_upto({"read_upto": "12"}) == 12
    with pytest.raises(WireError, match="read_upto is no number: '-2'"):
        wire.decode_read_upto({"read_upto": "-2"})


def test_a_list_of_ordinals_is_bounded() -> None:
    most = ",".join(map(str, range(wire.LIST_MAX)))
    assert len(wire.decode_ordinals(most)) == wire.LIST_MAX
    with pytest.raises(WireError, match="broken ordinal list"):
        wire.decode_ordinals(most + ",0")


def test_a_value_may_hold_what_separates_fields() -> None:
    assert wire.decode_header(b"palace/1 hello a=b=c=d e=") == (1, "hello", {"a": "b=c=d", "e": ""})


def test_letters_stay_readable_beside_what_is_escaped() -> None:
    assert wire.quote("a b/c=") == "a%20b/c%3D"
    assert wire.quote("a_b-c.d:e,f/g+h@i~9") == "a_b-c.d:e,f/g+h@i~9"


def test_a_header_is_said_in_our_own_version() -> None:
    assert wire.encode_header("x", {}) == b"palace/%d x\n" % wire.VERSION
    assert wire.encode_header("x", {}, version=7) == b"palace/7 x\n"


def test_the_longest_header_is_read_and_a_longer_one_is_not() -> None:
    start = b"palace/1 hello a="
    fitting = start + b"x" * (wire.HEADER_BYTES_MAX - len(start))

    assert len(wire.decode_header(fitting)[2]["a"]) == wire.HEADER_BYTES_MAX - len(start)
    with pytest.raises(WireError, match="not a palace header: b'palace/1 hello a=x"):
        wire.decode_header(fitting + b"x")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"GET / HTTP/1.1", "not a palace header: b'GET / HTTP/1.1'"),
        (b"palace/x hello", "broken palace header: b'palace/x hello'"),
    ],
)
def test_a_stranger_is_told_what_it_said(line: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        wire.decode_header(line)


def test_a_broken_escape_is_named() -> None:
    with pytest.raises(WireError, match="broken escape in '%zz'"):
        wire.unquote("%zz")


def test_a_number_may_be_the_largest_and_no_larger() -> None:
    assert wire.whole_number(str(wire.NUMBER_MAX)) == wire.NUMBER_MAX
    assert wire.whole_number("255", most=255) == 255
    for text in ("256", str(10 * wire.NUMBER_MAX), "+1", "1_0", "\u0661", ""):
        with pytest.raises(ValueError, match="not a number from 0 to 255"):
            wire.whole_number(text, most=255)
