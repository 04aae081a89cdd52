"""One record: it comes back as it was, and nothing that was damaged comes back at all."""

import json
import math
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.journal.record import (
    ACTIONS,
    ADOPT,
    CHANGES,
    DELETE,
    OUTCOME,
    PUT,
    BrokenRecord,
    Draft,
    Record,
    Stamp,
    decode,
    encode,
    seal,
    unseal,
)

STAMP = Stamp(epoch=7, writer="ab12")
TS = "2026-01-01T00:00:00Z"

# Lone surrogates included: agents' texts hold them, and JSON carries them.
texts = st.text(st.characters(exclude_categories=()) | st.just("\ud83d"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def alike(one: Any, other: Any) -> bool:
    """Tell whether two values are equal where a NaN equals itself, and 1 isn't 1.0 or True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


@settings(deadline=None)
@given(
    draft=st.builds(
        Draft,
        action=st.sampled_from(sorted(ACTIONS)),
        key=texts,
        step=st.integers(0, 10**9),
        kind=texts,
        id=texts,
        payload=values,
        deleted=st.booleans(),
        before=values,
    ),
    seq=st.integers(0, 10**20 - 1),
)
def test_a_record_comes_back_as_it_was(draft: Draft, seq: int) -> None:
    data = encode(draft, seq, STAMP, TS)
    assert data.startswith(b"\n{")
    assert data.endswith(b'"}\n')
    assert data.count(b"\n") == 2

    record = decode(data.strip(b"\n"))

    assert (record.seq, record.epoch, record.writer, record.ts) == (seq, 7, "ab12", TS)
    assert record.entity == (draft.kind, draft.id)
    for name in ("action", "key", "step", "deleted"):
        assert getattr(record, name) == getattr(draft, name)
    assert alike(record.payload, draft.payload)
    assert alike(record.before, draft.before if draft.action in CHANGES else None)


@pytest.mark.parametrize(
    "text", ["\ud800", "\udfff\ud800", "\ud83d" + "\ude00", "\U0001f600", "\u2028\0"]
)
def test_a_text_that_is_no_unicode_comes_back_too(text: str) -> None:
    record = decode(line(payload={text: text}, id=text))

    assert (record.payload, record.id) == ({text: text}, text)


def line(**more: Any) -> bytes:
    draft = Draft(**({"action": PUT, "key": "s:1", "kind": "k", "id": "i", "payload": "ü"} | more))
    return encode(draft, 3, STAMP, TS).strip(b"\n")


def test_every_damaged_byte_is_noticed() -> None:
    good = line()
    for at in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            with pytest.raises(BrokenRecord):
                decode(bytes(bad))


@settings(deadline=None)
@given(at=st.integers(0, len(line()) - 1), byte=st.integers(0, 255))
def test_every_replaced_byte_is_noticed(at: int, byte: int) -> None:
    good = line()
    bad = good[:at] + bytes([byte]) + good[at + 1 :]

    if bad == good:
        assert decode(bad).id == "i"
    else:
        with pytest.raises(BrokenRecord):
            decode(bad)


def test_every_truncation_and_every_missing_byte_is_noticed() -> None:
    good = line()
    for at in range(len(good)):
        for bad in (good[:at], good[at + 1 :], good[:at] + good[at + 1 :], good[: at + 1] * 2):
            with pytest.raises(BrokenRecord):
                decode(bad)


def test_what_a_line_says_of_its_damage() -> None:
    good = line()
    with pytest.raises(BrokenRecord, match="checksum is wrong"):
        decode(good.replace(b'"k"', b'"x"'))
    with pytest.raises(BrokenRecord, match="torn"):
        decode(good[:-1])
    with pytest.raises(BrokenRecord, match="torn"):
        decode(bytes(len(good)))


def sealed(text: str) -> bytes:
    return seal(text.encode()).strip(b"\n")


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "null", '{"v":1}', "[" * 5000 + "]" * 5000, '{"v":1,"seq":}', '"é"']
)
def test_what_is_sealed_but_no_record_is_refused(text: str) -> None:
    with pytest.raises(BrokenRecord):
        decode(sealed(text))
    with pytest.raises(BrokenRecord):
        decode(seal(b'{"v":1,"key":"\xff"}').strip(b"\n"))


def test_a_record_of_a_later_version_is_refused_and_named() -> None:
    fields = json.loads(unseal(line()))

    with pytest.raises(BrokenRecord, match="newer palace"):
        decode(sealed(json.dumps(fields | {"v": 2})))
    assert decode(sealed(json.dumps(fields))).id == "i"


def test_the_checksum_is_the_last_member_and_covers_the_rest() -> None:
    good = line()
    body = unseal(good)

    assert json.loads(good)["crc"] == f"{zlib.crc32(body):08x}"
    assert list(json.loads(good))[-1] == "crc"
    assert json.loads(body) == {k: v for k, v in json.loads(good).items() if k != "crc"}


def test_only_changes_hold_what_was_before() -> None:
    for action in (PUT, DELETE):
        assert json.loads(line(action=action, before={"a": 1}))["before"] == {"a": 1}
    for action in (ADOPT, OUTCOME):
        assert "before" not in json.loads(line(action=action, before={"a": 1}))
        assert decode(line(action=action)).before is None


@pytest.mark.parametrize("payload", [{1, 2}, b"x", {"a": object()}, {(1, 2): 3}])
def test_what_is_no_json_is_refused_by_the_writer(payload: object) -> None:
    with pytest.raises(TypeError):
        line(payload=payload)


def test_a_payload_may_look_like_the_end_of_a_record() -> None:
    nasty = '","crc":"00000000"}\n{"v":1'
    record: Record = decode(line(payload=nasty, id='x","crc":"'))

    assert (record.payload, record.id) == (nasty, 'x","crc":"')
