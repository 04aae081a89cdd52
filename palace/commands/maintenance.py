"""`palace rebuild` and `palace purge`: changes that need the palace to themselves."""

import ctypes
from collections.abc import Callable, Iterator
from functools import partial

import attrs

from palace.client.control import ask_to_leave
from palace.commands.progress import progress_shown
from palace.engine.durability.offline import hold_palace, open_stores, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import Rebuild, Rebuilt
from palace.journal.inspect import read_from
from palace.journal.purge import purge_journal
from palace.journal.record import Payload, Record
from palace.journal.replay import replay
from palace.ownership.served import saved_copies
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

M_PERTURB = -6  # of glibc's malloc.h


def leave_request(
    paths: Paths, environment: ShimEnvironment, *, stop: bool
) -> Callable[[], None] | None:
    """Return a function that asks a running broker to leave, None if it is to be left alone."""
    return partial(ask_to_leave, paths, environment) if stop else None


def rebuild_palace(
    paths: Paths, environment: ShimEnvironment, *, stop: bool, allow_gaps: bool
) -> Rebuilt:
    """Build new stores from the journal and swap them in; the old ones are kept."""
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        return rebuild_held(held, allow_gaps=allow_gaps, keep=True)


def rebuild_held(held: OwnedPalace, *, allow_gaps: bool, keep: bool) -> Rebuilt:
    """Build new stores for a palace whose lock is held, and swap them in."""
    with opened_journal(held) as journal:
        progress = progress_shown()
        return Rebuild(
            palace=held, journal=journal, progress=progress, partial=allow_gaps, keep=keep
        ).run()


@attrs.frozen(kw_only=True)
class Purged:
    """How many records were removed, and where their texts remain: in entities, in old stores."""

    records: int
    alike: tuple[str, ...]
    copies: tuple[str, ...]


def purge_memories(
    paths: Paths, environment: ShimEnvironment, ids: list[str], *, stop: bool
) -> Purged:
    """Remove entities from journal and archive, and rebuild the stores without them."""
    _blank_memory()
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        with opened_journal(held) as journal:  # before anything is changed
            Rebuild(palace=held, journal=journal, progress=progress_shown()).check()
        wanted = _with_chunks(held, frozenset(ids))
        texts = _texts(held, wanted)
        # An earlier purge may have been interrupted here, before the stores were rebuilt.
        records = purge_journal(paths.journal, held.kernel, wanted, held.stamp.keys)
        records = records or _still_stored(held, wanted)
        if records:
            rebuild_held(held, allow_gaps=False, keep=False)
        copies = [name for name in held.kernel.list_directory(paths.root) if "replaced-" in name]
        saved = saved_copies(paths.root, environment.all, held.kernel)
        return Purged(
            records=records,
            alike=tuple(_holding(held, texts)),
            copies=(*(f"{paths.root}/{name}" for name in sorted(copies)), *saved),
        )


def _blank_memory() -> None:
    """Have malloc blank freed memory: Chroma writes what it finds there into its index files."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, 1)


def _with_chunks(held: OwnedPalace, ids: frozenset[str]) -> frozenset[str]:
    """Return the ids, with those of all chunks that these drawers were ever split into."""
    found = set(ids)
    for record in read_from(held.paths.journal, held.kernel, keys=held.stamp.keys):
        if isinstance(record, Record) and not ids.isdisjoint(_parents(record)):
            found.add(record.id)
    return frozenset(found)


def _parents(record: Record) -> Iterator[str]:
    for payload in (record.payload, record.before):
        metadata = payload.get("metadata") if isinstance(payload, dict) else None
        for name in ("parent_drawer_id", "parent_entry_id"):
            if isinstance(metadata, dict) and name in metadata:
                yield metadata[name]


def _still_stored(held: OwnedPalace, ids: frozenset[str]) -> int:
    with open_stores(held) as stores:
        for store in stores.all:
            store.read_fingerprint()
        pairs = [(store, kind) for store in stores.all for kind in store.kinds()]
        # A row that attaches an artifact to an event has a pair of ids, and no id of its own.
        return sum(len(store.read(kind, ids)) for store, kind in pairs if kind != "log:attached")


def _texts(held: OwnedPalace, ids: frozenset[str]) -> list[str]:
    known = replay(held.paths.journal, held.kernel, keys=held.stamp.keys)
    found = [known.payload(entity) for entity in known.live if entity[1] in ids]
    return [text for payload in found if (text := _text_of(payload))]


def _text_of(payload: Payload) -> str:
    document = payload.get("document") if isinstance(payload, dict) else None
    return document.strip() if isinstance(document, str) else ""


def _holding(held: OwnedPalace, texts: list[str]) -> list[str]:
    if not texts:
        return []
    known = replay(held.paths.journal, held.kernel, keys=held.stamp.keys)
    return [
        f"{kind} {ident}"
        for kind, ident in known.live
        if any(text in _text_of(known.payload((kind, ident))) for text in texts)
    ]


def purge_text(paths: Paths, purged: Purged) -> str:
    """Return what was removed, and where the same text may still be."""
    if not purged.records:
        return f"No record of the journal in {paths.journal} has such an id. Nothing was changed."
    lines = [f"{purged.records} records were removed, and the stores rebuilt without them."]
    if purged.alike:
        lines.append(
            "These still contain the same text; to remove it everywhere, purge them as well:"
        )
        lines += [f"    {entity}" for entity in purged.alike]
    if purged.copies:
        lines.append("Old stores may still contain it. Remove them:")
        lines += [f"    {path}" for path in purged.copies]
    lines.append("Backups, and logs that stock mempalace keeps, were not touched.")
    return "\n".join(lines)
