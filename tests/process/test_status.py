"""`palace status` of real brokers: documented, watched, and known in part where they are silent."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.journal.origin import origin_of
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.kernel.output import picture
from tests.support.loads.light import storm_site
from tests.support.processes.brokers import Serving, state_of
from tests.support.processes.clients import PALACE, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = pytest.mark.process

KERNEL = Kernel()

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "status.md"
LEAVE = "\x1b[?25h\x1b[?1049l"


@pytest.fixture
def served(short_dir: Path) -> Iterator[tuple[Site, Serving]]:
    site = storm_site(short_dir)
    with Serving(site) as broker:
        yield site, broker


def journal(site: Site) -> str:
    return str(site.palace / "journal")


def keys_of(value: Any) -> set[str]:
    """Return the names of an object and of all that it holds."""
    if isinstance(value, list):
        return {key for one in value for key in keys_of(one)}
    if not isinstance(value, dict):
        return set()
    return set(value) | keys_of(list(value.values()))


def test_every_name_of_the_status_is_documented(served: tuple[Site, Serving]) -> None:
    site, broker = served
    documented = set(re.findall(r"`(\w+)`", DOCUMENT.read_text()))
    with site.shim() as client:
        client.initialize()
        assert client.tool("add_drawer", who="w", nonce="n", parts=1)["success"]
        status = site.status()
    broker.end(signal.SIGKILL)
    gone = json.loads(site.run("status", "--json").stdout)

    assert keys_of(status) <= documented
    assert keys_of(gone) - keys_of(gone["record"]) <= documented
    (session,) = status["sessions"]
    assert session["client"] == "test 1"
    assert status["lanes"]["writer"]["p95_ms"] >= status["lanes"]["writer"]["p50_ms"] > 0
    assert (status["lanes"]["writer"]["widest"], status["calls"]) == (1, 1)
    (shown,) = [line for line in site.run("history").stdout.splitlines() if " outcome " in line]
    assert "by test 1, its 1" in shown
    assert {origin_of(segment, KERNEL) for segment in list_segments(journal(site), KERNEL)} == {
        status["palace_id"]
    }
    assert status["memory_bytes"] > 1 << 20
    assert status["user"]
    assert (gone["running"], gone["holder"], gone["record"]["pid"]) == (False, None, broker.pid)
    assert "token" not in gone["record"]


def test_status_of_a_stopped_broker_tells_what_record_and_lock_know(
    served: tuple[Site, Serving],
) -> None:
    site, broker = served
    os.kill(broker.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(broker.pid) == "T", what="it is stopped")

    people, machine = site.run("status"), site.run("status", "--json")
    os.kill(broker.pid, signal.SIGCONT)

    assert people.returncode == machine.returncode == 69
    assert "does not answer within 1.5 s" in people.stdout
    assert f"its lock is held by pid {broker.pid} (" in people.stdout
    assert f"is halted by a signal: kill -CONT {broker.pid}" in people.stdout
    assert f"its record says: pid {broker.pid} on " in people.stdout
    assert "epoch 1, palace " in people.stdout
    known = json.loads(machine.stdout)
    assert (known["running"], known["on_hold"], known["holder"]["stopped"]) == (False, False, True)
    assert known["record"]["epoch"] == 1


def test_watching_through_a_pipe_prints_blocks_until_it_is_interrupted(
    served: tuple[Site, Serving],
) -> None:
    site, _ = served
    argv = [*PALACE, "status", "--watch"]
    with subprocess.Popen(
        argv, env=site.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        blocks = 0
        while blocks < 2:
            blocks += watching.stdout.readline().startswith("palace ")
        watching.send_signal(signal.SIGINT)
        rest, complaints = watching.stdout.read(), watching.stderr.read()

    assert watching.returncode == 0
    assert complaints == ""
    assert "\x1b" not in rest


def test_watching_into_a_pipe_that_nobody_reads_ends_quietly(served: tuple[Site, Serving]) -> None:
    site, _ = served
    with subprocess.Popen(
        [*PALACE, "status", "--watch"],
        env=site.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stdout.readline()
        watching.stdout.close()
        complaints = watching.stderr.read()

    assert (watching.returncode, complaints) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-C", "SIGTERM"])
def test_watching_on_a_terminal_leaves_nothing_behind(
    served: tuple[Site, Serving], number: int
) -> None:
    site, _ = served
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    before = termios.tcgetattr(slave)
    argv = [*PALACE, "status", "--watch"]
    with subprocess.Popen(argv, env=site.environ(), stdout=slave, stderr=slave) as watching:
        shown = ""
        while shown.count("\x1b[H") < 2:
            shown += os.read(master, 65_536).decode()
        watching.send_signal(number)
        watching.wait(60)
    after = termios.tcgetattr(slave)
    os.close(slave)
    shown += _rest(master)

    assert watching.returncode == 0
    assert after == before
    assert shown.startswith("\x1b[?1049h\x1b[?25l")
    assert shown.endswith(LEAVE)
    drawn = shown.removesuffix(LEAVE).split("\x1b[H")[-1]
    rows = re.sub(r"\x1b\[\w", "", drawn).split("\r\n")
    assert rows[0].startswith("palace ")
    assert len(rows) <= 9
    assert max(map(len, rows)) <= 40


def _rest(master: int) -> str:
    data = b""
    try:
        while piece := os.read(master, 65_536):
            data += piece
    except OSError:  # how Linux says that a terminal's other end is closed
        pass
    os.close(master)
    return data.decode()


def test_a_picture_is_cut_to_the_terminal_and_wipes_what_was_there() -> None:
    assert picture("abcdef\nx\ny\nz", 4, 3) == "\x1b[Habcd\x1b[K\nx\x1b[K\x1b[J"


def test_lines_that_an_opening_passed_over_are_counted(served: tuple[Site, Serving]) -> None:
    site, _ = served
    with site.shim() as client:
        assert client.tool("add_drawer", who="w", nonce="n", parts=1)["success"]
        assert site.status()["journal"]["broken_lines"] == 0
        site.kill_broker()
        newest = Path(list_segments(journal(site), KERNEL)[-1].path)
        written = newest.read_bytes().rstrip(b"\0")
        newest.write_bytes(written + written.splitlines(keepends=True)[-1][:40] + b"\n")
        assert client.tool("add_drawer", who="w", nonce="m", parts=1)["success"]

        assert site.status()["journal"]["broken_lines"] == 1
        assert "1 lines are no records, see palace doctor" in site.run("status").stdout


@pytest.mark.engine
def test_the_backend_of_drawers_is_named_where_it_is_not_chroma(
    tmp_path: Path, model_home: Path
) -> None:
    for backend in ("chroma", "sqlite_exact"):
        site = make_site(tmp_path / backend, model_home, backend=backend)
        try:
            assert site.run("start").returncode == 0
            assert site.status()["engine"]["backend"] == backend
            told = f", drawers in {backend}" in site.run("status").stdout
            assert told is (backend != "chroma")
        finally:
            end_brokers(site.palace.parent)
