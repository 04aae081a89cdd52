"""The canary itself, as a process: told by bytes, judged by identity, and never in the way.

The owner is a process that sleeps, and the test holds the pipe for it; so each case ends the two as
it likes.  Each takes the grace of two seconds, so all are started at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from palace.broker.canary import PIPE_FD, PROGRAM, Canary
from palace.canary.lifecycle_log import NAME as LOG
from palace.canary.process import SIGNALS
from palace.canary.process import Canary as Process
from palace.canary.records import deaths_of
from palace.kernel.kernel import Kernel
from palace.protocol import deaths, wire
from tests.support.brokers.loglines import fields_of
from tests.support.machines.needs import need_command, need_root
from tests.support.processes.brokers import state_of
from tests.support.processes.clients import wait_until

pytestmark = pytest.mark.process
KERNEL = Kernel()
EPOCH, INCARNATION = 7, "a" * 32


@dataclass
class Case:
    """One canary, its owner, and the palace of the two."""

    root: Path
    owner: subprocess.Popen[bytes]
    canary: Canary
    mode: int = 0o700
    told: dict[str, str] = field(default_factory=dict)

    def arm(self) -> None:
        (self.root / "deaths").mkdir(parents=True)
        (self.root / "deaths").chmod(self.mode)
        about = {
            "pid": str(self.owner.pid),
            "start_time": KERNEL.start_time(self.owner.pid),
            "epoch": str(EPOCH),
            "incarnation": INCARNATION,
            "root": str(self.root),
        }
        self.canary.arm(about | self.told)
        # Until it listens, a signal ends it as it ends any process that has only begun.
        caught = 1 << (signal.SIGTERM - 1)
        wait_until(lambda: self._caught() & caught, what="the canary listens")

    def _caught(self) -> int:
        rows = Path(f"/proc/{self.canary.pid}/status").read_text().splitlines()
        return int(next(row for row in rows if row.startswith("SigCgt")).split()[1], 16)

    def pending(self) -> bool:
        """Tell whether signals to the canary wait to be taken."""
        rows = Path(f"/proc/{self.canary.pid}/status").read_text().splitlines()
        return any(int(row.split()[1], 16) for row in rows if row.startswith(("SigPnd", "ShdPnd")))

    def say(self, *words: str) -> None:
        names = {deaths.LEAVING: "reason", deaths.LEFT: "reason", deaths.CLAIM: "cause"}
        for word in words:
            kind, _, value = word.partition(" ")
            self.canary.say(kind, **({names[kind]: value} if kind in names else {}))

    def kill(self) -> None:
        """End the owner, unreaped: what only waits for its parent is dead all the same."""
        self.owner.kill()
        wait_until(lambda: state_of(self.owner.pid) == "Z", what="the owner is dead")

    def close(self) -> None:
        os.close(self.canary._pipe)
        self.canary._pipe = -1

    def die(self, *words: str) -> None:
        self.say("serving", *words)
        self.kill()
        self.close()

    @property
    def mark(self) -> Path:
        return self.root / "deaths" / f"{EPOCH}-{INCARNATION}.armed"

    @property
    def causes(self) -> list[str]:
        return [death.cause for death in deaths_of(str(self.root), KERNEL)]

    @property
    def fields(self) -> dict[str, str]:
        (death,) = deaths_of(str(self.root), KERNEL)
        return death.fields

    def lines(self) -> list[dict[str, str]]:
        path = self.root / LOG
        return [fields_of(row) for row in path.read_text().splitlines()] if path.exists() else []

    def wait(self) -> None:
        wait_until(lambda: KERNEL.reap(self.canary.pid) is not None, 60, "the canary has ended")

    def end(self) -> None:
        self.owner.kill()
        self.owner.wait()
        if self.canary._pipe >= 0:
            self.close()


def never_served(case: Case) -> None:
    case.mark.touch(0o600)
    case.kill()
    case.close()


def swept(case: Case) -> None:
    case.say("serving")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(case.canary.pid, number)
    case.say("leaving stop")
    wait_until(lambda: not case.pending(), what="the signals are taken")
    case.kill()
    case.close()


def out_of_order(case: Case) -> None:
    """The pipe ends while its owner lives."""
    case.say("serving")
    case.close()


def dead_within_the_grace(case: Case) -> None:
    """It hangs up first, as a process does that takes long to end."""
    case.say("serving")
    case.close()
    time.sleep(0.3)  # not the whole grace
    case.kill()


def number_of_another(case: Case) -> None:
    case.say("serving")
    case.close()


def directory_removed(case: Case) -> None:
    case.say("serving")
    os.rmdir(case.root / "deaths")
    (case.root / "deaths").mkdir(0o700)
    case.kill()
    case.close()


def palace_moved(case: Case) -> None:
    case.say("serving")
    case.root.rename(case.root.with_name("moved"))
    case.root = case.root.with_name("moved")
    case.kill()
    case.close()


def palace_removed(case: Case) -> None:
    case.say("serving")
    os.rmdir(case.root / "deaths")
    os.rmdir(case.root)
    case.kill()
    case.close()


def squatted(case: Case) -> None:
    case.die()


def recorded_before(case: Case) -> None:
    (case.root / "deaths" / f"{EPOCH}-{INCARNATION}.txt").write_text("cause=unwitnessed\n")
    case.die()


def second_clock(case: Case) -> None:
    log = Path(case.told["log"])
    log.write_text(f"time=t pid={case.owner.pid} text=x\nTimeout (0:10:02)!\nThread 0x1:\n")
    case.die()


def odd_name(case: Case) -> None:
    case.die()


ACTS: dict[str, Callable[[Case], None]] = {
    "vanished": lambda case: case.die(),
    "watchdog": lambda case: case.die("claim watchdog"),
    "crashed": lambda case: case.die("claim crashed ValueError"),
    "died leaving": lambda case: case.die("leaving idle"),
    "left": lambda case: case.die("leaving idle", "left idle"),
    "left at once": lambda case: case.die("left failed"),
    "never served": never_served,
    "swept": swept,
    "lost": out_of_order,
    "dead within the grace": dead_within_the_grace,
    "number of another": number_of_another,
    "directory removed": directory_removed,
    "palace moved": palace_moved,
    "palace removed": palace_removed,
    "squatted": squatted,
    "recorded before": recorded_before,
    "second clock": second_clock,
    "odd name": odd_name,
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """All cases, over: each canary has ended by itself."""
    top = tmp_path_factory.mktemp("canaries")
    found: dict[str, Case] = {}
    try:
        for number, (name, act) in enumerate(ACTS.items()):
            root = top / ("$(touch x);\n'\" " if name == "odd name" else str(number))
            sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
            case = found[name] = Case(root, sleeper, Canary(kernel=KERNEL))
            if name == "squatted":
                case.mode = 0o777
            if name == "number of another":
                case.told["start_time"] = "1"
            if name == "second clock":
                case.told["log"] = str(top / "broker.log")
            case.arm()
            act(case)
        for case in found.values():
            case.wait()
        yield found
    finally:
        for case in found.values():
            case.end()


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("vanished", deaths.VANISHED),
        ("watchdog", deaths.WATCHDOG),
        ("crashed", deaths.CRASHED),
        ("died leaving", deaths.DIED_LEAVING),
        ("swept", deaths.SWEPT),
        ("dead within the grace", deaths.VANISHED),
        ("number of another", deaths.VANISHED),
        ("directory removed", deaths.VANISHED),
        ("palace moved", deaths.VANISHED),
        ("second clock", deaths.WATCHDOG),
        ("odd name", deaths.VANISHED),
    ],
)
def test_a_death_is_recorded_once_with_its_cause(
    cases: dict[str, Case], name: str, cause: str
) -> None:
    case = cases[name]

    assert case.causes == [cause]
    (line,) = case.lines()
    assert (line["ev"], line["cause"], line["epoch"]) == ("server-exit", cause, str(EPOCH))
    assert line["server_pid"] == str(case.owner.pid)
    assert "== memory" in Path(next(deaths_of(str(case.root), KERNEL)).file).read_text()


@pytest.mark.parametrize("name", ["left", "left at once"])
def test_a_deliberate_end_leaves_nothing(cases: dict[str, Case], name: str) -> None:
    assert cases[name].causes == []
    assert cases[name].lines() == []


def test_what_was_said_and_seen_is_kept_beside_the_verdict(cases: dict[str, Case]) -> None:
    assert cases["crashed"].fields["claimed"] == "crashed ValueError"
    assert cases["died leaving"].fields["leaving"] == "idle"
    swept_fields = cases["swept"].fields
    assert swept_fields["leaving"] == "stop"
    names = {word.partition(":")[0] for word in swept_fields["signalled"].split(",")}
    assert names == {"TERM", "HUP", "INT"}


def test_a_lost_pipe_is_logged_and_is_no_death(cases: dict[str, Case]) -> None:
    (line,) = cases["lost"].lines()

    assert (line["ev"], line["state"]) == ("canary", "lost")
    assert cases["lost"].causes == []


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put back what a canary in this process has done about signals."""
    kept = {number: signal.getsignal(number) for number in SIGNALS.values()}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_death_is_noticed_though_a_descendant_holds_the_pipe_open(
    tmp_path: Path, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palace.canary.process.LOOK_S", 0.05)
    monkeypatch.setattr(deaths, "GRACE_S", 0.0)
    KERNEL.make_directory(f"{tmp_path}/deaths")
    with subprocess.Popen(["true"]) as gone:
        started = KERNEL.start_time(gone.pid)
    about = {
        "pid": str(gone.pid),
        "start_time": started,
        "epoch": str(EPOCH),
        "incarnation": INCARNATION,
        "root": str(tmp_path),
    }
    reading, writing = os.pipe()
    os.write(
        writing, wire.encode_header(deaths.ARMED, about) + wire.encode_header(wire.SERVING, {})
    )
    try:
        assert Process(KERNEL, reading).run() == 0
    finally:
        os.close(reading)
        os.close(writing)

    assert [death.cause for death in deaths_of(str(tmp_path), KERNEL)] == [deaths.VANISHED]


def test_an_end_before_it_served_is_logged_and_is_no_death(cases: dict[str, Case]) -> None:
    assert not cases["never served"].mark.exists(), "the next owner would take it for a death"
    (line,) = cases["never served"].lines()

    assert (line["ev"], line["state"]) == ("owner", "vanished-starting")
    assert cases["never served"].causes == []


def test_where_nothing_can_be_recorded_nothing_is_made(cases: dict[str, Case]) -> None:
    assert not cases["palace removed"].root.exists()
    assert not list((cases["squatted"].root / "deaths").iterdir())
    assert cases["recorded before"].fields == {"cause": "unwitnessed"}
    assert cases["recorded before"].lines() == []
    assert not list(cases["odd name"].root.parent.glob("x"))


def links_of(pid: int) -> dict[int, str]:
    held = Path(f"/proc/{pid}/fd").iterdir()
    return {int(entry.name): os.readlink(entry) for entry in held}


def test_it_holds_nothing_but_its_pipe_and_the_directory_and_knows_no_environment(
    tmp_path: Path,
) -> None:
    sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    case = Case(tmp_path / "palace", sleeper, Canary(kernel=KERNEL))
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        case.arm()
        pid = case.canary.pid
        place = str(case.root / "deaths")
        wait_until(lambda: place in links_of(pid).values(), what="it is armed")
        links = links_of(pid)
        assert sorted(links) == [0, 1, 2, 3, 4]
        assert {links[fd] for fd in range(3)} == {os.devnull}
        assert links[PIPE_FD].startswith("pipe:")
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        assert os.getsid(pid) == pid
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert words[1:4] == [b"-I", b"-S", PROGRAM.encode()]
        case.say("left stop")
        case.wait()
    finally:
        os.close(other)
        case.end()


# In a namespace where numbers are given out as one likes: another process gets the dead one's.
REUSED = """
import os, subprocess, sys, time
from palace.broker.canary import Canary
from palace.kernel.kernel import Kernel

kernel, root = Kernel(), sys.argv[1]
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
owner = subprocess.Popen(SLEEP)
canary = Canary(kernel=kernel)
os.makedirs(f"{root}/deaths", 0o700)
about = {"pid": str(owner.pid), "start_time": kernel.start_time(owner.pid), "epoch": "7"}
canary.arm(about | {"incarnation": "a" * 32, "root": root})
canary.say("serving")
time.sleep(0.05)  # else both would have started in one tick of the kernel's clock
owner.kill()
owner.wait()
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(owner.pid - 1))
heir = subprocess.Popen(SLEEP)
assert heir.pid == owner.pid, (heir.pid, owner.pid)
os.close(canary._pipe)
while kernel.reap(canary.pid) is None:
    time.sleep(0.05)
assert heir.poll() is None
"""


def test_a_number_that_another_process_has_got_hides_no_death(tmp_path: Path) -> None:
    need_root()
    space = [need_command("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    argv = [*space, sys.executable, "-P", "-c", REUSED, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert [death.cause for death in deaths_of(str(tmp_path), KERNEL)] == [deaths.VANISHED]


def test_a_stopped_canary_holds_up_nobody(tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    case = Case(tmp_path / "palace", sleeper, Canary(kernel=KERNEL))
    try:
        case.arm()
        os.kill(case.canary.pid, signal.SIGSTOP)
        for _ in range(3000):  # more than a pipe takes
            case.say("leaving " + "x" * 60)
        os.kill(case.canary.pid, signal.SIGKILL)
        case.wait()
    finally:
        case.end()
