"""What stock looks up anew at each call, and need not: nobody else changes this palace.

A look is kept for a moment while queries and batches of writes follow each other.  While anything
else runs nobody keeps one (`anew`), and a collection that is made or dropped makes everybody look
again (`forget`).
"""

import copy
import functools
import importlib.metadata
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import attrs

LOOK_S = 1.0
CAPACITY_S = 10.0  # stock's own limit for a verdict


@attrs.define(eq=False)
class Looks:
    """What was found, by what was asked, and until when it holds.  Threads share one."""

    clock: Callable[[], float] = time.monotonic
    _found: dict[Any, tuple[float, Any]] = attrs.field(factory=dict)
    _times: int = 0  # how often all was forgotten
    _changing: int = 0  # calls that run and may change anything
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def look_up(
        self, key: Any, look: Callable[[], Any], holds: Callable[[Any], bool] = bool
    ) -> Any:
        """Return what was found a moment ago, as long as it `holds`, or `look`."""
        if self._changing:
            return look()
        until_s, found = self._found.get(key, (0.0, None))
        if self.clock() < until_s and holds(found):
            return found
        times = self._times
        found = look()
        with self._lock:
            if times == self._times and not self._changing:  # or it was looked up too early
                self._found[key] = self.clock() + LOOK_S, found
        return found

    def forget(self) -> None:
        with self._lock:
            self._times += 1
            self._found.clear()

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Run what may change anything: until it has ended, nobody keeps a look."""
        with self._lock:
            self._changing += 1
        self.forget()
        try:
            yield
        finally:
            self.forget()
            with self._lock:
                self._changing -= 1


def is_open(collection: Any) -> bool:
    """Tell whether a collection is Chroma's and not closed: then it has lost its bindings.

    Collections of other backends are opened each time.
    """
    client = getattr(getattr(collection, "_collection", None), "_client", None)
    return hasattr(client, "bindings")


def forget_after_changes(chroma: type, looks: Looks) -> None:
    """Look anew once a collection was made or dropped, by whichever call."""

    def forgetting(stock: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stock)
        def change(*asked: Any, **named: Any) -> Any:
            try:
                return stock(*asked, **named)
            finally:
                looks.forget()

        return change

    for name in ("create_collection", "delete_collection"):
        setattr(chroma, name, forgetting(getattr(chroma, name)))


def keep_collections(searcher: ModuleType, missing: type[Exception], looks: Looks) -> None:
    """Open a search's collections once in a moment; `missing` says that there is none."""

    def keep(name: str) -> None:
        stock = getattr(searcher, name)

        @functools.wraps(stock)
        def opened(*asked: Any, **named: Any) -> Any:
            def look() -> Any:
                try:
                    return stock(*asked, **named)
                except missing as error:
                    return error.with_traceback(None)

            key = name, asked, tuple(sorted(named.items()))
            found = looks.look_up(
                key, look, lambda seen: isinstance(seen, missing) or is_open(seen)
            )
            if isinstance(found, missing):
                raise missing(*found.args)
            return found

        setattr(searcher, name, opened)

    keep("get_collection")
    keep("get_closets_collection")


def keep_settings(config: type, looks: Looks) -> None:
    """Read stock's config.json once in a moment, not each time that somebody wants a setting."""
    stock = config.__init__  # type: ignore[misc]

    @functools.wraps(stock)
    def init(self: Any, *asked: Any, **named: Any) -> None:
        def read() -> dict[str, Any]:
            stock(self, *asked, **named)
            return dict(vars(self))

        members = looks.look_up(("settings", asked, tuple(sorted(named.items()))), read)
        vars(self).update(members, _file_config=copy.deepcopy(members["_file_config"]))

    config.__init__ = init  # type: ignore[misc]


def keep_verdicts(capacity: Callable[..., Any], state: Callable[[], Any]) -> Callable[..., Any]:
    """Return `capacity` with good verdicts kept; a bad one, and one of another state, isn't.

    Stock counts all records again after each write, to see whether the index lacks some.
    """
    known: dict[tuple[Any, ...], tuple[float, Any, dict[str, Any]]] = {}

    def ask(*place: Any) -> dict[str, Any]:
        now_s, now = time.monotonic(), state()
        until_s, then, status = known.get(place, (0.0, None, {}))
        if now_s >= until_s or then != now:
            status = capacity(*place)
            good = status.get("sqlite_count") is not None and not status.get("diverged")
            known[place] = now_s + CAPACITY_S if good else 0.0, now, status
        return dict(status)

    return ask


def keep_versions(
    installed: Callable[[], Any], names: Iterable[str], looks: Looks
) -> Callable[[], Any]:
    """Return `installed` with its answer kept while the packages' metadata are the same files.

    Stock lists every directory of the search path; a package that is installed beside or before
    the old one is seen a moment later.
    """
    files = [metadata_file(name) for name in names]

    def stamp() -> Any:
        return [stamp_of(path) for path in files]

    def ask() -> Any:
        found = looks.look_up(
            "installed", lambda: (stamp(), installed()), lambda kept: kept[0] == stamp()
        )
        return found[1]

    return ask


def metadata_file(package: str) -> str:
    """Return the path of an installed package's metadata, "" where it isn't installed."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return f"{getattr(distribution, '_path', '')}/METADATA"


def stamp_of(path: str) -> Any:
    """Return what changes when a file is written or replaced, None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def note_signatures(tools: dict[str, dict[str, Any]]) -> None:
    """Let `inspect.signature` find what the dispatcher asks it about a handler at each call."""
    for entry in tools.values():
        with suppress(AttributeError, TypeError, ValueError):
            entry["handler"].__signature__ = inspect.signature(entry["handler"])
