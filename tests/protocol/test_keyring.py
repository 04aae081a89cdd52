"""Which records are an owner's: by whose key each was written, and whether it still says so."""

import pytest

from palace.protocol.keyring import ANYBODYS, CODE_BYTES, SECRET_BYTES, Key, Keyring

MINE, OLDER, STRANGE = (Key(bytes([number]) * SECRET_BYTES) for number in (1, 2, 3))
TEXT = b'{"seq":7}'


def test_a_key_is_named_without_being_told() -> None:
    assert MINE.id != OLDER.id
    assert MINE.secret.hex() not in MINE.id
    assert Key(MINE.secret, "2026-01-01").id == MINE.id
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")


def test_a_code_is_of_its_key_and_of_its_text() -> None:
    code = MINE.code(TEXT)

    assert len(bytes.fromhex(code)) == CODE_BYTES
    assert code == MINE.code(TEXT)
    assert code not in (OLDER.code(TEXT), MINE.code(TEXT + b" "))


@pytest.mark.parametrize(
    ("by", "code", "seq", "said"),
    [
        (MINE.id, MINE.code(TEXT), 9, ""),
        (OLDER.id, OLDER.code(TEXT), 9, ""),
        (MINE.id, OLDER.code(TEXT), 9, "changed after it was written"),
        (MINE.id, OLDER.code(TEXT), 5, "changed after it was written"),  # it claims a known key
        (STRANGE.id, STRANGE.code(TEXT), 9, "is not known"),
        (STRANGE.id, STRANGE.code(TEXT), 5, ""),
        ("", "", 6, "it has no code"),
        ("", "", 5, ""),
    ],
)
def test_what_counts_is_what_a_known_key_has_written_or_was_there_before(
    by: str, code: str, seq: int, said: str
) -> None:
    ring = Keyring((MINE, OLDER), floor=5)

    problem = ring.problem(by, code, TEXT, seq)

    assert ring.own is MINE
    assert bool(problem) is bool(said)
    assert said in problem


def test_without_a_key_everything_counts() -> None:
    assert ANYBODYS.own is None
    assert ANYBODYS.problem(STRANGE.id, "nonsense", TEXT, 9) == ""


def test_a_key_keeps_what_it_was_made_of() -> None:
    key = Key(b"s" * SECRET_BYTES, "2026-01-01")

    assert (key.secret, key.since) == (b"s" * SECRET_BYTES, "2026-01-01")
    assert Key(b"s" * SECRET_BYTES).since == ""


def test_without_a_floor_nothing_from_before_counts() -> None:
    assert Keyring((MINE,)).problem("", "", TEXT, 1) == "it has no code"
    assert ANYBODYS.floor == 0
