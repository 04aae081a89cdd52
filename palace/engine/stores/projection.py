"""What the journal asks of a projection: a store that can be rebuilt from the journal.

Payloads are JSON; an id that a projection doesn't hold is absent from what `read` returns.
"""

import base64
import math
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Protocol, TypeVar

import attrs

from palace.journal.record import Entity, Json, JsonObject, Payload
from palace.journal.replay import UNSTABLE
from palace.journal.tail import Touched

T = TypeVar("T")
NO_DAMAGE = ("is full", "readonly", "disk I/O error")  # SQLite's words, in Chroma's errors
BATCH = 500  # entities that are read or written at a time


@attrs.frozen
class Change:
    """One entity's change; None is its absence."""

    kind: str
    id: str
    before: Payload
    after: Payload


def in_batches(entries: Iterable[T]) -> Iterator[list[T]]:
    """Yield entries in lists of at most BATCH."""
    rest = iter(entries)
    while batch := list(islice(rest, BATCH)):
        yield batch


def same(one: Payload, other: Payload) -> bool:
    """Tell whether two payloads mean the same entity; numbers may differ by their last bits.

    Chroma keeps a vector of a cosine collection divided by its length and gives it back multiplied,
    and what it reads back of a float in a record's metadata may be the float's neighbour.
    """
    if not isinstance(one, dict) or not isinstance(other, dict):
        return bool(one == other)
    if not all(_alike(one.get(key), other.get(key)) for key in {*one, *other} - UNSTABLE):
        return False
    return one.get("vector") == other.get("vector") or _same_vector(one, other)


def tells_of_damage(error: BaseException) -> bool:
    """Tell whether what a store raised may come of damage, and not of what it was asked for.

    SQLite's other errors, of a lock or a constraint, are of classes below that one; Chroma has one
    for all that happens within it, a disk included that has no room or is read-only.
    """
    if type(error).__name__ == "InternalError":
        return not any(words in str(error) for words in NO_DAMAGE)
    return type(error) is sqlite3.DatabaseError


def _alike(one: Json, other: Json) -> bool:
    if type(one) is not type(other):  # True is no 1 here, nor is 1.0
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(math.isclose(one, other, rel_tol=1e-14) if isinstance(one, float) else one == other)


def _same_vector(one: JsonObject, other: JsonObject) -> bool:
    import numpy as np

    if not one.get("vector") or not other.get("vector"):
        return False
    left, right = (np.frombuffer(base64.b64decode(p["vector"]), "<f4") for p in (one, other))
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=1e-5, atol=1e-7))


class Unshared:
    """What a store that no other palace uses has to say to those that share one."""

    __slots__ = ()

    def exclusively(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_used(self, _kind: str, _ident: str) -> bool:
        return False

    def note_undone(self, _kind: str, _ident: str, _payload: Payload) -> None:
        return

    def taken_back(self) -> Collection[int]:
        return ()


class Projection(Protocol):
    """One store.  `lock` is held from reading a `before` to having applied the change."""

    name: str
    lock: threading.RLock

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of entities that it holds."""
        ...

    def owns(self, kind: str) -> bool:
        """Tell whether entities of this kind belong here."""
        ...

    def read(self, kind: str, ids: Iterable[str]) -> Mapping[str, Payload]:
        """Return payloads by id."""
        ...

    def scan(self, kind: str) -> Iterator[tuple[str, Payload]]:
        """Yield all (id, payload) of a kind."""
        ...

    def ids(self, kind: str) -> list[str]:
        """Return the ids of a kind as the files say, perhaps with some that are gone.

        Only while no process has them open.
        """
        ...

    def count(self, kind: str) -> int: ...

    def write(self, kind: str, changes: Mapping[str, Payload]) -> None:
        """Make the store hold these payloads (None: delete), past the journal."""
        ...

    def exclusively(self) -> AbstractContextManager[None]:
        """Keep other processes from changing it while this thread reads and then writes.

        The caller holds `lock`, and no connection that stock has to the store is in a transaction.
        """
        ...

    def is_used(self, kind: str, ident: str) -> bool:
        """Tell whether other entities of the store name this one, so that it can't be taken away.

        Another palace, which shares the store, may have written them.
        """
        ...

    def note_undone(self, kind: str, ident: str, payload: Payload) -> None:
        """Let other palaces know, durably, that this state of an entity is about to be taken back.

        Within `exclusively`.
        """
        ...

    def taken_back(self) -> Collection[int]:
        """Return the states that palaces which share the store have taken back (`state_of`)."""
        ...

    def applied(self, changes: Iterable[Change]) -> None:
        """Note changes that were made, so that the fingerprint stays true."""
        ...

    def fingerprint(self) -> Json:
        """Return what tells this state of the store from others, as JSON; costs nothing.

        None where nothing is to be said of it: it is as if there were no such store.
        """
        ...

    def read_fingerprint(self) -> Json:
        """Return the fingerprint as the files say; only while no process has them open."""
        ...

    def recount(self) -> None:
        """Correct the fingerprint, now that the store is open and has ended what it had begun."""
        ...

    def was_replaced(self, baseline: Json) -> bool:
        """Tell whether the store isn't the one of the baseline, gone on: what it lacks was
        then lost, not deleted.
        """
        ...

    def is_older(self, baseline: Json) -> bool:
        """Tell whether the store went back in time: then the journal knows better."""
        ...

    def suspects(self, baseline: Json, touched: Mapping[Entity, Touched]) -> bool:
        """Tell whether another program changed the store since it had the fingerprint `baseline`.

        `touched` holds what our own records say was changed since then.
        """
        ...


def fingerprints_of(projections: Iterable[Projection]) -> JsonObject:
    """Return the fingerprints of stores by name, as closing records have them."""
    found = ((projection.name, projection.fingerprint()) for projection in projections)
    return {name: fingerprint for name, fingerprint in found if fingerprint is not None}


class ChangeJournal(Protocol):
    """What a seam hands its changes to: they are on the disk before the store is told of them."""

    def change(self, projection: Projection, changes: Sequence[Change], make: Callable[[], T]) -> T:
        """Journal changes, then make them; raises JournalFailed, and then they weren't made.

        The caller holds the projection's lock since it read the `before`s.
        """
        ...

    def change_for_good(
        self, projection: Projection, changes: Sequence[Change], make: Callable[[], T]
    ) -> T:
        """Do what `change` does, outside of any call: it stays, whatever becomes of the call."""
        ...
