"""Work on a palace that needs it for itself: rebuild, purge, and looking for drift.

Each takes the lock as a broker would.  One that runs is asked to leave first, and the lock is taken
the moment it is free, before a shim could have started another.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from palace.broker import lock
from palace.config import Config, adopt, load_config
from palace.control import Control
from palace.engine.drift import Drift, find_drift
from palace.engine.rebuild import Rebuild, Rebuilt
from palace.engine.stores import Stores, build_stores, open_chroma
from palace.engine.swap import finish_swap
from palace.env import ShimEnvironment
from palace.host import Host
from palace.journal.inspect import Finding, read_from
from palace.journal.journal import Journal
from palace.journal.purge import purge_journal
from palace.journal.record import Record, Stamp
from palace.journal.replay import replay
from palace.operate import progress_shown
from palace.paths import Paths
from palace.protocol.errors import BrokerUnreachable, JournalBroken, LockHeld

M_PERTURB = -6  # of glibc's malloc.h
LOCK_S = 120.0
POLL_S = 0.002


@attrs.frozen(kw_only=True)
class Held:
    """A palace that is ours for now."""

    paths: Paths
    config: Config
    host: Host
    stamp: Stamp


def _nothing(_host: Host) -> None:
    return


@contextmanager
def hold_palace(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    stop: bool,
    prepare: Callable[[Host], None] = _nothing,
) -> Iterator[Held]:
    """Own the palace until the block ends; `stop` asks a running broker to leave.

    `prepare` is called with the lock held, before settings, identity and epoch are read.
    Raises LockHeld, naming the holder, where that is not wanted or takes too long.
    """
    host = Host()
    lock.check_directory(paths, host, environment.all)
    owner = _take_lock(paths, environment, host, stop=stop)
    try:
        prepare(host)
        config = load_config(paths, environment.all, host)
        lock.take_other_locks(owner, config, environment.all, host)
        lock.take_epoch(owner, host)
        adopt(paths, config, host)
        finish_swap(paths.root, host)
        stamp = Stamp(epoch=owner.epoch, writer=owner.incarnation)
        yield Held(paths=paths, config=config, host=host, stamp=stamp)
    finally:
        for fd in (*owner.other_fds, owner.lock_fd):
            host.close(fd)


def _take_lock(paths: Paths, environment: ShimEnvironment, host: Host, *, stop: bool) -> lock.Owner:
    try:
        return lock.take_lock(paths, host)
    except LockHeld as error:
        if not stop:
            raise LockHeld(
                f"{error.message} This needs the palace for itself: palace stop --hold, and "
                "palace start afterwards; or let it be stopped now: --stop"
            ) from None
    try:
        with Control(paths, environment) as control:
            control.ask("stop", now="0")
            return _wait_for_lock(paths, host)
    except BrokerUnreachable:
        return _wait_for_lock(paths, host)


def _wait_for_lock(paths: Paths, host: Host) -> lock.Owner:
    import time

    deadline_s = host.monotonic() + LOCK_S
    while True:
        try:
            return lock.take_lock(paths, host)
        except LockHeld:
            if host.monotonic() >= deadline_s:
                raise
        time.sleep(POLL_S)


def rebuild_palace(
    paths: Paths, environment: ShimEnvironment, *, stop: bool, partial: bool
) -> Rebuilt:
    """Make new stores from the journal and swap them in; the old ones are kept."""
    with hold_palace(paths, environment, stop=stop) as held, opened_journal(held) as journal:
        return rebuild_stores(held, journal, partial=partial, keep=True)


def rebuild_stores(held: Held, journal: Journal, *, partial: bool, keep: bool) -> Rebuilt:
    """Make new stores for a palace that is held, and swap them in."""
    return _rebuilding(held, journal, partial=partial, keep=keep).run()


def _rebuilding(held: Held, journal: Journal, *, partial: bool, keep: bool) -> Rebuild:
    return Rebuild(
        paths=held.paths,
        config=held.config,
        host=held.host,
        journal=journal,
        progress=progress_shown(),
        partial=partial,
        keep=keep,
    )


@contextmanager
def opened_journal(held: Held) -> Iterator[Journal]:
    """Open the journal of a palace that is held until the block ends; raises JournalBroken."""
    if not held.host.list_directory(held.paths.journal):
        raise JournalBroken(
            f"{held.paths.root} has no journal: there is nothing to make stores from. A broker "
            'begins one at its first start, unless palace.toml says journal = "off".'
        )
    journal = Journal.open(held.paths.journal, held.host, held.stamp)
    try:
        yield journal
    finally:
        journal.close()


@attrs.frozen(kw_only=True)
class Purged:
    """How many records went; which entities still hold such a text; which old stores remain."""

    records: int
    alike: tuple[str, ...]
    copies: tuple[str, ...]


def purge_memories(
    paths: Paths, environment: ShimEnvironment, ids: list[str], *, stop: bool
) -> Purged:
    """Take entities out of journal, archive and stores, which are made anew without them."""
    _blank_memory()
    with hold_palace(paths, environment, stop=stop) as held:
        with opened_journal(held) as journal:  # before anything is changed
            _rebuilding(held, journal, partial=False, keep=False).check()
        wanted = _with_chunks(held, frozenset(ids))
        texts = _texts(held, wanted)
        # An earlier purge may have come as far as here, and no further.
        records = purge_journal(paths.journal, held.host, wanted) or _still_stored(held, wanted)
        if records:
            with opened_journal(held) as journal:
                rebuild_stores(held, journal, partial=False, keep=False)
        copies = [name for name in held.host.list_directory(paths.root) if "replaced-" in name]
        return Purged(
            records=records,
            alike=tuple(_holding(held, texts)),
            copies=tuple(f"{paths.root}/{name}" for name in sorted(copies)),
        )


def _blank_memory() -> None:
    """Chroma's index files hold what stood in their memory before: let it be no purged text."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, 1)


def _with_chunks(held: Held, ids: frozenset[str]) -> frozenset[str]:
    """Return ids with those of the chunks that a long drawer or diary entry was ever split into."""
    found = set(ids)
    for record in read_from(held.paths.journal, held.host):
        if isinstance(record, Record) and not ids.isdisjoint(_parents(record)):
            found.add(record.id)
    return frozenset(found)


def _parents(record: Record) -> Iterator[str]:
    for payload in (record.payload, record.before):
        metadata = payload.get("metadata") if isinstance(payload, dict) else None
        for name in ("parent_drawer_id", "parent_entry_id"):
            if isinstance(metadata, dict) and name in metadata:
                yield metadata[name]


def _still_stored(held: Held, ids: frozenset[str]) -> int:
    with _open_stores(held) as stores:
        for store in stores.all:
            store.measure()
        pairs = [(store, kind) for store in stores.all for kind in store.kinds()]
        # What attaches an artifact to an event has a pair of ids, and none of its own.
        return sum(len(store.read(kind, ids)) for store, kind in pairs if kind != "log:attached")


def _texts(held: Held, ids: frozenset[str]) -> list[str]:
    known = replay(held.paths.journal, held.host)
    found = [known.payload(entity) for entity in known.live if entity[1] in ids]
    return [text for payload in found if (text := _text_of(payload))]


def _text_of(payload: Any) -> str:
    document = payload.get("document") if isinstance(payload, dict) else None
    return document.strip() if isinstance(document, str) else ""


def _holding(held: Held, texts: list[str]) -> list[str]:
    if not texts:
        return []
    known = replay(held.paths.journal, held.host)
    return [
        f"{kind} {ident}"
        for kind, ident in known.live
        if any(text in _text_of(known.payload((kind, ident))) for text in texts)
    ]


def drifted(paths: Paths, environment: ShimEnvironment, *, stop: bool) -> list[Finding]:
    """Return where the stores hold something else than the journal; needs the lock."""
    with hold_palace(paths, environment, stop=stop) as held:
        return [_drifted(found) for found in drift_of(held)]


def drift_of(held: Held) -> list[Drift]:
    """Compare every entity of a held palace's stores with its journal."""
    with _open_stores(held) as stores:
        known = replay(held.paths.journal, held.host, progress_shown())
        return find_drift(stores, known, progress_shown())


@contextmanager
def _open_stores(held: Held) -> Iterator[Stores]:
    clients: list[Any] = []

    def api() -> Any:
        if not clients:
            clients.append(open_chroma(held.paths.root))
        return clients[0]._server  # noqa: SLF001

    try:
        yield build_stores(held.paths, held.config, held.host, api)
    finally:
        for client in clients:
            client.close()


def _drifted(found: Drift) -> Finding:
    return Finding(
        level="error",
        code="drift",
        text=f"{found.kind}: {found.missing} missing, {found.foreign} unknown to the journal, "
        f"{found.different} different, such as {found.example}.",
        remedy="palace start takes over what others wrote; palace rebuild makes the stores anew.",
    )
