"""`palace own`: a palace on another kernel's mount, used by one machine alone.

The boundary is a FUSE mount (tests/support/machines/guests.py).
"""

import json
import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from palace.commands.own import claim_palace
from palace.protocol.errors import LockFailed, LockHeld
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.engines.light.engine import STORE
from tests.support.loads.light import ClientHistory, problems_of
from tests.support.machines.guests import ELSEWHERE, move_record_elsewhere
from tests.support.machines.mounts import mounted
from tests.support.processes.brokers import (
    Serving,
    code_of,
    holders_of,
    is_alive,
    parent_of,
    processes_of,
    status_of,
    wait_gone,
)
from tests.support.processes.clients import Client, Site, wait_until
from tests.support.processes.watch import Watcher

pytestmark = pytest.mark.process

FOREIGN_KERNEL = -31056
HOST = os.uname().nodename


def elsewhere(site: Site, root: Path) -> Site:
    """Return a machine that sees what `site` sees, and has a state directory of its own."""
    home = root / "other"
    home.mkdir(exist_ok=True)
    return Site(home=home, palace=site.palace, extra=site.extra)


def own(site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return site.run("own", *arguments)


def owned(site: Site) -> Path:
    """Claim a palace; return the directory of its lock."""
    done = own(site, "--here")
    assert done.returncode == 0, done.stderr
    found = [entry for entry in (site.home / ".local/state/palace").iterdir() if entry.is_dir()]
    assert len(found) == 1
    return found[0]


def agree(site: Site) -> None:
    """Let a site's user agree to what the palace's settings name, as from another home."""
    done = site.run("config", "trust", "--yes")
    assert done.returncode == 0, done.stderr


def add(client: Client, told: ClientHistory, nonce: str) -> None:
    assert client.tool("add_drawer", who=told.who, nonce=nonce, parts=1)["success"]
    told.drawers.add(nonce)


def findings(site: Site) -> list[dict[str, str]]:
    return [json.loads(line) for line in site.run("doctor", "--json").stdout.splitlines()]


def refusals(site: Site) -> list[str]:
    """Return what a shim, `serve` and `ensure` say, after checking that each refuses."""
    with site.shim() as client, ThreadPoolExecutor() as pool:  # two of them wait for 5 s
        ensuring = pool.submit(site.run, "ensure")
        reply = client.call("mempalace_get_drawer", who="x")
        served, ensured = site.run("serve"), ensuring.result()
    assert code_of(reply) == FOREIGN_KERNEL, reply
    assert (served.returncode, ensured.returncode) == (72, 72)
    return [reply["error"]["message"], served.stderr, ensured.stderr]


def test_without_a_claim_a_foreign_palace_is_never_opened_and_with_one_the_same_shim_serves(
    guest: Site, beneath: Site
) -> None:
    with guest.shim() as client:
        reply = client.call("mempalace_get_drawer", who="worker1")
        for text in refusals(guest):
            assert "palace own --here" in text
            assert f"{guest.palace.parent}, a fuse" in text
        assert code_of(reply) == FOREIGN_KERNEL
        assert not list(beneath.palace.iterdir())
        [told] = [one for one in findings(guest) if one["code"] == "foreign_kernel"]
        assert (told["level"], "palace own --here" in told["remedy"]) == ("error", True)

        owned(guest)

        assert "foreign_kernel" not in {one["code"] for one in findings(guest)}
        add(client, ClientHistory(1), "n1")  # its user need not restart it
    assert (beneath.palace / STORE).exists()


def test_an_owners_shims_share_one_broker_and_survive_its_death(guest: Site, beneath: Site) -> None:
    local = owned(guest)
    told = [ClientHistory(1), ClientHistory(2)]
    with Watcher(guest.palace, rest_ms=20) as watcher, ExitStack() as stack:
        clients = [stack.enter_context(guest.shim()) for _ in told]
        for client, each in zip(clients, told, strict=True):
            add(client, each, f"n{each.number}a")
        first = status_of(guest)
        pid = first["pid"]

        assert (first["epoch"], len(first["sessions"])) == (1, 2)
        assert first["endpoint"] == str(local / "broker.sock")
        assert set(holders_of(local / "broker.lock")) == {pid}
        assert local.stat().st_mode & 0o777 == 0o700
        assert guest.record()["endpoints"] == [f"unix:{local}/broker.sock"]

        os.kill(pid, signal.SIGKILL)
        for client, each in zip(clients, told, strict=True):
            add(client, each, f"n{each.number}b")
        assert status_of(guest)["epoch"] == 2
        assert len(status_of(guest)["sessions"]) == 2

        shown, stopped = guest.run("status"), guest.run("stop")
        assert "epoch 2" in shown.stdout
        assert stopped.returncode == 0, stopped.stderr
    assert "no broker runs" in guest.run("status").stdout
    watcher.assert_one_at_a_time()
    names = {entry.name for entry in beneath.palace.iterdir()}
    assert {"owner.json", "palace.toml", "epoch", "journal", "broker.log", STORE} <= names
    assert not names & {"broker.lock", "broker.sock", "broker.json"}
    assert problems_of(beneath, told) == []


def test_a_stop_finds_an_owners_broker_whose_record_is_lost(guest: Site) -> None:
    owned(guest)
    with guest.shim() as client:
        add(client, ClientHistory(1), "n1")
    pid = status_of(guest)["pid"]
    (guest.palace / "broker.json").unlink()

    assert guest.run("stop").returncode == 0

    wait_gone(pid)


@pytest.mark.parametrize("side", ["another state directory", "the directory beneath", "same home"])
def test_everybody_else_refuses_and_names_the_owner(
    guest: Site, beneath: Site, short_dir: Path, side: str
) -> None:
    owned(guest)
    with guest.shim() as client:
        add(client, ClientHistory(1), "n1")
    guest.kill_broker()
    move_record_elsewhere(guest)
    others = {
        "another state directory": elsewhere(guest, short_dir),
        "the directory beneath": beneath,
        "same home": Site(home=guest.home, palace=beneath.palace, extra=guest.extra),
    }
    other = others[side]
    before = {entry.name for entry in beneath.palace.iterdir()}
    since = json.loads((beneath.palace / "owner.json").read_text())["since"]

    for text in refusals(other):
        assert f"is owned by {HOST} since {since}" in text
        assert "palace own --release" in text
    assert own(other, "--here").returncode in (72, 75, 78)
    assert f"owned by {HOST}" in own(other).stdout
    assert f"owned by {HOST}" in other.run("status").stdout
    assert {entry.name for entry in beneath.palace.iterdir()} == before
    if side != "same home":
        assert own(other, "--release").returncode == 72
    with guest.shim() as client:  # and the owner goes on
        assert client.tool("get_drawer", who="worker1")["count"] == 1


def test_one_palace_has_one_name_on_its_owners_machine(
    guest: Site, beneath: Site, short_dir: Path
) -> None:
    """A second name would have a second lock."""
    owned(guest)
    with mounted(beneath.palace.parent, short_dir / "again"):
        again = Site(home=guest.home, palace=short_dir / "again/palace", extra=guest.extra)

        for text in refusals(again):
            assert f"MEMPALACE_PATH={guest.palace}" in text
        claimed = own(again, "--here", "--force")

    assert claimed.returncode == 75
    assert "palace own --release" in claimed.stderr


def test_a_claim_is_released_only_by_who_has_the_lock_and_then_the_other_kernel_serves(
    guest: Site, beneath: Site
) -> None:
    owned(guest)
    with guest.shim() as client:
        add(client, ClientHistory(1), "n1")
        pid = status_of(guest)["pid"]
        while_serving = own(guest, "--release")
        assert while_serving.returncode == 75
        assert f"pid {pid}" in while_serving.stderr
        assert (beneath.palace / "owner.json").exists()
    guest.kill_broker()
    wait_gone(pid)

    assert own(guest, "--release").returncode == 0

    assert not (beneath.palace / "owner.json").exists()
    assert not (beneath.palace / "broker.json").exists()
    agree(beneath)
    with beneath.shim(**ELSEWHERE) as client:
        assert client.tool("get_drawer", who="worker1")["count"] == 1
    assert status_of(beneath)["epoch"] == 2
    assert holders_of(beneath.palace / "broker.lock")
    refusals(guest)


def test_a_record_forbids_a_claim_until_it_is_called_dead(guest: Site, beneath: Site) -> None:
    with Serving(beneath) as owner:
        alive = own(guest, "--here")
    wait_until(lambda: not is_alive(owner.pid), what="its end")
    dead = own(guest, "--here")

    for done in (alive, dead):
        assert done.returncode == 75
        assert f"pid {owner.pid} on {HOST}" in done.stderr
        assert "--force" in done.stderr
    assert not (beneath.palace / "owner.json").exists()
    told = {one["code"]: one for one in findings(guest)}
    assert told["network_file_system"]["level"] == "error"
    assert "palace own --here" in told["foreign_kernel"]["remedy"]

    assert own(guest, "--here", "--force").returncode == 0
    assert not {"network_file_system", "foreign_kernel"} & {one["code"] for one in findings(guest)}
    agree(guest)
    with guest.shim() as client:
        add(client, ClientHistory(1), "n1")
    assert status_of(guest)["epoch"] == 2


def test_a_dead_owners_palace_can_be_taken_by_force_alone(
    guest: Site, beneath: Site, short_dir: Path
) -> None:
    owned(guest)
    other = elsewhere(guest, short_dir)

    assert own(other, "--here").returncode == 72
    assert own(other, "--here", "--force").returncode == 0
    assert own(guest, "--release").returncode == 72
    assert own(beneath, "--here", "--force").returncode == 78  # it needs no claim
    assert own(beneath, "--release", "--force").returncode == 0
    assert "is not claimed" in own(beneath).stdout


def test_a_state_directory_on_another_kernels_mount_is_no_identity(
    guest: Site, short_dir: Path
) -> None:
    state = guest.palace.parent / "state"
    done = guest.run("own", "--here", XDG_STATE_HOME=str(state))

    assert done.returncode == 78
    assert "XDG_STATE_HOME" in done.stderr
    assert not (guest.palace / "owner.json").exists()
    assert not state.exists()

    owned(guest)
    shutil.copytree(guest.home / ".local/state", state)  # whoever sees it would be the owner
    with guest.shim(XDG_STATE_HOME=str(state)) as client:
        assert code_of(client.call("mempalace_get_drawer", who="x")) == FOREIGN_KERNEL


@pytest.mark.parametrize("meanwhile", ["epoch", "broker.json", "owner.json"])
def test_a_claim_looks_again_after_it_was_written(
    guest: Site, beneath: Site, meanwhile: str
) -> None:
    """A broker that looked before the claim was there, or another machine that claims as well."""

    def interfere() -> None:
        claim = beneath.palace / "owner.json"
        wait_until(claim.exists, what="the claim")
        (beneath.palace / meanwhile).write_text("7\n")

    thread = threading.Thread(target=interfere)
    thread.start()
    expected = LockFailed if meanwhile == "owner.json" else LockHeld
    with pytest.raises(expected):
        claim_palace(
            Paths(str(guest.palace)), ShimEnvironment(guest.environ()), force=False, wait_s=1.0
        )
    thread.join()

    assert (beneath.palace / "owner.json").exists() == (meanwhile == "owner.json")


def test_direct_mode_uses_the_same_lock(guest: Site) -> None:
    local = owned(guest)
    Path(guest.extra["PALACESANDBOX"]).touch()
    with guest.shim() as client:
        add(client, ClientHistory(1), "n1")
        status = status_of(guest)
        assert status["mode"] == "direct"
        assert parent_of(status["pid"]) == client.process.pid
        assert set(holders_of(local / "broker.lock")) == {status["pid"]}
        with guest.shim() as second:
            add(second, ClientHistory(2), "n2")
            assert len(status_of(guest)["sessions"]) == 2
    wait_until(lambda: not processes_of(guest.palace), what="nobody is left")
    assert own(guest, "--release").returncode == 0
