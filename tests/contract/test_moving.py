"""Memories on the move: exported, imported, and copied to a server, whoever dies meanwhile."""

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.conftest import ON, flat
from tests.contract.test_doors import run
from tests.contract.test_plugins import SECRET, Office, found, told
from tests.support.calls.contract import ContractClient
from tests.support.engines.light.engine import STORE
from tests.support.faults.killing import is_deep
from tests.support.loads.light import storm_site
from tests.support.processes.brokers import Serving, make_palace, make_site, settle
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = pytest.mark.process

PAGES = 40  # more than one page holds
PATIENCE_S = 1200
ROOTS, CHILDREN, EACH, KILLS = (10, 3, 75, 20) if is_deep() else (2, 2, 20, 6)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def team(site: Site) -> None:
    for name, above in (("lead", ()), ("coder", ("--parent", "lead"))):
        (site.home / name).mkdir(exist_ok=True)
        run(site, "workspace", "add", name, *above, "--cwd", str(site.home / name))


def fill(site: Site, *, pin: bool = True) -> None:
    office = Office(site, "")
    with office.agent("lead") as lead, office.agent("coder") as coder:
        for client, where, text in (
            (lead, "org:lead", "tests come first"),
            (lead, "workspace:lead", "mine"),
            (coder, "team:lead", "the build needs node 20"),
            (coder, "workspace:coder", "I like tabs"),
        ):
            told(client.call("palace_commit_memory", content=text, namespace=where, pin=pin))


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


def test_copies_are_retired_that_the_server_has_and_others_by_their_ids(short_dir: Path) -> None:
    site, lead = storm_site(short_dir), "team:lead"
    with flat() as address, ContractClient(address) as client:
        settle(site, f'memory_plugin = "http://{address}"')
        with Serving(site) as broker:
            team(site)
            with Office(site, "").agent("lead") as speaking:
                for content in ("one", "two", "three"):
                    told(speaking.call("palace_commit_memory", content=content, namespace=lead))
                told(speaking.call("palace_commit_memory", content="mine"))
            early = site.run("memory", "retire", "--all")
            assert early.returncode != 0
            assert "no server holds" in early.stderr
            run(site, "memory", "backfill", "--apply")
            broker.end()
        settle(site, "memory_cutover = true")
        with Serving(site) as broker:
            there = {one["content"]: one["id"] for one in client.search(lead)["memories"]}
            client.forget(there["one"], lead)  # another client of the server's
            retired = site.run("memory", "retire", f"mem-{there['two']}")
            assert retired.returncode == 0, retired.stderr
            assert "1 copies that were left here are forgotten." in retired.stderr
            again = site.run("memory", "retire", f"mem-{there['two']}")
            assert "no copy of" in again.stderr
            rest = site.run("memory", "retire", "--all")
            assert rest.returncode == 1
            assert "isn't found at the server, and stays here" in rest.stderr
            assert "team:lead  1\n" in rest.stdout
            assert site.run("memory", "retire").returncode == 2
            assert site.run("memory", "retire", "x", "--all").returncode == 2
            assert sorted(client.found(lead)) == ["three", "two"], "nothing is forgotten there"
            broker.end()
        assert sorted(stored(site).values()) == ["mine", "one"]
        settle(site, "memory_cutover = false")
        with Serving(site):
            refused = site.run("memory", "retire", "--all")
            assert "no server holds" in refused.stderr
    end_brokers(short_dir)


@attrs.define(eq=False)
class Crowd:
    """Stands before a server, and lets nobody store anything until so many are there at once."""

    server: str
    most: int
    here: int = 0
    seen: int = 0
    wishes: list[str] = attrs.field(factory=list)
    _changed: threading.Condition = attrs.field(factory=threading.Condition)

    def admit(self, wish: str) -> None:
        self.wishes.append(wish)
        if not wish.startswith("POST") or "/memories" not in wish:
            return
        with self._changed:
            self.here += 1
            self.seen = max(self.seen, self.here)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.seen >= self.most, timeout=3)  # of the asker's 5
            self._changed.wait_for(lambda: self.seen > self.most, timeout=1)  # nobody may come
            self.here -= 1

    def handler(self) -> type[BaseHTTPRequestHandler]:
        crowd = self

        class Door(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                crowd.admit(f"{self.command} {self.path}")
                with ContractClient(crowd.server) as client:
                    status, told = client.raw_status(self.command, self.path, body or None)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_GET = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        return Door

    @contextmanager
    def stand(self) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), self.handler()) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.mark.parametrize(("said", "most"), [("", 4), ("2", 2), ("1", 1)])
def test_as_many_namespaces_are_copied_at_once_as_it_says(
    short_dir: Path, said: str, most: int
) -> None:
    site = storm_site(short_dir)
    site.extra["PALACE_BACKFILL_CONCURRENCY"] = said
    with flat() as address, ContractClient(address) as client:
        crowd = Crowd(address, most)
        with crowd.stand() as door:
            kinds = 'memory_plugin_kinds = ["team", "org", "workspace"]'
            settle(site, f'memory_plugin = "http://{door}"\n{kinds}')
            with Serving(site):
                team(site)
                fill(site, pin=False)
                done = site.run("memory", "backfill", "--apply")
            assert done.returncode == 0, done.stderr
            names = [row.split()[0] for row in done.stdout.splitlines()]
            assert names == sorted(names), "told in their order, whoever was first"
            assert crowd.seen == most
        there = [len(client.found(name)) for name in names]
        assert there == [1, 1, 1, 1]
    end_brokers(short_dir)


def test_an_export_asks_the_server_once_for_each_namespace_that_it_holds(short_dir: Path) -> None:
    """However many may read it: a team's and an organisation's members share one."""
    site, file = storm_site(short_dir), short_dir / "memories.jsonl"
    with flat() as address:
        crowd = Crowd(address, 0)
        with crowd.stand() as door:
            settle(site, f'memory_plugin = "http://{door}"\nmemory_cutover = true')
            with Serving(site):
                team(site)
                for name in ("tester", "writer"):
                    run(site, "workspace", "add", name, "--parent", "lead")
                fill(site, pin=False)
                crowd.wishes.clear()
                run(site, "memory", "export", str(file))
        searches = [wish for wish in crowd.wishes if wish == "POST /v1/search"]
    rows = rows_in(file)
    held = [row["namespace"] for row in rows if not row["namespace"].startswith("workspace:")]
    assert held == ["org:lead", "team:lead"]
    assert len(rows) == 4
    assert len(searches) == 2
    end_brokers(short_dir)


def grow(site: Site, root: Path, ids: list[str]) -> None:
    """Give a palace memories in every namespace of all of its workspaces."""
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
        done = site.run("memory", "import", str(file), timeout_s=PATIENCE_S)
        assert done.returncode == 0, done.stderr


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


def real_site(root: Path, model_home: Path) -> Site:
    site = make_site(root, model_home)
    make_palace(site)
    return site


def held_at(address: Path, site: Site, root: Path) -> tuple[list[str], list[str]]:
    """Return what a palace has in its namespaces, and what its server has in the same ones."""
    file = root / "held.jsonl"
    run(site, "memory", "export", str(file))
    here = rows_in(file)
    with ContractClient(str(address)) as client:
        names = {row["namespace"] for row in here}
        there = [content for name in names for content in client.found(name, limit=100)]
    return sorted(row["content"] for row in here), sorted(there)


@pytest.mark.parametrize(
    "engine",
    [
        "light",
        pytest.param(
            "real", marks=pytest.mark.skipif(not is_deep(), reason="PALACE_TEST_PROFILE=deep")
        ),
    ],
)
def test_all_is_copied_once_whichever_side_is_killed(
    short_dir: Path, model_home: Path, engine: str
) -> None:
    """Both sides are palaces; each is killed, in turn, while the command runs."""
    ids: list[str] = []
    for name in ("here", "there"):
        (short_dir / name).mkdir()
    make = storm_site if engine == "light" else partial(real_site, model_home=model_home)
    site, other = make(short_dir / "here"), make(short_dir / "there")
    grow(site, short_dir / "here", ids)
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
            if engine == "real":  # which takes longer to be there than to be killed again
                wait_until(address.exists, what="the server serves")
                time.sleep(chosen.uniform(0.05, 4))
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
        if engine == "real":
            here, contents = held_at(address, site, short_dir)
    finally:
        server.end(signal.SIGKILL)
        end_brokers(short_dir)

    if engine == "light":  # read past every broker
        here, contents = sorted(stored(site).values()), sorted(stored(other).values())
    assert contents == here
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
