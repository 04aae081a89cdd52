"""What a journal has for other palaces: its drawers and facts, as they pull them.

Read as `palace history` reads: without a lock, and without changing anything, so that a copy that
is in the middle of being made, a backup, or the palace of somebody who writes at this moment will
do.  Only what the owner knows is offered: no diary, no memory of a namespace, nothing that was
itself accepted from elsewhere, so that nothing comes back to where it is from.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256

import attrs

from palace.journal.feed import Fed, Snapshot, Summary, go_on, read_feed
from palace.journal.following import Follower
from palace.journal.following import Position as Place
from palace.journal.inspect import Gap
from palace.journal.purge import is_purge_mark
from palace.journal.record import ENTITIES, PUT, STATE, Entity, Payload, Record
from palace.journal.replay import newest_checkpoint
from palace.journal.schema import object_of
from palace.journal.segment import Broken
from palace.kernel.kernel import Kernel
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import (
    DRAWER,
    FACT,
    NUMBER_MAX,
    START,
    Content,
    Item,
    Offer,
    Position,
    Read,
    Unacceptable,
    Version,
    Whole,
    read_content,
)
from palace.protocol.federation import Gap as Anew
from palace.protocol.keyring import ANYBODYS, Keyring

DRAWERS, FACTS = "chroma:mempalace_drawers", "graph:triple"
_KINDS = {DRAWERS: DRAWER, FACTS: FACT}
OURS = "palace_"  # begins what palace adds to the metadata of a namespace's drawer
TAKEN = "palace:"  # begins who added a drawer, or a fact's source, that came from elsewhere
_DIARY = "diary_entry"
_FACT = ("subject", "predicate", "object", "valid_from", "valid_to")
_ID_DIGITS = 24


@attrs.frozen(kw_only=True)
class Scope:
    """What is offered; no wings: those of all drawers."""

    wings: tuple[str, ...] = ()
    kinds: tuple[str, ...] = (DRAWER, FACT)


ALL = Scope()

Told = Callable[[int], None]


def _untold(_many: int) -> None:
    return


@attrs.define
class _Holes:
    """Records that are not where they should be: those that may still come, and those that won't.

    Files are copied from their beginning on.  So what is missing of a file, and something behind it
    is there, was damaged: no copy will ever have it.  The end of a file, or a whole one, may come.
    """

    follower: Follower
    missing: list[Gap] = attrs.field(factory=list)
    damaged: int = 0
    _gap: Gap | None = None
    _broken: int = 0  # whole lines that are no records, since the last one that is

    def see(self, found: Fed) -> None:
        """Take what a reader has found; each once, in order."""
        if isinstance(found, Summary):  # what it covers is known
            self.missing, self.damaged, self._gap, self._broken = [], 0, None, 0
        elif isinstance(found, Gap):
            self._gap = found
        elif isinstance(found, Broken):
            self._broken += self._is_ended(found)
        elif isinstance(found, Record):
            self._settle()
            if found.action == STATE and object_of(found.payload).get("whole"):
                self.missing = []  # what was missing was taken over from the stores

    def _is_ended(self, broken: Broken) -> bool:
        """Tell whether something stands behind a line, be it its own end."""
        place, found = broken.place, self.follower.kernel.signature(broken.place.path)
        return found is not None and found[1] > place.offset + place.length

    def _settle(self) -> None:
        gap, broken, at = self._gap, self._broken, self.follower.position
        self._gap, self._broken = None, 0
        if gap is None or at is None:
            return
        many = gap.last - gap.first + 1
        if at.first <= gap.first or many <= broken:
            self.damaged += many
        else:
            self.missing.append(gap)


@attrs.define
class _Shared:
    """Which entities of a journal were ever for others, since some records don't say it.

    What another program has written, and what is taken back, comes without what was there before.
    Whoever has read from the journal's beginning knows of all that they were told themselves; for
    others it is looked for where it is first asked for.  `is_in_doubt`: a part of the journal that
    may have said it can't be read.
    """

    read: Callable[[], Iterator[Entity | None]]
    known: set[Entity | None] = attrs.field(factory=set)
    is_whole: bool = False
    is_in_doubt: bool = False

    def has(self, entity: Entity) -> bool:
        if entity not in self.known and not self.is_whole:
            self.known.update(self.read())
            self.is_whole = True
        has = entity in self.known
        self.is_in_doubt = self.is_in_doubt or (not has and None in self.known)
        return has


def offers(
    directory: str,
    kernel: Kernel,
    since: Position = START,
    scope: Scope = ALL,
    keys: Keyring = ANYBODYS,
    told: Told = _untold,
) -> Iterator[Item]:
    """Yield what is new in a journal since a position, or all that there is, where that is gone.

    Nothing is new in an older copy than the one that was read.  `told` is called at the end with
    how many records were passed over, since they are damaged.  Raises RemoteRefused where records
    are missing that may still come.
    """
    follower = Follower(directory=directory, kernel=kernel, keys=keys)
    if since != START and any(go_on(follower, _place(since))):
        yield from _everything(directory, kernel, since, scope, keys, told)
        return
    holes = _Holes(follower)
    read = partial(_ever_shared, directory, kernel, scope, keys)
    shared = _Shared(read, is_whole=since == START)
    for found in follower.read():
        holes.see(found)
        if holes.missing or _is_told_anew(found, directory, kernel):
            yield from _everything(directory, kernel, since, scope, keys, told)
            return
        if not isinstance(found, Record) or follower.position is None:
            continue
        offer = _offer(found, _position(follower.position), scope, shared)
        if shared.is_in_doubt:
            yield from _everything(directory, kernel, since, scope, keys, told)
            return
        if offer is not None:
            if offer.says is not None:
                shared.known.add(found.entity)
            yield offer
    if _is_covered(follower.expected, directory, kernel):  # the last records are gone, too
        yield from _everything(directory, kernel, since, scope, keys, told)
        return
    if follower.position is not None:
        yield Read(_position(follower.position))
    told(holes.damaged)


def _is_told_anew(found: Fed, directory: str, kernel: Kernel) -> bool:
    """Tell whether all that there is says more than what follows in the journal."""
    if isinstance(found, Gap):
        return _is_covered(found.last, directory, kernel)
    return isinstance(found, Record) and is_purge_mark(found)


def _is_covered(seq: int, directory: str, kernel: Kernel) -> bool:
    """Tell whether a checkpoint says what a record said."""
    newest = newest_checkpoint(directory, kernel)
    return newest is not None and newest[1] >= seq


def _everything(
    directory: str, kernel: Kernel, since: Position, scope: Scope, keys: Keyring, told: Told
) -> Iterator[Item]:
    """Yield all that there is; nothing, where that is no more than what was read."""
    follower = Follower(directory=directory, kernel=kernel, keys=keys)
    holes = _Holes(follower)
    live: dict[tuple[str, str], Content] = {}
    for found in read_feed(follower):
        holes.see(found)
        if isinstance(found, Summary):
            live.clear()
        record = found.record if isinstance(found, Snapshot) else found
        if isinstance(record, Record) and record.action in ENTITIES and record.kind in _KINDS:
            content = _content(record.kind, record.payload, scope)
            live.pop(record.entity, None)
            if content is not None:
                live[record.entity] = content
    _check_is_whole(directory, holes)
    if follower.position is None:
        return
    at = _position(follower.position)
    if at.version <= since.version:
        return
    yield Anew()
    for (kind, ident), content in live.items():
        yield Offer(kind=_KINDS[kind], ident=_named(ident), at=at, says=content)
    yield Whole(at)
    told(holes.damaged)


def _check_is_whole(directory: str, holes: _Holes) -> None:
    """Refuse to tell what is gone by a journal of which a part is not here, or not yet."""
    if not holes.missing:
        return
    first = holes.missing[0]
    raise RemoteRefused(
        f"{directory} is not whole: records {first.first} to {first.last} are not there, and no "
        "checkpoint says what they said. If it is a copy, bring all of journal/ and pull again; "
        "otherwise see what is wrong there: palace doctor"
    )


def _ever_shared(
    directory: str, kernel: Kernel, scope: Scope, keys: Keyring
) -> Iterator[Entity | None]:
    """Yield which entities of a journal were for others once; None for a part that can't be read.

    What a checkpoint bridges can: whoever knew of what it doesn't hold was told all anew.
    """
    for found in read_feed(Follower(directory=directory, kernel=kernel, keys=keys)):
        if isinstance(found, Gap | Broken):
            yield None
        record = found.record if isinstance(found, Snapshot) else found
        if isinstance(record, Record) and record.action in ENTITIES and record.kind in _KINDS:
            for payload in (record.payload, record.before):
                if _content(record.kind, payload, scope) is not None:
                    yield record.entity


def _offer(record: Record, at: Position, scope: Scope, shared: _Shared) -> Offer | None:
    """Return what a record says to others, None for nothing."""
    kind = _KINDS.get(record.kind)
    if kind not in scope.kinds or record.action not in ENTITIES:
        return None
    content = None if record.deleted else _content(record.kind, record.payload, scope)
    if content is None and not _was_theirs(record, scope, shared):
        return None
    return Offer(kind=str(kind), ident=_named(record.id), at=at, says=content)


def _was_theirs(record: Record, scope: Scope, shared: _Shared) -> bool:
    """Tell whether others may know an entity: of what was never for them, they hear nothing."""
    if record.before is None:
        return record.action != PUT and shared.has(record.entity)  # a put without it is the first
    return _content(record.kind, record.before, scope) is not None


def _content(kind: str, payload: Payload, scope: Scope) -> Content | None:
    """Return what is offered of an entity; None for what isn't, or can't be."""
    if _KINDS[kind] not in scope.kinds or not isinstance(payload, dict):
        return None
    made = _drawer(payload) if kind == DRAWERS else _fact(payload)
    if scope.wings and kind == DRAWERS and (made or {}).get("wing") not in scope.wings:
        return None
    try:
        return read_content(_KINDS[kind], made)
    except Unacceptable:
        return None


def _drawer(payload: Mapping[str, object]) -> dict[str, object] | None:
    metadata = object_of(payload.get("metadata"))
    if metadata.get("type") == _DIARY or any(name.startswith(OURS) for name in metadata):
        return None
    if str(metadata.get("added_by") or "").startswith(TAKEN):
        return None
    part_of = metadata.get("parent_drawer_id")
    return {
        "text": payload.get("document"),
        "wing": metadata.get("wing"),
        "room": metadata.get("room"),
        "part_of": _named(part_of) if isinstance(part_of, str) and part_of else "",
    }


def _fact(payload: Mapping[str, object]) -> dict[str, object] | None:
    row = object_of(payload.get("row"))
    if str(row.get("source_file") or "").startswith(TAKEN):
        return None
    return {name: row.get(name) for name in _FACT}


def _named(ident: str) -> str:
    """Return what others know an entity by: its own id says where it is filed."""
    return sha256(ident.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_DIGITS]


def _position(place: Place) -> Position:
    version = Version(min(place.epoch, NUMBER_MAX), min(place.seq, NUMBER_MAX))
    return Position(version=version, writer=place.writer, origin=place.origin)


def _place(at: Position) -> Place:
    return Place(seq=at.version.seq, epoch=at.version.epoch, writer=at.writer, origin=at.origin)
