"""A shim whose client is gone, though some other process holds the other end of its input open."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.brokers.scripted import Connection, ScriptedBroker, call
from tests.support.processes.brokers import is_alive, wait_gone
from tests.support.processes.clients import PALACE, wait_until

SHIM = [*PALACE, "shim"]
# Without pidfd_open, as on macOS, and looking often enough for a test.
PORTABLE_SHIM = [
    sys.executable,
    "-P",
    "-c",
    "import os, sys; del os.pidfd_open; from palace.shim import relay; relay.PARENT_MS = 50.0; "
    "sys.exit(relay.main([]))",
]
# Starts the program in its arguments with our input and output, says its pid, and does as told.
LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[2:])
os.write(int(sys.argv[1]), f"{child.pid}\\n".encode())
child.wait()
"""


@pytest.fixture
def palace(short_dir: Path) -> Path:
    return short_dir / "palace"


class Orphan:
    """A shim below a process of its own, and both ends of its input, which outlive that process."""

    def __init__(self, argv: list[str], palace: Path) -> None:
        reading, self.input = os.pipe()
        self.output, writing = os.pipe()
        report, said = os.pipe()
        environ = {"HOME": str(palace), "MEMPALACE_PATH": str(palace), "PALACE_NO_SPAWN": "1"}
        self.client = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(said), *argv],
            stdin=reading,
            stdout=writing,
            pass_fds=[said],
            env={"PATH": os.environ["PATH"]} | environ,
        )
        for fd in (reading, writing, said):
            os.close(fd)
        self.pid = int(os.read(report, 99))
        os.close(report)

    def kill_client(self) -> None:
        self.client.kill()
        self.client.wait()

    def end(self) -> None:
        self.client.kill()
        self.client.wait()
        os.close(self.input)
        os.close(self.output)
        if is_alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)


@contextmanager
def orphan_of(argv: list[str], palace: Path) -> Iterator[tuple[Orphan, Connection]]:
    with ScriptedBroker(palace) as broker:
        orphan = Orphan(argv, palace)
        try:
            served = broker.accept()
            served.hello()
            served.welcome()
            yield orphan, served
        finally:
            orphan.end()


@pytest.mark.parametrize("argv", [SHIM, PORTABLE_SHIM], ids=["pidfd", "portable"])
def test_a_shim_leaves_after_its_client_was_killed(palace: Path, argv: list[str]) -> None:
    with orphan_of(argv, palace) as (orphan, served):
        os.write(orphan.input, call(1))
        assert served.message()["id"] == 1
        os.kill(orphan.pid, signal.SIGSTOP)
        os.write(orphan.input, call(2))  # the client's last words
        orphan.kill_client()
        os.kill(orphan.pid, signal.SIGCONT)

        assert served.message()["id"] == 2
        served.answer(0, 1, "one")
        served.answer(1, 2, "two")
        assert served.client_line() == b"", "the shim has not hung up"
        wait_gone(orphan.pid)


@pytest.mark.parametrize("argv", [SHIM, PORTABLE_SHIM], ids=["pidfd", "portable"])
def test_a_launcher_that_ends_before_its_client_speaks_is_not_the_client(
    palace: Path, argv: list[str]
) -> None:
    with orphan_of(argv, palace) as (orphan, served):
        orphan.kill_client()
        for number in range(2):
            os.write(orphan.input, call(number))
            assert served.message()["id"] == number
            served.answer(number, number, "here")
            assert json.loads(os.read(orphan.output, 9999))["result"] == "here"
            assert served.at_rest()
        assert is_alive(orphan.pid)


def test_a_shim_of_a_living_client_stays(palace: Path) -> None:
    with orphan_of(PORTABLE_SHIM, palace) as (orphan, served):
        os.write(orphan.input, call(1))
        assert served.message()["id"] == 1
        served.answer(0, 1, "here")
        wait_until(lambda: served.acks or served.at_rest(), what="the shim has gone quiet")
        assert is_alive(orphan.pid)
