"""Whether the backend that the settings name is the one whose records a journal holds.

Opened as another one's, a palace would look empty: the journal would take all of it for deleted.
"""

import os
from typing import TYPE_CHECKING

from palace.engine.durability.owned import OwnedPalace
from palace.engine.stores.drawers import COLLECTION, EXACT, backend_in
from palace.journal.tail import Tail
from palace.protocol.errors import NotEmpty, StoreUnavailable
from palace.settings.stock_config import Backend, backend_of

if TYPE_CHECKING:
    from palace.engine.stores.pgvector import PgVector


def check_backend(palace: OwnedPalace, tail: Tail) -> None:
    """Refuse to open a palace as another backend's than the journal's: StoreUnavailable."""
    known, named = backend_in(tail.baseline), named_backend(palace)
    if not known or known == store_of(named) or _was_moved(palace, tail, named):
        return
    if tail.moving:
        raise StoreUnavailable(
            f"The drawers of {palace.paths.root} were being moved from {known} to {tail.moving} "
            f"when that was interrupted, and {named.said_by} says {named.name}. Nothing is lost. "
            f"Let it be done: palace stop --hold; palace move-store {tail.moving}; palace start"
        )
    if named.is_default:
        raise StoreUnavailable(
            f"{palace.paths.root} has lost the files of its drawers, which {known} kept, says its "
            "journal. Nothing was changed. Build them from it: palace stop --hold; palace rebuild; "
            "palace start"
        )
    raise _mismatch(palace, named, known)


def find_tables(tail: Tail, tables: "PgVector") -> None:
    """See that a server's tables are those that the journal is of; let stock find them again.

    Raises StoreUnavailable where they are others.
    """
    baseline = tail.baseline or {}
    if tables.name in baseline:
        tables.check_place(baseline[tables.name])
    tables.mark_again()


def check_tables(tables: "PgVector | None", *, may_go: bool = False) -> None:
    """Refuse tables that are there, unless they may make way: NotEmpty.

    They may be a living palace's: names don't depend on a directory where a namespace is shared.
    """
    found = tables.ids(COLLECTION) if tables is not None and not may_go else []
    if tables is None or not found:
        return
    raise NotEmpty(
        f"The database has tables {tables.target.prefix}_* already ({', '.join(found[:3])}): "
        "another palace's, or what an interrupted move has left. Nothing was changed. Name another "
        "namespace (MEMPALACE_PGVECTOR_NAMESPACE), or rename those tables, if nobody uses them. "
        "palace restore --replace puts them aside where they are this directory's alone."
    )


def _was_moved(palace: OwnedPalace, tail: Tail, named: Backend) -> bool:
    """Tell whether the drawers are where they were being moved to, all of them."""
    there = backend_of(palace.paths.root, os.devnull, {})  # by the files alone
    return bool(tail.moving) and tail.moving == store_of(named) == store_of(there)


def backend_to_build(palace: OwnedPalace, tail: Tail) -> str:
    """Return by which backend new stores are made: the settings', else the journal's.

    Raises StoreUnavailable where both say one, and another.
    """
    known, named = backend_in(tail.baseline), named_backend(palace)
    if named.is_default and known:
        return known
    if known and known != store_of(named) and not _was_moved(palace, tail, named):
        raise _mismatch(palace, named, known)
    return named.name


def named_backend(palace: OwnedPalace) -> Backend:
    """Return what the settings and the files of an owned palace say."""
    config = palace.config
    return backend_of(palace.paths.root, config.config_dir, config.environment)


def store_of(backend: Backend) -> str:
    """Return by which name a journal knows the store of a backend."""
    return EXACT if backend.is_exact else backend.name


def store_of_name(name: str) -> str:
    """Return by which name a journal knows the store of the backend that is called so."""
    return store_of(Backend(name, ""))


def _mismatch(palace: OwnedPalace, named: Backend, known: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{named.said_by} says that the backend is {named.name}, and the journal of "
        f"{palace.paths.root} is of a palace that {known} kept: opened so, it would look empty. "
        f'Nothing was changed. Name that one ("backend": "{known}" in '
        f"{palace.config.config_dir}/config.json), move the drawers (palace move-store "
        f"{named.name}), or use a directory of its own (--palace)."
    )
