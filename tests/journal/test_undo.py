"""What a group's entities were before it: the first change of each knows, the last one doesn't."""

from typing import Any

from palace.journal.record import ABORT, DELETE, PUT, UNDO, Draft
from palace.journal.undo import first_changes, records_of_undoing, undo


def change(ident: str, before: Any, after: Any, kind: str = "a") -> Draft:
    action = PUT if after is not None else DELETE
    return Draft(
        action=action, kind=kind, id=ident, before=before, payload=after, deleted=after is None
    )


def test_first_change_of_an_entity_counts_and_not_its_last() -> None:
    group = [change("x", 1, 2), change("x", 2, 3), change("x", 3, None)]

    assert first_changes(group) == {("a", "x"): group[0]}
    assert undo("s:1", first_changes(group)["a", "x"]).payload == 1


def test_entity_that_the_group_created_was_absent_whatever_became_of_it() -> None:
    group = [change("x", None, 1), change("x", 1, 2)]

    (only,) = first_changes(group).values()
    record = undo("s:1", only)

    assert (record.action, record.key, record.payload) == (UNDO, "s:1", None)
    assert record.deleted


def test_entities_of_one_id_and_two_kinds_are_two() -> None:
    group = [change("x", 1, 2), change("x", 5, 6, kind="b"), change("x", 2, 3)]

    assert {entity: first.before for entity, first in first_changes(group).items()} == {
        ("a", "x"): 1,
        ("b", "x"): 5,
    }


def test_entity_that_was_changed_last_comes_first() -> None:
    group = [change("x", 1, 2), change("y", 1, 2), change("z", 1, 2), change("x", 2, 3)]

    assert [ident for _, ident in first_changes(group)] == ["x", "z", "y"]


def test_changes_are_not_touched() -> None:
    group = [change("x", 1, 2), change("x", 2, 3)]
    kept = list(group)

    first_changes(group)

    assert group == kept
    assert first_changes([]) == {}


def test_of_two_unfinished_groups_the_older_one_has_the_last_word() -> None:
    groups = {"s:1": [change("x", 1, 2)], "s:2": [change("x", 2, 3), change("y", None, 4)]}

    drafts = list(records_of_undoing(groups, "its owner died"))

    state = {}
    for draft in drafts:
        if draft.action == UNDO:
            state[draft.id] = draft.payload
    assert state == {"x": 1, "y": None}
    assert [draft.key for draft in drafts if draft.action == ABORT] == ["s:2", "s:1"]
