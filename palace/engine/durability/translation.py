"""What the journal knows, as another of mempalace's backends keeps it.

Records and collections are of the same kinds on every backend (palace/engine/stores/drawers.py).
What differs is small, and said here once:

| backend | a collection says | a record |
|---|---|---|
| chroma | how Chroma made it; {} is as stock makes one | has flat metadata, may have a uri |
| sqlite_exact | the embedder that its file notes | has a text, "" for none |
| pgvector | how many numbers its vectors have | has numbers and texts as JSONB keeps them |
| milvus | the same; one that is empty has those of another | has a short text, and JSON |

The embedder's name is a small file of the palace's on all but sqlite_exact.  Entities of other
stores stay as they are.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import attrs

from palace.engine.stores.drawers import (
    CHROMA,
    COLLECTION,
    EXACT,
    MILVUS,
    PGVECTOR,
    PREFIX,
    RecordPayload,
    vector_of,
)
from palace.engine.stores.files import KIND as FILE
from palace.engine.stores.projection import same
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.replay import Replay
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreUnavailable

EMBEDDERS = "mempalace_embedder.json"  # stock's, for backends that have no place of their own
_DIMENSION = 384  # of the embedder that nothing names, stock's first one
NAMED = 5  # of the records that can't be kept


class Source(Protocol):
    """Entities from which stores are made: the journal's, or what another backend makes of them."""

    def kinds(self) -> set[str]: ...

    def ids(self, kind: str) -> list[str]: ...

    def payload(self, entity: Entity) -> Payload: ...

    def payloads(self, kind: str) -> Iterator[tuple[str, Payload]]: ...


@attrs.define(eq=False)
class Translation:
    """What a journal knows, as the store `target` keeps it; one that is kept so stays itself."""

    known: Replay
    target: str
    _dimensions: dict[str, int] = attrs.field(factory=dict)  # by collection

    def kinds(self) -> set[str]:
        kinds = self.known.kinds()
        return kinds | {FILE} if self._embedders_to_note() else kinds

    def ids(self, kind: str) -> list[str]:
        ids = self.known.ids(kind)
        if kind == FILE and EMBEDDERS not in ids and self._embedders_to_note():
            ids.append(EMBEDDERS)
        return ids

    def payloads(self, kind: str) -> Iterator[tuple[str, Payload]]:
        for ident, payload in self.known.payloads(kind):
            yield ident, self._as_kept((kind, ident), payload)
        if kind == FILE and (FILE, EMBEDDERS) not in self.known.live and self._embedders_to_note():
            yield EMBEDDERS, self._file(None)

    def payload(self, entity: Entity) -> Payload:
        found = self.known.payload(entity) if entity in self.known.live else None
        return self._as_kept(entity, found)

    def check(self) -> None:
        """Raise StoreUnavailable where there are records that the new store can't keep."""
        refused = [f"{ident!r}: {why}" for ident, why in self._refused()]
        if refused:
            more = f", and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
            raise StoreUnavailable(
                f"{self.target} can't keep all that the journal holds: "
                f"{'; '.join(refused[:NAMED])}{more}. Nothing was changed. Change or delete these "
                "first, or choose another backend."
            )

    def _refused(self) -> Iterator[tuple[str, str]]:
        for kind in sorted(self.known.kinds()):
            if kind.startswith(PREFIX):
                for ident, payload in self.known.payloads(kind):
                    if why := self._problem(ident, cast("RecordPayload", payload)):
                        yield ident, why

    def _problem(self, ident: str, record: RecordPayload) -> str:
        if self.target == CHROMA:
            nested = [key for key, value in (record["metadata"] or {}).items() if _nests(value)]
            return f"its metadata {nested[0]!r} is nested" if nested else ""
        if self.target == MILVUS:
            return self._problem_in_milvus(ident, record)
        if self.target == PGVECTOR:
            from palace.engine.stores.pgvector_tables import can_be_stored

            return "" if can_be_stored(ident) else "PostgreSQL has no such id"
        return ""

    def _problem_in_milvus(self, ident: str, record: RecordPayload) -> str:
        from palace.engine.stores.milvus_rows import kept_record

        try:
            kept_record(ident, record)
        except ValueError as error:
            return str(error)
        return ""

    # One entity.

    def _as_kept(self, entity: Entity, payload: Payload) -> Payload:
        kind, ident = entity
        if kind == COLLECTION:
            return self._collection(ident, cast("JsonObject", payload))
        if kind.startswith(PREFIX):
            return self._record(ident, cast("RecordPayload", payload))
        if entity == (FILE, EMBEDDERS):
            return self._file(payload)
        return payload

    def _collection(self, name: str, model: JsonObject) -> Payload:
        if self.target == CHROMA:
            is_chromas = "configuration" in model or "schema" in model
            return model if is_chromas else {}
        if self.target == EXACT:
            named = model.get("embedder") or self._noted().get(name, {}).get("model_name")
            return {"embedder": None if named is None else str(named)}
        dimension = self._dimension(name) or model.get("dimension")
        if self.target == MILVUS and not dimension:
            dimension = self._dimension_of_others()
        return {"dimension": dimension}

    def _dimension_of_others(self) -> int:
        """Return how many numbers the vectors of an empty collection will have."""
        names = [*self.known.ids(COLLECTION), *self._noted()]
        noted = [entry.get("dimension") for entry in self._noted().values()]
        return next(filter(None, [*map(self._dimension, names), *noted]), _DIMENSION)

    def _record(self, ident: str, record: RecordPayload) -> Payload:
        if self.target == PGVECTOR:
            from palace.engine.stores.pgvector_tables import given_record

            row = {
                "id": ident,
                "document": record["document"] or "",
                "metadata": record["metadata"],
                "embedding": vector_of(record),
            }
            return given_record(row)[1]
        if self.target == MILVUS:
            from palace.engine.stores.milvus_rows import kept_record

            return kept_record(ident, record)
        if self.target == EXACT:
            metadata = record["metadata"] or None
            return {
                "document": record["document"] or "",
                "metadata": metadata,
                "vector": record["vector"],
            }
        kept = {k: v for k, v in (record["metadata"] or {}).items() if v is not None}
        return {**record, "metadata": kept or None}

    def _dimension(self, name: str) -> int | None:
        if name not in self._dimensions:
            kind = PREFIX + name
            first = next((ident for known, ident in self.known.live if known == kind), None)
            if first is None:
                return None
            record = cast("RecordPayload", self.known.payload((kind, first)))
            self._dimensions[name] = len(base64.b64decode(record["vector"])) // 4
        return self._dimensions[name] or None

    # Which embedder made a collection's vectors.

    def _file(self, payload: Payload) -> Payload:
        """Return the small file of embedders, with what the collections told of theirs."""
        missing = self._embedders_to_note()
        if not missing:
            return payload
        text = json.dumps({**self._noted(), **missing}, indent=2)
        return {"base64": base64.b64encode(text.encode()).decode()}

    def _embedders_to_note(self) -> Mapping[str, JsonObject]:
        """Return what the small file lacks, and a backend without a place of its own needs."""
        if self.target == EXACT:
            return {}
        noted = self._noted()
        found: dict[str, JsonObject] = {}
        for name, payload in self.known.payloads(COLLECTION):
            embedder = cast("JsonObject", payload).get("embedder")
            if embedder and name not in noted:
                found[name] = {"model_name": embedder, "dimension": self._dimension(name) or 0}
        return found

    def _noted(self) -> dict[str, JsonObject]:
        if (FILE, EMBEDDERS) not in self.known.live:
            return {}
        return noted_embedders(self.known.payload((FILE, EMBEDDERS)))


def noted_embedders(payload: Payload) -> dict[str, JsonObject]:
    """Return what stock's small file says of each collection, nothing where it can't be read."""
    try:
        noted = decode_json(base64.b64decode(cast("JsonObject", payload)["base64"]))
    except ValueError:
        return {}
    if not isinstance(noted, dict):
        return {}
    return {name: entry for name, entry in noted.items() if isinstance(entry, dict)}


def fits(found: Payload, wanted: Payload) -> bool:
    """Tell whether a new store holds an entity as it is wanted; {} is whatever it makes of it."""
    return same(found, wanted) or (wanted == {} and found is not None)


def _nests(value: object) -> bool:
    """Tell whether Chroma would refuse a value: it takes words, numbers, lists of one type."""
    if isinstance(value, list):
        return len({type(one) for one in value}) > 1 or any(map(_is_compound, value))
    return isinstance(value, dict)


def _is_compound(value: object) -> bool:
    return isinstance(value, list | dict) or value is None
