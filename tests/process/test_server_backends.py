"""Palaces whose drawers are on a server: a real PostgreSQL, which stock's pgvector reaches."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.postgres import Postgres
from tests.support.processes.brokers import make_palace, wait_ready
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

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


@pytest.fixture
def two(tmp_path: Path, model_home: Path, postgres: Postgres) -> Iterator[tuple[Site, Site]]:
    """Two palaces that name one namespace; the first one has the tables."""
    postgres.ask("CREATE DATABASE two")
    named = {
        "MEMPALACE_BACKEND": "pgvector",
        "MEMPALACE_PGVECTOR_DSN": postgres.dsn("two"),
        "MEMPALACE_PGVECTOR_SHARED_NAMESPACE": "team",
    }
    sites = tuple(make_site(tmp_path / name, model_home) for name in ("a", "b"))
    for site in sites:
        site.extra |= named
    with sites[0].session() as client:
        assert client.tool("add_drawer", wing="w", room="r", content="The team's.")["success"]
    yield sites[0], sites[1]
    end_brokers(tmp_path)
    postgres.ask("DROP DATABASE two WITH (FORCE)")


def told(site: Site) -> dict[str, Any]:
    """Return the doctor's errors and warnings, by their codes."""
    found = [json.loads(line) for line in site.run("doctor", "--json").stdout.splitlines()]
    return {one["code"]: one for one in found if one["level"] in ("error", "warning")}


def lists(client: Client) -> bool:
    """Tell whether drawers are listed; a palace whose tables are another's is refused by name."""
    reply = client.call("mempalace_list_drawers")
    if "error" in reply:
        assert reply["error"]["data"]["palace"] == "store_owned", reply
        return False
    listed = json.loads(reply["result"]["content"][0]["text"])
    assert "total" in listed, listed
    return bool(listed["total"] == 1)


def test_a_palace_whose_tables_are_anothers_says_so_until_that_one_leaves(
    two: tuple[Site, Site],
) -> None:
    a, b = two
    with b.session() as client:
        assert not lists(client)
        owned = told(b)["tables_owned"]
        assert str(a.palace) in owned["text"]
        assert "palace own --force" in owned["remedy"]
        assert str(a.palace) in b.run("own").stdout
        assert "tables_owned" not in told(a)
        assert a.run("stop").returncode == 0
        wait_until(lambda: lists(client), timeout_s=60)
    assert "tables_owned" not in told(b)
    assert "can't be mended" not in b.log(), "there is no index of words beside a server's tables"
    b.extra["MEMPALACE_PGVECTOR_DSN"] = "postgresql://u@127.0.0.1:1/nobody"
    assert "can't be reached" in told(b)["tables_away"]["text"]


def test_tables_of_a_palace_that_is_gone_for_good_are_taken_by_force(
    two: tuple[Site, Site],
) -> None:
    a, b = two
    refused = b.run("own", "--force")
    assert refused.returncode == 73, refused.stderr
    assert "one palace at a time" in refused.stderr
    a.kill_broker(signal.SIGKILL)
    with b.session() as client:
        assert not lists(client)
        assert "tables_owned" in told(b)
    assert b.run("stop", "--hold").returncode == 0
    taken = b.run("own", "--force")
    assert taken.returncode == 0, taken.stderr
    assert str(a.palace) in taken.stdout
    assert b.run("start").returncode == 0
    with b.session() as client:
        assert lists(client)
    with a.session() as client:
        assert not lists(client), "it was told that it is gone for good"
