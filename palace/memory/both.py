"""What is to be done where some of a palace's namespaces are held elsewhere, and others here."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Protocol

from palace.memory.memory import Memory


class Here(Protocol):
    def get(self, ident: str) -> Memory | None: ...

    def idents(self, namespace: str) -> Sequence[str]: ...


class There(Protocol):
    def id_of(self, ident: str) -> str: ...


def copy_of(store: Here, there: There, ident: str, namespace: str) -> Memory | None:
    """Return the copy that was left here of a memory of another store, None where there is none.

    Its id follows from the one here, and not the other way round, so all copies are gone through.
    """
    copy = store.get(ident)
    if copy is not None and copy.namespace == namespace:
        return copy
    found = (store.get(own) for own in store.idents(namespace) if there.id_of(own) == ident)
    return next(found, None)


def merged(here: list[Memory], there: list[Memory], *, by_time: bool) -> list[Memory]:
    """Return what two stores have found, in one order.

    How near a memory is to what was asked is not told by both in the same measure, so they take
    turns.
    """
    if by_time:
        return sorted(here + there, key=lambda one: one.created_at, reverse=True)
    return [one for one in chain(*zip_longest(here, there)) if one is not None]
