"""What a store that its owner has open holds against what the journal says of it.

Read by a process of its own, beside the calls: Chroma's rows, and palace's register, which no other
program may write while there is an owner.  (What others may write has `outsiders.py`.)

Theory of operation.  A change is journalled first and made then.  So the journal is read before the
stores, up to some record; what differs is looked at once more, and counts only if no group that is
still open has touched it and no record after that one speaks of it.  Calls that come in between
explain themselves in this way, however many there are.
"""

import json
from collections.abc import Callable, Mapping

import attrs

from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.file_ids import FileIds, TimeIsUpError
from palace.engine.stores.health import Access, flushed_rows
from palace.engine.stores.palace_stores import Stores
from palace.engine.stores.projection import same
from palace.journal.inspect import read_from
from palace.journal.journal import read_tail
from palace.journal.record import ENTITIES, Entity, Json, JsonObject, Record
from palace.journal.replay import Replay
from palace.journal.schema import object_of
from palace.journal.segment import list_segments
from palace.journal.tail import Tail
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.protocol.keyring import Keyring
from palace.settings.paths import Paths

Ids = Mapping[str, list[str]]  # by kind


@attrs.frozen(kw_only=True)
class Differences:
    """What is in the stores otherwise than the journal says, by kind.

    `missing` was acknowledged and is not there; of `foreign` the journal knows nothing; `texts`,
    `metadata` and `vectors` are others than were stored; of vectors in an index, its own check says
    so (examiner.py).
    """

    missing: Ids = attrs.field(factory=dict)
    foreign: Ids = attrs.field(factory=dict)
    texts: Ids = attrs.field(factory=dict)
    metadata: Ids = attrs.field(factory=dict)
    vectors: Ids = attrs.field(factory=dict)

    def told(self) -> str:
        """Return which entries are missing or foreign, as a clause; "" for none."""
        return _clauses(
            (self.missing, "entries that the journal has for {} are not there any more"),
            (self.foreign, "entries of {} are in no record of the journal"),
        )

    def changed(self) -> str:
        """Return which records hold something else, as a clause; "" for none."""
        return _clauses(
            (self.texts, "of the records in {} hold another text than the journal has for them"),
            (self.metadata, "of the records in {} hold other metadata than the journal has"),
            (
                self.vectors,
                "of the records in {} hold another vector than the journal has for them",
            ),
        )

    def altered(self) -> Ids:
        parts = (self.texts, self.metadata, self.vectors)
        kinds = sorted({kind for part in parts for kind in part})
        return {kind: [i for part in parts for i in part.get(kind, ())] for kind in kinds}

    def entities(self) -> frozenset[Entity]:
        """Return what is missing or foreign."""
        pairs = (*self.missing.items(), *self.foreign.items())
        return frozenset((kind, ident) for kind, ids in pairs for ident in ids)


def _clauses(*parts: tuple[Ids, str]) -> str:
    return "; ".join(
        f"{len(ids)} {text.format(kind.removeprefix(PREFIX))}, such as {ids[0]}"
        for found, text in parts
        for kind, ids in found.items()
    )


@attrs.frozen(kw_only=True)
class Note:
    """What an owner leaves the next one (`rows.suspect`): what it told, and of which entities.

    Without entities they have been seen to: what is told again then was not helped by that.  What
    is `changed` is told by another note, and stays as it is.
    """

    text: str = ""
    missing: Ids = attrs.field(factory=dict)
    foreign: Ids = attrs.field(factory=dict)
    changed: Ids = attrs.field(factory=dict)

    def entities(self) -> frozenset[Entity]:
        return Differences(missing=self.missing, foreign=self.foreign).entities()

    def lost(self) -> frozenset[Entity]:
        return Differences(missing=self.missing).entities()

    def left(self) -> frozenset[Entity]:
        return Differences(missing=self.changed).entities()


def read_note(paths: Paths, kernel: Kernel) -> Note | None:
    """Return the note; None where there is none, or none of ours."""
    data = kernel.read_hint(paths.suspect_rows)
    if data is None:
        return None
    try:
        said = object_of(decode_json(data))
        ids = {name: _ids(said.get(name)) for name in ("missing", "foreign", "changed")}
        return Note(text=str(said.get("text", "")), **ids)
    except ValueError:
        return None


def write_note(paths: Paths, kernel: Kernel, note: Note) -> None:
    data = json.dumps(attrs.asdict(note), ensure_ascii=False)
    kernel.write_durable(paths.suspect_rows, data.encode("utf-8", "surrogatepass"))


def _ids(value: Json) -> Ids:
    """Return ids by kind; a note may be anybody's, and says nothing where it has another shape."""
    return {
        str(kind): [ident for ident in ids if isinstance(ident, str)]
        for kind, ids in object_of(value).items()
        if isinstance(ids, list)
    }


def differences_of(said: JsonObject) -> Differences:
    """Read what another process has found; raises ValueError."""
    found = {field.name: _ids(said.get(field.name)) for field in attrs.fields(Differences)}
    return Differences(**found)


@attrs.frozen(kw_only=True)
class Comparison:
    """One comparison; `known` was read before it.

    Raises sqlite3.Error, and TimeIsUpError once `time_is_up`.
    """

    stores: Stores
    known: Replay
    directory: str  # the journal's
    kernel: Kernel
    keys: Keyring
    access: Access = Access.SHARED
    time_is_up: Callable[[], bool] = lambda: False

    def changed(self) -> str:
        """Return which records say something else, as a clause, while no owner is there.

        What the last one had begun is left out: the next one takes it back.
        """
        tail = self._tail()
        ours = {change.entity for changes in tail.open.values() for change in changes}
        found = attrs.asdict(self._changed(tail), recurse=False)
        kept = {part: _kept(ids, lambda e: e not in ours) for part, ids in found.items()}
        return Differences(**kept).changed()

    def run(self) -> Differences:
        tail = self._tail()
        found = attrs.evolve(self._changed(tail), **self._ids(tail))
        if found == Differences():
            return found
        unsettled = self._unsettled()
        kinds = {kind for kind, _ in found.entities()}
        there = {kind: self._files.of(kind) for kind in kinds}  # once more, after a while
        return Differences(
            missing=_kept(found.missing, lambda e: e not in unsettled and e[1] not in there[e[0]]),
            foreign=_kept(found.foreign, lambda e: e not in unsettled and e[1] in there[e[0]]),
            texts=_kept(found.texts, lambda e: e not in unsettled),
            metadata=_kept(found.metadata, lambda e: e not in unsettled),
            vectors=_kept(found.vectors, lambda e: e not in unsettled),
        )

    @property
    def _files(self) -> FileIds:
        return FileIds(stores=self.stores, access=self.access, time_is_up=self.time_is_up)

    def _tail(self) -> Tail:
        segments = list_segments(self.directory, self.kernel, archived=True)
        return read_tail(segments, self.kernel, self.keys)

    def _ids(self, tail: Tail) -> dict[str, Ids]:
        """Compare ids; not those of which the journal itself may be out of date."""
        if self.known.gaps or tail.gaps or tail.baseline is None:
            return {}
        live: dict[str, set[str]] = {}
        for (kind, ident), last in self.known.live.items():
            if tail.is_settled(last.seq):
                live.setdefault(kind, set()).add(ident)
        missing: dict[str, list[str]] = {}
        foreign: dict[str, list[str]] = {}
        for kind in self._kinds():
            there, said = self._files.of(kind), live.get(kind, set())
            if lacking := sorted(said - there):
                missing[kind] = lacking
            if tail.adopting is None and (new := sorted(there - said)):
                foreign[kind] = new
        return {"missing": missing, "foreign": foreign}

    def _kinds(self) -> list[str]:
        stores = self.stores
        named = {PREFIX + name for name in self._files.of(COLLECTION)}
        said = {kind for kind in self.known.kinds() if stores.drawers.owns(kind)}
        return sorted(
            {*named, *said, COLLECTION, *stores.register.kinds(), *stores.candidates.kinds()}
        )

    def _changed(self, tail: Tail) -> Differences:
        """Compare what rows say; those that the journal doesn't know are foreign."""
        texts: dict[str, list[str]] = {}
        metadata: dict[str, list[str]] = {}
        vectors: dict[str, list[str]] = {}
        for collection, ident, row in flushed_rows(self.stores, self.access):
            if self.time_is_up():
                raise TimeIsUpError
            kind = PREFIX + collection
            last = self.known.live.get((kind, ident))
            if last is None or not tail.is_settled(last.seq):
                continue
            told = self.known.payload((kind, ident))
            if not isinstance(told, dict) or "document" not in told:
                continue
            if told["document"] != row["document"]:
                texts.setdefault(kind, []).append(ident)
            elif not _says(told, row):
                metadata.setdefault(kind, []).append(ident)
            elif "vector" in row and row["vector"] != told.get("vector"):
                vectors.setdefault(kind, []).append(ident)
        return Differences(texts=texts, metadata=metadata, vectors=vectors)

    def _unsettled(self) -> set[Entity]:
        """Return what is under way, or was changed since the journal was read."""
        # First what is open: a group that is closed in between has left records.
        found = {change.entity for changes in self._tail().open.values() for change in changes}
        since = self.known.seq + 1
        for record in read_from(self.directory, self.kernel, since, keys=self.keys):
            if isinstance(record, Record) and record.action in ENTITIES:
                found.add(record.entity)
        return found


def _says(told: JsonObject, row: JsonObject) -> bool:
    """Tell whether a row holds a record's metadata; a list is kept elsewhere, and isn't read."""
    then = told.get("metadata") or {}
    lists = {name for name, value in then.items() if isinstance(value, list | dict)}
    then = {name: value for name, value in then.items() if name not in lists}
    now = {name: value for name, value in row["metadata"].items() if name not in lists}
    return same({"metadata": then}, {"metadata": now})


def _kept(found: Ids, keeps: Callable[[Entity], bool]) -> Ids:
    kept = {kind: [i for i in ids if keeps((kind, i))] for kind, ids in found.items()}
    return {kind: ids for kind, ids in kept.items() if ids}
