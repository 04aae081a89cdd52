"""Palaces whose drawers are on a server: a real PostgreSQL, which stock's pgvector reaches."""

from collections.abc import Iterator

import pytest

from tests.support.engines.postgres import Postgres
from tests.support.processes.brokers import make_palace, wait_ready
from tests.support.processes.clients import Client, Site

pytestmark = [pytest.mark.process, pytest.mark.engine]


@pytest.fixture
def stock(site: Site, postgres: Postgres) -> Iterator[Client]:
    """A stock session that holds mempalace's lock, and has stored something."""
    site.extra |= {"MEMPALACE_BACKEND": "pgvector", "MEMPALACE_PGVECTOR_DSN": postgres.dsn()}
    make_palace(site)
    with site.stock() as client:
        text = "Herons live where the river bends."
        assert client.tool("add_drawer", wing="w", room="r", content=text)["success"]
        yield client


def test_no_copy_of_the_directory_is_taken_for_the_drawers(site: Site, stock: Client) -> None:
    """A copy has other tables, which are empty: its answer would be that there is nothing."""
    (site.palace / "palace.toml").write_text("mempalace_lock_wait_s = 0.5\n")
    stock.tool("kg_add", subject="Heron", predicate="lives_by", object="river")
    with site.shim() as client:
        for tool, arguments in (("list_drawers", {}), ("search", {"query": "herons"})):
            refused = client.call(f"mempalace_{tool}", **arguments)["error"]["message"]
            assert f"pid {stock.process.pid} (" in refused
            assert "pgvector keeps its drawers elsewhere" in refused
        facts = client.tool("kg_query", entity="Heron")["facts"]
        assert [fact["object"] for fact in facts] == ["river"], "the graph is a file"
        stock.close()
        wait_ready(site)
        assert client.tool("list_drawers")["total"] == 1
