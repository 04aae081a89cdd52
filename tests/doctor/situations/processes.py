"""Other processes that hold what a broker needs, and what this environment says."""

import os
import signal
import sys
from pathlib import Path

from palace.doctor.finding import ERROR, WARNING
from palace.ownership.lock import mempalace_lock_path
from palace.protocol import wire
from tests.doctor.situations.place import KERNEL, Place, Situation
from tests.support.machines.needs import need_root

HOLD = (
    "import fcntl, os, sys, time; os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True); "
    "f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print('has it', flush=True); "
    "time.sleep(600)"
)


def _held(place: Place, path: str, **environ: str) -> None:
    process = place.start([sys.executable, "-c", HOLD, path], **environ)
    place.environ["HOLDER"] = str(process.pid)


def holder_ended(place: Place) -> None:
    pid = int(place.environ.pop("HOLDER"))
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def stock_writes(place: Place) -> None:
    _held(place, mempalace_lock_path(place.paths, place.environ))


def _stocks_daemon(place: Place) -> None:
    lock = mempalace_lock_path(place.paths, place.environ)
    _run_by(place, "mempalace", "daemon", lock)


def silent_owner(place: Place) -> None:
    _held(place, place.paths.lock)


def hidden_owner(place: Place) -> None:
    need_root()
    hold = ["unshare", "--mount", sys.executable, "-c", HOLD, place.paths.lock]
    place.environ["HOLDER"] = str(place.start(hold).pid)


def maintained(place: Place) -> None:
    _run_by(place, "palace", "rebuild", place.paths.lock)


def _run_by(place: Place, name: str, command: str, lock: str) -> None:
    """Hold a lock by a command, as pip installs it: the interpreter runs a script."""
    program = place.home / "bin" / name
    program.parent.mkdir()
    program.write_text(HOLD.replace("argv[1]", "argv[2]"))
    process = place.start([sys.executable, str(program), command, lock])
    place.environ["HOLDER"] = str(process.pid)


def opened(place: Place) -> None:
    _held(place, f"{place.palace}/chroma.sqlite3")


def opened_from_another_home(place: Place) -> None:
    _held(place, f"{place.palace}/chroma.sqlite3", HOME="/elsewhere")


def shared_list(place: Place) -> None:
    _held(place, f"{place.home}/tunnels.json.owner.lock")


def named_broker(place: Place) -> None:
    place.environ["MEMPALACE_BROKER"] = f"unix:{place.home}/nobody.sock"


def not_named(place: Place) -> None:
    del place.environ["MEMPALACE_BROKER"]


def another_embedder(place: Place) -> None:
    (place.palace / "palace.toml").write_text("environment = {}\n")
    place.environ["MEMPALACE_EMBEDDING_MODEL"] = "another/model"


def embedder_unset(place: Place) -> None:
    del place.environ["MEMPALACE_EMBEDDING_MODEL"]


def newer_palace(place: Place) -> None:
    (place.palace / "protocol").write_text(f"{wire.VERSION + 1} 9.9.9\n")


def gone_back(place: Place) -> None:
    (place.palace / "protocol").unlink()


def on_hold(place: Place) -> None:
    Path(place.paths.hold).write_text("2026-01-01T00:00:00Z\n")


def hold_ended(place: Place) -> None:
    KERNEL.unlink(place.paths.hold)  # what `palace start` does first


def unmounted(place: Place) -> None:
    place.found_by = "MEMPALACE_PATH"
    place.home.rename(place.home.with_name("unmounted"))


def mounted(place: Place) -> None:
    place.home.with_name("unmounted").rename(place.home)


SITUATIONS = {
    "stock writes": Situation(
        arrange=stock_writes,
        code="stock_writes",
        level=ERROR,
        text="holds mempalace's writer lock. While it does, a broker that is started waits for it: "
        "no change can be made through palace, and queries are answered from a copy of the palace",
        remedy="kill ",
        heal=holder_ended,
    ),
    "stock's daemon has the palace": Situation(
        arrange=_stocks_daemon,
        code="stock_writes",
        level=ERROR,
        text="holds mempalace's writer lock",
        remedy="which ends only when it is told to: mempalace --palace ",
        heal=holder_ended,
    ),
    "an owner says nothing": Situation(
        arrange=silent_owner,
        code="silent",
        level=ERROR,
        text="The owner does not answer",
        remedy="kill -9 ",
        heal=holder_ended,
    ),
    "an owner's socket lies in another mount namespace": Situation(
        arrange=hidden_owner,
        code="silent",
        level=ERROR,
        text="It runs in another mount namespace (a container), and its socket may not be seen",
        remedy="Mount the palace's directory in both, with its socket, or run both in one",
        heal=holder_ended,
    ),
    "stock is not kept out": Situation(  # mempalace's lock was removed: its name is free
        arrange=silent_owner,
        code="unfenced",
        level=ERROR,
        text="The palace is owned, but mempalace's lock is not held",
        remedy="End stock's processes, then let another broker adopt what they wrote: palace stop",
        heal=holder_ended,
    ),
    "a rebuild is under way": Situation(
        arrange=maintained,
        code="maintenance",
        level=WARNING,
        text="`palace rebuild` has the palace for itself: pid ",
        remedy="Let it finish. It can be ended, too, and begun again later: kill ",
        heal=holder_ended,
    ),
    "another process has the store open": Situation(
        arrange=opened,
        code="open_elsewhere",
        level=ERROR,
        text="Another process has this palace open beside its owner",
        remedy="End it: kill ",
        heal=holder_ended,
    ),
    "a process with another home has the store open": Situation(
        arrange=opened_from_another_home,
        code="other_home",
        level=ERROR,
        text="Its HOME is /elsewhere, yours",
        remedy="End it: kill ",
        heal=holder_ended,
    ),
    "two palaces share a list": Situation(
        arrange=shared_list,
        code="shared_file",
        level=ERROR,
        text="belongs to this palace and to another one",
        remedy="",
        heal=holder_ended,
    ),
    "the environment names a broker that is not there": Situation(
        arrange=named_broker,
        code="named_broker",
        level=ERROR,
        text="nothing answers there",
        remedy="Take MEMPALACE_BROKER out of this environment",
        heal=not_named,
    ),
    "the environment names another embedder": Situation(
        arrange=another_embedder,
        code="ignored_variables",
        level=WARNING,
        text="No broker goes by MEMPALACE_EMBEDDING_MODEL",
        remedy="Unset them",
        heal=embedder_unset,
    ),
    "a newer palace has served it": Situation(
        arrange=newer_palace,
        code="version_skew",
        level=ERROR,
        text="it is too old for this palace",
        remedy="To go back for good, stop the newer broker and remove",
        heal=gone_back,
    ),
    "it is on hold": Situation(
        arrange=on_hold,
        code="on_hold",
        level=ERROR,
        text="on hold since 2026-01-01T00:00:00Z",
        remedy="palace start",
        heal=hold_ended,
    ),
    "the disk that it is on is not mounted": Situation(
        arrange=unmounted,
        code="no_palace",
        level=ERROR,
        text="does not exist, and neither does",
        remedy="Mount it",
        heal=mounted,
    ),
}
