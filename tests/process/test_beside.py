"""What stock's own commands write beside a running broker: it is in the next backup.

Stock's lock guards its drawers alone, so that its events, tasks, artifacts and tunnels are written
whoever holds it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes.clients import Client, Site

pytestmark = [pytest.mark.engine, pytest.mark.process]

EVENT = ["append", "--type", "a.note", "--stream", "s", "--room", "r", "--from-agent", "stock"]
TASK = ["create", "--project", "p", "--from-agent", "a", "--to-agent", "b", "--branch", "main"]
COMMIT = ["--base-commit", "0123456789abcdef0123456789abcdef01234567"]


def stock(site: Site, *arguments: str) -> str:
    """Run a command of stock's, which must succeed."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "mempalace"), "--palace", str(site.palace), *arguments],
        env=site.environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with site.session() as client:
        yield client


def backed_up(site: Site) -> str:
    """Make a backup; return the text of all records in it, one to a line."""
    into = site.home / "backups"
    done = site.run("backup", str(into))
    assert done.returncode == 0, done.stderr
    assert "may be missing" not in done.stdout
    newest = max(into.glob("*/palace-backup.json"), key=lambda path: path.stat().st_mtime_ns).parent
    return "\n".join(path.read_text() for path in sorted((newest / "journal").glob("*.jsonl")))


def test_events_tasks_and_artifacts_of_stock_are_in_a_backup(site: Site, client: Client) -> None:
    ours = {"type": "a.note", "stream": "s", "room": "r", "from_agent": "palace"}
    client.tool("event_append", body="through the broker", **ours)
    stock(site, "logstream", *EVENT, "--body", "an event beside the broker")
    stock(site, "task", *TASK, *COMMIT, "--goal", "a task beside it", "--done", "when it is done")
    stock(site, "artifact", "put", "--kind", "note", "--created-by", "a", "--content", "artefact 1")

    text = backed_up(site)
    for wanted in ("an event beside the broker", "a task beside it", "artefact 1"):
        assert wanted in text
    client.tool("event_append", body="and on it goes", **ours)
    assert "and on it goes" in backed_up(site)
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    events = [record["id"] for record in records if record["kind"] == "log:event"]
    assert len(events) == len(set(events))


def test_a_pruned_tunnel_is_pruned_in_a_backup_and_an_emptied_list_is_not(
    site: Site, client: Client
) -> None:
    drawers = {
        wing: client.tool("add_drawer", wing=wing, room="r", content=f"a drawer in wing {wing}")
        for wing in ("a", "b", "c")
    }
    for wing in ("b", "c"):
        ends = {"source_wing": "a", "source_room": "r", "target_wing": wing, "target_room": "r"}
        client.tool("create_tunnel", label=f"to {wing}", **ends)
    tunnels = site.palace.parent / "tunnels.json"
    made = {one["label"]: one["id"] for one in json.loads(tunnels.read_text())}
    client.tool("delete_drawer", drawer_id=drawers["c"]["drawer_id"])
    stock(site, "tunnels", "prune", "--yes")
    assert [one["id"] for one in json.loads(tunnels.read_text())] == [made["to b"]]
    assert deleted_tunnels(site) == [made["to c"]]

    tunnels.write_text("[]")
    assert deleted_tunnels(site) == [made["to c"]]


def test_an_event_in_a_file_that_stock_began_again_and_the_old_ones_are_all_there(
    site: Site, client: Client
) -> None:
    """They have the same numbers in SQLite, and none may take another's place."""
    ours = {"type": "a.note", "stream": "s", "room": "r", "from_agent": "palace"}
    texts = ["the first event", "the second event"]
    for text in texts:
        client.tool("event_append", body=text, **ours)
    assert site.run("stop").returncode == 0
    for path in site.palace.glob("logstream.sqlite3*"):
        path.unlink()
    (site.palace / "replica.json").unlink()
    stock(site, "logstream", *EVENT, "--body", "an event of stock's")
    for _ in range(2):  # what the first owner wrote, the second one compares
        found = json.dumps(client.tool("event_list", stream="s"))
        assert all(text in found for text in [*texts, "an event of stock's"]), found
        assert site.run("stop").returncode == 0
    said = site.run("doctor", "--drift")
    assert said.returncode == 0, said.stdout


def deleted_tunnels(site: Site) -> list[str]:
    records = [json.loads(line) for line in backed_up(site).splitlines() if line.strip()]
    return [one["id"] for one in records if one["deleted"] and one["kind"] == "tunnel"]
