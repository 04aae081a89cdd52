"""What a store has lost without a trace in its files: the doctor says so, and its remedy helps.

Each way is tried on a copy of a palace that holds some of everything.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from palace.doctor import lacking
from palace.doctor.finding import ERROR, WARNING
from palace.engine.durability.healing import FROM_DUAL
from palace.journal.journal import Journal
from palace.journal.record import PUT, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.keys import known_keys
from palace.settings.paths import Paths
from tests.engine.durability.test_damage import lacks_of, master
from tests.engine.durability.test_rebuild import Master, copy_of, differing
from tests.support.engines.maintenance import MaintenanceProcess, Refused
from tests.support.engines.probe import Probe
from tests.support.faults.killing import is_full
from tests.support.faults.losses import LOSSES, lose_a_hallway, lose_drawers, lose_tunnels
from tests.support.processes.clients import Site
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

__all__ = ["master"]  # a fixture


@pytest.fixture
def copied(master: Master, tmp_path: Path) -> Site:
    return copy_of(master, tmp_path)


@pytest.mark.parametrize("name", LOSSES)
def test_doctor_names_what_a_store_lacks(copied: Site, name: str) -> None:
    lose, path, on_purpose = LOSSES[name]
    assert lacks_of(copied) == []
    files = sorted(copied.palace.parent.rglob("*"))

    lose(copied.palace)

    [said] = lacks_of(copied)
    assert said.level == ERROR
    assert f"/{path} lacks " in said.text
    assert said.remedy.endswith("palace rebuild --partial" if on_purpose else ": palace start")
    assert sorted(copied.palace.parent.rglob("*")) == files, "looking leaves nothing behind"


def test_a_comparison_with_a_store_that_cant_be_read_says_so(
    tmp_path: Path, model_home: Path
) -> None:
    # No copy: a broker has keys, with which the other tests' palaces were not written.
    own = make_site(tmp_path, model_home)
    with own.session() as client:
        client.tool("kg_add", subject="Ada", predicate="counts", object="waves")
    assert own.run("stop").returncode == 0
    with sqlite3.connect(own.palace / "knowledge_graph.sqlite3") as connection:
        connection.execute("DROP TABLE triples")
    connection.close()
    said = own.run("doctor", "--drift", "--json", timeout_s=120)

    assert said.returncode == 65, said.stderr
    found = {one["code"]: one for one in map(json.loads, said.stdout.splitlines())}
    assert "one can't be read: no such table: triples" in found["drift"]["text"]
    assert "palace start" in found["drift"]["remedy"]
    with own.session() as client:
        client.tool("kg_stats")
    assert own.run("stop").returncode == 0
    assert lacks_of(own) == []


RESTORED = [
    ("drawers", "graph", "attachment", "workspace"),
    ("diary", "fact", "events"),
    ("somebody",),
]


@pytest.mark.parametrize("names", RESTORED if is_full() else RESTORED[:1], ids="+".join)
def test_what_was_lost_is_written_again_at_the_next_start(
    master: Master,
    copied: Site,
    maintenance: MaintenanceProcess,
    names: tuple[str, ...],
) -> None:
    for name in names:
        LOSSES[name][0](copied.palace)
    assert len(lacks_of(copied)) == len(names)

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("drift") == []
        probe.leave()

    assert lacks_of(copied) == []
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []


def test_a_rebuild_brings_back_what_may_have_been_deleted(
    master: Master,
    copied: Site,
    maintenance: MaintenanceProcess,
) -> None:
    lose_tunnels(copied.palace)
    lose_a_hallway(copied.palace)

    drifted = [code for _, code, _ in maintenance.ask("doctor", copied.palace)]
    assert drifted == ["drift", "drift"]
    with pytest.raises(Refused, match="Another program has changed hallways"):
        maintenance.ask("rebuild", copied.palace)
    maintenance.ask("rebuild", copied.palace, partial=True)

    assert lacks_of(copied) == []
    assert maintenance.ask("doctor", copied.palace) == []
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []


def test_what_a_dead_owner_had_begun_is_not_called_lost(copied: Site) -> None:
    """Its next owner takes it back."""
    paths, kernel = Paths(str(copied.palace)), Kernel()
    keys = known_keys(paths, copied.environ(), kernel)
    journal = Journal.open(paths.journal, kernel, Stamp(epoch=9, writer="w", keys=keys))
    kind = "chroma:mempalace_drawers"
    journal.append([Draft(action=PUT, key="s:1", kind=kind, id="half", payload={})])
    journal.close()

    assert lacks_of(copied) == []


def test_doctor_says_when_it_could_not_compare_all(
    copied: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_drawers(copied.palace)
    monkeypatch.setattr(lacking, "WITHIN_S", 0.0)

    [said] = lacks_of(copied)
    assert (said.level, said.code) == (WARNING, "not_compared")
    assert "0 s were not enough" in said.text
    assert said.remedy.endswith("palace doctor --drift")


def test_a_journal_that_is_off_or_gone_says_nothing_and_one_on_trial_writes_nothing(
    copied: Site,
) -> None:
    lose_drawers(copied.palace)
    settings = copied.palace / "palace.toml"
    told = settings.read_text()
    settings.write_text(told + 'journal = "off"\n')
    assert lacks_of(copied) == []

    settings.write_text(told + 'journal = "dual"\n')
    [said] = lacks_of(copied)
    assert said.remedy == FROM_DUAL, "no broker writes to a store then"

    settings.write_text(told)
    assert lacks_of(copied)
    shutil.rmtree(copied.palace / "journal")
    assert lacks_of(copied) == []
