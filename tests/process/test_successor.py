"""A palace of mempalace 3.11 goes on under what is known of 3.12, and back: nothing is lost.

The successor is a stand-in (tests/support/engines/successor), since no index has the real one.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.protocol.errors import EngineOlder
from tests.support.calls.mutations import make_project
from tests.support.engines.successor import imported, stand_in
from tests.support.processes.brokers import wait_ready
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.process, pytest.mark.engine]

WING = "mined"
FILES = 30
ZONE = "America/New_York"  # so that a time without an offset says something else than one with


@attrs.frozen
class Then:
    """What a palace held when it was left to the successor."""

    site: Site
    project: Path
    hallways: list[dict[str, Any]]

    @property
    def place(self) -> Path:
        return self.site.palace.parent


@pytest.fixture(scope="module")
def successor(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stand_in(tmp_path_factory.mktemp("successor"))


@pytest.fixture
def then(tmp_path: Path, model_home: Path) -> Iterator[Then]:
    site = make_site(tmp_path, model_home)
    site.extra["TZ"] = ZONE
    project = make_project(tmp_path, "x")
    with site.shim() as client:
        assert client.tool("mine", source=str(project), wing=WING)["success"]
        assert client.tool("add_drawer", wing="w", room="r", content="by the earlier")["success"]
        client.tool("kg_add", subject="Ada", predicate="counts", object="otters")
        hallways = hallways_of(client)
    assert site.run("stop").returncode == 0
    assert len(hallways) > 1
    yield Then(site, project, hallways)
    end_brokers(tmp_path)


def hallways_of(client: Client) -> list[dict[str, Any]]:
    return sorted(client.tool("list_hallways", limit=1000)["hallways"], key=lambda one: one["id"])


def upgrade(then: Then, successor: str) -> Site:
    then.site.extra["PYTHONPATH"] = successor
    return then.site


def test_hallways_are_imported_once_and_stay_what_they_are(then: Then, successor: str) -> None:
    site = upgrade(then, successor)
    with site.shim() as client:
        assert hallways_of(client) == then.hallways
        assert wait_ready(site)["engine"]["version"] == "3.12.0"
        assert len(imported(then.place)) == 1
        assert not (then.place / "hallways.json").exists()
        gone = then.hallways[0]["id"]
        assert client.tool("delete_hallway", hallway_id=gone) == {"deleted": True}
        for _ in range(2):  # the first death may come before the import is known to be over
            pid = site.kill_broker()
            assert hallways_of(client) == then.hallways[1:]
            assert site.record()["pid"] != pid
    assert "is gone" not in site.log(), "an import is no loss"
    compared = site.run("doctor", "--drift", "--stop", "--json")
    found = {line["code"]: line["level"] for line in map(json.loads, compared.stdout.splitlines())}
    assert found, compared.stderr
    assert "drift" not in found
    assert "error" not in found.values(), compared.stdout


def test_the_list_is_brought_back_in_its_new_form(then: Then, successor: str) -> None:
    site = upgrade(then, successor)
    database = then.place / "hallways.sqlite3"
    with site.shim() as client:
        assert hallways_of(client) == then.hallways
        for end in ("", "-wal", "-shm"):
            Path(f"{database}{end}").unlink(missing_ok=True)
        assert hallways_of(client) == then.hallways, "gone under a broker"
        site.run("stop")
        database.write_bytes(b"no database" * 1000)
        assert hallways_of(client) == then.hallways, "damaged while none served"
        site.run("stop")
        database.unlink()
        assert hallways_of(client) == then.hallways, "gone while none served"
        assert len(imported(then.place)) == 1, "and nothing was imported again"


def test_what_the_successor_of_stock_deletes_is_journalled(then: Then, successor: str) -> None:
    site = upgrade(then, successor)
    with site.stock() as client:
        client.initialize()
        assert client.tool("delete_hallway", hallway_id=then.hallways[0]["id"])["deleted"]
    with site.shim() as client:
        assert hallways_of(client) == then.hallways[1:]
    done = site.run("rebuild", "--stop", timeout_s=120)
    assert done.returncode == 0, done.stderr
    with site.shim() as client:
        assert hallways_of(client) == then.hallways[1:]


def test_the_next_mine_reads_everything_again_and_files_it_once(then: Then, successor: str) -> None:
    for number in range(FILES):
        (then.project / f"{number}.md").write_text(f"Otter {number} holds on to the kelp. " * 40)
    with then.site.shim() as client:
        assert client.tool("mine", source=str(then.project), wing=WING)["success"]
    then.site.run("stop")
    before = drawers_in(then.site)
    site = upgrade(then, successor)
    journal = size_of(site.palace / "journal")
    with site.shim() as client, site.shim() as other:
        hallways_of(other)  # there is a broker now: a shim tells of its way to one, too
        client.send(mine_line(then.project))
        told = [json.loads(client.receive())]
        pid = site.kill_broker()  # in the midst of it
        assert other.tool("search", query="otters", limit=1)["results"], "others are served"
        assert site.record()["pid"] != pid
        while "result" not in told[-1]:
            told.append(json.loads(client.receive()))
        assert {one.get("method") for one in told[:-1]} == {"notifications/progress"}
        assert client.tool("add_drawer", wing="w", room="r", content="by the later")["success"]
    site.run("stop")
    after = drawers_in(site)
    grown = size_of(site.palace / "journal") - journal
    print(
        f"{len(before)} drawers again: {len(told) - 1} progress, journal {journal} + {grown} bytes"
    )

    assert {one[:2] for one in after} == {one[:2] for one in before} | {("w", "by the later")}
    assert len(after) == len(before) + 1, "each is there once"
    filed = {text: at for _, text, at in after}
    assert filed.pop("by the earlier")[-6] not in "+-", "old times stay as they are"
    assert {at[-6] for at in filed.values()} == {"-"}, filed
    versions = normalized(site)
    assert len(versions) > FILES
    assert set(versions) == {3}


def test_a_backup_and_a_rebuild_hold_all_of_it(then: Then, successor: str, tmp_path: Path) -> None:
    site = upgrade(then, successor)
    with site.shim() as client:
        assert hallways_of(client) == then.hallways
        assert client.tool("add_drawer", wing="w", room="r", content="by the later")["success"]
    backup = tmp_path / "backup"
    for command in (
        ("backup", str(backup)),
        ("rebuild", "--stop"),
    ):
        done = site.run(*command, timeout_s=120)
        assert done.returncode == 0, done.stderr
    deaths = site.palace / "deaths"
    wait_until(lambda: not list(deaths.glob("*.armed")), 60, "the broker's end is told")
    assert not list(deaths.glob("*.txt")), "it was asked to leave for the rebuild"
    with site.shim() as client:
        assert hallways_of(client) == then.hallways
        texts = {one["content_preview"] for one in client.tool("list_drawers", wing="w")["drawers"]}
        assert texts == {"by the earlier", "by the later"}
    assert not (then.place / "hallways.json").exists()


def test_the_way_back_puts_the_later_form_aside(then: Then, successor: str) -> None:
    site = upgrade(then, successor)
    with site.shim() as client:
        client.tool("delete_hallway", hallway_id=then.hallways[0]["id"])
    site.run("stop")
    del site.extra["PYTHONPATH"]
    refused = site.run("rebuild")
    assert refused.returncode == EngineOlder.exit_code
    done = site.run("rebuild", "--stop", "--downgrade", timeout_s=120)
    assert done.returncode == 0, done.stderr
    with site.shim() as client:
        assert hallways_of(client) == then.hallways[1:]
    assert not (then.place / "hallways.sqlite3").exists()
    site.run("stop")
    upgrade(then, successor)
    with site.shim() as client:
        assert hallways_of(client) == then.hallways[1:], "there and back again"


def mine_line(project: Path) -> bytes:
    arguments = {"source": str(project), "wing": WING}
    meta = {"progressToken": "m"}
    params = {"name": "mempalace_mine", "arguments": arguments, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def column(site: Site, key: str, value: str) -> dict[int, Any]:
    query = f"SELECT id, {value} FROM embedding_metadata WHERE key = ?"
    with closing(sqlite3.connect(site.palace / "chroma.sqlite3")) as database:
        return dict(database.execute(query, [key]).fetchall())


def drawers_in(site: Site) -> list[tuple[str, str, str]]:
    """Return each drawer's wing, text and time, past any server."""
    texts = column(site, "chroma:document", "string_value")
    wings, filed = column(site, "wing", "string_value"), column(site, "filed_at", "string_value")
    kinds = column(site, "room", "string_value")
    return [(wings[one], texts[one], filed[one]) for one in texts if one in filed and one in kinds]


def normalized(site: Site) -> list[int]:
    return list(column(site, "normalize_version", "int_value").values())
