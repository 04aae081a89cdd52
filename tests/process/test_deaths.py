"""Real brokers that die, and real ones that leave: each death is recorded once, nothing else is.

The brokers have the light store, so that one serves within a second.  PALACE_TEST_PROFILE=deep has
100 kills, 100 deliberate ends and 200 races of a stop with a kill, where the quick one has a few.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.deaths import canary_mib, mark_of_the_living
from palace.canary.records import Death, deaths_of
from palace.client.control import Control
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.model.follow import read_trace
from tests.support.brokers.loglines import fields_of
from tests.support.engines.light.engine import STORE
from tests.support.faults.killing import is_deep
from tests.support.loads.light import sandbox, storm_site
from tests.support.processes.brokers import (
    call_line,
    children_of,
    holders_of,
    is_alive,
    state_of,
    status_of,
    wait_gone,
)
from tests.support.processes.clients import PALACE, Client, Site, end_brokers, wait_until

pytestmark = pytest.mark.process
KERNEL = Kernel()
KILLS = 100 if is_deep() else 4
ENDS = 100 if is_deep() else 11
RACES = 200 if is_deep() else 4
STORMS = 50 if is_deep() else 3  # of each other way to end
SEEDS = (11, 12, 13)
CANARY = b"watch.py"
LARGE = 24 << 20
GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = storm_site(tmp_path_factory.mktemp("deaths"))
    try:
        yield site
    finally:
        end_brokers(site.palace)
        wait_until(lambda: not canaries(site), 60, "the canaries have ended")


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """A palace without a broker, and without a record of any."""
    stop(shared)
    assert shared.run("deaths", "--clear").returncode == 0
    yield shared
    stop(shared)


def stop(site: Site) -> None:
    site.run("stop")
    wait_until(lambda: not marks(site), 60, "nobody is left, and all is told")


def serve(site: Site) -> int:
    """Start a broker that serves; return its pid."""
    assert site.run("ensure").returncode == 0
    return int(site.record()["pid"])


def canary_of(pid: int) -> int:
    """Return the canary that watches a broker, 0 where it has none."""
    for child in children_of(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if CANARY in words and state_of(child) not in ("Z", ""):
            return child
    return 0


def canaries(site: Site) -> list[int]:
    """Return the canaries of a palace's brokers, which hold its directory of records."""
    place = str(site.palace / "deaths")
    return [pid for pid in holders_of(Path(place)) if pid != os.getpid()]


def listens(pid: int) -> bool:
    """Tell whether a canary has got as far as catching signals."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = int(next(row for row in rows if row.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def watched(site: Site) -> tuple[int, int]:
    """Start a broker; return its pid and that of its canary, which listens."""
    pid = serve(site)
    canary = canary_of(pid)
    assert canary
    wait_until(lambda: listens(canary), what="the canary listens")
    return pid, canary


def marks(site: Site) -> list[str]:
    return [path.name for path in (site.palace / "deaths").glob("*.armed")]


def deaths(site: Site) -> list[Death]:
    return list(deaths_of(str(site.palace), KERNEL))


def wait_told(site: Site, count: int) -> list[Death]:
    """Wait until so many deaths are recorded, whole; return them."""
    wait_until(lambda: len(deaths(site)) >= count, 60, f"{count} deaths are recorded")
    return deaths(site)


def lines(site: Site, **wanted: str) -> list[dict[str, str]]:
    """Return the lines of the lifecycle log that have these fields."""
    found = []
    for name in ("lifecycle.log.1", "lifecycle.log"):
        path = site.palace / name
        if path.exists():
            found += [fields_of(line) for line in path.read_text().splitlines()]
    return [line for line in found if wanted.items() <= line.items()]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def test_each_killed_broker_is_recorded_once_and_every_session_survives(site: Site) -> None:
    dice = random.Random(SEEDS[0])
    killed: dict[int, int] = {}
    clients = [site.shim() for _ in range(4)]
    try:
        for turn in range(4 * KILLS):
            if len(killed) == KILLS:
                break
            for client in clients:
                client.tool("add_drawer", wing="w", room="r", content=f"turn {turn}")
            record = site.record()
            if record["epoch"] in killed:  # only the record is left of it
                continue
            time.sleep(dice.random() * 0.05)
            killed[record["epoch"]] = record["pid"]
            kill(record["pid"])
            wait_gone(record["pid"])
        for client in clients:
            client.tool("search", query="turn")
        found = wait_told(site, KILLS)
    finally:
        codes = [client.close() for client in clients]

    assert codes == [0] * 4
    assert len(killed) == KILLS
    assert [death.owner.epoch for death in found] == sorted(killed)
    assert {death.cause for death in found} == {"vanished"}
    assert [death.fields["server_pid"] for death in found] == [
        str(killed[e]) for e in sorted(killed)
    ]
    told = [line for line in lines(site, ev="server-exit") if int(line["epoch"]) in killed]
    assert sorted(int(line["epoch"]) for line in told) == sorted(killed)


def test_a_test_that_ends_its_brokers_ends_what_watched_them(short_dir: Path) -> None:
    """Else it writes beneath a directory that is being removed."""
    site = storm_site(short_dir)
    killed, canary = watched(site)
    kill(killed)
    living, another = watched(site)
    end_brokers(site.palace)
    assert [pid for pid in (killed, canary, living, another) if is_alive(pid)] == []


def test_the_canary_that_is_measured_is_the_one_that_watches(site: Site) -> None:
    """The killed broker's mark is there for seconds, while its canary makes sure of the death."""
    pid, _ = watched(site)
    kill(pid)
    wait_gone(pid)
    living = serve(site)
    assert len(marks(site)) == 2, "it was killed a moment ago"

    mark = mark_of_the_living(site.palace)
    assert fields_of(mark.read_text())["canary_pid"] == str(canary_of(living))
    assert marks(site) == [mark.name]
    assert min(canary_mib(mark)) > 0


def ask_for_upgrade(site: Site) -> None:
    """Ask the broker to make room, as a younger version of palace does."""
    with Control(Paths(str(site.palace)), ShimEnvironment(site.environ())) as control:
        control.ask("upgrade")


@contextmanager
def without_engine(site: Site) -> Iterator[None]:
    """Let no broker open its store: something else has its name."""
    store, kept = site.palace / STORE, site.palace / "kept"
    if store.exists():
        store.rename(kept)
    store.mkdir()
    try:
        yield
    finally:
        store.rmdir()
        if kept.exists():
            kept.rename(store)


@contextmanager
def served_by_its_client(site: Site) -> Iterator[tuple[Client, int]]:
    """A client whose shim serves the palace itself, where no broker may outlive a command."""
    sandbox(site).touch()
    try:
        with site.shim() as client:
            client.tool("search", query="x")
            assert site.record()["mode"] == "direct"
            yield client, int(site.record()["pid"])
    finally:
        sandbox(site).unlink()


def end_of(site: Site, way: str) -> None:
    """Let a broker come to its own end, in one of the ways that there are."""
    if way == "direct":
        with served_by_its_client(site) as (client, _):
            assert client.close() == 0
    elif way == "failed":
        with without_engine(site):
            site.run("ensure")
            wait_until(lambda: not marks(site), 60, "it has given up")
    elif way == "idle":
        assert site.run("ensure", PALACE_IDLE_S="0.3").returncode == 0
    else:
        pid = serve(site)
        if way.startswith("SIG"):
            kill(pid, getattr(signal, way))
        elif way == "upgrade":
            ask_for_upgrade(site)
        elif way == "moved":
            elsewhere = site.palace.with_name("elsewhere")
            site.palace.rename(elsewhere)
            wait_gone(pid)
            elsewhere.rename(site.palace)
        else:
            assert site.run(*way.split()).returncode == 0
    wait_until(lambda: not marks(site), 60, f"it has ended by {way}")


WAYS = (
    "stop",
    "SIGTERM",
    "SIGINT",
    "SIGHUP",
    "stop --now",
    "idle",
    "moved",
    "upgrade",
    "direct",
    "failed",
    "doctor --compact --stop",
)


def test_no_deliberate_end_is_recorded(site: Site) -> None:
    for turn in range(ENDS):
        end_of(site, WAYS[turn % len(WAYS)])

    wait_until(lambda: not canaries(site), 60, "no canary is left")
    assert deaths(site) == []


def test_a_client_that_is_its_brokers_parent_may_leave(site: Site) -> None:
    with site.shim(PALACE_NO_SPAWN="") as client:
        client.tool("search", query="x")
    stop(site)
    assert deaths(site) == []


def race(site: Site, delay_s: float) -> int:
    """Stop a broker and kill it; return its epoch."""
    pid = serve(site)
    record = site.palace / "broker.json"
    epoch = int(site.record()["epoch"])
    stopping = subprocess.Popen([*PALACE, "stop"], env=site.environ(), stderr=subprocess.PIPE)
    wait_until(lambda: not record.exists() or stopping.poll() is not None, what="it leaves")
    time.sleep(delay_s)
    kill(pid)
    stopping.communicate()
    wait_gone(pid)
    return epoch


def raced_ends(site: Site, dice: random.Random, way: str) -> int:
    """Let a broker begin to end in a way, and kill it a moment later; return its epoch."""
    if way == "direct":
        with served_by_its_client(site) as (client, pid):
            epoch = int(site.record()["epoch"])
            assert client.process.stdin is not None
            client.process.stdin.close()
            time.sleep(dice.random() * 0.2)
            kill(pid)
            wait_gone(pid)
        return epoch
    if way == "failed":
        with without_engine(site):
            starting = subprocess.Popen(
                [*PALACE, "ensure"], env=site.environ(), stderr=subprocess.DEVNULL
            )
            wait_until(lambda: bool(marks(site)), what="it has a canary")
            (mark,) = (site.palace / "deaths").glob("*.armed")
            pid, epoch = (
                int(fields_of(mark.read_text())["server_pid"]),
                int(mark.name.split("-")[0]),
            )
            time.sleep(dice.random() * 2)
            kill(pid)
            starting.wait(60)
            wait_gone(pid)
            stop(site)  # of one that was started since
        return epoch
    pid, epoch = serve(site), int(site.record()["epoch"])
    ask_for_upgrade(site)
    time.sleep(dice.random() * 0.05)
    kill(pid)
    wait_gone(pid)
    return epoch


@pytest.mark.parametrize("way", ["upgrade", "direct", "failed"])
def test_an_end_that_races_a_kill_is_recorded_once_or_never(site: Site, way: str) -> None:
    dice = random.Random(f"{SEEDS[2]} {way}")
    trace = site.home / f"{way}.jsonl"
    site.extra["PALACE_TRACE"] = str(trace)
    try:
        epochs = {raced_ends(site, dice, way) for _ in range(STORMS)}
    finally:
        del site.extra["PALACE_TRACE"]
    wait_until(lambda: not canaries(site), 60, "all canaries have ended")
    serve(site)  # which tells what they could not

    told = [int(line["epoch"]) for line in lines(site, ev="server-exit")]
    recorded = [epoch for epoch in told if epoch in epochs]
    left = {int(line["epoch"]) for line in lines(site, ev="owner", state="left")}
    assert len(set(recorded)) == len(recorded), "never two records of one"
    assert not set(recorded) & left, "no record of one that has left"
    told_of = set(recorded) | left | ended_unserved(site)
    # Killed after it had told its canary that it left, and before it had told the log.
    silent = (epochs - told_of) & ended_by_themselves(trace)
    assert epochs <= told_of | silent, "none is forgotten"
    print(f"{way}: {len(recorded)} of {len(epochs)} were killed before they had left")
    print(f"{way}: {len(silent)} were killed between their last two acts")


def ended_by_themselves(trace: Path) -> set[int]:
    """Return the epochs of owners that came to their last act."""
    events = read_trace(trace)
    epochs = {event["pid"]: event["epoch"] for event in events if event["act"] == "B5.epoch"}
    return {epochs[event["pid"]] for event in events if event["act"] == "X6.exit"}


def ended_unserved(site: Site) -> set[int]:
    """Return the epochs of owners that were over before they had served."""
    told = [*lines(site, ev="owner", state="refused"), *lines(site, state="vanished-starting")]
    return {int(line["epoch"]) for line in told}


def test_a_stop_that_races_a_kill_is_one_or_the_other(site: Site) -> None:
    """What was told on the pipe decides; an owner that told it goes on to say so in the log."""
    dice = random.Random(SEEDS[1])
    trace = site.home / "stop.jsonl"
    site.extra["PALACE_TRACE"] = str(trace)
    try:
        epochs = {race(site, dice.random() * 0.03) for _ in range(RACES)}
    finally:
        del site.extra["PALACE_TRACE"]
    wait_until(lambda: not canaries(site), 60, "all canaries have ended")
    serve(site)  # which tells what they could not
    ends = lines(site, ev="server-exit")
    recorded = [int(line["epoch"]) for line in ends if int(line["epoch"]) in epochs]
    left = {int(line["epoch"]) for line in lines(site, ev="owner", state="left")}

    assert len(set(recorded)) == len(recorded), "never two records of one"
    assert not set(recorded) & left, "no record of one that has left"
    # Killed after it had told its canary that it left, and before it had told the log.
    silent = (epochs - left - set(recorded)) & ended_by_themselves(trace)
    assert epochs == (set(recorded) | left | silent) & epochs, "none is forgotten"
    assert {death.cause for death in deaths(site)} <= {"died-leaving", "vanished"}
    print(f"{len(recorded)} of {RACES} were killed before they had left")


def test_a_sweep_by_name_is_told_as_one(site: Site) -> None:
    pid, canary = watched(site)
    kill(pid, signal.SIGSTOP)  # else it would have left by the time of the second signal
    for victim in (canary, pid):
        kill(victim, signal.SIGTERM)
    wait_until(lambda: "ShdPnd:\t0000000000000000" in Path(f"/proc/{canary}/status").read_text())
    kill(pid)

    (death,) = wait_told(site, 1)
    assert death.cause == "swept"
    assert death.fields["signalled"].startswith("TERM:")


def test_a_canary_that_is_killed_is_replaced_and_no_death(site: Site) -> None:
    pid, canary = watched(site)
    epoch = str(site.record()["epoch"])
    kill(canary)
    wait_until(lambda: canary_of(pid) not in (0, canary), what="another canary")
    status = status_of(site)

    assert status["pid"] == pid
    assert (status["canary"]["state"], status["canary"]["lost"]) == ("armed", 1)
    again = canary_of(pid)
    assert lines(site, ev="canary", origin="retrofit", canary_pid=str(again))
    assert deaths(site) == []
    wait_until(lambda: listens(again), what="it listens")
    kill(pid)
    (death,) = wait_told(site, 1)
    assert str(death.owner.epoch) == epoch
    assert death.cause == "vanished"


def test_canary_broker_and_the_next_brokers_first_try_are_killed_and_one_record_is_left(
    site: Site,
) -> None:
    pid, canary = watched(site)
    epoch = site.record()["epoch"]
    kill(pid, signal.SIGSTOP)  # it can't replace its canary
    kill(canary)
    kill(pid)
    wait_gone(pid)
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.2):
        first = subprocess.Popen([*PALACE, "serve"], env=site.environ(), stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        first.kill()
        first.wait()
    serve(site)

    found = [death for death in wait_told(site, 1) if death.owner.epoch == epoch]
    assert [death.cause for death in found] == ["unwitnessed"]
    assert len(lines(site, ev="server-exit", epoch=str(epoch))) == 1
    wait_until(lambda: len(marks(site)) == 1, 60, "only the owner that serves has a mark")


def test_a_broker_that_is_only_halted_is_not_dead(site: Site) -> None:
    pid, canary = watched(site)
    kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T")
    time.sleep(30 if is_deep() else 3)  # what is tested is the time itself
    kill(pid, signal.SIGCONT)

    assert status_of(site)["pid"] == pid
    assert canary_of(pid) == canary
    assert deaths(site) == []


def test_without_a_place_for_records_a_broker_serves_and_says_so(site: Site) -> None:
    place = site.palace / "deaths"
    place.chmod(0o777)
    try:
        pid = serve(site)
        status = status_of(site)
        findings = [json.loads(row) for row in site.run("doctor", "--json").stdout.splitlines()]

        assert (status["pid"], status["canary"]["state"]) == (pid, "failed")
        assert "others may write to it" in status["canary"]["problem"]
        (unwatched,) = [one for one in findings if one["code"] == "unwatched"]
        assert "others may write to it" in unwatched["text"]
        assert lines(site, ev="canary", state="failed", pid=str(pid))
    finally:
        place.chmod(0o700)
    wait_until(lambda: canary_of(pid), 60, "it has got a canary, now that it can")
    wait_until(lambda: marks(site), what="and a mark")
    assert status_of(site)["canary"] == {
        "state": "armed",
        "pid": canary_of(pid),
        "lost": 0,
        "problem": "",
    }


def test_the_setting_switches_it_off(site: Site) -> None:
    settings = site.palace / "palace.toml"
    before = settings.read_text()
    settings.write_text(before + "canary = false\n")
    try:
        pid = serve(site)
        assert canary_of(pid) == 0
        assert status_of(site)["canary"]["state"] == "skipped"
        assert marks(site) == []
        assert lines(site, ev="canary", state="skipped", pid=str(pid))
        stop(site)
    finally:
        settings.write_text(before)


def test_people_and_programs_are_told_of_a_death(site: Site) -> None:
    pid, _ = watched(site)
    kill(pid)
    (death,) = wait_told(site, 1)
    serve(site)
    findings = [json.loads(row) for row in site.run("doctor", "--json").stdout.splitlines()]

    (told,) = [one for one in findings if one["code"] == "deaths"]
    assert "nothing tells by what (vanished)" in told["text"]
    assert death.file in told["remedy"]
    last = status_of(site)["deaths"]["last"]
    assert (last["cause"], last["server_pid"], last["file"]) == ("vanished", str(pid), death.file)
    assert "1, the last" in site.run("status").stdout
    assert f"pid {pid}" in site.run("deaths").stdout
    shown = site.run("logs", "--lifecycle").stdout
    assert "ev=server-exit" in shown
    assert "== largest processes" in Path(death.file).read_text()
    assert Path(death.file).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not os.access(GROUPS, os.W_OK), reason="no memory group can be made here")
def test_a_broker_that_is_killed_for_want_of_memory_is_told_as_such(site: Site) -> None:
    group = GROUPS / f"palace-test-{os.getpid()}"
    group.mkdir()
    members = group / "cgroup.procs"
    enter = f"open({str(members)!r}, 'w').write(str(os.getpid()))"
    start = f"import os, sys; {enter}; os.execv(sys.executable, sys.argv[1:])"
    argv = [sys.executable, "-c", start, *PALACE, "serve"]
    try:
        broker = subprocess.Popen(argv, env=site.environ(), stderr=subprocess.DEVNULL)
        wait_until((site.palace / "broker.json").exists, what="it serves")
        with site.shim() as client:
            client.tool("search", query="x")
            used = int((group / "memory.usage_in_bytes").read_text())
            (group / "memory.limit_in_bytes").write_text(str(used + (16 << 20)))
            client.send(call_line("large", "add_drawer", wing="w", room="r", content="x" * LARGE))
            assert broker.wait(60) == -signal.SIGKILL
            (group / "memory.limit_in_bytes").write_text("-1")  # the next one is somewhere else
            (death,) = wait_told(site, 1)
        assert death.cause == "oom"
        assert death.fields["oom_kill"] == "+1"
        assert "memory.failcnt" in Path(death.file).read_text()
    finally:
        stop(site)
        wait_until(lambda: not members.read_text(), 60, "the group is empty")
        group.rmdir()
