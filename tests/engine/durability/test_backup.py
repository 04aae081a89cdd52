"""Backups under the real engine: what is restored is what was there, in every store.

A palace of every kind of entity is made and backed up once, while it is open.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.projection import same
from palace.protocol.workspaces import digest_of
from tests.support.engines.maintenance import MaintenanceProcess, Refused
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import drawers_of
from tests.support.processes.brokers import settle
from tests.support.processes.clients import Site
from tests.support.processes.sites import make_site
from tests.support.stores.copies import Kept

pytestmark = [pytest.mark.engine, pytest.mark.process]
EACH_BACKEND = True

LEAP = 1_000_000
# Files that are journalled when a broker leaves.
OF_AN_OWNER = {"file"}
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("search", {"query": "where is the spare key", "limit": 5}),
    ("search", {"query": "otter dives", "wing": "w", "limit": 10}),
    ("kg_query", {"entity": "Ada"}),
    ("diary_read", {"agent_name": "ada"}),
    ("list_tunnels", {}),
    ("event_list", {"stream": "s"}),
    ("list_drawers", {"limit": 100}),
)
SECRET = "The spare key lies under the seventh flowerpot, behind the greenhouse."
LONG = "\n\n".join(f"Step {n} of the recipe: stir {n * n} times, and wait." for n in range(60))


@dataclass
class Master:
    """A palace, its backup, and what both hold."""

    site: Site
    backups: Path
    made: dict[str, Any]
    contents: dict[str, dict[str, Any]]
    answers: list[Any]
    kept: Kept


@pytest.fixture(scope="module")
def master(
    tmp_path_factory: pytest.TempPathFactory,
    model_home: Path,
    maintenance: MaintenanceProcess,
    backend: str,
) -> Master:
    root = tmp_path_factory.mktemp("master")
    site = make_site(root, model_home, backend=backend)
    probe = Probe(site.environ(), site.palace)
    fill(probe)
    answers = asked(probe)
    made = maintenance.ask("back_up", site.palace, into=str(root / "backups"))
    probe.leave()
    contents = maintenance.ask("contents", site.palace)
    return Master(site, root / "backups", made, contents, answers, Kept.of(site))


def fill(probe: Probe) -> None:
    """File some of what each store holds."""
    where = {"wing": "home", "room": "garden"}
    for content in (SECRET, LONG):
        probe.tool("add_drawer", content=content, **where)
    for number in range(4):
        probe.tool("add_drawer", wing="w", room="r0", content=f"Otter {number} dives.")
    probe.tool("diary_write", agent_name="ada", entry="A day like others.")
    probe.tool("kg_add", subject="Ada", predicate="counts", object="otters")
    tunnel = {"source_wing": "w", "source_room": "r0"}
    probe.tool("create_tunnel", target_wing="home", target_room="garden", **tunnel)
    patch = {"content": "--- a\n+++ b\n@@ -1 +1 @@\n-1\n+2\n", "from_agent": "ada", "stream": "s"}
    probe.tool("patch_submit", **patch)
    probe.owner("workspace_add", id="lead", cwd="/srv/lead")
    probe.owner("workspace_add", id="coder", parent="lead")
    for number in range(2):
        probe.owner("token_add", workspace="coder", sha256=digest_of(f"token {number}"))
    probe.owner("token_revoke", prefix=digest_of("token 1"))


def asked(probe: Any) -> list[Any]:
    return [probe.tool(name, **arguments) for name, arguments in ASKED]


def new_place(master: Master, folder: Path) -> Site:
    (folder / "store" / "palace").mkdir(parents=True, mode=0o700)
    palace = folder / "store" / "palace"
    return Site(home=master.site.home, palace=palace, extra=master.site.extra)


def copy_of(master: Master, folder: Path) -> Site:
    return master.kept.copy_to(folder)


def differing(maintenance: MaintenanceProcess, site: Site, master: Master) -> list[tuple[str, str]]:
    contents = maintenance.ask("contents", site.palace)
    pairs = [
        (kind, ident)
        for kind in {*contents, *master.contents} - OF_AN_OWNER
        for ident in {*contents.get(kind, {}), *master.contents.get(kind, {})}
    ]
    assert len(pairs) > 15
    return sorted(
        (kind, ident)
        for kind, ident in pairs
        if not same(contents.get(kind, {}).get(ident), master.contents.get(kind, {}).get(ident))
    )


def drift(probe: Probe) -> list[Any]:
    return [found for found in probe.ask("drift") if found[0] not in OF_AN_OWNER]


def identity_of(site: Site) -> str:
    return (site.palace / "palace_id").read_text()


def epoch_of(site: Site) -> int:
    return int((site.palace / "epoch").read_text())


def restore(maintenance: MaintenanceProcess, site: Site, master: Master, **more: Any) -> Any:
    return maintenance.ask("restore_from", site.palace, source=str(master.backups), **more)


def test_restored_palace_answers_as_the_one_that_was_backed_up(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path
) -> None:
    site = new_place(master, tmp_path)

    restored = restore(maintenance, site, master)

    assert restored["entities"] == master.made["entities"]
    assert differing(maintenance, site, master) == []
    assert restored["kept"] == ""
    assert restored["epoch"] > epoch_of(master.site) + LEAP - 9
    assert not restored["same"]
    assert identity_of(site) != identity_of(master.site), "the original may live on"
    assert not list(site.palace.glob("re[sp]*-*"))
    drawers = drawers_of(master.site.palace).name
    assert not list(Path(master.made["path"]).rglob(f"*{drawers}*")), "no store's file is in it"
    with Probe(site.environ(), site.palace) as probe:
        assert {*probe.opening["suspects"]} <= {"files"}
        assert asked(probe) == master.answers
        assert drift(probe) == []


def test_backup_is_proven_by_restoring_it(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path
) -> None:
    locks = sorted((master.site.home / ".mempalace").rglob("*"))

    assert maintenance.ask("prove", master.backups) == master.made["entities"]

    assert sorted((master.site.home / ".mempalace").rglob("*")) == locks, "nothing is left behind"


def test_what_is_there_is_refused_and_replaced_only_when_told(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path
) -> None:
    site = copy_of(master, tmp_path)
    with Probe(site.environ(), site.palace) as probe:
        later = probe.tool("add_drawer", wing="w", room="r", content="Written after the backup.")
        probe.leave()
    was, epoch = maintenance.ask("contents", site.palace), epoch_of(site)

    with pytest.raises(Refused) as refused:
        restore(maintenance, site, master)

    assert (refused.value.name, refused.value.code) == ("not_empty", 82)
    assert "It has gone on since: it is at record" in refused.value.message
    assert f"ends with record {master.made['seq']} of epoch" in refused.value.message
    assert "--replace keeps what is there" in refused.value.message
    assert epoch_of(site) == epoch, "nothing was changed"
    assert maintenance.ask("contents", site.palace) == was

    restored = restore(maintenance, site, master, replace=True)

    assert restored["same"]
    assert identity_of(site) == identity_of(master.site)
    assert restored["epoch"] > epoch + LEAP, "clients that knew the later owners go on"
    assert (
        later["drawer_id"]
        not in maintenance.ask("contents", site.palace)["chroma:mempalace_drawers"]
    )
    kept = Path(restored["kept"])
    assert {"journal", drawers_of(master.site.palace).name, "knowledge_graph.sqlite3"} <= {
        p.name for p in kept.iterdir()
    }
    assert b"Written after the backup." in b"".join(
        path.read_bytes() for path in (kept / "journal").glob("*.jsonl")
    )
    assert differing(maintenance, site, master) == []


def test_what_replaces_another_palace_is_neither_that_one_nor_the_one_backed_up(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path
) -> None:
    site = copy_of(master, tmp_path)
    backed_up, another = identity_of(site), f"{'a' * 32}\n"
    (site.palace / "palace_id").write_text(another)

    restored = restore(maintenance, site, master, replace=True)

    assert not restored["same"]
    assert identity_of(site) not in (another, backed_up)


@pytest.mark.parametrize("place", ["beside", "graph"])
def test_another_palaces_files_outside_are_not_taken(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path, place: str
) -> None:
    """Tunnels lie beside a palace, and a graph may lie anywhere."""
    site = new_place(master, tmp_path)
    theirs = site.palace.parent / "tunnels.json"
    if place == "graph":
        theirs = tmp_path / "theirs.sqlite3"
        settle(Site(home=maintenance.home, palace=site.palace), f'graph = "{theirs}"')
    theirs.write_text("[]")

    with pytest.raises(Refused) as refused:
        restore(maintenance, site, master)

    assert refused.value.name == "not_empty"
    assert str(theirs) in refused.value.message
    assert theirs.read_text() == "[]"
    assert not (site.palace / "epoch").exists(), "nothing was changed"


@pytest.mark.parametrize(("replace", "step"), [(False, 1), (True, 3)])
def test_interrupted_restoration_is_ended_by_the_next_broker(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path, replace: bool, step: int
) -> None:
    """With the journal in place and no store yet; and while what was there is moved away."""
    site = copy_of(master, tmp_path) if replace else new_place(master, tmp_path)
    answer = restore(maintenance, site, master, replace=replace, renames=step)
    assert answer == {"interrupted": step}
    if not replace:  # as if it had died while it built the stores
        (site.palace / "swap.json").unlink()

    with Probe(site.environ(), site.palace) as probe:
        assert asked(probe) == master.answers
        assert drift(probe) == []
        probe.leave()
    assert differing(maintenance, site, master) == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_restored_palace_accepts_no_token_unless_it_is_told_to(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path, keep: bool
) -> None:
    """A token that was revoked after the backup would be back; one that was before, stays so."""
    root = tmp_path / "store" / "palace"
    root.mkdir(parents=True)
    made = maintenance.ask("restore_from", root, source=str(master.backups), keep_tokens=keep)

    assert (root / "protocol").read_text().split()[0] == "1001"
    with Probe(master.site.environ(), root) as probe:
        told = {one["digest"]: one["counts"] for one in probe.owner("token_list")["tokens"]}
        assert told == {digest_of("token 0"): keep, digest_of("token 1"): False}
        assert [one["id"] for one in probe.owner("workspace_list")["workspaces"]] == [
            "coder",
            "lead",
        ]
        probe.leave()
    assert made["epoch"] > LEAP
    assert maintenance.ask("doctor", root) == []
