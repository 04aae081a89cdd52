"""Taking a group of changes back: what its entities were before it, and the records that say so.

A group may change an entity several times.  Only the first of these changes knows what was there
before the group: each later `before` is a state that the group itself made.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from palace.journal.record import ABORT, UNDO, Draft, Entity, Payload


class Reversible(Protocol):
    """A change that knows what was before it: a store's own, or the journal's record of one."""

    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def before(self) -> Payload: ...


AnyChange = TypeVar("AnyChange", bound=Reversible)
AnyGroup = TypeVar("AnyGroup")


def first_changes(changes: Sequence[AnyChange]) -> dict[Entity, AnyChange]:
    """Return each entity's first change, whose `before` is what was there before the group.

    `changes` are a group's, oldest first.  The entity that was changed last comes first, so that
    what depends on another entity goes before it does.
    """
    first: dict[Entity, AnyChange] = {}
    for change in reversed(changes):
        first[change.kind, change.id] = change  # an earlier one takes the later one's place
    return first


def newest_first(open_groups: Mapping[str, AnyGroup]) -> list[tuple[str, AnyGroup]]:
    """Return unfinished groups, given in the order of their beginnings, as they are taken back.

    Where two of them changed one entity, only the older one's `before` is no state of theirs: it
    has to be the last word.
    """
    return list(open_groups.items())[::-1]


def records_of_undoing(open_groups: Mapping[str, Sequence[Draft]], why: str) -> Iterator[Draft]:
    """Yield what takes unfinished groups back in the journal, where no store holds their changes.

    `open_groups` are each key's changes, oldest first, in the order of the groups' beginnings.
    """
    for key, changes in newest_first(open_groups):
        yield from (undo(key, change) for change in first_changes(changes).values())
        yield Draft(action=ABORT, key=key, payload={"why": why})


def undo(key: str, change: Reversible) -> Draft:
    """Return the record that takes a change back."""
    return Draft(
        action=UNDO,
        key=key,
        kind=change.kind,
        id=change.id,
        payload=change.before,
        deleted=change.before is None,
    )
