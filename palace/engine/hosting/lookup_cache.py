"""A cache for what stock looks up at each call: no other process changes this palace.

An answer is cached for a moment, while queries and batches of writes follow each other.  While
anything else runs the cache is suspended, and a collection that is created or deleted empties it.
"""

import copy
import functools
import importlib.metadata
import inspect
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs

from palace.engine.patches import ABSENT, Patch, always, need
from palace.engine.stock import JsonObject, Method, Server

NAME = "look_rarely"
LOOKUP_S = 1.0
VERDICT_S = 10.0  # stock's own limit for a verdict on the index

T = TypeVar("T")
Stamp = tuple[int, int, int]  # of a file: inode, time in ns, size


@attrs.define(eq=False)
class LookupCache:
    """Answers by key, and until when they hold.  Threads share one."""

    clock: Callable[[], float] = time.monotonic
    _found: dict[Hashable, tuple[float, Any]] = attrs.field(factory=dict)
    _clearings: int = 0  # how often it was cleared
    _changing: int = 0  # calls that run and may change anything
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def look_up(
        self, key: Hashable, find: Callable[[], T], is_valid: Callable[[T], bool] = bool
    ) -> T:
        """Return the answer of a moment ago, as long as it `is_valid`, or what `find` returns."""
        # Read without the lock: a call that begins to change things just now could as well have
        # begun after this answer.
        if self._changing:
            return find()
        until_s, found = self._found.get(key, (0.0, None))
        if self.clock() < until_s and is_valid(found):
            answer: T = found
            return answer
        clearings = self._clearings
        answer = find()
        with self._lock:
            # An answer that was found before a change must not be cached after it.
            if clearings == self._clearings and not self._changing:
                self._found[key] = self.clock() + LOOKUP_S, answer
        return answer

    def clear(self) -> None:
        with self._lock:
            self._clearings += 1
            self._found.clear()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Run what may change anything: until it has ended, no answer is cached or used."""
        with self._lock:
            self._changing += 1
        self.clear()
        try:
            yield
        finally:
            # Again, and before `_changing` falls: a look-up that read `_changing` just before it
            # rose, and `_clearings` just after they did, may have found what was half changed.
            self.clear()
            with self._lock:
                self._changing -= 1

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Use the cache again while a change that has it suspended waits between two parts."""
        with self._lock:
            self._changing -= 1
        try:
            yield
        finally:
            with self._lock:
                self._changing += 1
            self.clear()


def patches(server: Server, cache: LookupCache) -> Iterator[Patch]:
    """Return the patches that put the cache under stock's lookups."""
    from chromadb.api.rust import RustBindingsAPI
    from mempalace import config, searcher
    from mempalace.backends import chroma

    plan = functools.partial(Patch, name=NAME)
    missing = need(searcher, "CollectionNotInitializedError", NAME)
    resets = "_capacity_cache_generation"
    need(chroma, resets, NAME)
    generation = need(chroma, "chroma_system_generation", NAME)
    yield plan(
        why="each new one reads config.json",
        owner=need(config, "MempalaceConfig", NAME),
        attribute="__init__",
        replace=lambda stock: caching_settings(stock, cache),
    )
    for name in ("get_collection", "get_closets_collection"):
        yield plan(
            why="each search opens its collections",
            owner=searcher,
            attribute=name,
            replace=functools.partial(caching_collections, name=name, missing=missing, cache=cache),
        )
    for name in ("create_collection", "delete_collection"):
        yield plan(
            why="afterwards the cache would be wrong, whichever call did it",
            owner=RustBindingsAPI,
            attribute=name,
            replace=lambda stock: clearing(stock, cache),
        )
    yield plan(
        why="it counts all records after each write",
        owner=server,
        attribute="hnsw_capacity_status",
        replace=lambda stock: caching_verdicts(
            stock, lambda: (getattr(chroma, resets), generation())
        ),
    )
    yield plan(
        why="it lists all installed packages",
        owner=server,
        attribute="_installed_dist_state",
        replace=lambda stock: caching_versions(stock, ("mempalace", "chromadb"), cache),
    )
    yield plan(
        why="it resolves the graph's path",
        owner=server,
        attribute="_canonicalize_kg_path",
        replace=lambda stock: lambda path: cache.look_up(("graph", path), lambda: stock(path)),
    )
    yield from _signatures(server)


def _signatures(server: Server) -> Iterator[Patch]:
    """Let `inspect.signature` find what the dispatcher asks it about a handler at each call."""
    # A handler may stand under several names, and is patched once.
    handlers = {id(entry["handler"]): entry["handler"] for entry in server.TOOLS.values()}
    for handler in filter(inspect.isfunction, handlers.values()):
        signature = inspect.signature(handler)
        yield Patch(
            name=NAME,
            why="the dispatcher inspects a handler at each call",
            owner=handler,
            attribute="__signature__",
            expected=lambda found: found is ABSENT,
            replace=always(signature),
        )


def is_open(collection: object) -> bool:
    """Tell whether a collection is Chroma's and not closed: then it has lost its bindings.

    Collections of other backends are opened each time.
    """
    client = getattr(getattr(collection, "_collection", None), "_client", None)
    return hasattr(client, "bindings")


def clearing(stock: Callable[..., T], cache: LookupCache) -> Callable[..., T]:
    """Return `stock`, which creates or deletes a collection, with the cache cleared after it."""

    @functools.wraps(stock)
    def change(*given: object, **named: object) -> T:
        try:
            return stock(*given, **named)
        finally:
            cache.clear()

    return change


def caching_collections(
    stock: Method, name: str, missing: type[Exception], cache: LookupCache
) -> Method:
    """Return `stock`, which opens a collection, with its answer cached; it raises `missing`."""

    @functools.wraps(stock)
    def opened(*given: Hashable, **named: Hashable) -> object:
        def find() -> object:
            try:
                return stock(*given, **named)
            except missing as error:
                return error.with_traceback(None)

        key = name, given, tuple(sorted(named.items()))
        found = cache.look_up(key, find, lambda seen: isinstance(seen, missing) or is_open(seen))
        if isinstance(found, missing):
            raise missing(*found.args)
        return found

    return opened


def caching_settings(stock: Callable[..., None], cache: LookupCache) -> Callable[..., None]:
    """Return the `__init__` of stock's settings, with what it reads from config.json cached."""

    @functools.wraps(stock)
    def init(self: object, *given: Hashable, **named: Hashable) -> None:
        def read() -> dict[str, object]:
            stock(self, *given, **named)
            return dict(vars(self))

        members = cache.look_up(("settings", given, tuple(sorted(named.items()))), read)
        # Its holder may change it: each has a copy.
        vars(self).update(members, _file_config=copy.deepcopy(members["_file_config"]))

    return init


def caching_verdicts(
    stock: Callable[..., JsonObject], state: Callable[[], object]
) -> Callable[..., JsonObject]:
    """Return `stock` with good verdicts cached; a bad one, and one of another state, isn't.

    Stock counts all records again after each write, to see whether the index lacks some.
    """
    known: dict[tuple[object, ...], tuple[float, object, JsonObject]] = {}

    def judge(*place: object) -> JsonObject:
        now_s, now = time.monotonic(), state()
        until_s, then, status = known.get(place, (0.0, None, {}))
        if now_s >= until_s or then != now:
            status = stock(*place)
            good = status.get("sqlite_count") is not None and not status.get("diverged")
            known[place] = now_s + VERDICT_S if good else 0.0, now, status
        return dict(status)

    return judge


def caching_versions(
    stock: Callable[[], T], names: Iterable[str], cache: LookupCache
) -> Callable[[], T]:
    """Return `stock` with its answer cached while the packages' metadata are the same files.

    Stock lists every directory of the search path; a package that is installed beside or before
    the old one is seen a moment later.
    """
    files = [metadata_file(name) for name in names]

    def stamps() -> list[Stamp | None]:
        return [stamp_of(path) for path in files]

    def versions() -> T:
        found = cache.look_up(
            "installed", lambda: (stamps(), stock()), lambda cached: cached[0] == stamps()
        )
        return found[1]

    return versions


def metadata_file(package: str) -> str:
    """Return the path of an installed package's metadata, "" where it isn't installed."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return f"{getattr(distribution, '_path', '')}/METADATA"


def stamp_of(path: str) -> Stamp | None:
    """Return what changes when a file is written or replaced, None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
