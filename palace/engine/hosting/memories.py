"""Memories of namespaces as drawers of the hosted mempalace.

One collection, one index, one backup: a memory is a drawer whose metadata say what it belongs to,
made, found and taken apart by stock's own functions.  Nothing is decided here
(palace/memory/gate.py).
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice, starmap

import attrs

from palace.engine.hosting.counted import count
from palace.engine.hosting.dated import newest
from palace.engine.hosting.delegating import answer_delegating
from palace.engine.hosting.host import HostedState
from palace.engine.hosting.newest import FAR_S, Looking, Row, Span
from palace.engine.hosting.worded import fused, in_chroma
from palace.engine.patches import need
from palace.engine.stock import Collection, DrawerRecord, JsonObject, Method, RequestLock, Server
from palace.memory.gate import Wanted
from palace.memory.memory import (
    AT,
    KIND,
    NAMESPACE,
    UNTIL,
    Memory,
    memory_of,
    metadata_of,
    second_of,
)
from palace.protocol.delegating import Speaker
from palace.protocol.errors import StoreUnavailable
from palace.protocol.request import ToolCall
from palace.protocol.tools import CONTRACT_TOOLS, STANDS_FOR, Kind, Lane, body_of
from palace.settings.paths import Paths

NAME = "memories"
UNFILTERED = 8
POOL, POOL_MAX = 4, 4096  # rows for each memory that is wanted: long ones are several

Record = DrawerRecord
Metadata = Mapping[str, object]


@attrs.define(eq=False)
class Memories:
    """The memories of one palace; needs its server, loaded.  Threads share one."""

    server: Server
    state: HostedState
    paths: Paths
    _lock: RequestLock = attrs.field(init=False)
    _preflight: Method = attrs.field(init=False)
    _record: Method = attrs.field(init=False)
    _records: Method = attrs.field(init=False)
    _chunks: Method = attrs.field(init=False)
    _changed: Method = attrs.field(init=False)
    _metric: Method = attrs.field(init=False)
    _similarity: Method = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lock = need(self.server, "_HTTP_REQUEST_LOCK", NAME)
        self._preflight = need(self.server, "_mcp_tool_preflight_refusal", NAME)
        self._record = need(self.server, "_collection_logical_drawer_record", NAME)
        self._records = need(self.server, "_bulk_drawer_records", NAME)
        self._chunks = need(self.server, "_build_chunk_rows", NAME)
        self._changed = need(self.server, "_invalidate_overview_caches", NAME)
        self._metric = need(self.server, "_metric_for_collection", NAME)
        self._similarity = need(self.server, "_distance_to_similarity", NAME)

    # As stock's dispatcher does it.

    def refusal(self, call: ToolCall) -> JsonObject | None:
        """Return what stock would say of a call that needs the same of the store."""
        found: JsonObject | None = self._preflight(call.id, STANDS_FOR.get(call.name, call.name))
        return found

    @contextmanager
    def held(self, call: ToolCall) -> Iterator[None]:
        is_query = call.tool.kind is Kind.QUERY
        lock: AbstractContextManager[object] = self._lock.read_lock() if is_query else self._lock
        batched = self.state.current.batch is not None
        fresh = nullcontext() if is_query or batched else self.state.lookups.suspended()
        # One that waits for a server has no turn yet, unlike all other changes.
        is_turnless = call.tool.lane is Lane.REMOTE and not is_query
        query = _query_of(call) if is_query else ""
        if query and self.state.prefetch is not None:
            self.state.prefetch.warm(query)  # not with the lock, which whoever changes waits for
        turn = self.state.turns.turn() if is_turnless else nullcontext()
        with turn, fresh, lock:
            yield

    def look(self, idents: Sequence[str]) -> Mapping[str, Memory]:
        with self._lock.read_lock():
            collection = self._opened(create=False)
            found: Mapping[str, Record] = (
                self._records(collection, list(idents)) if collection is not None else {}
            )
        memories = {
            ident: _memory(str(record["metadata"].get("parent_drawer_id") or ident), record)
            for ident, record in found.items()
        }
        return {ident: memory for ident, memory in memories.items() if memory.namespace}

    def tasks(self, call: ToolCall, speaker: Speaker) -> JsonObject:
        return answer_delegating(self.server, call, speaker)

    # What the gate asks for.

    def get(self, ident: str) -> Memory | None:
        collection = self._opened(create=False)
        if collection is None:
            return None
        record: Record | None = self._record(collection, ident)
        return None if record is None else _memory(ident, record)

    def put(self, memory: Memory, old: Memory | None) -> int:
        collection = self._opened(create=True)
        assert collection is not None, "it is made, or there is an error"
        size = max(1, self.server._config.chunk_size)  # noqa: SLF001
        metadata = metadata_of(memory)
        ids, documents = [memory.id], [memory.content]
        entries: list[Mapping[str, object]] = [{**metadata, "chunk_index": 0}]
        if len(memory.content) > size:
            ids, documents, entries = self._chunks(memory.id, memory.content, metadata, size)
        collection.upsert(ids=ids, documents=documents, metadatas=entries)
        left = sorted(set(old.rows if old is not None else ()) - set(ids))
        if left:
            collection.delete(ids=left)
        self._changed()
        return len(ids)

    def delete(self, memories: Sequence[Memory]) -> None:
        collection = self._opened(create=False)
        rows = [row for memory in memories for row in memory.rows]
        if collection is not None and rows:
            collection.delete(ids=rows)
            self._changed()

    def over(self, namespaces: Sequence[str], now_s: float, most: int) -> Sequence[Memory]:
        collection = self._opened(create=False)
        if collection is None:
            return []
        where: JsonObject = {UNTIL: {"$lte": now_s}}
        if namespaces:
            where = {"$or": [where, {NAMESPACE: {"$in": list(namespaces)}}]}
        found = collection.get(where=where, include=["metadatas"], limit=most)
        idents = map(_logical, found.ids, found.metadatas)
        return self._read(collection, list(dict.fromkeys(idents)))

    def find(self, wanted: Wanted) -> Sequence[Memory]:
        collection = self._opened(create=False)
        if collection is None:
            return []
        if not wanted.query:
            latest = newest(self.server, wanted)
            if latest is None:
                latest = newest_in(collection, wanted)
            return self._read(collection, latest)
        near = self._nearest(collection, wanted)
        metric = self._metric(collection)
        idents = list(near)
        if wanted.by_words:
            idents = fused(idents, self._worded(collection, wanted))[: wanted.limit]
        return [
            attrs.evolve(
                memory,
                distance=round(near[memory.id], 4),
                similarity=round(self._similarity(near[memory.id], metric), 3),
            )
            if memory.id in near
            else memory
            for memory in self._read(collection, idents)
        ]

    def idents(self, namespace: str) -> Sequence[str]:
        collection = self._opened(create=False)
        if collection is None:
            return []
        found = collection.get(where={NAMESPACE: namespace}, include=["metadatas"])
        return list(dict.fromkeys(map(_logical, found.ids, found.metadatas)))

    def tally(self, wanted: Wanted) -> Mapping[tuple[str, str], int]:
        collection = self._opened(create=False)
        if collection is None:
            return {}
        counted = count(self.server, wanted)
        if counted is not None:
            return counted
        rows = self._rows(collection, wanted)
        entries = {_logical(ident, entry): entry for ident, entry in rows}
        return Counter(
            (str(entry.get(NAMESPACE)), str(entry.get(KIND))) for entry in entries.values()
        )

    def _read(self, collection: Collection, idents: Sequence[str]) -> list[Memory]:
        records: Mapping[str, Record] = self._records(collection, idents) if idents else {}
        return [_memory(ident, records[ident]) for ident in idents if ident in records]

    def _nearest(self, collection: Collection, wanted: Wanted) -> dict[str, float]:
        """Return the nearest memories, and how far each is.

        What Chroma must filter costs it several times the search, the more the filter lets through.
        So the nearest of all rows are looked at first: often enough of them are wanted.
        """
        near, _ = self._near(collection, wanted, wanted.limit * UNFILTERED, None)
        rows, came = wanted.limit, wanted.limit
        while len(near) < wanted.limit and came >= rows and rows < POOL_MAX:
            rows *= POOL
            near, came = self._near(collection, wanted, rows, _all_of(_clauses(wanted)))
        return dict(islice(near.items(), wanted.limit))

    def _near(
        self, collection: Collection, wanted: Wanted, rows: int, where: JsonObject | None
    ) -> tuple[dict[str, float], int]:
        """Return the memories to which so many of the nearest rows belong, and how many came."""
        found = collection.query(
            query_texts=[wanted.query],
            n_results=rows,
            where=where,
            include=["metadatas", "distances"],
        )
        near: dict[str, float] = {}
        for ident, entry, distance in zip(
            found.ids[0], found.metadatas[0], found.distances[0], strict=True
        ):
            if _is_wanted(entry, wanted):
                near.setdefault(_logical(ident, entry), distance)
        return near, len(found.ids[0])

    def _worded(self, collection: Collection, wanted: Wanted) -> list[str]:
        """Return the memories with words of a query in them, those first that tell most."""
        found = in_chroma(self.server, wanted)
        if found is not None:
            return found
        where, query = _all_of(_clauses(wanted)), wanted.query.strip()
        if len(query) > 1:
            hits = collection.lexical_search(
                query=query, n_results=wanted.limit * POOL, where=where
            ).hits
            rows: Sequence[tuple[str, Metadata]] = [(hit.id, hit.metadata) for hit in hits]
        else:  # no index knows words of one character
            got = collection.get(
                where=where,
                where_document={"$contains": query},
                include=["metadatas"],
                limit=wanted.limit * POOL,
            )
            rows = list(zip(got.ids, got.metadatas, strict=True))
        return list(dict.fromkeys(_logical(*row) for row in rows if _is_wanted(row[1], wanted)))

    def _rows(self, collection: Collection, wanted: Wanted) -> list[tuple[str, Metadata]]:
        found = collection.get(where=_all_of(_clauses(wanted)), include=["metadatas"])
        rows = zip(found.ids, found.metadatas, strict=True)
        return [(ident, entry) for ident, entry in rows if _is_wanted(entry, wanted)]

    def _opened(self, *, create: bool) -> Collection | None:
        """Return stock's drawers; None where there are none yet."""
        collection = self.server._get_collection(create=create)  # noqa: SLF001
        if collection is None:
            problem = self.server._collection_error_or_no_palace()  # noqa: SLF001
            if create or os.path.exists(self.paths.store):
                raise StoreUnavailable(
                    f"The palace's drawers can't be opened: {problem.get('error')}. Nothing was "
                    "done; see palace doctor."
                )
        return collection


def _query_of(call: ToolCall) -> str:
    asked = body_of(call.arguments) if call.name in CONTRACT_TOOLS else call.arguments
    query = asked.get("query")
    return query.strip() if isinstance(query, str) else ""


def _memory(ident: str, record: Record) -> Memory:
    return attrs.evolve(
        memory_of(ident, record["content"], record["metadata"]), rows=tuple(record["ids"])
    )


def newest_in(collection: Collection, wanted: Wanted) -> list[str]:
    """Return the ids of the newest memories that are wanted, the newest first."""

    def read(span: Span | None, most: int, *, filtered: bool) -> list[Row]:
        clauses = _clauses(wanted) if filtered else []
        if span is not None:
            clauses += [{AT: {"$gte": span.start}}, {AT: {"$lt": span.end}}]
        found = collection.get(where=_all_of(clauses), include=["metadatas"], limit=most)
        return list(zip(found.ids, found.metadatas, strict=True))

    looking = Looking(
        read=read,
        is_wanted=lambda row: _is_wanted(row[1], wanted),
        enough=lambda rows: len(set(starmap(_logical, rows))) >= wanted.limit,
        within=Span(
            second_of(wanted.since), second_of(wanted.before) + 1 if wanted.before else FAR_S
        ),
    )
    dated = sorted(
        looking.newest(math.floor(wanted.now_s)),
        key=lambda row: (str(row[1].get("filed_at")), row[0]),
        reverse=True,
    )
    return list(dict.fromkeys(starmap(_logical, dated)))[: wanted.limit]


def _clauses(wanted: Wanted) -> list[JsonObject]:
    """Return what Chroma filters.  Drawers have no end, so that it finds none."""
    clauses: list[JsonObject] = [{UNTIL: {"$gt": wanted.now_s}}]
    if wanted.namespaces is not None:
        clauses.append({NAMESPACE: {"$in": list(wanted.namespaces)}})
    elif wanted.without:
        clauses.append({NAMESPACE: {"$nin": list(wanted.without)}})
    if wanted.kinds:
        clauses.append({KIND: {"$in": list(wanted.kinds)}})
    return clauses


def _all_of(clauses: Sequence[JsonObject]) -> JsonObject:
    return clauses[0] if len(clauses) == 1 else {"$and": list(clauses)}


def _is_wanted(entry: Metadata, wanted: Wanted) -> bool:
    """Tell whether a row is of what is searched for, whether or not Chroma has filtered it."""
    namespace, until, filed = entry.get(NAMESPACE), entry.get(UNTIL), str(entry.get("filed_at"))
    return (
        (namespace in wanted.namespaces if wanted.namespaces is not None else bool(namespace))
        and namespace not in wanted.without
        and (not wanted.kinds or entry.get(KIND) in wanted.kinds)
        and isinstance(until, int | float)
        and until > wanted.now_s
        # Chroma compares no texts.
        and wanted.since <= filed
        and (not wanted.before or filed < wanted.before)
    )


def _logical(ident: str, entry: Metadata) -> str:
    """Return the memory to which a row belongs."""
    return str(entry.get("parent_drawer_id") or ident)
