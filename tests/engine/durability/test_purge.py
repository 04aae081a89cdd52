"""Purging, on real stores: no file of the machine's holds the secret, and all else is there."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.projection import same
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.purge import is_purge_mark
from palace.journal.record import PUT, Draft, Record, Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.keys import ANY_SEQ
from palace.protocol.keyring import Key, Keyring
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.probe import Probe
from tests.support.processes.clients import Site
from tests.support.processes.sites import make_site
from tests.support.stores.copies import Kept, tables_with

pytestmark = [pytest.mark.engine, pytest.mark.process]
EACH_BACKEND = True

KEY = "AKIA9F8E7D6C5B4A3210"
NOTES = (
    f"""# Deployment of Alice Johnson with key {KEY}

## Key {KEY} for Bob Smith

"""
    + "Alice Johnson decided to deploy the service with Bob Smith on Friday evening.\n" * 8
)
LAIR = "cellar-QX7714-of-the-vault"
OTHERS = "# Harvest\n\n" + "Bob Smith decided to sell the apples with Carl Gruber in May.\n" * 8


class Filed:
    """A palace with the key in many places, and the ids of what holds it."""

    def __init__(self, root: Path, site: Site) -> None:
        self.site = site
        self.ids: dict[str, str] = {}
        with Probe(site.environ(), site.palace) as probe:
            self._fill(probe, root)
            probe.leave()
        (self.log,) = site.home.rglob("write_log.jsonl")
        self.logged = self.log.read_bytes()
        assert KEY.encode() in self.logged
        self.kept = Kept.of(site)

    def _fill(self, probe: Probe, root: Path) -> None:
        where = {"wing": "w", "room": "r"}
        for name, text in (("notes", NOTES), ("others", OTHERS)):
            (root / name).mkdir()
            (root / name / f"{name}.md").write_text(text)
            probe.tool("mine", source=str(root / name), wing=name)
        shutil.rmtree(root / "notes")
        for name, content in (
            ("plain", f"Whoever has {KEY} may enter."),
            ("changed", f"Do not tell that it is {KEY}."),
            ("other", "Bob Smith may enter."),
        ):
            self.ids[name] = probe.tool("add_drawer", content=content, **where)["drawer_id"]
        probe.tool("update_drawer", drawer_id=self.ids["changed"], content="Do not tell anything.")
        gate, plain, other = "Gate", self.ids["plain"], self.ids["other"]
        facts = {
            "with a source": (gate, "opened_by", "Alice Johnson", {"source_drawer_id": plain}),
            "by its words": (gate, "has_key", KEY, {}),
            "of another one": (gate, "opened_by", "Bob Smith", {"source_drawer_id": other}),
            "of nobody": ("Alice Johnson", "knows", "Bob Smith", {}),
        }
        for name, (subject, predicate, thing, more) in facts.items():
            said = probe.tool("kg_add", subject=subject, predicate=predicate, object=thing, **more)
            self.ids[name] = said["triple_id"]
        for ident, cwd in (("vault", f"/srv/{LAIR}"), ("lead", "/srv/lead")):
            probe.owner("workspace_add", id=ident, cwd=cwd)
        listed = probe.tool("list_drawers", wing="notes", limit=10)["drawers"]
        self.ids |= {f"mined {n}": drawer["drawer_id"] for n, drawer in enumerate(listed)}

    @property
    def secret(self) -> list[str]:
        """Return the ids of the drawers that hold the key."""
        return [i for name, i in self.ids.items() if name == "plain" or name.startswith("mined")]


@pytest.fixture(scope="module")
def filed(
    tmp_path_factory: pytest.TempPathFactory, maintenance: MaintenanceProcess, backend: str
) -> Filed:
    """Below the home of the process that maintains it: where copies are, belongs to the user."""
    root = tmp_path_factory.mktemp("filed")
    return Filed(root, make_site(root, maintenance.home, backend=backend))


@pytest.fixture
def copied(filed: Filed, tmp_path: Path) -> Path:
    """A copy of the palace; stock's write log is as it was."""
    filed.log.write_bytes(filed.logged)
    return filed.kept.copy_to(tmp_path).palace


def holders(*roots: Path) -> list[str]:
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return [str(path) for path in files if KEY.lower().encode() in path.read_bytes().lower()]


def rows_of(filed: "Filed") -> list[str]:
    return tables_with(filed.site, KEY.encode())


def test_a_workspaces_record_goes_like_a_memory(
    maintenance: MaintenanceProcess, filed: Filed, copied: Path
) -> None:
    before = maintenance.ask("contents", copied)
    assert LAIR.encode() in (copied / "palace.sqlite3").read_bytes()

    assert maintenance.ask("purge", copied, ids=["vault"])["code"] == 66, "a bare name is a fact's"
    purged = maintenance.ask("purge", copied, ids=["workspace:vault"])

    assert set(purged["entities"]) == {"palace:workspace workspace:vault"}
    after = maintenance.ask("contents", copied)
    assert lost(before, after) == set(purged["entities"])
    assert list(after["palace:workspace"]) == ["workspace:lead"]
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert [str(path) for path in files if LAIR.encode() in path.read_bytes()] == []
    assert maintenance.ask("doctor", copied) == []


def lost(before: Any, after: Any) -> set[str]:
    """Return what has become different, as KIND ID."""
    return {
        f"{kind} {ident}"
        for kind in before
        for ident in before[kind]
        if not same(before[kind][ident], after.get(kind, {}).get(ident))
    }


def test_no_file_holds_the_secret_and_all_else_is_there(
    maintenance: MaintenanceProcess, filed: Filed, copied: Path
) -> None:
    before = maintenance.ask("contents", copied)
    kept = Path(maintenance.ask("rebuild", copied)["kept"])
    seen = maintenance.ask("preview_purge", copied, ids=filed.secret)
    assert len(holders(copied.parent, maintenance.home, filed.log.parent)) > 3
    assert len(rows_of(filed)) in (0, 2), "where there are tables: these, and the old ones"

    purged = maintenance.ask("purge", copied, ids=filed.secret)

    assert purged["entities"] == seen["entities"]
    assert purged["alike"] == []
    assert purged["copies"] == [str(kept)], "old stores are the user's to remove"
    assert purged["code"] == 65
    shutil.rmtree(kept)
    assert holders(copied.parent, maintenance.home, filed.log.parent) == rows_of(filed) == []
    after = maintenance.ask("contents", copied)
    gone = lost(before, after)
    assert gone == set(purged["entities"]) & {f"{k} {i}" for k in before for i in before[k]}
    assert {i.partition(" ")[0] for i in gone} >= {
        *("chroma:mempalace_drawers", "chroma:mempalace_closets", "graph:triple", "graph:entity")
    }
    assert {filed.ids[name] for name in ("with a source", "by its words")} <= after_ids(gone)
    for name in ("of another one", "of nobody", "other", "changed"):
        assert filed.ids[name] not in after_ids(gone)
    assert not after["graph:entity"].keys() & {KEY.lower()}
    assert after["graph:entity"].keys() >= {"gate", "bob_smith", "alice_johnson"}
    assert maintenance.ask("doctor", copied) == []

    assert maintenance.ask("purge", copied, ids=filed.secret)["code"] == 66
    assert maintenance.ask("contents", copied) == after


def after_ids(told: set[str]) -> set[str]:
    return {entity.partition(" ")[2] for entity in told}


@pytest.mark.parametrize("last", ["purged_journal", "purged_stores"])
def test_a_purge_that_died_is_finished_by_the_next_one(
    maintenance: MaintenanceProcess, filed: Filed, copied: Path, last: str
) -> None:
    before = maintenance.ask("contents", copied)
    expected = maintenance.ask("preview_purge", copied, ids=filed.secret)["entities"]
    died = maintenance.ask("purge", copied, ids=filed.secret, last=last)
    assert died == {"interrupted": last}
    assert holders(maintenance.home), "the next one is told what to look for"
    told = {code for _, code, _ in maintenance.ask("doctor", copied)}
    assert told == (
        {"purge_unfinished", "drift"} if last == "purged_journal" else {"purge_unfinished"}
    )

    ended = maintenance.ask("purge", copied, ids=["whatever it is asked for"])

    assert ended["code"] == 0
    assert ended["entities"].keys() == expected.keys()
    assert holders(copied.parent, maintenance.home, filed.log.parent) == []
    told_to_followers = [
        record
        for record in read_from(f"{copied}/journal", Kernel())
        if isinstance(record, Record) and is_purge_mark(record)
    ]
    assert len(told_to_followers) == 1
    gone = lost(before, maintenance.ask("contents", copied))
    assert gone == expected.keys() & {f"{k} {i}" for k in before for i in before[k]}
    assert maintenance.ask("doctor", copied) == []


def test_what_stays_and_holds_it_is_named(
    maintenance: MaintenanceProcess, filed: Filed, copied: Path
) -> None:
    purged = maintenance.ask("purge", copied, ids=[filed.ids["plain"]])

    assert purged["code"] == 65
    kinds = {entity.partition(" ")[0] for entity in purged["alike"]}
    assert kinds >= {"chroma:mempalace_drawers", "chroma:mempalace_closets", "graph:triple"}
    assert f"graph:triple {filed.ids['with a source']}" in purged["entities"]
    assert f"graph:triple {filed.ids['by its words']}" in purged["alike"]


def test_what_a_killed_broker_has_filed_is_purged_as_well(
    maintenance: MaintenanceProcess, filed: Filed, copied: Path
) -> None:
    """Its journal was not closed, and stock's small files are not in it yet."""
    fresh = "FRESH7C6B5A4D3E2F"
    site = Site(home=filed.site.home, palace=copied, extra=filed.site.extra)
    with Probe(site.environ(), copied) as probe:
        said = probe.tool("add_drawer", wing="w", room="r", content=f"Then it was {fresh}.")
        probe.kill()

    assert maintenance.ask("purge", copied, ids=[said["drawer_id"]])["code"] == 0

    files = [path for path in copied.parent.rglob("*") if path.is_file()]
    assert [path for path in files if fresh.encode() in path.read_bytes()] == []
    assert maintenance.ask("doctor", copied) == []


def test_a_half_made_change_that_holds_the_secret_is_purged_as_well(
    maintenance: MaintenanceProcess, filed: Filed, copied: Path
) -> None:
    """Its owner died inside the call: what it wrote is the journal's last word on what stays."""
    before = maintenance.ask("contents", copied)
    kind, ident = "chroma:mempalace_drawers", filed.ids["other"]
    was = before[kind][ident]
    half_made = was | {"document": f"Bob Smith may enter: {KEY}."}
    stamp = Stamp(epoch=9, writer="dead", keys=Keyring([Key(b"t" * 32)], ANY_SEQ))
    journal = Journal.open(str(copied / "journal"), Kernel(), stamp)
    draft = Draft(action=PUT, key="s:1", step=1, kind=kind, id=ident, payload=half_made, before=was)
    journal.append([draft])
    journal.close()

    purged = maintenance.ask("purge", copied, ids=filed.secret)

    assert purged["alike"] == [], "what was never finished holds none of it"
    assert purged["code"] == 0
    assert holders(copied.parent, maintenance.home, filed.log.parent) == []
    assert same(maintenance.ask("contents", copied)[kind][ident], was)
    assert maintenance.ask("doctor", copied) == []
