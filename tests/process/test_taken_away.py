"""Files of a palace that vanish, shrink or are swapped while its broker runs.

No call is answered with less, nothing is journalled as deleted, and the doctor says it.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from palace.doctor.examine import examine_palace
from palace.doctor.finding import Finding
from palace.engine.durability.groups import REFUSED_MAX
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.calls.mutations import make_project
from tests.support.faults.damages import cut, emptied, file_cut, gone, other_shape
from tests.support.faults.losses import lose_a_fact, lose_drawers, run_sql
from tests.support.processes.brokers import status_of, text_of, wait_ready
from tests.support.processes.clients import Client, Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

DRAWERS = 12
GRAPH = "knowledge_graph.sqlite3"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Site:
    """A palace with some of everything, which nobody serves."""
    site = make_site(tmp_path_factory.mktemp("filled"), model_home)
    with site.shim() as client:
        for number in range(DRAWERS):
            client.tool("add_drawer", wing="w", room=f"r{number % 3}", content=f"Otter {number}.")
        client.tool("mine", source=str(make_project(site.home, "n1x1z")), wing="mined")
        for name in ("b", "c"):
            client.tool("kg_add", subject="a", predicate="knows", object=name)
        client.tool(
            "create_tunnel", source_wing="w", source_room="r0", target_wing="w", target_room="r1"
        )
        # With its first use of the event log, stock makes replica.json.
        client.tool("event_append", type="a.note", stream="s", room="r", from_agent="a", body="b")
    assert site.run("stop").returncode == 0
    end_brokers(site.palace)
    return site


@pytest.fixture
def served(filled: Site, tmp_path: Path) -> Any:
    """A copy of it, with a client whose broker has everything open."""
    shutil.copytree(filled.palace.parent.parent, tmp_path / "all", symlinks=True)
    site = Site(home=tmp_path / "all" / "home", palace=tmp_path / "all" / "store" / "palace")
    settings = site.palace / "palace.toml"
    old = str(filled.palace.parent.parent)
    settings.write_text(settings.read_text().replace(old, str(tmp_path / "all")))
    with site.shim() as client:
        answers_of(client)
        wait_ready(site)
        yield site, client
    end_brokers(site.palace)


def answers_of(client: Client) -> list[Any]:
    return [
        [hit["drawer_id"] for hit in client.tool("search", query="otter", limit=5)["results"]],
        len(client.tool("list_drawers", wing="w")["drawers"]),
        client.tool("kg_query", entity="a")["count"],
        client.tool("list_tunnels"),
        client.tool("list_hallways"),
    ]


def entities_of(site: Site) -> set[tuple[str, str]]:
    return set(replay(f"{site.palace}/journal", Kernel()).live)


def findings(site: Site) -> list[Finding]:
    return examine_palace(Paths(str(site.palace)), ShimEnvironment(site.environ()))


def doctor(site: Site) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings(site)}


def swapped(palace: Path, name: str) -> None:
    """Put another file in the place of one, as a copy that is restored does."""
    other = palace / f"{name}.other"
    shutil.copyfile(palace / name, other)
    other.replace(palace / name)


def file_cut_in_place(palace: Path, name: str) -> None:
    cut(palace / name)


def everything_of_chroma_gone(palace: Path) -> None:
    (palace / "chroma.sqlite3").unlink()
    for path in palace.glob("*-*-*-*-*"):
        shutil.rmtree(path)


REOPENED: dict[str, Callable[[Path], None]] = {
    "chroma-gone": partial(gone, name="chroma.sqlite3"),
    "all-of-chroma-gone": everything_of_chroma_gone,
    "chroma-swapped": partial(swapped, name="chroma.sqlite3"),
    "chroma-cut": partial(file_cut_in_place, name="chroma.sqlite3"),
    "graph-gone": partial(gone, name=GRAPH),
    "graph-emptied": partial(emptied, name=GRAPH),
    "graph-swapped": partial(swapped, name=GRAPH),
}


@pytest.mark.parametrize("name", REOPENED)
def test_a_store_that_is_taken_away_is_brought_back_by_the_next_broker(
    served: tuple[Site, Client], name: str
) -> None:
    site, client = served
    expected, entities = answers_of(client), entities_of(site)
    first = status_of(site)["pid"]

    REOPENED[name](site.palace)

    told = doctor(site)["store_damaged"]
    assert told.level == "error"
    assert "while it was open" in told.text
    assert answers_of(client) == expected
    assert status_of(site)["pid"] != first
    assert client.tool("kg_add", subject="a", predicate="knows", object="d")["success"]
    assert client.tool("add_drawer", wing="w", room="r0", content="One more otter.")["success"]
    assert entities <= entities_of(site)
    assert "store_damaged" not in doctor(site)


WRITTEN_BACK: dict[str, Callable[[Path], None]] = {
    "tunnels-gone": partial(gone, name="../tunnels.json"),
    "tunnels-emptied": partial(emptied, name="../tunnels.json"),
    "tunnels-other": partial(other_shape, name="../tunnels.json"),
    "hallways-gone": partial(gone, name="../hallways.json"),
    "hallways-cut": partial(file_cut, name="../hallways.json"),
    "replica-gone": partial(gone, name="replica.json"),
}


@pytest.mark.parametrize("name", WRITTEN_BACK)
def test_a_list_that_is_taken_away_is_written_back(served: tuple[Site, Client], name: str) -> None:
    site, client = served
    expected, entities = answers_of(client), entities_of(site)
    first = status_of(site)["pid"]

    WRITTEN_BACK[name](site.palace)

    assert answers_of(client) == expected
    ends = {"source_wing": "w", "source_room": "r1", "target_wing": "w", "target_room": "r2"}
    client.tool("create_tunnel", **ends)
    assert len(client.tool("list_tunnels")) > len(expected[3])
    assert entities < entities_of(site)
    assert status_of(site)["pid"] == first
    assert doctor(site)["store_mended"].level == "warning"
    assert site.run("stop").returncode == 0
    assert "store_mended" not in doctor(site)


def test_rows_that_are_lost_under_a_broker_are_told_and_written_again_by_the_next(
    served: tuple[Site, Client],
) -> None:
    site, client = served
    expected = answers_of(client)
    assert "lacking" not in doctor(site)
    lose_drawers(site.palace)
    lose_a_fact(site.palace)

    told = [finding for finding in findings(site) if finding.code == "lacking"]
    assert [finding.level for finding in told] == ["error", "error"]
    assert "/chroma.sqlite3 lacks 2 of the " in told[0].text
    assert f"/{GRAPH} lacks 1 of the " in told[1].text
    assert {finding.remedy.partition(": ")[2] for finding in told} == {"palace stop; palace start"}
    assert client.tool("add_drawer", wing="z", room="r", content="Life goes on.")["success"]
    assert site.run("stop").returncode == 0
    assert site.run("start").returncode == 0

    assert answers_of(client) == expected
    assert "lacking" not in doctor(site)


def test_a_store_that_refuses_every_change_is_left_to_another_owner(
    served: tuple[Site, Client],
) -> None:
    """As Chroma does where its index of words is damaged."""
    site, client = served
    new = {"wing": "w", "room": "r1"}
    kept = [client.tool("add_drawer", content=f"kept {number}", **new) for number in range(3)]
    assert all(one["success"] for one in kept)
    first = site.record()["epoch"]
    run_sql(site.palace / "chroma.sqlite3", "DELETE FROM embedding_fulltext_search_data")

    tried = 1
    while not client.tool("add_drawer", content="new", **new).get("success"):
        tried += 1
        assert tried <= REFUSED_MAX + 1, site.log()
    assert tried > 1, "nothing was wrong"

    assert site.record()["epoch"] == first + 1
    assert "chroma refuses every change" in site.log()
    there = [one["content_preview"] for one in client.tool("list_drawers", wing="w")["drawers"]]
    assert {"kept 0", "kept 1", "kept 2", "new"} <= set(there)
    assert doctor(site)["store_mended"].level == "warning"
    assert not list(site.palace.glob("replaced-*")), "what is mended in place is not built again"


def test_a_store_that_refuses_and_looks_whole_is_built_again(
    served: tuple[Site, Client],
) -> None:
    site, client = served
    new = {"wing": "w", "room": "r1"}
    assert client.tool("add_drawer", content="kept", **new)["success"]
    first = site.record()["epoch"]
    run_sql(
        site.palace / "chroma.sqlite3",
        "CREATE TRIGGER no BEFORE INSERT ON embeddings BEGIN SELECT RAISE(ABORT, 'no'); END",
    )

    said = [client.call("mempalace_add_drawer", content=f"new {n}", **new) for n in range(20)]

    assert site.record()["epoch"] == first + 1
    is_stored = ["'success': True" in str(text_of(one)) for one in said]
    assert is_stored == sorted(is_stored), "from some call on all are stored"
    assert is_stored.count(False) <= REFUSED_MAX
    there = [one["content_preview"] for one in client.tool("list_drawers", wing="w")["drawers"]]
    assert "kept" in there


def test_an_entry_that_stock_deletes_from_a_whole_list_stays_deleted(
    served: tuple[Site, Client],
) -> None:
    site, client = served
    tunnels = site.palace.parent / "tunnels.json"
    assert client.tool("list_tunnels") != []

    tunnels.with_suffix(".new").write_text("[]")  # as `mempalace tunnels prune` writes it
    os.replace(tunnels.with_suffix(".new"), tunnels)

    assert client.tool("list_tunnels") == []
    assert "store_mended" not in doctor(site)
    assert site.run("stop").returncode == 0
    assert client.tool("list_tunnels") == []
