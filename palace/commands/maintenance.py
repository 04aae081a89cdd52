"""`palace rebuild` and `palace purge`: changes for which the palace must be held."""

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

from palace.client.control import ask_to_leave
from palace.commands.progress import progress_shown
from palace.engine.durability.offline import (
    Held,
    hold_palace,
    open_stores,
    opened_journal,
    rebuilding,
)
from palace.engine.durability.rebuild import Rebuilt
from palace.journal.inspect import read_from
from palace.journal.purge import purge_journal
from palace.journal.record import Record
from palace.journal.replay import replay
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

M_PERTURB = -6  # of glibc's malloc.h


def leave_request(
    paths: Paths, environment: ShimEnvironment, *, stop: bool
) -> Callable[[], None] | None:
    """Return what asks a running broker to leave, None where it is to be left alone."""
    return partial(ask_to_leave, paths, environment) if stop else None


def rebuild_palace(
    paths: Paths, environment: ShimEnvironment, *, stop: bool, allow_gaps: bool
) -> Rebuilt:
    """Make new stores from the journal and swap them in; the old ones are kept."""
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        return rebuild_held(held, allow_gaps=allow_gaps, keep=True)


def rebuild_held(held: Held, *, allow_gaps: bool, keep: bool) -> Rebuilt:
    """Make new stores for a palace that is held, and swap them in."""
    with opened_journal(held) as journal:
        rebuild = rebuilding(held, journal, progress_shown(), partial=allow_gaps, keep=keep)
        return rebuild.run()


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
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        with opened_journal(held) as journal:  # before anything is changed
            rebuilding(held, journal, progress_shown(), partial=False, keep=False).check()
        wanted = _with_chunks(held, frozenset(ids))
        texts = _texts(held, wanted)
        # An earlier purge may have come as far as here, and no further.
        records = purge_journal(paths.journal, held.kernel, wanted) or _still_stored(held, wanted)
        if records:
            rebuild_held(held, allow_gaps=False, keep=False)
        copies = [name for name in held.kernel.list_directory(paths.root) if "replaced-" in name]
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
    for record in read_from(held.paths.journal, held.kernel):
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
    with open_stores(held) as stores:
        for store in stores.all:
            store.measure()
        pairs = [(store, kind) for store in stores.all for kind in store.kinds()]
        # What attaches an artifact to an event has a pair of ids, and none of its own.
        return sum(len(store.read(kind, ids)) for store, kind in pairs if kind != "log:attached")


def _texts(held: Held, ids: frozenset[str]) -> list[str]:
    known = replay(held.paths.journal, held.kernel)
    found = [known.payload(entity) for entity in known.live if entity[1] in ids]
    return [text for payload in found if (text := _text_of(payload))]


def _text_of(payload: Any) -> str:
    document = payload.get("document") if isinstance(payload, dict) else None
    return document.strip() if isinstance(document, str) else ""


def _holding(held: Held, texts: list[str]) -> list[str]:
    if not texts:
        return []
    known = replay(held.paths.journal, held.kernel)
    return [
        f"{kind} {ident}"
        for kind, ident in known.live
        if any(text in _text_of(known.payload((kind, ident))) for text in texts)
    ]


def purge_text(paths: Paths, purged: Purged) -> str:
    """Say what was removed, and where the same text may still be."""
    if not purged.records:
        return f"The journal in {paths.journal} mentions no such id: nothing was changed."
    lines = [f"{purged.records} records were taken out, and the stores made anew without them."]
    if purged.alike:
        lines.append("These still hold the same text; purge them, too, if you want it gone:")
        lines += [f"    {entity}" for entity in purged.alike]
    if purged.copies:
        lines.append("Old stores that may hold it still; remove them:")
        lines += [f"    {path}" for path in purged.copies]
    lines.append("Backups, and logs that stock mempalace keeps, were not touched.")
    return "\n".join(lines)
