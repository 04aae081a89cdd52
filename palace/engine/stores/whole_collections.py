"""What the seams of stores journal of a collection that was made, or is about to be dropped."""

from typing import Protocol

from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.projection import Change, ChangeJournal, Projection


class Knowing(Projection, Protocol):
    """A store that tells which collections it has seen."""

    def knows(self, name: str) -> bool: ...


def note_new(store: Knowing, journal: ChangeJournal, name: str) -> None:
    """Journal a collection that is there by now, unless it was known."""
    # Made first and journalled at once after: an empty collection holds no memory, and is never
    # taken back.
    if store.knows(name):
        return
    now = store.read(COLLECTION, [name]).get(name)
    if now is not None:
        changes = [Change(COLLECTION, name, None, now)]
        journal.change_for_good(store, changes, lambda: None)


def dropped(store: Projection, name: str) -> list[Change]:
    """Return what dropping a collection changes: its records go, and then itself."""
    kind = PREFIX + name
    was = store.read(COLLECTION, [name])
    changes = [Change(kind, ident, old, None) for ident, old in store.scan(kind)]
    return changes + [Change(COLLECTION, name, old, None) for old in was.values()]
