"""A palace's stores and journal while no broker runs: what maintenance is composed of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from palace.engine.durability.backends import store_of_name
from palace.engine.durability.bring_back import bring_back
from palace.engine.durability.drift import Drift, find_drift
from palace.engine.durability.meeting import meet_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.pinned import check_not_older, installed_versions
from palace.engine.durability.swap import Exchange
from palace.engine.durability.translation import Translation
from palace.engine.stores.palace_stores import Stores, opened_stores
from palace.engine.stores.pgvector import release_tables
from palace.engine.stores.pgvector_fence import fences_at
from palace.journal.journal import Journal, read_tail
from palace.journal.record import Stamp
from palace.journal.replay import Progress, replay
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership.exclusive import exclusive_use
from palace.ownership.lock import Ownership
from palace.ownership.served import check_there
from palace.protocol.errors import JournalBroken
from palace.protocol.keyring import ANYBODYS
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import check_journalled


@contextmanager
def hold_palace(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    ask_to_leave: Callable[[], None] | None,
    prepare: Callable[[Ownership, Kernel], None] | None = None,
) -> Iterator[OwnedPalace]:
    """Own a palace, and finish what an interrupted exchange of its stores left undone.

    See `exclusive_use` for the arguments and for what is raised.  Without `prepare`, a directory
    that another program has replaced is brought back first (bring_back.py), or is PalaceReplaced.
    """
    if prepare is None:  # else the palace's settings and stores are still to come
        check_there(paths, environment.all, Kernel())
        config = load_config(paths, environment.all, Kernel())
        check_journalled(paths.root, config.config_dir, environment.all)

        def prepare(ownership: Ownership, kernel: Kernel) -> None:
            bring_back(ownership, environment.all, kernel)

    holding = exclusive_use(paths, environment, ask_to_leave=ask_to_leave, prepare=prepare)
    with holding as (ownership, config, kernel):
        Exchange(paths, config.graph, kernel).finish()
        keys = ownership.memory.keys if ownership.memory is not None else None
        stamp = Stamp(
            epoch=ownership.epoch,
            writer=ownership.incarnation,
            keys=ANYBODYS if keys is None else keys.ring,
            origin=ownership.palace_id,
        )
        try:
            yield OwnedPalace(paths=paths, config=config, kernel=kernel, stamp=stamp, keys=keys)
        finally:
            if fences_at(paths.root):
                release_tables(paths.root, settled=_is_settled(paths, kernel, stamp))


def _is_settled(paths: Paths, kernel: Kernel, stamp: Stamp) -> bool | None:
    """Tell whether the journal has nothing to make or to take back, None where there is none."""
    try:
        segments = list_segments(paths.journal, kernel)
        return not read_tail(segments, kernel, stamp.keys).open if segments else None
    except (OSError, JournalBroken):
        return False


@contextmanager
def opened_journal(palace: OwnedPalace) -> Iterator[Journal]:
    """Open the journal of an owned palace until the block ends; raises JournalBroken."""
    if not palace.kernel.list_directory(palace.paths.journal):
        raise JournalBroken(
            f"{palace.paths.root} has no journal: there is nothing to make stores from. A broker "
            "begins one at its first start, unless it is off: palace config set journal=on"
        )
    meet_journal(palace)
    journal = Journal.open(palace.paths.journal, palace.kernel, palace.stamp)
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def open_stores(palace: OwnedPalace) -> Iterator[Stores]:
    """Open the stores of an owned palace until the block ends; Chroma when it is first needed.

    Raises EngineOlder where a newer engine has served it.
    """
    check_not_older(palace.paths, palace.kernel, installed_versions())
    with opened_stores(palace.paths, palace.config, palace.kernel) as stores:
        yield stores


def drift_of(palace: OwnedPalace, progress: Progress, backend: str = "") -> list[Drift]:
    """Compare every entity of an owned palace's stores with its journal.

    `backend` keeps the drawers of a palace whose journal tells of another one, "" where it doesn't.
    """
    with open_stores(palace) as stores:
        known = replay(palace.paths.journal, palace.kernel, progress, keys=palace.stamp.keys)
        entities = Translation(known, store_of_name(backend)) if backend else known
        return find_drift(stores, entities, progress)
