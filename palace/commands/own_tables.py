"""`palace own` where a database keeps the drawers: who has the right to write its tables.

Loaded only where mempalace is there to say so.
"""

from palace.commands.maintenance import leave_request
from palace.engine.durability.offline import hold_palace
from palace.engine.stores.palace_stores import unopened_stores
from palace.engine.stores.pgvector import release_tables
from palace.engine.stores.pgvector_fence import Owner
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


def tables_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Say whose the tables of a palace's drawers are, "" where they are in files.

    Raises StoreUnavailable where their server can't be asked.
    """
    kernel = Kernel()
    tables = unopened_stores(paths, load_config(paths, environment.all, kernel), kernel).pgvector
    if tables is None:
        return ""
    owner, names = tables.owner(), f"Its drawers are in the tables {tables.target.prefix}_*"
    if owner is None:
        return f"{names}, which no palace has asked for yet."
    state = "left them settled" if owner.settled else "serves them, or ended in the middle"
    return f"{names}: {_named(owner)} {state}."


def take_tables(paths: Paths, environment: ShimEnvironment) -> str:
    """Take the right to write from an owner that ended in the middle; return what to tell the user.

    Raises StoreOwned while that one lives, and LockHeld while a broker of this palace runs.
    """
    leave = leave_request(paths, environment, stop=False)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        tables = unopened_stores(paths, held.config, held.kernel).pgvector
        if tables is None or tables.fence is None:
            raise ConfigError(
                f"The drawers of {paths.root} are in files, whose lock is enough. --force goes "
                "with --here or --release, or with a palace whose drawers a database keeps."
            )
        before = tables.owner()
        tables.fence.force = True
        tables.claim()
        epoch = tables.fence.epoch
        # Until a broker of this palace has left all settled, nobody gets them back: not the one
        # that was robbed, either.
        release_tables(paths.root, settled=False)
    text = f"The tables {tables.target.prefix}_* are this palace's from epoch {epoch} on."
    if before is not None and not before.settled:
        text += (
            f"\nBefore they were those of {_named(before)}. What was half done there stays as it "
            "is, and is taken over as it stands. Should that palace come back, it finds another's "
            "name and refuses; let it have tables of its own, or give them up here first."
        )
    return text


def _named(owner: Owner) -> str:
    return f"{owner.name} (epoch {owner.epoch}, since {owner.since})"
