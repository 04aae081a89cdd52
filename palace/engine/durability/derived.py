"""What was made of a memory, and goes with it when it is purged.

By what names it: the chunks of a drawer, facts with the drawer as their source, closets that point
to it, tunnels to it.  By words that nothing else holds: closets of the same file, facts without
another source, hallways.  And what then says nothing more: entities that are in no fact.

What only shares a name stays.  Other drawers, diary entries, events and artifacts that hold the
same words stay as well, and are named: they are memories of their own.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from palace.engine.durability.traces import VECTORS_MAX, Traces, bounded, pieces_of
from palace.journal.purge import json_of
from palace.journal.record import ENTITIES, Entity, Json, Payload, Record
from palace.journal.replay import Replay

CLOSETS = "chroma:mempalace_closets"
FACT = "graph:triple"
NODE = "graph:entity"
TUNNEL = "tunnel"
HALLWAY = "hallway"
ATTACHED = "log:attached"

GIVEN = "named by you"
_CHUNK = "part of one of them"
_FACT = "fact that one of them is the source of, or that names one of them"
_CLOSET = "closet that points to one of them, or quotes it"
_BESIDE = "link to one of them"
_WORDS = "made of words that only they hold"
_ALONE = "entity that is in no other fact"

_POINTER = re.compile(r"→([^\n]*)")
# Of what isn't a record of Chroma's: who and when, not what.
_NO_TEXT = frozenset({"id", "rowid", "source_drawer_id", "source_closet", "source_file", "sha256"})

History = Callable[[], Iterable[Record]]


@attrs.frozen(kw_only=True)
class Derived:
    """What goes, each with the reason why, and what it is found by.

    `shared` names entities that stay and hold some of the same words.  `traces` are those that
    nothing which stays holds, and `sources` the files that the memories were mined from.
    """

    entities: Mapping[Entity, str]
    shared: tuple[Entity, ...]
    traces: Traces
    sources: tuple[str, ...]


@attrs.define
class Derivation:
    """The search, over all that a journal has ever said of a palace's entities.

    `history` yields its records, from the first on each time; `rows` are entities that only stores
    hold.
    """

    history: History
    known: Replay
    rows: Mapping[Entity, Payload] = attrs.field(factory=dict)
    extra: Traces = attrs.field(factory=Traces)  # what an interrupted purge has looked for
    _going: dict[Entity, str] = attrs.field(factory=dict)
    _said: dict[Entity, list[tuple[Entity, str]]] = attrs.field(factory=dict)
    _made_of: dict[Entity, dict[Entity, str]] = attrs.field(factory=dict)
    _ids: dict[str, set[Entity]] = attrs.field(factory=dict)
    _ends: dict[Entity, set[str]] = attrs.field(factory=dict)  # fact -> its entities, ever

    def run(self, ids: frozenset[str], also: Iterable[Entity] = ()) -> Derived:
        """Return what goes with the entities of these ids, and with `also`."""
        for entity, payload in self._states():
            self._note(entity, payload)
        for entity, parents in self._said.items():
            for parent, why in parents:
                self._made_of.setdefault(parent, {})[entity] = why
        self._take((e for ident in ids for e in self._ids.get(ident, ())), GIVEN)
        for ident in ids:  # a drawer that was split is nothing but its chunks
            for entity, why in self._made_of.get(("chroma", ident), {}).items():
                self._take([entity], why)
        self._take(also, GIVEN)
        if not self._going:
            return Derived(entities={}, shared=(), traces=Traces(), sources=())
        texts = self._texts()
        traces, shared = self._among_the_others(texts, texts.traces(self.extra))
        self._take_alone()
        return Derived(
            entities=dict(self._going),
            shared=tuple(entity for entity in shared if entity not in self._going),
            traces=traces,
            sources=tuple(sorted(texts.files)),
        )

    def _states(self) -> Iterator[tuple[Entity, Payload]]:
        """Yield entities with each of their states, in order; None where one is gone."""
        yield from self.rows.items()
        for record in self.history():
            if record.action in ENTITIES:
                yield record.entity, None if record.deleted else record.payload

    def _texts(self) -> "_Texts":
        texts = _Texts()
        for entity, why in self._going.items():
            texts.add(entity, self.rows.get(entity), why)
        for record in self.history():
            if record.action in ENTITIES and record.entity in self._going:
                for payload in (record.payload, record.before):
                    texts.add(record.entity, payload, self._going[record.entity])
        return texts

    def _note(self, entity: Entity, payload: Payload) -> None:
        """Note what an entity says of itself; the last state that it had counts."""
        self._ids.setdefault(entity[1], set()).add(entity)
        if not isinstance(payload, dict):
            return
        self._said[entity] = list(_parents(entity, payload))
        if entity[0] == FACT:
            row = payload.get("row", {})
            self._ends.setdefault(entity, set()).update(_names(row, "subject", "object"))

    def _take(self, entities: Iterable[Entity], why: str) -> None:
        """Take entities, and what is made of them, and so on."""
        waiting = [(entity, why) for entity in entities]
        while waiting:
            entity, reason = waiting.pop()
            if entity not in self._going:
                self._going[entity] = reason
                waiting += list(self._made_of.get(_key(entity), {}).items())

    def _among_the_others(self, texts: "_Texts", traces: Traces) -> tuple[Traces, list[Entity]]:
        """Look through what stays: take what is made of the texts alone; return what is shared."""
        held: dict[Entity, set[str]] = {}
        everywhere: set[str] = set()  # what stays holds these, in whatever place
        others: set[str] = set()  # names that stay
        files: set[str] = set()  # from which something stays
        for entity, payload in self._staying():
            if entity[0] == CLOSETS and texts.are_quoted_in(payload):
                self._take([entity], _CLOSET)
                continue
            if entity[0].startswith("chroma:") and entity[0] != CLOSETS:
                others |= _names_in(entity, payload)
                files |= _files_of(payload)
            if not (found := traces.held_by(json_of([entity[1], payload]))):
                continue
            if self._could_go(entity, payload):
                held[entity] = found
            else:
                everywhere |= found
                if traces.held_by(json_of(list(_strings(entity[0], payload)))):
                    held[entity] = set()
        for entity, found in list(held.items()):
            if found - everywhere:
                self._take([entity], _WORDS)
        for entity, payload in self._staying(CLOSETS, HALLWAY):
            if _names_in(entity, payload) & texts.names - others:
                self._take([entity], _WORDS)
        for entity, payload in self._staying(FACT):
            if self._could_go(entity, payload) and _files_of(payload) & texts.files - files:
                self._take([entity], _FACT)
        for entity, found in held.items():
            if entity not in self._going:
                everywhere |= found
        return traces.without(everywhere), list(held)

    def _staying(self, *kinds: str) -> Iterator[tuple[Entity, Payload]]:
        """Yield what stays, of some kinds or of all."""
        for entity in list(self.known.live):
            if entity not in self._going and (not kinds or entity[0] in kinds):
                yield entity, self.known.payload(entity)

    def _could_go(self, entity: Entity, payload: Payload) -> bool:
        """Tell whether something is no memory of its own, but made of others."""
        if entity[0] == FACT and isinstance(payload, dict):
            row = payload.get("row", {})
            sources = _names(row, "source_drawer_id", "source_closet")
            return not any(self._is_live(ident) for ident in sources)
        return entity[0] in (HALLWAY, NODE)

    def _is_live(self, ident: str) -> bool:
        found = self._ids.get(ident, set())
        return any(entity in self.known.live and entity not in self._going for entity in found)

    def _take_alone(self) -> None:
        """Take the entities of facts that go, where no other fact names them."""
        facts = [entity for entity in self.known.live if entity[0] == FACT]
        named: set[str] = set()
        for fact in facts:
            if fact not in self._going:
                named |= self._ends.get(fact, set())
        ends = {end for fact in self._ends if fact in self._going for end in self._ends[fact]}
        alone = [(NODE, end) for end in ends - named if (NODE, end) in self._ids.get(end, ())]
        self._take(alone, _ALONE)


def _key(entity: Entity) -> Entity:
    """Return what others call an entity: records of all of Chroma's collections by their id."""
    kind, ident = entity
    return ("chroma" if kind.startswith("chroma:") else kind), ident


def _parents(entity: Entity, payload: Mapping[str, Json]) -> Iterator[tuple[Entity, str]]:
    """Yield what an entity is made of, as it says itself."""
    kind = entity[0]
    if kind.startswith("chroma:"):
        metadata = payload.get("metadata") or {}
        for ident in _names(metadata, "parent_drawer_id", "parent_entry_id"):
            yield ("chroma", ident), _CHUNK
    if kind == CLOSETS:
        for pointer in _POINTER.findall(payload.get("document") or ""):
            for ident in pointer.split(","):
                yield ("chroma", ident.strip()), _CLOSET
    elif kind == FACT:
        row = payload.get("row", {})
        for ident in _names(row, "source_drawer_id", "source_closet"):
            yield ("chroma", ident), _FACT
        for ident in _names(row, "subject", "object"):
            yield (NODE, ident), _FACT
    elif kind == TUNNEL:
        for end in (payload.get("source"), payload.get("target")):
            for ident in _names(end if isinstance(end, dict) else {}, "drawer_id"):
                yield ("chroma", ident), _BESIDE
    elif kind == ATTACHED:
        row = payload.get("row", {})
        for ident in _names(row, "event_id"):
            yield ("log:event", ident), _BESIDE
        for ident in _names(row, "artifact_id"):
            yield ("log:artifact", ident), _BESIDE


def _names(fields: Mapping[str, Json], *names: str) -> list[str]:
    return [value for name in names if isinstance(value := fields.get(name), str) and value]


def _strings(kind: str, payload: Payload) -> Iterator[str]:
    """Yield what an entity says; of a record of Chroma's that is its document."""
    if isinstance(payload, dict) and kind.startswith("chroma:"):
        document = payload.get("document")
        yield document if isinstance(document, str) else ""
    elif isinstance(payload, dict):
        for name, value in payload.items():
            if name not in _NO_TEXT:
                yield from _strings(kind, value)
    elif isinstance(payload, list):
        for value in payload:
            yield from _strings(kind, value)
    elif isinstance(payload, str):
        yield payload


def _names_in(entity: Entity, payload: Payload) -> set[str]:
    """Return the names of people and things that stock has found in a text, folded."""
    if not isinstance(payload, dict):
        return set()
    if entity[0] == HALLWAY:
        return {name.lower() for name in _names(payload, "entity_a", "entity_b")}
    lists = _names(payload.get("metadata") or {}, "entities")
    if entity[0] == CLOSETS:
        lines = [line.split("|") for line in (payload.get("document") or "").splitlines()]
        lists += [line[1] for line in lines if len(line) > 2]
    return {name.strip().lower() for text in lists for name in text.split(";") if name.strip()}


def _files_of(payload: Payload) -> set[str]:
    """Return the file that a record or a fact says it was made of."""
    if not isinstance(payload, dict):
        return set()
    return set(_names(payload.get("metadata") or payload.get("row") or {}, "source_file"))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


@attrs.define
class _Texts:
    """What the memories that go say, in all of their states."""

    names: set[str] = attrs.field(factory=set)
    files: set[str] = attrs.field(factory=set)
    _pieces: dict[str, bool] = attrs.field(factory=dict)
    _vectors: dict[str, None] = attrs.field(factory=dict)
    _whole: dict[str, None] = attrs.field(factory=dict)

    def add(self, entity: Entity, payload: Payload, why: str) -> None:
        if not isinstance(payload, dict):
            return
        kind, is_given = entity[0], why in (GIVEN, _CHUNK)
        for text in _strings(kind, payload):
            for piece, is_key in pieces_of(text).items():
                # Names of what a fact is about are other facts' as well.
                is_own = is_given and (kind not in (FACT, NODE) or piece.count(" ") > 1)
                if is_key or is_own:
                    self._pieces[piece] = is_key
        if is_given and kind.startswith("chroma:"):
            self._whole[_plain(payload.get("document") or "")] = None
            self.names |= _names_in(entity, payload)
            self.files |= _files_of(payload)
            self._vectors |= dict.fromkeys(_names(payload, "vector"))

    def traces(self, extra: Traces) -> Traces:
        """Return what the texts are found by, and what else is looked for."""
        pieces = dict.fromkeys([*bounded(self._pieces), *extra.pieces])
        vectors = dict.fromkeys([*list(self._vectors)[:VECTORS_MAX], *extra.vectors])
        return Traces(tuple(pieces), tuple(vectors))

    def are_quoted_in(self, closet: Payload) -> bool:
        """Tell whether a closet of one of the files holds a line of the texts."""
        if not isinstance(closet, dict):
            return False
        if self.files.isdisjoint(_files_of(closet)):
            return False
        lines = (closet.get("document") or "").splitlines()
        quotes = [_plain(line.partition("|")[0].strip('"')) for line in lines]
        return any(quote in whole for quote in quotes if quote for whole in self._whole)
