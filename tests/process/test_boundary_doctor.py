"""`palace doctor --boundary`: what it finds, what it tries, and that its word is the shim's way."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.light.engine import STORE
from tests.support.machines.guests import ELSEWHERE, misled_guest_of
from tests.support.machines.needs import need_command
from tests.support.machines.sshd import NAME, free_port, open_sshd
from tests.support.processes.brokers import Serving, code_of, settle
from tests.support.processes.clients import PALACE, Site

pytestmark = pytest.mark.process

OWN, NAMED, WSS, SSH, NONE = range(5)


def look(site: Site, **more: Any) -> dict[str, Any]:
    """Return what the doctor says to programs, after checking that people are told the same."""
    machine = site.run("doctor", "--boundary", "--json", **more)
    people = site.run("doctor", "--boundary", **more)
    found = json.loads(machine.stdout)
    works = any(way["works"] for way in found["ways"])
    assert machine.returncode == people.returncode == (0 if works else 65), machine.stderr
    assert (found["rung"] == NONE) == (not works)
    assert bool(found["why_not"]) == (not works)
    for way in found["ways"]:
        assert way["text"] in people.stdout
    assert (f"takes way {found['rung']}" in people.stdout) == works
    record = site.palace / "broker.json"
    token = json.loads(record.read_text())["token"] if record.exists() else ""
    assert not token or token not in machine.stdout + people.stdout
    return found


def listening(site: Site) -> str:
    """Let the palace's next broker listen for guests; return its URL."""
    address = f"127.0.0.1:{free_port()}"
    settle(site, f'listen = "{address}"')
    return f"wss://{address}"


def test_on_the_palaces_own_kernel_a_shim_needs_no_ladder(beneath: Site) -> None:
    alone = look(beneath)
    assert alone["mount"]["local"] is True
    assert alone["kernel"]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert alone["kernel"]["pid_namespace"] == os.readlink("/proc/self/ns/pid")
    assert alone["kernel"]["mount_namespace"] == os.readlink("/proc/self/ns/mnt")
    assert (alone["owner"], alone["record"], alone["rung"]) == (None, None, OWN)
    assert "a shim starts one" in alone["ways"][0]["text"]
    assert "forbids" in look(beneath, PALACE_NO_SPAWN="1")["why_not"]

    with Serving(beneath) as owner:
        served = look(beneath)
    assert served["record"]["pid"] == owner.pid
    assert served["record"]["same_boot"] is True
    assert "it answers: epoch 1" in served["ways"][0]["text"]

    assert beneath.run("stop", "--hold").returncode in (0, 69)
    assert "palace start" in look(beneath)["why_not"]


def test_a_guest_without_a_way_is_told_why_and_what_would_help(guest: Site, beneath: Site) -> None:
    found = look(guest)

    assert found["mount"]["local"] is False
    assert found["mount"]["point"] == str(guest.palace.parent)
    assert found["mount"]["fs_type"].startswith("fuse")
    assert found["ways"] == []
    for remedy in ("palace expose docker", "bridge=ssh", "palace own --here"):
        assert remedy in found["why_not"]
    assert not list(beneath.palace.iterdir())


def test_a_guest_goes_by_the_records_websocket_while_that_answers(
    guest: Site, beneath: Site
) -> None:
    url = listening(beneath)
    with Serving(beneath, **ELSEWHERE):
        found = look(guest)
        with guest.shim() as client:
            assert client.tool("add_drawer", who="w", nonce="n", parts=1)["success"]

    assert [(way["rung"], way["to"], way["works"]) for way in found["ways"]] == [(WSS, url, True)]
    assert (found["rung"], found["record"]["same_boot"]) == (WSS, False)
    assert (beneath.palace / STORE).exists()

    dead = look(guest)  # it was killed: its record still names the address
    assert [way["works"] for way in dead["ways"]] == [False]
    assert f"nothing listens at {url}" in dead["why_not"]


def test_a_guest_with_an_old_record_is_told_that_it_is_refused(
    beneath: Site, short_dir: Path
) -> None:
    listening(beneath)
    with Serving(beneath), misled_guest_of(beneath, short_dir, token="0" * 64) as guest:
        found = look(guest)

    assert found["rung"] == NONE
    refused = f"refused the token in {guest.palace}/broker.json"
    assert refused in found["ways"][0]["text"]


def test_where_the_websocket_is_dead_a_guest_goes_by_ssh(
    beneath: Site, short_dir: Path, tmp_path: Path
) -> None:
    need_command("sshd")
    url = listening(beneath)
    bridge = f"ssh://{NAME}{beneath.palace}"
    dead = url.rpartition(":")[0] + f":{free_port()}"
    with (
        open_sshd(tmp_path) as sshd,
        Serving(beneath),
        misled_guest_of(beneath, short_dir, endpoints=[dead]) as guest,
    ):
        settle(guest, f'bridge = "{bridge}"')
        ways = {
            "PALACE_BRIDGE_CONFIG": str(sshd.config),
            "PALACE_BRIDGE_COMMAND": shlex.join(PALACE),
        }

        found = look(guest, **ways)
        unknown = look(guest, **ways | {"PALACE_BRIDGE_COMMAND": "no-such-palace"})

    assert found["bridge"] == bridge
    assert [(way["rung"], way["works"]) for way in found["ways"]] == [(WSS, False), (SSH, True)]
    assert found["rung"] == SSH
    assert "no-such-palace" in unknown["why_not"]


def test_a_named_broker_is_the_only_way(guest: Site, beneath: Site) -> None:
    listening(beneath)
    with Serving(beneath):
        good = look(guest, MEMPALACE_BROKER=f"unix:{beneath.palace}/broker.sock")
        bad = look(guest, MEMPALACE_BROKER=f"unix:{beneath.palace}/no.sock")
        odd = look(guest, MEMPALACE_BROKER="nonsense")

    assert [way["rung"] for way in good["ways"]] == [NAMED]
    assert good["rung"] == NAMED
    assert (bad["rung"], odd["rung"]) == (NONE, NONE)
    assert "no.sock" in bad["ways"][0]["text"]
    assert "an address is" in odd["ways"][0]["text"]


def test_who_owns_a_foreign_palace_is_told_to_all(guest: Site, beneath: Site) -> None:
    assert guest.run("own", "--here").returncode == 0
    host = os.uname().nodename
    with guest.shim(**ELSEWHERE) as client:
        assert client.tool("add_drawer", who="w", nonce="n", parts=1)["success"]
        mine = look(guest)
        others = look(beneath)

    assert (mine["rung"], mine["owner"]["here"]) == (OWN, True)
    assert mine["lock"].startswith(str(guest.home))
    assert (others["rung"], others["owner"]["here"]) == (NONE, False)
    assert f"owned by {host}" in others["why_not"]
    with beneath.shim() as client:
        assert code_of(client.call("mempalace_get_drawer", who="w")) == -31056
