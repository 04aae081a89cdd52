"""Whether the tables of a server, which keep the drawers, can be reached and are this palace's."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, OK, Finding
from palace.ownership.owners import owners_directory, read_way
from palace.protocol.errors import PalaceError
from palace.settings.stock_config import backend_of

if TYPE_CHECKING:
    from palace.engine.stores.pgvector import PgVector


def check_tables(found: Diagnostics) -> Iterator[Finding]:
    """Yield why a database's tables can't be written by this palace; nothing is written."""
    config = found.config
    if config is None or found.foreign is not None or found.is_anothers or not found.exists:
        return
    named = backend_of(found.paths.root, config.config_dir, found.environ)
    if not named.can_be_asked:
        return
    from palace.engine.stores.palace_stores import unopened_stores  # only for such a palace

    try:
        tables = unopened_stores(found.paths, config, found.kernel).pgvector
        if tables is not None:
            yield _whose(tables, found)
    except PalaceError as error:
        yield Finding(
            level=ERROR,
            code="tables_away",
            text=error.message,
            remedy="See that PostgreSQL runs, and that its address is right: "
            "MEMPALACE_PGVECTOR_DSN, or pgvector_dsn in mempalace's config.json",
        )


def _whose(tables: "PgVector", found: Diagnostics) -> Finding:
    owner, names = tables.owner(), f"{tables.target.prefix}_* in PostgreSQL"
    assert tables.fence is not None, "stock knows of them"
    if owner is None or tables.fence.is_ours(owner):
        return Finding(level=OK, code="tables", text=f"{names}, which are this palace's")
    if owner.settled:
        text = f"{names}, which {owner.name} has left settled"
        return Finding(level=OK, code="tables", text=text)
    directory = owners_directory(found.paths.root, found.environ)
    way = read_way(directory, owner.palace, found.kernel)
    here = (
        "all that concerns them is refused here"
        if way is None
        else f"agents are carried to it as its guest {way.name}, and HTTP is refused here"
    )
    return Finding(
        level=ERROR,
        code="tables_owned",
        text=f"The drawers are in {names}, which are those of {owner.name}, since {owner.since} "
        f"(epoch {owner.epoch}): {here}.",
        remedy="Work through that one as its guest (palace expose guest there, palace own "
        "--through DIR here), or stop it there (palace stop). If its machine is gone for good: "
        "palace stop --hold; palace own --force; palace start",
    )
