"""Stores that were damaged while no broker ran: seen, told, and brought back at the next opening.

Each way is tried on a copy of a palace that holds some of everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palace.doctor.examine import examine_palace, exit_code_of
from palace.doctor.finding import ERROR, Finding
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.engine.durability.test_rebuild import Master, copy_of, differing
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import fill, made_vectors
from tests.support.faults.damages import BESIDE, DAMAGES, DATABASE, INDEX, vectors_mixed_up
from tests.support.faults.killing import is_full
from tests.support.processes.clients import Site
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

SEARCHES = ("otter dives", "spare key", "Ada Lovelace counts in KelpForest")
QUERIES = 40


@pytest.fixture(scope="module")
def master(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path, maintenance: MaintenanceProcess
) -> Master:
    root = tmp_path_factory.mktemp("whole")
    site = make_site(root, model_home)
    probe = Probe(site.environ(), site.palace)
    ids = fill(probe, root)
    probe.leave()
    return Master(site, maintenance.ask("contents", site.palace), ids)


@pytest.fixture(scope="module")
def expected(master: Master, tmp_path_factory: pytest.TempPathFactory) -> "Answers":
    """What a whole palace answers."""
    with Probe(
        master.site.environ(), copy_of(master, tmp_path_factory.mktemp("asked")).palace
    ) as probe:
        assert probe.ask("health") == {"damaged": [], "healed": []}
        return answers_of(probe)


@pytest.fixture
def copied(master: Master, tmp_path: Path) -> Site:
    return copy_of(master, tmp_path)


@dataclass
class Answers:
    """What queries of every store are answered."""

    found: list[list[str]]
    nearest: list[list[str]]
    others: list[Any]


def answers_of(probe: Probe) -> Answers:
    found = []
    for query in SEARCHES:
        reply = probe.tool("search", query=query, limit=5)
        assert "vector_disabled" not in str(reply), reply
        found.append([result["drawer_id"] for result in reply["results"]])
    asking = {"query_embeddings": made_vectors()[:QUERIES], "n_results": 5}
    return Answers(
        found=found,
        nearest=probe.ask("nearest", collection="made", arguments=asking),
        others=[
            probe.tool("kg_query", entity="Ada"),
            probe.tool("list_tunnels"),
            probe.tool("list_hallways"),
            probe.tool("event_list", stream="s")["events"],
        ],
    )


def doctor(site: Site) -> list[Finding]:
    return examine_palace(Paths(str(site.palace)), ShimEnvironment(site.environ()))


def damage(site: Site, names: tuple[str, ...]) -> None:
    for name in names:
        DAMAGES[name][1](site.palace)


@pytest.mark.parametrize("name", DAMAGES)
def test_doctor_names_the_damage_first_and_what_helps(copied: Site, name: str) -> None:
    assert not [finding for finding in doctor(copied) if finding.code == "store_damaged"]

    damage(copied, (name,))

    found = doctor(copied)
    assert exit_code_of(found) == 65
    assert (found[0].level, found[0].code) == (ERROR, "store_damaged")
    assert str(copied.palace.parent) in found[0].text
    assert found[0].remedy.endswith("palace start")
    assert sum(finding.code == "store_damaged" for finding in found) == 1


def ways() -> Iterator[tuple[str, ...]]:
    """Yield what to damage at once: each store in one way at most."""
    if is_full():
        yield from ((name,) for name in DAMAGES)
        return
    yield "index-gone", "graph-gone", "tunnels-cut", "hallways-gone", "log-cut", "replica-gone"
    yield "links-overwritten", "graph-cut", "tunnels-emptied", "hallways-cut", "embedder-cut"
    yield "database-cut", "graph-emptied", "tunnels-other", "hallways-other", "log-gone"
    yield "database-gone", "tunnels-gone", "replica-cut"
    yield ("older-index",)


@pytest.mark.parametrize("names", list(ways()), ids="+".join)
def test_damage_is_healed_when_the_palace_is_opened(
    master: Master,
    expected: Answers,
    copied: Site,
    maintenance: MaintenanceProcess,
    names: tuple[str, ...],
) -> None:
    damage(copied, names)

    with Probe(copied.environ(), copied.palace) as probe:
        health = probe.ask("health")
        answered = answers_of(probe)
        assert probe.ask("drift") == []
        probe.leave()

    assert health["damaged"] == []
    assert {one["store"] for one in health["healed"]} == {DAMAGES[name][0] for name in names}
    assert answered == expected
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []
    found = doctor(copied)
    assert not [finding for finding in found if finding.level == ERROR]
    kept = {finding.text for finding in found if finding.code == "store_healed"}
    assert len(kept) == sum(one["kept"] != "" for one in health["healed"])


def test_an_index_whose_files_look_whole_is_tried_while_nobody_asks(
    copied: Site, expected: Answers
) -> None:
    vectors_mixed_up(copied.palace)
    assert not [finding for finding in doctor(copied) if finding.code == "store_damaged"]

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("health")["healed"] == []
        assert "the index of made is damaged: it holds other vectors" in probe.ask("examine")
        refused = probe.call("search", query="otter")
        probe.leave()

    assert refused["error"]["code"] == -32049
    assert "the next one brings it back" in refused["error"]["message"]
    assert "The index of made is damaged" in next(
        finding.text for finding in doctor(copied) if finding.code == "store_damaged"
    )
    with Probe(copied.environ(), copied.palace) as probe:
        assert [one["store"] for one in probe.ask("health")["healed"]] == ["chroma"]
        assert answers_of(probe) == expected
        assert probe.ask("examine") == ""
        probe.leave()


def test_every_way_is_tried() -> None:
    """Of each store some ways are healed in every run; all of them in the deep one."""
    tried = {name for names in ways() for name in names}

    assert {DAMAGES[name][0] for name in tried} == {store for store, _ in DAMAGES.values()}
    assert len(tried & {*INDEX}) >= 3
    assert len(tried & {*DATABASE}) >= 2
    assert len(tried & {*BESIDE}) >= 10
