"""What the journal knows, with the vectors of another embedder.

Records stay what they are but for their vectors.  A collection says what made it, and on most
backends a small file of the palace's does, too: both then name the new embedder.  Collections that
are not mempalace's have vectors of somebody's own, and stay as they are.
"""

import base64
import json
from collections.abc import Collection, Iterator
from typing import cast

import attrs

from palace.engine.durability.translation import EMBEDDERS, Source, noted_embedders
from palace.engine.embedding.anew import Embedded, Embedder, Text
from palace.engine.stores.drawers import CHROMA, COLLECTION, EXACT, PREFIX, RecordPayload
from palace.engine.stores.files import KIND as FILE
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.replay import Progress
from palace.protocol.errors import StoreCorrupt


@attrs.define(eq=False, kw_only=True)
class Reembedding:
    """The embedder, and what it has made so far; the caller closes `vectors`."""

    embedder: Embedder
    vectors: Embedded

    def embed(self, known: Source, progress: Progress) -> int:
        """Embed each text that the journal knows; return how many records have one.

        Raises StoreUnavailable; what was embedded until then is kept.
        """
        names = embedded_names(known)
        kinds = sorted(kind for kind in known.kinds() if _is_of(kind, names))
        total = sum(len(known.ids(kind)) for kind in kinds)
        texts = (
            text_of(ident, cast("RecordPayload", payload))
            for kind in kinds
            for ident, payload in known.payloads(kind)
        )
        self.vectors.fill(
            texts, self.embedder, lambda done: progress("embedding", done / max(1, total))
        )
        return total


@attrs.define(eq=False)
class Reembedded:
    """What `known` is in the store `target` once its vectors are the new embedder's."""

    known: Source
    made: Reembedding
    target: str
    _names: frozenset[str] = attrs.field(init=False)  # of the collections that are embedded

    def __attrs_post_init__(self) -> None:
        self._names = embedded_names(self.known)

    def kinds(self) -> set[str]:
        kinds = self.known.kinds()
        return kinds | {FILE} if self._notes else kinds

    def ids(self, kind: str) -> list[str]:
        ids = self.known.ids(kind)
        return [*ids, EMBEDDERS] if kind == FILE and self._notes and EMBEDDERS not in ids else ids

    def payloads(self, kind: str) -> Iterator[tuple[str, Payload]]:
        for ident, payload in self.known.payloads(kind):
            yield ident, self._as_made((kind, ident), payload)
        if kind == FILE and self._notes and EMBEDDERS not in self.known.ids(FILE):
            yield EMBEDDERS, self._file()

    def payload(self, entity: Entity) -> Payload:
        if entity == (FILE, EMBEDDERS) and self._notes:
            return self._file()
        return self._as_made(entity, self.known.payload(entity))

    def _as_made(self, entity: Entity, payload: Payload) -> Payload:
        kind, ident = entity
        if _is_of(kind, self._names):
            return self._record(ident, cast("RecordPayload", payload))
        if kind == COLLECTION and ident in self._names:
            return self._collection(cast("JsonObject", payload))
        return self._file() if entity == (FILE, EMBEDDERS) and self._notes else payload

    def _record(self, ident: str, record: RecordPayload) -> Payload:
        vector = self.made.vectors.find(text_of(ident, record))
        if vector is None:
            raise StoreCorrupt(
                f"The text of {ident} was not embedded. Nothing was replaced; please report this."
            )
        return {**record, "vector": base64.b64encode(vector).decode()}

    def _collection(self, model: JsonObject) -> Payload:
        if self.target == CHROMA:
            return {}  # as stock makes one: it names the embedder in there
        if self.target == EXACT:
            return {**model, "embedder": self.made.embedder.name}
        return {**model, "dimension": self.made.embedder.dimension}

    @property
    def _notes(self) -> bool:
        return self.target != EXACT or EMBEDDERS in self.known.ids(FILE)

    def _file(self) -> Payload:
        embedder = self.made.embedder
        one = {"model_name": embedder.name, "dimension": embedder.dimension}
        names = sorted(self._names.intersection(self.known.ids(COLLECTION)))
        text = json.dumps(dict.fromkeys(names, one), indent=2)
        return {"base64": base64.b64encode(text.encode()).decode()}


def text_of(ident: str, record: RecordPayload) -> Text:
    """Return what of a record is embedded; one without a text is embedded by its id."""
    return record["document"] or ident, record["metadata"] or {}


def embedded_names(known: Source) -> frozenset[str]:
    """Return the collections that mempalace embeds: its own, and those of a noted embedder."""
    own = {name for name in known.ids(COLLECTION) if name.startswith("mempalace_")}
    return frozenset(own | embedders_in(known).keys())


def embedders_in(known: Source) -> dict[str, str]:
    """Return the embedder that is noted of each collection, by the backend or in the small file."""
    noted = (
        noted_embedders(known.payload((FILE, EMBEDDERS))) if EMBEDDERS in known.ids(FILE) else {}
    )
    found = {name: str(entry.get("model_name") or "") for name, entry in noted.items()}
    for name, model in known.payloads(COLLECTION):
        if embedder := cast("JsonObject", model).get("embedder"):
            found[name] = str(embedder)
    return {name: embedder for name, embedder in found.items() if embedder}


def _is_of(kind: str, names: Collection[str]) -> bool:
    return kind.startswith(PREFIX) and kind.removeprefix(PREFIX) in names
