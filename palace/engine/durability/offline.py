"""Work on a palace's stores and journal while no broker runs: what maintenance is composed of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from palace.engine.durability.drift import Drift, find_drift
from palace.engine.durability.rebuild import Rebuild
from palace.engine.durability.swap import finish_swap
from palace.engine.stores.palace_stores import Stores, build_stores, open_chroma
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import Progress, replay
from palace.kernel.kernel import Kernel
from palace.ownership.exclusive import exclusive_use
from palace.protocol.errors import JournalBroken
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


@attrs.frozen(kw_only=True)
class Held:
    """A palace that is ours for now."""

    paths: Paths
    config: Config
    kernel: Kernel
    stamp: Stamp


def _nothing(_kernel: Kernel) -> None:
    return


@contextmanager
def hold_palace(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    ask_to_leave: Callable[[], None] | None,
    prepare: Callable[[Kernel], None] = _nothing,
) -> Iterator[Held]:
    """Hold a palace and finish what an interrupted exchange of its stores left undone.

    See `exclusive_use` for the arguments and for what is raised.
    """
    holding = exclusive_use(paths, environment, ask_to_leave=ask_to_leave, prepare=prepare)
    with holding as found:
        finish_swap(paths.root, found.kernel)
        stamp = Stamp(epoch=found.epoch, writer=found.incarnation)
        yield Held(paths=paths, config=found.config, kernel=found.kernel, stamp=stamp)


@contextmanager
def opened_journal(held: Held) -> Iterator[Journal]:
    """Open the journal of a palace that is held until the block ends; raises JournalBroken."""
    if not held.kernel.list_directory(held.paths.journal):
        raise JournalBroken(
            f"{held.paths.root} has no journal: there is nothing to make stores from. A broker "
            'begins one at its first start, unless palace.toml says journal = "off".'
        )
    journal = Journal.open(held.paths.journal, held.kernel, held.stamp)
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def open_stores(held: Held) -> Iterator[Stores]:
    """Open the stores of a palace that is held until the block ends; Chroma when first asked."""
    clients: list[Any] = []

    def api() -> Any:
        if not clients:
            clients.append(open_chroma(held.paths.root))
        return clients[0]._server  # noqa: SLF001

    try:
        yield build_stores(held.paths, held.config, held.kernel, api)
    finally:
        for client in clients:
            client.close()


def rebuilding(
    held: Held, journal: Journal, progress: Progress, *, partial: bool, keep: bool
) -> Rebuild:
    """Return a rebuild of a held palace's stores, to be checked or run."""
    return Rebuild(
        paths=held.paths,
        config=held.config,
        kernel=held.kernel,
        journal=journal,
        progress=progress,
        partial=partial,
        keep=keep,
    )


def drift_of(held: Held, progress: Progress) -> list[Drift]:
    """Compare every entity of a held palace's stores with its journal."""
    with open_stores(held) as stores:
        known = replay(held.paths.journal, held.kernel, progress)
        return find_drift(stores, known, progress)
