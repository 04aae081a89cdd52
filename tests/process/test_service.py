"""What a service manager runs, run as it would: an owner like any other."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from palace.commands.service import FOR_A_PERSON, service_of
from palace.settings.paths import find_palace
from tests.support.loads.light import storm_site
from tests.support.machines.needs import need_command
from tests.support.processes.brokers import status_of
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = pytest.mark.process

Starting = Callable[[Site], "subprocess.Popen[bytes]"]


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Site]:
    site = storm_site(tmp_path)
    yield site
    end_brokers(tmp_path)


@pytest.fixture
def started() -> Iterator[Starting]:
    """What starts a unit's process; none of them outlives its test, whatever that comes to."""
    with contextlib.ExitStack() as processes:

        def start(site: Site) -> "subprocess.Popen[bytes]":
            process = processes.enter_context(_started(site))
            processes.callback(process.kill)
            return process

        yield start


def _started(site: Site) -> "subprocess.Popen[bytes]":
    """Start what the unit starts, with a manager's descriptors and environment."""
    unit = service_of(find_palace("", site.environ()), site.environ(), platform="linux")
    return subprocess.Popen(
        unit.argv,
        env=site.environ() | dict(unit.variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # as systemd does
    )


def test_the_units_process_is_the_owner_and_others_make_room(
    light: Site, started: Starting
) -> None:
    first = started(light)
    wait_until((light.palace / "broker.json").exists, what="the unit's broker serves")

    assert light.record()["pid"] == first.pid  # the manager's own child: it knows whom to stop
    with light.shim() as client:
        client.initialize()
        assert status_of(light)["pid"] == first.pid
    assert started(light).wait(60) == 75
    assert 75 not in FOR_A_PERSON

    assert light.run("stop").returncode == 0
    assert first.wait(60) == 0  # it is not started again: somebody wanted this
    assert "palace: epoch" in light.log()


def test_a_unit_stops_when_it_is_told_to_and_waits_while_on_hold(
    light: Site, started: Starting
) -> None:
    first = started(light)
    wait_until((light.palace / "broker.json").exists, what="the unit's broker serves")
    assert status_of(light)["pid"] == first.pid  # who answers also listens to signals by now
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0

    assert light.run("stop", "--hold").returncode == 0
    code = started(light).wait(60)

    assert code == 79
    assert code in FOR_A_PERSON


def test_systemd_takes_a_sockets_name_from_a_process_that_listens(tmp_path: Path) -> None:
    """Why no unit listens for brokers: docs/decisions/0014-no-socket-activation.md."""
    activate = need_command("systemd-socket-activate")
    directory = tmp_path / "s"
    directory.mkdir()
    path = directory / "broker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        before = os.lstat(path).st_ino
        process = subprocess.Popen(
            [activate, f"--listen={path}", str(shutil.which("true"))], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: path.exists() and os.lstat(path).st_ino != before)
        finally:
            process.terminate()
            process.wait()
