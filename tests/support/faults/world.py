"""What stock, hosts and people do to a palace that is in use, by seed.

Stock's commands are its own; a disk is a small tmpfs that is filled; another version of mempalace
is what pip would leave behind, in a directory of its own.  Every deed is logged with its outcome.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.faults.signals import SHIM, victims_of
from tests.support.faults.upgrades import install_other_version, private_metadata, upgraded_path
from tests.support.loads.changes import Promises
from tests.support.processes.brokers import code_of, text_of
from tests.support.processes.clients import Client, Site, brokers_of, wait_until
from tests.support.processes.sites import start_shim

DISK = "384m"
COMMAND_S = 150
STOCK = str(Path(sys.executable).parent / "mempalace")
# stock's migrate rebuilds where the index is behind, as it soon is with much to write.
MIGRATE = """
import sys
import mempalace.backends.chroma as chroma
import mempalace.migrate as stock
chroma.hnsw_capacity_status = lambda *_args: {"diverged": True}
sys.exit(0 if stock.migrate(sys.argv[1], confirm=True) else 1)
"""
# What people and cleaners remove: in the palace, and in the home of whoever started the broker.
CONTROL_FILES = (
    *("broker.lock", "broker.json", "broker.sock", "epoch", "palace_id", "protocol", "hold"),
    "palace.toml",
)
HOME_FILES = (
    *(".mempalace/locks", ".mempalace/server", ".mempalace", ".local/state/palace"),
    *(".mempalace/server/*/serverinfo.json", ".mempalace/server/*/token*", ".mempalace/locks/*"),
)
# Of stores, what can be made again from the rest and the journal.  Not Chroma's database: what
# stock wrote into it while no broker ran is nowhere else.
STORE_FILES = (
    *("*-*-*-*-*", "logstream.sqlite3*", "knowledge_graph.sqlite3*", "mempalace_embedder.json"),
    *("../tunnels.json", "../hallways.json", "replica.json"),
)


@dataclass(frozen=True)
class Deed:
    """`name` is a method of World; `which` (0..1) chooses among what there is to choose from."""

    name: str
    after_s: float
    lasts_s: float
    which: float
    beside: str  # another deed that is done before this one has ended, "" for none


WEIGHTS = {
    "migrate": 3,
    "rebuild_index": 2,
    "rebuild_index_on_hold": 2,
    "repair": 1,
    "repair_on_hold": 2,
    "sweep": 2,
    "mine": 2,
    "hook": 1,
    "prune_tunnels": 1,
    "append_event": 2,
    "remove_control_file": 5,
    "remove_store_file": 3,
    "remove_in_home": 4,
    "move_and_back": 3,
    "kill_tree": 4,
    "kill_broker": 4,
    "second_home": 3,
    "lose_rows": 3,
    "fill_disk": 2,
    "other_version": 2,
    "stop": 2,
}
ENDS = ("", "palace_gone", "lacking")  # what the doctor finds after a storm, by its seed
BESIDE = ("kill_broker", "kill_tree", "remove_control_file", "remove_in_home", "second_home")
LONG = (
    *("migrate", "rebuild_index", "rebuild_index_on_hold", "repair", "repair_on_hold", "mine"),
    *("sweep", "hook", "append_event", "move_and_back", "fill_disk", "other_version", "stop"),
)


def plan_deeds(seed: int, pace_s: float) -> Iterator[Deed]:
    """Yield the deeds that belong to a seed, `pace_s` apart on the average."""
    rng = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        name = rng.choices(names, weights)[0]
        beside = rng.choice(BESIDE) if rng.random() < 0.35 and name in LONG else ""
        yield Deed(
            name=name,
            after_s=rng.expovariate(1 / pace_s),
            lasts_s=rng.uniform(0.5, 4.0),
            which=rng.random(),
            beside=beside,
        )


@dataclass
class World:
    """Does deeds to one site's palace, one after the other; `relieve` undoes what lasts."""

    site: Site
    root: Path
    log: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    promises: Promises = field(default_factory=lambda: Promises(9))
    rows: set[str] = field(default_factory=set)  # nonces of stock's own, each in one row
    lost: int = 0  # how many rows were deleted by SQL
    _began_s: float = field(default_factory=time.monotonic)
    _turn: int = 0
    _filler: Path | None = None
    _metadata: Path | None = None
    _version: str = ""

    def __post_init__(self) -> None:
        private = self.root / "private"
        private.mkdir()
        self._metadata = private_metadata(private)
        self._version = self._metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
        self.site.extra["PYTHONPATH"] = upgraded_path(private)
        self.site.extra["MEMPALACE_PALACE_PATH"] = str(self.site.palace)

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._began_s:7.2f} {text}")

    def do(self, deed: Deed) -> None:
        """Wait and do it; what it could not do is noted, and no failure."""
        time.sleep(deed.after_s)
        self.note(f"{deed.name} {deed.which:.3f} {deed.lasts_s:.2f} {deed.beside}")
        self.done[deed.name] += 1
        act: Callable[[Deed], object] = getattr(self, f"_{deed.name}")
        try:
            act(deed)
        except OSError as error:
            self.note(f"{deed.name}: {error}")

    def relieve(self) -> None:
        """Undo what lasts: the palace is where it was, on a disk with room, with this version."""
        self._empty_disk()
        self._use_version(self._version)
        self.site.run("start", timeout_s=COMMAND_S)

    def end(self, seed: int) -> str:
        """Leave something that the doctor must name; return its finding's code, "" for nothing."""
        self.note(f"at the end: {ENDS[seed % len(ENDS)] or 'nothing'}")
        if ENDS[seed % len(ENDS)] == "palace_gone":
            palace = self.site.palace
            wait_until(lambda: bool(brokers_of(palace)), COMMAND_S, "a broker sees where it goes")
            palace.rename(palace.with_name("moved-for-good"))
        elif ENDS[seed % len(ENDS)] == "lacking":
            self._stop(Deed("stop", 0.0, 0.0, 1.0, ""))
            wait_until(lambda: not brokers_of(self.site.palace), COMMAND_S, "nobody is left")
            self._lose_rows(Deed("lose_rows", 0.0, 0.0, 0.5, ""))
        return ENDS[seed % len(ENDS)]

    def _beside(self, deed: Deed) -> None:
        """Do what comes in between, if anything does."""
        time.sleep(deed.lasts_s * deed.which)
        if deed.beside:
            self.note(f"  beside it: {deed.beside}")
            getattr(self, f"_{deed.beside}")(deed)

    def _nonce(self) -> str:
        self._turn += 1
        return f"n9x{self._turn}z"

    # Stock's commands.

    def _run(self, deed: Deed, argv: list[str], told: str = "") -> str:
        """Run a command of stock's to its end; return what it said where it says it worked."""
        process = subprocess.Popen(
            argv,
            env={k: v for k, v in self.site.environ().items() if k != "MEMPALACE_PATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            if told and process.stdin is not None:
                process.stdin.write(told)
                process.stdin.close()
                process.stdin = None
            self._beside(deed)
            try:
                said, _ = process.communicate(timeout=COMMAND_S)
            except subprocess.TimeoutExpired:
                process.kill()
                said = f"{process.communicate()[0]} (killed)"
        last = " ".join(said.split())[-160:]
        self.note(f"  exit {process.returncode}: {last}")
        return said if process.returncode == 0 else ""

    def _stock(self, deed: Deed, *arguments: str, told: str = "") -> str:
        return self._run(deed, [STOCK, "--palace", str(self.site.palace), *arguments], told)

    def _migrate(self, deed: Deed) -> None:
        self._run(deed, [sys.executable, "-P", "-c", MIGRATE, str(self.site.palace)])

    def _rebuild_index(self, deed: Deed) -> None:
        self._stock(deed, "repair", "rebuild-index", "--yes")

    def _repair(self, deed: Deed) -> None:
        self._stock(deed, "repair", "--yes")

    def _on_hold(self, deed: Deed, *arguments: str) -> None:
        held = self.site.run("stop", "--hold", timeout_s=COMMAND_S)
        self.note(f"  hold: {held.returncode} {held.stderr.strip()[-160:]}")
        self._stock(deed, *arguments)
        begun = self.site.run("start", timeout_s=COMMAND_S)
        self.note(f"  start: {begun.returncode} {begun.stderr.strip()[-160:]}")

    def _rebuild_index_on_hold(self, deed: Deed) -> None:
        self._on_hold(deed, "repair", "rebuild-index", "--yes")

    def _repair_on_hold(self, deed: Deed) -> None:
        self._on_hold(deed, "repair", "--yes")

    def _prune_tunnels(self, deed: Deed) -> None:
        self._stock(deed, "tunnels", "prune", "--yes")

    def _mine(self, deed: Deed) -> None:
        nonce = self._nonce()
        project = self.root / "projects" / nonce
        project.mkdir(parents=True)
        words = "Sea otters hold hands while they sleep, so that no tide parts them at night."
        (project / "notes.md").write_text(f"# Of {nonce}\n\n{words}\n")
        if "Drawers filed: 1" in self._stock(deed, "mine", str(project), "--wing", "mined"):
            self.rows.add(nonce)

    def _transcript(self, nonce: str, questions: int) -> Path:
        """Write what a host keeps of a conversation, with a nonce in its first question."""
        lines = []
        for number in range(questions):
            for role in ("user", "assistant"):
                about = nonce if (number, role) == (0, "user") else "puffins"
                text = f"What is said of {about} for the {number}th time about birds of the sea?"
                lines.append(
                    {
                        "type": role,
                        "uuid": f"{nonce}-{role}-{number}",
                        "sessionId": nonce,
                        "timestamp": f"2026-01-01T00:{number:02}:00Z",
                        "message": {"role": role, "content": text},
                    }
                )
        path = self.root / f"talk-{nonce}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def _sweep(self, deed: Deed) -> None:
        nonce = self._nonce()
        if self._stock(deed, "sweep", str(self._transcript(nonce, 2))):
            self.rows.add(nonce)

    def _hook(self, deed: Deed) -> None:
        path = self._transcript(self._nonce(), 3)
        told = json.dumps(
            {"session_id": path.stem, "transcript_path": str(path), "stop_hook_active": False}
        )
        run = ("hook", "run", "--hook", "precompact", "--harness", "claude-code")
        self._stock(deed, *run, told=told)

    def _append_event(self, deed: Deed) -> None:
        """Append one as stock does it: past the broker.  Stock loses it where it is moved away."""
        who = ("--type", "a.note", "--stream", "beside", "--room", "r", "--from-agent", "stock")
        self._stock(deed, "logstream", "append", *who, "--body", f"beside: {self._nonce()}")

    # People, and what cleans up behind them.

    def _remove_control_file(self, deed: Deed) -> None:
        name = CONTROL_FILES[int(deed.which * len(CONTROL_FILES))]
        self.note(f"  rm {name}")
        (self.site.palace / name).unlink(missing_ok=True)

    def _remove_store_file(self, deed: Deed) -> None:
        pattern = STORE_FILES[int(deed.which * len(STORE_FILES))]
        place = self.site.palace.parent if pattern.startswith("../") else self.site.palace
        self._remove(place, pattern.removeprefix("../"))

    def _lose_rows(self, deed: Deed) -> None:
        """Delete rows of agents' drawers by SQL, under a broker or not."""
        query = """
        SELECT e.id, m.string_value FROM embeddings e JOIN segments s ON s.id = e.segment_id
        JOIN collections c ON c.id = s.collection AND c.name = 'mempalace_drawers'
        JOIN embedding_metadata m ON m.id = e.id AND m.key = 'chroma:document'
        WHERE m.string_value LIKE '%nonce n%' ORDER BY e.id DESC LIMIT 40
        """
        path = self.site.palace / "chroma.sqlite3"
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as connection, connection:
                found = connection.execute(query).fetchall()
                gone = [row[0] for row in found[int(deed.which * len(found)) :][:3]]
                marks = ", ".join("?" * len(gone))
                for table in ("embedding_metadata", "embeddings"):
                    connection.execute(f"DELETE FROM {table} WHERE id IN ({marks})", gone)
        except sqlite3.Error as error:
            self.note(f"  {error}")
            return
        self.lost += len(gone)
        self.note(f"  {len(gone)} rows")

    def _remove_in_home(self, deed: Deed) -> None:
        self._remove(self.site.home, HOME_FILES[int(deed.which * len(HOME_FILES))])

    def _remove(self, place: Path, pattern: str) -> None:
        for path in list(place.glob(pattern)):
            self.note(f"  rm -r {path.relative_to(place)}")
            with contextlib.suppress(OSError):  # somebody makes it again at this very moment
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _move_and_back(self, deed: Deed) -> None:
        palace, away = self.site.palace, self.site.palace.with_name("moved away")
        palace.rename(away)
        self._beside(deed)
        time.sleep(deed.lasts_s)
        if palace.exists():
            made = sorted(os.listdir(palace))
            self.note(f"  {palace} is there again: {made}")
            # Stock makes one: what a hook began in the background mines wherever there is nothing.
            if "chroma.sqlite3" not in made or {"palace_id", "journal"} & set(made):
                self.promises.unexpected.append("a directory was made where the palace had been")
            palace.rename(palace.with_name(f"made-{self._turn}"))
        away.rename(palace)

    def _kill_tree(self, deed: Deed) -> None:
        """Kill a shim with everything that it started, as a host does with its children."""
        shims = victims_of(self.site.palace)[SHIM]
        if shims:
            pids = [shims[int(deed.which * len(shims))]]
            for pid in pids:  # grows by their children
                with contextlib.suppress(OSError):
                    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                    pids += map(int, children)
            self._kill(pids)

    def _kill_broker(self, _deed: Deed) -> None:
        self._kill(brokers_of(self.site.palace))

    def _kill(self, pids: list[int]) -> None:
        self.note(f"  kill -9 {pids}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _stop(self, deed: Deed) -> None:
        said = self.site.run("stop", *(["--now"] if deed.which < 0.5 else []), timeout_s=COMMAND_S)
        self.note(f"  stop: {said.returncode} {said.stderr.strip()[-160:]}")

    def _second_home(self, _deed: Deed) -> None:
        """File a drawer from another home, whose shim may start the next broker."""
        nonce, home = self._nonce(), self.root / "second"
        if not home.exists():
            (home / ".cache").mkdir(parents=True)
            (home / ".cache" / "chroma").symlink_to(self.site.home / ".cache" / "chroma")
        client = start_shim(self.site.environ(HOME=str(home)))
        try:
            self._file(client, nonce)
        finally:
            client.close()

    def _file(self, client: Client, nonce: str) -> None:
        where = {"wing": "second", "room": "home"}
        try:
            reply = client.call("mempalace_add_drawer", content=f"from there: {nonce}", **where)
        except (BrokenPipeError, ValueError):  # it was killed beside
            return
        if code_of(reply) == 0 and text_of(reply).get("success"):
            self.promises.drawers[nonce] = 1
        self.note(f"  {nonce}: {str(reply.get('error', 'filed'))[:200]}")

    # The machine.

    def _fill_disk(self, deed: Deed) -> None:
        self._filler = self.root / "filler"
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        try:
            self._beside(deed)
            time.sleep(deed.lasts_s)
        finally:
            self._empty_disk()

    def _empty_disk(self) -> None:
        if self._filler is not None:
            self._filler.unlink(missing_ok=True)
            self._filler = None

    def _other_version(self, deed: Deed) -> None:
        self._use_version("3.12.0" if deed.which < 0.6 else "3.11.77")
        self._beside(deed)
        time.sleep(deed.lasts_s)
        self._use_version(self._version)

    @contextlib.contextmanager
    def newest(self) -> Iterator[None]:
        """Have the newest version that has served, and go back."""
        self._use_version("3.11.77")
        yield
        self._use_version(self._version)

    def _use_version(self, version: str) -> None:
        assert self._metadata is not None
        if not self._metadata.name.endswith(f"-{version}.dist-info"):
            self.note(f"  mempalace {version}")
            self._metadata = install_other_version(self._metadata, version)


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Put a directory on a disk of its own, which can be filled."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(directory)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        wait_until(lambda: not brokers_of(directory), what="no broker uses the disk")
        subprocess.run(["umount", "-l", str(directory)], check=True)
