"""Disks that fill up or fail under a broker: clients are told, and nothing acknowledged is lost.

Brokers are the product's own, on a real small disk, or with a disk that fails by
tests/support/faults/failing_disk/sitecustomize.py.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.killing import assert_journal_is_right
from tests.support.machines.mounts import on_small_disk
from tests.support.processes.brokers import (
    code_of,
    make_palace,
    make_site,
    status_of,
    text_of,
    wait_gone,
)
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import start_shim
from tests.support.stores.nonces import read_stores

pytestmark = [pytest.mark.engine, pytest.mark.process]

FAULTS = Path(__file__).parents[1] / "support" / "faults" / "failing_disk"
JOURNAL_FAILED = -31048
QUARANTINED = -31063
CLIENTS = 4
DISK_MIB = 64
MIB = 1 << 20


# Full.


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """The palace on a disk of its own."""
    with on_small_disk(site, f"{DISK_MIB}m") as palace:
        yield palace


def fill(directory: Path, *, leave: int) -> Path:
    """Fill a disk but for some bytes; others may write meanwhile."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return path


class Writer(threading.Thread):
    """Adds drawers until so many were refused in a row, or `stop` is set."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.wing = f"w{number}"
        self.kept: list[str] = []
        self.refused: list[str] = []
        self.in_a_row = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.add()

    def add(self) -> bool:
        count = len(self.kept) + len(self.refused)
        text = f"{self.wing} wrote number {count}. " * 5
        arguments = {"wing": self.wing, "room": "r", "content": text.strip()}
        reply = self.client.call("mempalace_add_drawer", **arguments)
        if code_of(reply) == 0 and text_of(reply).get("success"):
            self.kept.append(text.strip())
            self.in_a_row = 0
            return True
        assert code_of(reply) == JOURNAL_FAILED or text_of(reply)["error"], reply
        self.refused.append(json.dumps(reply))
        self.in_a_row += 1
        return False


@pytest.mark.parametrize("leave", [8 * MIB, 0], ids=["nearly", "wholly"])
def test_disk_that_fills_up_loses_nothing_and_is_written_again(
    site: Site, small_disk: Path, leave: int
) -> None:
    clients = [start_shim(site.environ()) for _ in range(CLIENTS)]
    writers = [Writer(client, number) for number, client in enumerate(clients)]
    try:
        assert writers[0].add(), writers[0].refused
        owner = status_of(site)["pid"]
        for writer in writers:
            writer.start()
        wait_until(lambda: all(len(w.kept) > 2 for w in writers), 60, "each has written some")
        filler = fill(small_disk, leave=leave)
        wait_until(lambda: all(w.in_a_row > 2 for w in writers), 60, "each is refused")
        assert "result" in reader_of(site, clients).call("mempalace_status")
        filler.unlink()
        wait_until(lambda: all(w.in_a_row == 0 for w in writers), 60, "each writes again")
        for writer in writers:
            writer.stop.set()
            writer.join(60)

        assert status_of(site)["pid"] == owner, "nothing had to be started again"
        assert all("Free some space" in writer.refused[-1] for writer in writers)
        found = [drawer.document for drawer in read_stores(site.palace).drawers]
        kept = [text for writer in writers for text in writer.kept]
        assert Counter(found) == Counter(kept), "all that was acknowledged, and nothing else"
        assert_journal_is_right(site.palace)
        assert site.run("stop").returncode == 0
        wait_gone(owner)
        done = site.run("doctor", "--drift", "--json")
        told = [json.loads(line) for line in done.stdout.splitlines()]
        codes = [found["code"] for found in told if found["level"] != "ok"]
        assert codes == ["disk_low"], done.stdout  # the disk is a small one
    finally:
        for client in clients:
            client.process.kill()
            client.close()


def reader_of(site: Site, clients: list[Client]) -> Client:
    """Return one more client, which reads while the others can't write."""
    clients.append(start_shim(site.environ()))
    return clients[-1]


# Failing.


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace whose brokers' disk can be made to fail, by files in `faults` in its home."""
    site = make_site(tmp_path_factory.mktemp("failing"), model_home)
    make_palace(site)
    faults = site.home / "faults"
    faults.mkdir()
    search = [str(FAULTS), os.environ.get("PYTHONPATH", "")]
    site.extra = {
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        "PALACEFAULTS": str(faults),
    }
    try:
        yield site
    finally:
        end_brokers(site.palace)


@pytest.fixture
def client(failing: Site) -> Iterator[Client]:
    client = start_shim(failing.environ())
    client.tool("kg_add", subject="a", predicate="is", object="b")
    client.tool("add_drawer", wing="w", room="r", content="Written first of all.")
    yield client
    client.process.kill()
    client.close()
    (failing.home / "faults" / "sync").unlink(missing_ok=True)
    (failing.home / "faults" / "poison").unlink(missing_ok=True)


def fail_syncs(site: Site, count: int) -> Path:
    """Let so many fsyncs of the journal fail from now on; return the file that counts them."""
    left = site.home / "faults" / "sync"
    left.write_bytes(bytes(count))
    return left


def texts(site: Site) -> list[str]:
    return sorted(drawer.document or "" for drawer in read_stores(site.palace).drawers)


def add(client: Client, text: str) -> dict[str, Any]:
    return client.call("mempalace_add_drawer", wing="w", room="r", content=text)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_failed_fsync_refuses_a_change_or_is_made_good(
    failing: Site, client: Client, number: int
) -> None:
    """The first one is that of the change, the last that of the reply, on a healthy journal."""
    owner = status_of(failing)["pid"]
    before = texts(failing)
    left = fail_syncs(failing, number)
    text = f"Written when {number} fsyncs fail."

    kept, refused = [], 0
    while not kept:
        reply = add(client, text)
        if code_of(reply) == 0:
            assert text_of(reply)["success"], reply
            kept.append(text)
        else:
            assert code_of(reply) == JOURNAL_FAILED, reply
            assert os.strerror(5) in reply["error"]["message"]
            assert texts(failing) == before, "what is refused is not there"
            refused += 1

    assert 0 < refused <= number
    assert left.stat().st_size == 0
    assert status_of(failing)["pid"] == owner
    assert texts(failing) == sorted([*before, *kept])
    assert_journal_is_right(failing.palace)


def test_disk_that_fails_for_a_while_refuses_changes_alone(failing: Site, client: Client) -> None:
    assert text_of(add(client, "Written on a good disk."))["success"]
    before, owner = texts(failing), status_of(failing)["pid"]
    left = fail_syncs(failing, 10_000)

    for number in range(5):
        assert code_of(add(client, f"Refused {number}.")) == JOURNAL_FAILED
        fact = {"subject": "a", "predicate": "is", "object": f"refused {number}"}
        assert code_of(client.call("mempalace_kg_add", **fact)) == JOURNAL_FAILED
        assert client.tool("search", query="a good disk")["results"]
        assert [f["object"] for f in client.tool("kg_query", entity="a")["facts"]] == ["b"]
    assert texts(failing) == before

    left.unlink()
    assert text_of(add(client, "Written on a mended disk."))["success"]
    assert status_of(failing)["pid"] == owner
    assert texts(failing) == sorted([*before, "Written on a mended disk."])
    assert_journal_is_right(failing.palace)


def test_palace_of_a_failed_disk_is_well(failing: Site) -> None:
    """After all of the above, in this order: nothing is to be repaired."""
    marked = len(failing.log())
    assert failing.run("stop").returncode == 0
    done = failing.run("doctor", "--drift")
    assert done.returncode == 0, done.stdout
    with failing.shim() as client:
        client.tool("status")
    assert "by another program" not in failing.log()[marked:]
    assert "was unfinished" not in failing.log()[marked:]


# Poison.


def test_poison_is_left_alone_after_two_deaths(failing: Site, client: Client) -> None:
    before, owner = texts(failing), status_of(failing)["pid"]
    (failing.home / "faults" / "poison").write_text("arsenic")

    reply = add(client, "A drawer full of arsenic.")

    assert code_of(reply) == QUARANTINED, reply
    after = status_of(failing)
    assert after["pid"] != owner
    assert after["journal"]["quarantined"] == 1
    assert texts(failing) == before
    assert text_of(add(client, "A drawer of sugar."))["success"], "the palace opens and serves"
    assert_journal_is_right(failing.palace)
    told = failing.run("doctor")
    assert told.returncode == 1  # a warning
    assert "[quarantine]" in told.stdout
    assert "is not tried again" in told.stdout
