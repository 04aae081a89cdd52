"""What the journal says is there, whatever order its files are read in."""

from itertools import permutations
from typing import Any

import attrs

from palace.journal.last_words import LastWords
from palace.journal.record import DELETE, OUTCOME, PUT, Record


def record(seq: int, action: str, ident: str, *, kind: str = "k") -> Record:
    fields = {field.name: field.default for field in attrs.fields(Record)}
    known: dict[str, Any] = {
        "seq": seq,
        "action": action,
        "kind": kind,
        "id": ident,
        "deleted": action == DELETE,
    }
    missing = {name: "" for name, value in fields.items() if value is attrs.NOTHING}
    return Record(**{**missing, **known})


RECORDS = (
    record(1, PUT, "kept"),
    record(2, PUT, "gone"),
    record(3, DELETE, "gone"),
    record(4, DELETE, "back"),
    record(5, PUT, "back"),
    record(6, OUTCOME, "kept"),
)


def test_the_last_word_counts_in_any_order() -> None:
    for order in permutations(RECORDS):
        words = LastWords()
        for one in order:
            words.take(one)

        found = words.live(0)
        assert {kind: sorted(ids) for kind, ids in found.items()} == {"k": ["back", "kept"]}
        assert words.seq == 5, "what is no entity's doesn't count"


def test_only_later_ones_are_told_where_that_is_asked() -> None:
    words = LastWords()
    for one in RECORDS:
        words.take(one)

    assert words.live(1) == {"k": ["back"]}
    assert words.live(4) == {"k": ["back"]}
    assert words.live(5) == {}


def test_kinds_are_told_apart() -> None:
    words = LastWords()
    words.take(record(1, PUT, "x", kind="a"))
    words.take(record(2, PUT, "x", kind="b"))
    words.take(record(3, DELETE, "x", kind="a"))

    assert words.live(0) == {"b": ["x"]}
