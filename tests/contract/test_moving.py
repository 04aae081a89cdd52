"""Memories on the move: exported, imported, and copied to a server, whoever dies meanwhile."""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.conftest import ON, flat
from tests.contract.test_doors import run
from tests.contract.test_plugins import SECRET, Office, found, told
from tests.support.calls.contract import ContractClient
from tests.support.engines.light.engine import STORE
from tests.support.loads.light import storm_site
from tests.support.processes.brokers import Serving, make_palace, settle
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = pytest.mark.process

DEEP = os.environ.get("PALACE_TEST_PROFILE") == "deep"
PAGES = 40  # more than one page holds
PATIENCE_S = 600
ROOTS, CHILDREN, EACH, KILLS = (10, 3, 75, 20) if DEEP else (2, 2, 20, 6)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def team(site: Site) -> None:
    for name, above in (("lead", ()), ("coder", ("--parent", "lead"))):
        (site.home / name).mkdir(exist_ok=True)
        run(site, "workspace", "add", name, *above, "--cwd", str(site.home / name))


def fill(site: Site) -> None:
    office = Office(site, "")
    with office.agent("lead") as lead, office.agent("coder") as coder:
        for client, where, text in (
            (lead, "org:lead", "tests come first"),
            (lead, "workspace:lead", "mine"),
            (coder, "team:lead", "the build needs node 20"),
            (coder, "workspace:coder", "I like tabs"),
        ):
            told(client.call("palace_commit_memory", content=text, namespace=where, pin=True))


def test_what_is_exported_is_imported_elsewhere_as_it_was(short_dir: Path) -> None:
    here, there = short_dir / "here", short_dir / "there"
    file = short_dir / "memories.jsonl"
    here.mkdir()
    there.mkdir()
    one = storm_site(here)
    with Serving(one):
        team(one)
        fill(one)
        run(one, "memory", "export", str(file))
        assert one.run("memory", "export", str(file)).returncode != 0, "it is there"
    rows = rows_in(file)
    assert [row["namespace"] for row in rows] == [
        *("org:lead", "team:lead", "workspace:coder", "workspace:lead"),
    ]
    assert rows[2]["workspace_name"] == "coder"
    assert {tuple(sorted(row)) for row in rows} == {
        (
            *("content", "created_at", "expires_at", "id", "kind", "namespace", "pin"),
            *("propagation", "scope", "source", "workspace_name"),
        )
    }
    assert file.stat().st_mode & 0o777 == 0o600

    other = storm_site(there)
    with file.open("a") as more:
        more.write(json.dumps(rows[0] | {"namespace": "org:nobody"}) + "\n")
        more.write(json.dumps(rows[0] | {"id": "mem-a", "content": f"key {SECRET}"}) + "\n")
        more.write("no JSON\n")
        more.write(json.dumps(rows[0] | {"id": "mem-b", "content": " "}) + "\n")
    with Serving(other):
        team(other)
        trial = other.run("memory", "import", str(file), "--dry-run")
        assert "5 memories would be stored, 1 of namespaces that aren't here" in trial.stderr
        again = short_dir / "again.jsonl"
        for _ in range(2):
            done = other.run("memory", "import", str(file))
            assert done.returncode == 1
            assert "line 7: it is no JSON." in done.stderr
            assert "mem-b: content must hold more than blanks." in done.stderr
            assert "5 memories are stored" in done.stderr
        run(other, "memory", "export", str(again), "--namespace", "org:lead")
        ours = [row for row in rows if row["namespace"] == "org:lead"]
        stored = [row for row in rows_in(again) if row["id"] != "mem-a"]
        assert stored == ours
        assert SECRET not in (other.palace / STORE).read_text()
    end_brokers(short_dir)


def test_a_cutover_shows_what_was_copied_and_goes_back(short_dir: Path) -> None:
    site = storm_site(short_dir)
    with flat() as address, ContractClient(address) as client:
        settle(site, f'memory_plugin = "http://{address}"')
        with Serving(site) as broker:
            team(site)
            lead = Office(site, "").agent("lead")
            with lead as speaking:
                given = {"content": "before", "namespace": "team:lead"}
                ident = told(speaking.call("palace_commit_memory", **given))["id"]
                ends = given | {"content": "ends", "expires_at": "2999-01-01T00:00:00Z"}
                told(speaking.call("palace_commit_memory", **ends))
            assert client.found("team:lead") == [], "it is only prepared"
            assert "org:lead  0\nteam:lead  2\n" in run(site, "memory", "backfill", "--dry-run")
            missing = site.run("memory", "backfill", "--verify")
            assert missing.returncode == 65
            assert "it isn't found there" in missing.stderr
            copied = site.run("memory", "backfill", "--apply")
            assert copied.returncode == 1, "the server has no ttl"
            assert "no 'ttl'" in copied.stderr
            assert "1 memories are copied." in copied.stderr
            assert client.found("team:lead") == ["before"]
            assert site.run("memory", "backfill").returncode == 2
            assert site.run("memory", "backfill", "--apply", "--verify").returncode == 2
            broker.end()
        settle(site, "memory_cutover = true")
        with Serving(site) as broker, Office(site, "").agent("lead") as speaking:
            assert found(speaking) == ["before"]
            told(speaking.call("palace_commit_memory", content="after", namespace="team:lead"))
            assert client.found("team:lead") == ["after", "before"]
            again = site.run("memory", "backfill", "--apply")
            assert again.returncode != 0
            assert "memory_cutover is on" in again.stderr
            verified = site.run("memory", "backfill", "--verify")
            assert verified.returncode == 65
            assert "after going back" in verified.stderr
            with Office(site, "").agent("lead", confined=True) as confined:
                for name in ("mempalace_get_drawer", "mempalace_update_drawer"):
                    said = told(confined.call(name, drawer_id=ident, room="fact"))
                    assert "at a memory server now" in said["error"]
                told_ids = told(speaking.call("palace_search_memory", query="before"))["memories"]
                assert told_ids[0]["id"] != ident
                assert told(speaking.call("palace_forget_memory", id=ident))["forgotten"]
                assert client.found("team:lead") == ["after"]
            broker.end()
        settle(site, "memory_cutover = false")
        with Serving(site), Office(site, "").agent("lead") as speaking:
            assert found(speaking) == ["ends"], "what was here has never gone, but by being asked"
    end_brokers(short_dir)


def grow(root: Path, ids: list[str]) -> Site:
    """Make a palace with memories in every namespace of all of its workspaces."""
    site = storm_site(root)
    with Serving(site):
        file = root / "grown.jsonl"
        with file.open("w") as lines:
            for number in range(ROOTS):
                run(site, "workspace", "add", f"r{number}")
                for child in range(CHILDREN):
                    run(site, "workspace", "add", f"c{number}x{child}", "--parent", f"r{number}")
            spaces = [f"{kind}:r{number}" for number in range(ROOTS) for kind in ("org", "team")]
            spaces += [f"workspace:r{number}" for number in range(ROOTS)]
            spaces += [
                f"workspace:c{number}x{child}"
                for number in range(ROOTS)
                for child in range(CHILDREN)
            ]
            many = ROOTS * (1 + CHILDREN) * EACH
            for number in range(many):
                name = spaces[number % len(spaces)]
                ident = f"mem-{number:05}"
                ids.append(ident)
                row = {"id": ident, "namespace": name, "content": f"{ident} of {name}"}
                row |= {"kind": "fact", "created_at": "2026-01-01T00:00:00Z"}
                lines.write(json.dumps(row) + "\n")
        run(site, "memory", "import", str(file))
    return site


@attrs.define(eq=False)
class Backfill(threading.Thread):
    """Runs the command until it has copied everything."""

    site: Site
    tries: int = 0
    problem: str = ""
    over: threading.Event = attrs.field(factory=threading.Event)

    def __attrs_pre_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        while self.tries < 200:
            self.tries += 1
            done = self.site.run("memory", "backfill", "--apply", timeout_s=PATIENCE_S)
            self.problem = done.stderr
            if done.returncode == 0:
                break
        self.over.set()


def stored(site: Site) -> dict[str, str]:
    live: dict[str, str] = {}
    for line in (site.palace / STORE).read_text().splitlines():
        _, _, kind, ident, payload = json.loads(line)
        if kind == "memory":
            live.pop(ident, None)
            if payload is not None:
                live[ident] = payload["content"]
    return live


def test_all_is_copied_once_whichever_side_is_killed(short_dir: Path) -> None:
    """Both sides are palaces; each is killed, in turn, while the command runs."""
    ids: list[str] = []
    for name in ("here", "there"):
        (short_dir / name).mkdir()
    site, other = grow(short_dir / "here", ids), storm_site(short_dir / "there")
    settle(other, ON)
    address = other.palace / "http.sock"
    kinds = 'memory_plugin_kinds = ["team", "org", "workspace"]'
    settle(site, f'memory_plugin = "unix:{address}"\n{kinds}')
    chosen, filling = random.Random(1), Backfill(site)
    server, kills = Serving(other), 0
    try:
        wait_until(address.exists, what="the server serves")
        filling.start()
        while kills < KILLS:
            kills += 1
            time.sleep(chosen.uniform(0.05, 0.4))
            if kills % 2:
                server.end(signal.SIGKILL)
                server = Serving(other)
            else:
                try:
                    site.kill_broker()
                except (OSError, KeyError, ValueError):
                    continue  # there is none just now
        assert filling.over.wait(600), filling.problem
        assert "memories are copied" in filling.problem
        verified = site.run("memory", "backfill", "--verify", timeout_s=PATIENCE_S)
        assert verified.returncode == 0, verified.stderr
        assert f"{len(ids)} memories are there as here." in verified.stderr
    finally:
        server.end(signal.SIGKILL)
        end_brokers(short_dir)

    contents = sorted(stored(other).values())
    assert contents == sorted(stored(site).values())
    assert len(contents) == len(set(contents)) == len(ids)
    print(f"{len(ids)} memories, {kills} kills, {filling.tries} runs of the command")


def test_the_real_engine_copies_cuts_over_and_goes_back(site: Site) -> None:
    """What was stored here first is found at the server, and what is stored then is there alone."""
    office = Office(site, "")
    with flat() as address, ContractClient(address) as client:
        make_palace(site, f'memory_plugin = "http://{address}"')
        team(site)
        long = "the build needs node 20. " * 100
        with office.agent("lead") as lead:
            for number in range(PAGES):
                given = {"content": f"{number} {long}", "namespace": "team:lead"}
                told(lead.call("palace_commit_memory", **given))
        run(site, "memory", "backfill", "--apply")
        assert site.run("memory", "backfill", "--verify").returncode == 0
        assert len(client.search("team:lead", limit=100)["memories"]) == PAGES
        assert site.run("stop").returncode == 0
        settle(site, "memory_cutover = true")
        with office.agent("lead") as lead, office.agent("coder", confined=True) as coder:
            told(lead.call("palace_commit_memory", content="mine"))
            reply = told(coder.call("mempalace_add_drawer", wing="TEAM", room="x", content="there"))
            assert reply["success"]
            assert client.found("team:lead", query="there") == ["there"]
            hits = told(coder.call("mempalace_search", query="there", limit=3))["results"]
            assert hits[0]["text"].endswith("there")
            both = found(lead, query="build", limit=50)
            assert "mine" in both
            assert sum("node 20" in text for text in both) == PAGES
            assert told(coder.call("mempalace_delete_drawer", drawer_id=reply["drawer_id"]))[
                "success"
            ]
        assert client.found("team:lead", query="there") == []
        assert site.run("stop").returncode == 0
        settle(site, "memory_cutover = false")
        with office.agent("lead") as lead:
            assert sum("node 20" in text for text in found(lead, limit=50)) == PAGES
    assert site.run("stop").returncode == 0
