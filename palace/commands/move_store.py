"""`palace move-store`: the drawers of a palace go to another of mempalace's backends.

They are made anew from the journal, checked, and put in the place of the old ones, which are kept.

Theory of operation.  Which backend a palace has, its settings say, or the files that are there.
So the settings are told first to say nothing: until the swap the old files tell, and after it the
new ones, whatever ends this process in between.  The journal holds from before the swap on that
either may be in place.  At the end both say the new one's name.
"""

from collections.abc import Mapping

import attrs

from palace.commands.config import change_settings, without_keys
from palace.commands.maintenance import leave_request
from palace.commands.progress import progress_shown
from palace.engine.durability.backends import check_tables, store_of_name
from palace.engine.durability.offline import hold_palace, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import Rebuild, Rebuilt
from palace.engine.stores.drawers import PGVECTOR as TABLES
from palace.engine.stores.drawers import backend_in
from palace.engine.stores.palace_stores import unopened_stores
from palace.protocol.errors import ConfigError, StoreUnavailable
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import (
    CHROMA,
    EXACT,
    MILVUS,
    PGVECTOR,
    backend_of,
    config_file,
    is_milvus_elsewhere,
    read_stock_config,
)
from palace.settings.user_settings import read_settings, toml_text

BACKENDS = (CHROMA, *EXACT, PGVECTOR, MILVUS)
VARIABLE = "MEMPALACE_BACKEND"


@attrs.frozen(kw_only=True)
class Moved:
    """What a move has made; `rebuilt.kept` is where the old store is, and `was` who kept it."""

    rebuilt: Rebuilt
    was: str
    backend: str


def move_store(
    paths: Paths, environment: ShimEnvironment, backend: str, *, stop: bool, partial: bool = False
) -> Moved:
    """Let another backend keep a palace's drawers; the old store is kept.

    Raises ConfigError for a name that palace doesn't journal, for the backend that keeps them
    already, and where stock's settings name another one; NotEmpty where its tables are somebody's;
    StoreUnavailable for records that the new one can't keep; and what a rebuild raises.  Nothing
    was changed then.
    """
    if backend not in BACKENDS:
        raise ConfigError(
            f"{backend[:80]!r} is no backend that palace journals. It may be "
            f"{', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}."
        )
    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave) as held:
        with opened_journal(held) as journal:
            named = backend_of(paths.root, held.config.config_dir, held.config.environment)
            was = backend_in(journal.tail.baseline) or store_of_name(named.name)
            if store_of_name(backend) == was and not journal.tail.moving:
                raise ConfigError(_already(held, backend, named.name))
            _check_settings(held, backend)
            if journal.tail.moving != store_of_name(backend):  # else it has left some itself
                new = unopened_stores(paths, held.config, held.kernel, backend)
                check_tables(new.pgvector)
            rebuild = Rebuild(
                palace=held,
                journal=journal,
                progress=progress_shown(),
                partial=partial,
                backend=backend,
            )
            _check(rebuild, backend)
            rebuild.palace = _without_name(held, environment)
            made = rebuild.build()
        fix_environment(held, environment, {**held.config.environment, VARIABLE: backend})
    return Moved(rebuilt=made, was=was, backend=backend)


def _check(rebuild: Rebuild, backend: str) -> None:
    try:
        rebuild.check()
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"{error} If it will not come back: palace move-store {backend} --partial makes the "
            "drawers from the journal, without what others may have written there."
        ) from None


def _already(held: OwnedPalace, backend: str, named: str) -> str:
    root = held.paths.root
    if backend in EXACT and named != backend:
        fixed = toml_text({**held.config.environment, VARIABLE: backend})
        return (
            f"{' and '.join(EXACT)} keep drawers in one format, so that nothing has to be moved. "
            f"Let the other one open {root}: palace config set environment='{fixed}'"
        )
    return f"{root} keeps its drawers in {backend} already."


def _check_settings(held: OwnedPalace, backend: str) -> None:
    """Refuse while mempalace's own settings name another backend: they come before all else."""
    where = held.config.config_dir
    if backend == MILVUS and is_milvus_elsewhere(read_stock_config(where), held.config.environment):
        raise ConfigError(
            "mempalace's settings name a server, a namespace or a database for milvus (MILVUS_URI, "
            "MILVUS_NAMESPACE, MILVUS_DB_NAME), and palace journals what milvus-lite keeps in the "
            "palace's own directory alone. Nothing was changed. Take them away, and ask again."
        )
    named = str(read_stock_config(where).get("backend") or "").strip().lower()
    if named and store_of_name(named) != store_of_name(backend):
        raise ConfigError(
            f'{config_file(where)} says "backend": "{named}", for every palace of that '
            f'configuration, and stock believes it before all else. Let it say "{backend}", or '
            "nothing, and ask again; no other store is opened for this palace meanwhile. Nothing "
            "was changed."
        )


def _without_name(held: OwnedPalace, environment: ShimEnvironment) -> OwnedPalace:
    """Have the settings say nothing of a backend; return the palace with these."""
    fixed = {name: value for name, value in held.config.environment.items() if name != VARIABLE}
    return fix_environment(held, environment, fixed)


def fix_environment(
    held: OwnedPalace, environment: ShimEnvironment, fixed: Mapping[str, str]
) -> OwnedPalace:
    """Fix the broker's environment in the user's settings, and in the copy for other homes."""
    paths, kernel = held.paths, held.kernel
    change_settings(paths, environment, {"environment": dict(fixed)}, kernel)
    data = read_settings(paths.settings, kernel)
    if data is not None:
        rest = without_keys(data.decode(), ["environment"]) if b"environment" in data else None
        text = rest if rest is not None else data.decode()
        if rest is not None or b"environment" not in data:
            # At its beginning, since what comes after a table's head belongs to that table.
            line = f"environment = {toml_text(dict(fixed))}\n"
            kernel.write_durable(paths.settings, (line + text).encode())
    return attrs.evolve(held, config=load_config(paths, environment.all, kernel))


def moved_text(moved: Moved) -> str:
    made = moved.rebuilt
    text = (
        f"{made.entities} entities were compared with the journal, and {moved.backend} keeps their "
        f"drawers from now on."
    )
    if made.altered:
        text += f" It keeps {made.altered} of them otherwise: palace history"
    if moved.was != TABLES:
        return f"{text} What {moved.was} kept is in {made.kept}."
    number = made.kept.rpartition("-")[2]
    if made.tables_stayed:
        return f"{text} The old tables stay as they are: {made.tables_stayed}"
    return f"{text} The old tables are palace_old_{number}_* in their database."
