"""Stock writes into a palace while no broker runs: nothing of it is lost, nor anything of ours.

Stock is the real mempalace, started directly.  Whatever it did is served and journalled once a
broker is back, and stays when the stores are made again from the journal.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palace.journal.inspect import read_from
from palace.journal.record import ADOPT, Record
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.protocol.errors import OutcomeUnknown
from palace.settings.paths import Paths
from tests.support.calls.mutations import long_text
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import drawers_of
from tests.support.faults.killing import (
    SUSPICIOUS,
    Arena,
    assert_clean,
    assert_journal_is_right,
    assert_vectors_are_right,
    is_deep,
    is_full,
    stored,
)
from tests.support.processes.brokers import call_line, is_alive, status_of, wait_gone
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site, start_stock, without
from tests.support.stores.copies import Kept
from tests.support.stores.nonces import read_stores

pytestmark = [pytest.mark.engine, pytest.mark.process]
EACH_BACKEND = True if is_deep() else ("chroma", "sqlite_exact")

FILLING = Path(__file__).parents[2] / "support" / "stores" / "filling.py"
MADE = 20_000 if is_full() else 1_000
MADE_SIZE = 64
MANY = 300 if is_full() else 20  # through stock itself, which embeds each
HALF_MADE = "half made"


def stock_of(site: Site) -> Client:
    """Start stock on the site's palace, without what ends brokers."""
    return start_stock(
        without(site.environ(), "PYTHONPATH", "PALACEKILLS"), "--palace", str(site.palace)
    )


@dataclass
class Written:
    """What palace has acknowledged, by names."""

    drawers: list[str]
    tunnel: str


def write_through_palace(client: Client) -> Written:
    """File some of everything, for stock to change."""
    drawers = [
        client.tool("add_drawer", wing="w", room=f"r{n}", content=f"Palace wrote {n}.")
        for n in range(5)
    ]
    client.tool("add_drawer", wing="far", room="r0", content="Palace wrote this far away.")
    client.tool("diary_write", agent_name="ada", entry="Palace had a day.")
    for name in ("b", "c"):
        client.tool("kg_add", subject="a", predicate="is", object=name)
    ends = {"source_wing": "w", "source_room": "r0", "target_wing": "far", "target_room": "r0"}
    tunnel = client.tool("create_tunnel", label="ours", **ends)
    event(client, "palace")
    return Written([drawer["drawer_id"] for drawer in drawers], tunnel["id"])


def event(client: Client, body: str) -> None:
    client.tool("event_append", type="a.note", stream="s", room="r", from_agent="a", body=body)


def write_through_stock(stock: Client, written: Written) -> None:
    """Add, change and delete, of stock's own and of palace's."""
    one, two, three, *_ = written.drawers
    stock.tool("add_drawer", wing="stock", room="r0", content="Stock wrote this.")
    long = stock.tool("add_drawer", wing="stock", room="r1", content=long_text("s", "stock", 3))
    assert long["chunks"] == 3
    assert stock.tool("update_drawer", drawer_id=one, content="Stock changed this.")["success"]
    assert stock.tool("update_drawer", drawer_id=two, room="moved")["success"]
    assert stock.tool("delete_drawer", drawer_id=three)["success"]
    stock.tool("diary_write", agent_name="ada", entry="Stock had a day.")
    stock.tool("kg_add", subject="s", predicate="is", object="t")
    stock.tool("kg_invalidate", subject="a", predicate="is", object="b")
    stock.tool("kg_supersede", subject="a", predicate="is", old_object="c", new_object="d")
    event(stock, "stock")
    ends = {"source_wing": "w", "source_room": "r3", "target_wing": "stock", "target_room": "r0"}
    stock.tool("create_tunnel", label="theirs", **ends)
    stock.tool("delete_tunnel", tunnel_id=written.tunnel)


SAID = {
    *("Stock changed this.", "Palace wrote 1.", "Palace wrote 3.", "Palace wrote 4."),
    *("Palace wrote this far away.", "Stock wrote this."),
}


def assert_both_are_served(client: Client) -> None:
    texts = {d["content_preview"] for d in client.tool("list_drawers", limit=100)["drawers"]}
    assert texts >= SAID
    assert not [text for text in texts if HALF_MADE in text or text == "Palace wrote 2."]
    assert [d["content_preview"] for d in client.tool("list_drawers", room="moved")["drawers"]] == [
        "Palace wrote 1."
    ]
    facts = {f["object"]: f["current"] for f in client.tool("kg_query", entity="a")["facts"]}
    assert facts == {"b": False, "c": False, "d": True}
    assert client.tool("kg_query", entity="s")["facts"]
    assert [tunnel["label"] for tunnel in client.tool("list_tunnels")] == ["theirs"]
    events = client.tool("event_list", stream="s", order="asc")["events"]
    assert [found["body"] for found in events] == ["palace", "stock"]
    entries = client.tool("diary_read", agent_name="ada")["entries"]
    assert {entry["content"] for entry in entries} == {"Palace had a day.", "Stock had a day."}
    found = client.tool("search", query="what has stock changed")["results"]
    assert "Stock changed this." in [result["text"] for result in found]


def end_by_stop(arena: Arena, _written: Written) -> None:
    arena.stop()


def end_idle(arena: Arena, _written: Written) -> None:
    wait_gone(arena.site.kill_broker())


def end_in_a_call(arena: Arena, written: Written) -> None:
    """Kill the broker half way through an update, whose shim may start no other one."""
    pid = status_of(arena.site)["pid"]
    text = long_text("h", HALF_MADE, 3)
    with arena.site.shim(PALACE_NO_SPAWN="1") as client:
        client.tool("status")
        arena.client.close()
        arena.failpoints.arm(("applied", 1))
        client.send(call_line("x", "update_drawer", drawer_id=written.drawers[4], content=text))
        wait_gone(pid)
        client.process.kill()
    arena.assert_all_struck()
    assert [d for d in arena.stores().drawers if HALF_MADE in (d.document or "")], "none is there"


@pytest.mark.parametrize("end", [end_by_stop, end_idle, end_in_a_call])
def test_what_stock_does_meanwhile_is_kept(
    end: Any, tmp_path: Path, model_home: Path, backend: str
) -> None:
    arena = Arena(tmp_path, model_home, backend=backend)
    site = arena.site
    try:
        written = write_through_palace(arena.client)
        end(arena, written)
        with stock_of(site) as stock:
            write_through_stock(stock, written)
        arena.mark_log()

        with site.shim() as client:
            assert_both_are_served(client)
            assert SUSPICIOUS[0] in arena.words()
            assert ("was unfinished" in arena.words()) == (end is end_in_a_call)
            assert_journal_is_right(arena.palace)
            arena.stop()
            assert site.run("deaths", "--clear").returncode == 0  # they were on purpose
            assert site.run("doctor", "--drift").returncode == 0
            before = arena.entities()
            if end is not end_idle:  # it takes seconds
                assert site.run("rebuild").returncode == 0
            assert arena.entities() == before
            arena.mark_log()
            assert_both_are_served(client)
            assert_clean(arena.words())
            arena.stop()
        assert_journal_is_right(arena.palace, files=True)
        assert_vectors_are_right(site, tmp_path)
    finally:
        arena.close()


# Without a journal.


def test_journal_that_was_switched_off_adopts_when_it_is_on_again(
    tmp_path: Path, model_home: Path, backend: str
) -> None:
    site = make_site(tmp_path, model_home, backend=backend)
    with Probe(site.environ(), site.palace) as probe:
        probe.tool("add_drawer", wing="w", room="r", content="With a journal.")
        probe.tool("kg_add", subject="a", predicate="is", object="b")
        probe.leave()
    seq = replay(str(site.palace / "journal"), Kernel()).seq
    toml = site.palace / "palace.toml"
    with_journal = toml.read_text()
    toml.write_text(with_journal + 'journal = "off"\n')

    with Probe(site.environ(), site.palace) as probe:
        assert probe.tool("add_drawer", wing="w", room="r", content="Without one.")["success"]
        probe.tool("kg_add", subject="a", predicate="is", object="c")
        probe.leave()
    with stock_of(site) as stock:
        found = stock.tool("list_drawers")["drawers"]
        assert {d["content_preview"] for d in found} == {"With a journal.", "Without one."}
        stock.tool("add_drawer", wing="w", room="r", content="By stock.")
    assert replay(str(site.palace / "journal"), Kernel()).seq == seq

    toml.write_text(with_journal)
    with Probe(site.environ(), site.palace) as probe:
        assert {backend, "graph"} <= {*probe.opening["suspects"]}
        assert probe.ask("drift") == []
        assert probe.tool("list_drawers")["total"] == 3
        assert len(probe.tool("kg_query", entity="a")["facts"]) == 2
        probe.leave()
    adopted = [
        record.kind
        for record in read_from(str(site.palace / "journal"), Kernel(), seq + 1)
        if isinstance(record, Record) and record.action == ADOPT
    ]
    assert adopted.count("chroma:mempalace_drawers") == 2
    assert_journal_is_right(site.palace, files=True)
    assert_vectors_are_right(site, tmp_path)


@pytest.mark.skipif(not is_deep(), reason="takes a minute: PALACE_TEST_PROFILE=deep")
def test_every_way_between_the_journals_settings_loses_nothing(
    tmp_path: Path, model_home: Path
) -> None:
    """Each owner is killed in a call, then while idle; stock writes before the next one."""
    arena = Arena(tmp_path, model_home, 'journal = "dual"\njournal_fsync = "never"\n')
    site, client, wanted = arena.site, arena.client, []
    try:
        for number, mode in enumerate(("dual", "on", "dual", "off", "on")):
            assert site.run("config", "set", f"journal={mode}").returncode == 0
            texts = [f"{name} {number} under {mode}." for name in ("Told", "Killed", "Stock's")]
            told, killed, by_stock = ({"wing": "w", "room": "r", "content": t} for t in texts)
            assert client.tool("add_drawer", **told)["success"]
            status = status_of(site)["journal"]
            assert status["journal"] == mode
            assert mode == "off" or status["fsync"] == "never"
            wanted += texts
            if mode == "off":
                client.tool("add_drawer", **killed)
            else:
                arena.failpoints.arm(("applied", 1))
                reply = client.call("mempalace_add_drawer", **killed)
                arena.assert_all_struck()
                unknown = reply.get("error", {}).get("code") == OutcomeUnknown.wire_code
                assert unknown == (mode == "dual"), reply
            wait_gone(site.kill_broker())
            with stock_of(site) as stock:
                assert stock.tool("add_drawer", **by_stock)["success"]
        assert client.tool("list_drawers")["total"] == len(wanted)
        found = [drawer.document or "" for drawer in arena.stores().drawers]
        assert sorted(found) == sorted(wanted)
        assert_journal_is_right(arena.palace)
        arena.stop()
        # Warnings alone: nobody waits for the disk, and owners were killed.
        assert site.run("doctor", "--drift").returncode == 1
    finally:
        arena.close()


# Palaces that never had one.


def test_palace_of_stock_is_adopted_whole(tmp_path: Path, model_home: Path, backend: str) -> None:
    site = make_site(tmp_path, model_home, backend=backend)
    with stock_of(site) as stock:
        written = write_through_palace(stock)
        write_through_stock(stock, written)
        for number in range(MANY):
            assert stock.tool("add_drawer", wing="many", room="r", content=f"Fact {number}.")
    before = stored(read_stores(site.palace), files=True)

    with Probe(site.environ(), site.palace) as probe:
        assert probe.opening["suspects"] == []
        assert probe.ask("drift") == []
        assert_both_are_served(probe)  # type: ignore[arg-type]
        probe.leave()

    after = stored(read_stores(site.palace), files=True)
    assert {key: value for key, value in after.items() if key in before} == before
    assert_journal_is_right(site.palace, files=True)
    assert_vectors_are_right(site, tmp_path)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path, backend: str
) -> Iterator[Kept]:
    """A palace of many drawers of which no broker knows."""
    site = make_site(tmp_path_factory.mktemp("made"), model_home, backend=backend)
    argv = [sys.executable, "-P", str(FILLING), str(site.palace), str(MADE), str(MADE_SIZE)]
    subprocess.run(argv, env=site.environ(), check=True, stderr=subprocess.DEVNULL)
    yield Kept.of(site)
    end_brokers(site.palace.parent)


def journal_bytes(palace: Path) -> int:
    return sum(path.stat().st_size for path in (palace / "journal").glob("*.jsonl"))


@pytest.mark.parametrize("share", ["none", "some", "most"] if is_full() else ["some"])
def test_interrupted_adoption_is_carried_on(
    made: Kept, tmp_path: Path, share: str, record_property: Any
) -> None:
    """Brokers are killed when so much of the journal is written; the next one does the rest."""
    site = made.copy_to(tmp_path)
    expected = MADE * (MADE_SIZE * 4 * 4 // 3 + 400)
    rng = random.Random(f"{os.getpid()} {share}")
    wanted = {"none": 0.0, "some": rng.uniform(0, 0.5), "most": rng.uniform(0.5, 0.95)}[share]
    record_property("share", wanted)
    try:
        killed = 0
        for _ in range(2):
            client = site.shim()
            pid = start_broker(client, site)
            while journal_bytes(site.palace) < wanted * expected and is_alive(pid):
                continue
            os.kill(pid, signal.SIGKILL)
            client.process.kill()
            client.close()
            wait_gone(pid)
            end_brokers(site.palace.parent)
            killed += 1
        with site.shim() as client:
            total = client.tool("list_drawers", limit=1)["total"]
            wait_until(
                lambda: status_of(site)["journal"]["adoption"] is None, what="all is adopted"
            )
        assert total == MADE
        assert site.run("stop").returncode == 0

        def is_content() -> bool:
            # The kills were on purpose; a canary tells of one some seconds after it.
            assert site.run("deaths", "--clear").returncode == 0
            return site.run("doctor", "--drift", timeout_s=120).returncode == 0

        wait_until(is_content, what="the doctor is content")
        known = replay(str(site.palace / "journal"), Kernel())
        assert len(known.ids("chroma:mempalace_drawers")) == MADE
    finally:
        end_brokers(site.palace.parent)


def start_broker(client: Client, site: Site) -> int:
    """Make a shim start a broker; return its pid as soon as it has taken the lock."""
    client.send(call_line("x", "status"))
    record = site.palace / "broker.json"
    wait_until(lambda: record.exists() and is_alive(site.record()["pid"]), what="a broker runs")
    return int(site.record()["pid"])


def repair_by_stock(site: Site) -> None:
    """Let stock make the collections again from themselves."""
    if "MEMPALACE_BACKEND" in site.extra:
        pytest.skip("stock repairs Chroma's collections alone")
    change_by_stock(site)
    argv = [sys.executable, "-P", "-m", "mempalace", "--palace", str(site.palace)]
    environ = site.environ()
    done = subprocess.run([*argv, "repair", "--yes"], env=environ, capture_output=True, check=True)
    assert b"Repair complete" in done.stdout, done


def begin_again_by_stock(site: Site) -> None:
    """Lose the store, and let stock make another one, whose numbers begin again."""
    for path in site.palace.glob(f"{drawers_of(site.palace).name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in site.palace.glob("*-*-*-*-*"):
        shutil.rmtree(path)
    change_by_stock(site)


MIGRATED = """
import json, sys, chromadb
made = chromadb.PersistentClient(sys.argv[1]).create_collection(
    "mempalace_drawers", metadata={"hnsw:space": "cosine"}, embedding_function=None
)
for record in json.loads(sys.argv[2]):
    made.add(
        ids=[record["id"]],
        embeddings=[[0.5] * 384],
        documents=[record["document"]],
        metadatas=[record["metadata"]],
    )
"""


def test_a_text_with_the_metadata_of_a_later_state_is_no_change(
    tmp_path: Path, model_home: Path
) -> None:
    """Stock's `migrate` reads all texts first, and the metadata of each record long after that."""
    site = make_site(tmp_path, model_home)
    paths, kernel = Paths(str(site.palace)), Kernel()
    with Probe(site.environ(), site.palace) as probe:
        ident = probe.tool("add_drawer", wing="w", room="r", content="First.")["drawer_id"]
        entity = ("chroma:mempalace_drawers", ident)
        states: list[Any] = [replay(paths.journal, kernel).payload(entity)]
        for content in ("Second.", "Third."):
            probe.tool("update_drawer", drawer_id=ident, content=content)
            states.append(replay(paths.journal, kernel).payload(entity))
        closet = {"ids": ["closet"], "embeddings": [[0.5] * 384], "metadatas": [{"wing": "w"}]}
        probe.ask("make_collection", name="mempalace_closets")
        for method, document in (("add", "Old."), ("update", "New.")):
            given = {**closet, "documents": [document]}
            assert probe.on_collection("mempalace_closets", method, **given) is None
        probe.leave()
    for path in site.palace.glob("chroma.sqlite3*"):
        path.unlink()
    for path in site.palace.glob("*-*-*-*-*"):
        shutil.rmtree(path)
    torn = {"id": ident, "document": states[0]["document"], "metadata": states[1]["metadata"]}
    stocks = {"id": "s", "document": "Stock was here.", "metadata": {"wing": "w", "room": "r"}}
    # It takes the records of all collections for drawers.
    former = {"id": "closet", "document": "Old.", "metadata": {"wing": "w"}}
    argv = [str(site.palace), json.dumps([torn, stocks, former])]
    write = [sys.executable, "-P", "-c", MIGRATED, *argv]
    subprocess.run(write, env=site.environ(), check=True, timeout=60)

    with Probe(site.environ(), site.palace) as probe:
        assert "chroma" in probe.opening["suspects"]
        found = {drawer["content_preview"] for drawer in probe.tool("list_drawers")["drawers"]}
        assert found == {"Third.", "Stock was here."}
        assert probe.ask("drift") == []
        probe.leave()


def change_by_stock(site: Site) -> None:
    with stock_of(site) as stock:
        drawer = stock.tool("add_drawer", wing="w", room="r", content="Palace 0.")["drawer_id"]
        assert stock.tool("update_drawer", drawer_id=drawer, content="Stock was here.")["success"]


@pytest.mark.parametrize("act", [repair_by_stock, begin_again_by_stock])
def test_store_that_stock_made_again_keeps_what_stock_changed(
    act: Any, tmp_path: Path, model_home: Path, backend: str
) -> None:
    """And what it lacks comes back: it was lost, not deleted."""
    site = make_site(tmp_path, model_home, backend=backend)
    with Probe(site.environ(), site.palace) as probe:
        for number in range(6):
            probe.tool("add_drawer", wing="w", room="r", content=f"Palace {number}.")
        probe.leave()
    act(site)

    with Probe(site.environ(), site.palace) as probe:
        assert backend in probe.opening["suspects"]
        found = {drawer["content_preview"] for drawer in probe.tool("list_drawers")["drawers"]}
        assert found == {"Stock was here.", *(f"Palace {number}." for number in range(1, 6))}
        assert probe.ask("drift") == []
        probe.leave()
