"""Whether the backend that the settings name is the one whose records a journal holds.

Opened as another one's, a palace would look empty: the journal would take all of it for deleted.
"""

from collections.abc import Mapping

from palace.engine.durability.owned import OwnedPalace
from palace.engine.stores.drawers import EXACT, backend_in
from palace.protocol.errors import StoreUnavailable
from palace.settings.stock_config import Backend, backend_of


def check_backend(palace: OwnedPalace, baseline: Mapping[str, object] | None) -> None:
    """Refuse to open a palace as another backend's than the journal's: StoreUnavailable."""
    known, named = backend_in(baseline), named_backend(palace)
    if not known or known == _store_of(named):
        return
    if named.is_default:
        raise StoreUnavailable(
            f"{palace.paths.root} has lost the files of its drawers, which {known} kept, says its "
            "journal. Nothing was changed. Build them from it: palace stop --hold; palace rebuild; "
            "palace start"
        )
    raise _mismatch(palace, named, known)


def backend_to_build(palace: OwnedPalace, baseline: Mapping[str, object] | None) -> str:
    """Return by which backend new stores are made: the settings', else the journal's.

    Raises StoreUnavailable where both say one, and another.
    """
    known, named = backend_in(baseline), named_backend(palace)
    if named.is_default and known:
        return known
    if known and known != _store_of(named):
        raise _mismatch(palace, named, known)
    return named.name


def named_backend(palace: OwnedPalace) -> Backend:
    """Return what the settings and the files of an owned palace say."""
    config = palace.config
    return backend_of(palace.paths.root, config.config_dir, config.environment)


def _store_of(backend: Backend) -> str:
    return EXACT if backend.is_exact else backend.name


def _mismatch(palace: OwnedPalace, named: Backend, known: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{named.said_by} says that the backend is {named.name}, and the journal of "
        f"{palace.paths.root} is of a palace that {known} kept: opened so, it would look empty. "
        f'Nothing was changed. Name that one ("backend": "{known}" in '
        f"{palace.config.config_dir}/config.json), or use a directory of its own (--palace)."
    )
