"""Too few descriptors, and a palace that is taken away: clear errors, no spinning, and recovery.

On the light store, whose owners need few descriptors; tests/process/test_bad_input.py has strangers
that use up a real owner's, test_election.py a palace that is moved, test_disk.py full disks.
"""

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.signals import BROKER, DIRECT, victims_of
from tests.support.loads.light import ClientHistory, problems_of, storm_site
from tests.support.processes.brokers import OUTCOME_UNKNOWN, code_of, text_of, wait_gone
from tests.support.processes.clients import PALACE, Client, Site, end_brokers, wait_until
from tests.support.processes.sites import start_shim

pytestmark = pytest.mark.process

TOO_MANY = "Too many open files"
SPAWN_FAILED, LOCK_FAILED, STORE_UNAVAILABLE = -31054, -31058, -31047
PALACE_REPLACED = -31072
ME = "worker0"


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Site]:
    site = storm_site(tmp_path)
    try:
        yield site
    finally:
        end_brokers(tmp_path)


@pytest.fixture
def client(light: Site) -> Iterator[Client]:
    client = start_shim(light.environ(), f"--palace={light.palace}")
    try:
        yield client
    finally:
        client.close()


def add(client: Client, told: ClientHistory, nonce: str) -> dict[str, Any]:
    """File a drawer; note what is said of it."""
    reply = client.call("mempalace_add_drawer", who=told.who, nonce=nonce, parts=1)
    if "result" in reply:
        told.drawers.add(nonce)
    else:
        told.refused[nonce] = code_of(reply)
    return reply


@contextmanager
def out_of_descriptors(pid: int) -> Iterator[None]:
    """Let a process open nothing more for a while."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest_free = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def is_spinning(pid: int) -> bool:
    """Tell whether a process that has nothing to do takes most of a processor's time."""
    ticks = []
    for _ in range(2):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks.append((time.monotonic(), int(fields[11]) + int(fields[12])))
        time.sleep(1)
    (began_s, before), (ended_s, after) = ticks
    return (after - before) / os.sysconf("SC_CLK_TCK") > (ended_s - began_s) / 2


# Descriptors.


@pytest.mark.parametrize("limit", [6, 7, 10, 12, 14])
def test_call_without_enough_descriptors_is_answered_with_the_reason(
    light: Site, limit: int
) -> None:
    told = ClientHistory(0)
    argv = ["prlimit", f"--nofile={limit}:{limit}", *PALACE, "shim", f"--palace={light.palace}"]
    with (light.home / "shim.log").open("wb") as log:
        poor = Client(argv, light.environ(), stderr=log)
    try:
        replies = [add(poor, told, f"n0x{number}z") for number in range(2)]
        spinning = is_spinning(poor.process.pid)
    finally:
        exit_code = poor.close()
    with start_shim(light.environ(), f"--palace={light.palace}") as rich:
        again = add(rich, told, "n0x9z")

    assert all(TOO_MANY in reply["error"]["message"] for reply in replies), replies
    assert {code_of(reply) for reply in replies} <= {SPAWN_FAILED, LOCK_FAILED, STORE_UNAVAILABLE}
    assert not spinning
    assert exit_code == 0
    assert "result" in again
    end_brokers(light.palace)
    assert problems_of(light, [told]) == []


def test_owner_out_of_descriptors_serves_whom_it_has_and_others_later(
    light: Site, client: Client
) -> None:
    told = ClientHistory(0)
    add(client, told, "n0x0z")
    owner = int(light.record()["pid"])
    with out_of_descriptors(owner):
        late = start_shim(light.environ(PALACE_NO_SPAWN="1"), f"--palace={light.palace}")
        wait_until(lambda: "accept failed" in light.log(), what="a connection that can't be taken")
        replies = [add(client, told, f"n0x{number}z") for number in range(1, 20)]
        spinning = is_spinning(owner)
    asked = late.call("mempalace_get_drawer", who=ME, nonce="")

    assert late.close() == 0
    assert all("result" in reply for reply in replies), replies
    assert not spinning
    assert text_of(asked)["count"] == 20
    assert int(light.record()["pid"]) == owner


def test_shim_out_of_descriptors_says_so_and_goes_on_later(light: Site, client: Client) -> None:
    told = ClientHistory(0)
    add(client, told, "n0x0z")
    with out_of_descriptors(client.process.pid):
        wait_gone(light.kill_broker())
        refused = add(client, told, "n0x1z")
        spinning = is_spinning(client.process.pid)
    served = add(client, told, "n0x2z")

    assert code_of(refused) in (SPAWN_FAILED, OUTCOME_UNKNOWN), "the line may have left before"
    assert TOO_MANY in refused["error"]["message"]
    assert not spinning
    assert "result" in served
    end_brokers(light.palace)
    assert problems_of(light, [told]) == []


# A palace that is taken away.


def owners(site: Site) -> list[int]:
    found = victims_of(site.palace)
    return found[BROKER] + found[DIRECT]


def test_removed_palace_is_not_begun_again_until_it_was_recovered(
    light: Site, client: Client
) -> None:
    told = ClientHistory(0)
    add(client, told, "n0x0z")
    owner = int(light.record()["pid"])
    shutil.rmtree(light.palace)
    wait_gone(owner)
    left = light.palace.exists()
    refused = add(client, told, "n0x1z")
    recovered = light.run("recover")
    served = add(client, told, "n0x2z")

    assert not left, "an owner that leaves makes nothing again"
    # A process that counts as gone may still have threads, and they its sockets: a line that is
    # sent into those may have been carried out, for all that its sender knows.
    assert code_of(refused) in (PALACE_REPLACED, OUTCOME_UNKNOWN)
    assert "palace recover" in refused["error"]["message"]
    assert recovered.returncode == 0, recovered.stderr
    assert "result" in served
    assert text_of(client.call("mempalace_get_drawer", who=ME, nonce=""))["count"] == 2
    assert len(owners(light)) == 1
    end_brokers(light.palace)
    assert problems_of(light, [told]) == []


def test_owner_of_a_palace_that_is_replaced_leaves_it_to_the_next(
    light: Site, client: Client
) -> None:
    """As a backup that is put in place under a running broker: the copy counts from then on."""
    told = ClientHistory(0)
    for number in range(10):
        add(client, told, f"n0x{number}z")
    owner = int(light.record()["pid"])
    backup, aside = light.palace.with_name("backup"), light.palace.with_name("aside")
    shutil.copytree(light.palace, backup, ignore=shutil.ignore_patterns("*.sock"))
    backup.chmod(0o700)
    os.rename(light.palace, aside)
    os.rename(backup, light.palace)
    served = start_shim(light.environ(), f"--palace={light.palace}")
    reply = add(served, told, "n0x10z")
    wait_gone(owner)
    after = add(client, told, "n0x11z")
    count = text_of(served.call("mempalace_get_drawer", who=ME, nonce=""))["count"]

    assert served.close() == 0
    assert "result" in reply
    assert "result" in after
    assert count == 12
    assert len(owners(light)) == 1
    end_brokers(light.palace)
    assert problems_of(light, [told]) == []
