"""Why can't I write?  Ten situations with real processes, and what the doctor says first."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from palace.doctor.report import COLUMNS, LINES
from palace.settings.installation import command_for
from tests.process.test_versions import NEW, OLD, of
from tests.support.loads.light import storm_site
from tests.support.machines.guests import guest_of, make_beneath
from tests.support.machines.needs import need_root
from tests.support.processes.brokers import (
    Serving,
    code_of,
    make_palace,
    run,
    state_of,
    unprivileged,
)
from tests.support.processes.clients import PALACE, Site, end_brokers, wait_until

pytestmark = pytest.mark.process

CLOSED = "http://127.0.0.1:9"  # nobody listens at the port of discard
SMALL_DISK_MIB = 24
PATIENCE = "mempalace_lock_wait_s = 0\n"


@pytest.fixture
def light(short_dir: Path) -> Site:
    """A palace whose brokers have the light engine."""
    return storm_site(short_dir)


def first_finding(site: Site, argv: list[str] = PALACE, *, code: int = 65, **more: Any) -> str:
    """Return what the doctor says first, with its remedy, on one line; and hold it to its form."""
    done = subprocess.run(
        [*argv, "doctor"],
        env=site.environ(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()

    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    assert len(lines) <= LINES == 24
    assert max(map(len, lines)) <= COLUMNS == 100
    block = [lines[0]]
    for line in lines[1:]:
        if not line.startswith(" "):
            break
        block.append(line)
    return " ".join(" ".join(block).split())


def codes(site: Site, argv: list[str] = PALACE, **more: Any) -> set[str]:
    """Return the codes of all that the doctor finds, after somebody has followed it."""
    done = run([*argv, "doctor", "--json"], site, **more)
    return {json.loads(line)["code"] for line in done.stdout.splitlines()}


def refusal(site: Site, argv: list[str] = PALACE, **more: str) -> str:
    """Return why a write fails, as its client is told."""
    done = subprocess.run(
        [*argv, "shim"],
        env=site.environ(**more),
        input='{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":'
        '"mempalace_diary_write","arguments":{"agent_name":"a","entry":"e"}}}\n',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert '"error"' in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.engine
def test_stock_holds_the_lock(site: Site) -> None:
    make_palace(site, PATIENCE)
    with site.stock() as stock:
        assert stock.tool("diary_write", agent_name="a", entry="Stock had a day.")["success"]

        assert "stock mempalace process" in refusal(site)
        said = first_finding(site)

        assert said.startswith("error: A stock mempalace process has this palace")
        assert f"pid {stock.process.pid} (" in said
        assert "mempalace.mcp_server" in said
        assert "-> It is a session of stock's, which ends with its agent: close that" in said
        assert f"or end it (kill {stock.process.pid})" in said


@pytest.mark.engine
def test_stock_of_another_home_writes_beside_the_broker(site: Site, tmp_path: Path) -> None:
    make_palace(site)
    other = Site(home=tmp_path / "other", palace=site.palace)
    (other.home / ".cache").mkdir(parents=True)
    (other.home / ".cache" / "chroma").symlink_to(site.home / ".cache" / "chroma")
    with other.stock() as stock:
        assert stock.tool("add_drawer", wing="w", room="r", content="Stock wrote this.")

        said = first_finding(site)

        assert said.startswith("error: Another process has this palace open beside its owner")
        assert f"pid {stock.process.pid} (" in said
        assert f"Its HOME is {other.home}, yours {site.home}" in said
        assert f"-> End it: kill {stock.process.pid}" in said


def test_a_guest_behind_a_mount(short_dir: Path) -> None:
    beneath = make_beneath(short_dir)
    with guest_of(beneath, short_dir) as guest:
        said = first_finding(guest)

    assert said.startswith(f"error: The palace {guest.palace} belongs to another kernel")
    assert "mount" in said
    for remedy in ("palace expose docker", "bridge=ssh", "palace own --here"):
        assert remedy in said


@pytest.fixture
def full(light: Site) -> Iterator[Site]:
    need_root()
    options = f"size={SMALL_DISK_MIB}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", light.palace], check=True)
    try:
        yield light
    finally:
        end_brokers(light.palace)
        subprocess.run(["umount", "-l", light.palace], check=True)


def test_the_disk_is_full(full: Site) -> None:
    with full.shim() as client:
        assert client.tool("diary_write", agent_name="a", nonce="n", entry="e")["success"]
        (full.palace / "filler").write_bytes(bytes(20 << 20))
        reply = client.call("mempalace_diary_write", agent_name="a", nonce="m", entry="e")
        said = first_finding(full)

    assert "nearly full" in str(reply)
    assert said.startswith("error: The disk is full")
    assert str(full.palace) in said
    assert "-> Free some space" in said


@pytest.mark.engine
def test_the_model_is_missing(short_dir: Path) -> None:
    bare = Site(home=short_dir / "home", palace=short_dir / "palace")
    bare.home.mkdir()
    make_palace(bare)
    closed: dict[str, Any] = dict.fromkeys(
        ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY"), CLOSED
    )
    offline = closed | {"PIP_INDEX_URL": CLOSED, "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}

    assert "model" in refusal(bare, **offline)
    said = first_finding(bare, code=1)
    assert bare.run("stop").returncode == 0

    assert said.startswith(f"warning: The embedding model is not in {bare.home}/.cache/chroma")
    assert "-> Fetch it now: palace model" in said


def test_versions_differ(light: Site) -> None:
    del light.extra["PYTHONPATH"]
    with Serving(light, **of(NEW)):
        assert "upgrade" in refusal(light, **of(OLD))
        said = first_finding(light, **of(OLD))
    again = first_finding(light, **of(OLD))

    for text in (said, again):
        assert text.startswith("error: This palace was served by palace 0.3.0 (protocol 2)")
        assert "palace 0.1.0 here speaks 1" in text
        assert f"-> Upgrade it: {command_for()}" in text


def test_the_directory_is_read_only(light: Site) -> None:
    argv = unprivileged(PALACE)
    light.palace.chmod(0o500)
    try:
        assert "read-only" in refusal(light, argv)
        said = first_finding(light, argv)
        assert "read_only" in codes(light, argv)
    finally:
        light.palace.chmod(0o700)
    assert "read_only" not in codes(light, argv)

    assert said.startswith(f"error: {light.palace} is read-only for this process: its mode is 0500")
    assert f"-> Give its owner write access: chmod u+w {light.palace}" in said


def test_the_engine_is_wedged(light: Site) -> None:
    with Serving(light) as broker:
        os.kill(broker.pid, signal.SIGSTOP)
        wait_until(lambda: state_of(broker.pid) == "T", what="it is stopped")
        said = first_finding(light)
        assert "stopped" in codes(light)
        os.kill(broker.pid, signal.SIGCONT)
        assert "stopped" not in codes(light)

    assert said.startswith("error: The broker is halted by a signal")
    assert f"pid {broker.pid} (" in said
    assert f"-> Let it go on: kill -CONT {broker.pid}" in said


def test_the_socket_leads_to_another_palace(light: Site, short_dir: Path) -> None:
    (short_dir / "second").mkdir()
    other = storm_site(short_dir / "second")
    with ExitStack() as both:
        for site in (light, other):
            both.enter_context(Serving(site))
        named: dict[str, Any] = {"MEMPALACE_BROKER": f"unix:{other.palace}/broker.sock"}
        assert "palace" in refusal(light, **named)
        said = first_finding(light, **named)
        assert "wrong_palace" in codes(light, **named)
        assert "wrong_palace" not in codes(light)

    assert said.startswith(f"error: The broker at {other.palace}/broker.sock serves another palace")
    assert f"{other.palace}, and not {light.palace}" in said
    assert "-> Take MEMPALACE_BROKER out of this environment" in said


def test_it_was_stopped_on_hold(light: Site) -> None:
    with Serving(light) as broker:
        assert light.run("stop", "--hold").returncode == 0
        assert broker.process.wait(60) == 0
        with light.shim() as client:
            assert code_of(client.call("mempalace_get_drawer", who="w")) == -31057
        said = first_finding(light)

    assert said.startswith("error: The palace has been on hold since 20")
    assert f"-> End the hold: palace start --palace {light.palace}" in said
    assert light.run("start").returncode == 0
    assert "on_hold" not in codes(light)
    assert light.run("stop").returncode == 0
