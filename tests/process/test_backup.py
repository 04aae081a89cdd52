"""Backups of a palace that real shims write to, by the commands that people type.

Under load the light engine serves, whose journal rolls and is archived all the time; the rest is
asked of the real one.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.commands.backup import Backup, check_backup, find_backup, make_backup, read_manifest
from palace.journal.journal import read_tail
from palace.journal.replay import replay
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership import served
from palace.protocol.errors import BackupBroken, JournalBroken, LockHeld, NotEmpty
from palace.protocol.keyring import ANYBODYS
from palace.settings.paths import Paths
from tests.support.loads.light import ClientHistory, problems_of, storm_site, take_turns
from tests.support.loads.pool import ClientPool
from tests.support.processes.brokers import impatient_shim
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import start_shim

pytestmark = [pytest.mark.process]

CLIENTS = 4
BACKUPS = 5
BACKUPS_MAX = 60


@pytest.fixture
def light_site(tmp_path: Path) -> Iterator[Site]:
    site = storm_site(tmp_path)
    try:
        yield site
    finally:
        end_brokers(tmp_path)


def modes(root: Path) -> dict[str, Counter[int]]:
    """Count the mode bits of directories and files below a directory."""
    paths = [root, *root.rglob("*")]
    return {
        kind: Counter(path.stat().st_mode & 0o777 for path in paths if path.is_dir() == is_dir)
        for kind, is_dir in (("directories", True), ("files", False))
    }


def archived(site: Site) -> list[Path]:
    return list((site.palace / "journal" / "archive").glob("*.jsonl"))


def acknowledged(everybody: list[ClientHistory]) -> set[str]:
    return {nonce for told in everybody for nonce in [*told.drawers, *told.entries]}


def held(journal: str) -> dict[str, set[str]]:
    """Return the nonces of a journal's drawers and entries: those whole, torn, and under way."""
    known = replay(journal, Kernel())
    assert known.gaps == []
    segments = list_segments(journal, Kernel())
    under_way = {
        (change.kind, change.id)
        for changes in read_tail(segments, Kernel()).open.values()
        for change in changes
    }
    found: dict[str, set[str]] = {"whole": set(), "torn": set(), "under way": set()}
    parts: Counter[str] = Counter()
    wanted: dict[str, int] = {}
    for entity in known.live:
        if entity[0] == "tally":
            continue
        body: Any = known.payload(entity)
        if entity in under_way:
            found["under way"].add(body["nonce"])
            continue
        parts[body["nonce"]] += 1
        wanted[body["nonce"]] = body.get("of", 1)
    for nonce, count in parts.items():
        found["whole" if count == wanted[nonce] else "torn"].add(nonce)
    return found


def test_backup_under_load_holds_what_was_acknowledged_and_nothing_torn(
    light_site: Site, tmp_path: Path
) -> None:
    site, into = light_site, tmp_path / "backups"
    everybody = [ClientHistory(number) for number in range(CLIENTS)]
    shims = [start_shim(site.environ(), f"--palace={site.palace}") for _ in everybody]
    pool: ClientPool[Client, ClientHistory] = ClientPool(shims, everybody, take_turns)
    taken: list[tuple[set[str], str]] = []
    pool.start()
    try:
        while len(taken) < BACKUPS or len(archived(site)) < 3:
            assert len(taken) < BACKUPS_MAX, "the journal is archived meanwhile"
            pool.await_replies()
            promised = acknowledged(everybody)
            done = site.run("backup", str(into))
            assert done.returncode == 0, done.stderr
            taken.append((promised, done.stdout.partition(": ")[0]))
    finally:
        pool.end()
        codes = [shim.close() for shim in shims]
    assert codes == [0] * CLIENTS
    assert site.run("stop").returncode == 0

    assert problems_of(site, everybody) == [], "and the palace itself is as ever"
    assert sorted(path for _, path in taken) == sorted(map(str, into.glob("2*")))
    for promised, path in taken:
        found = find_backup(path, Kernel())
        check_backup(found, Kernel(), ANYBODYS)
        there = held(found.journal)
        assert promised <= there["whole"], "acknowledged before it began"
        assert there["torn"] - there["under way"] == set()
    assert len(taken[-1][0]) > len(taken[0][0]) > 0
    assert find_backup(str(into), Kernel()).path == taken[-1][1]
    made = modes(into)
    assert (set(made["directories"]), set(made["files"])) == ({0o700}, {0o600})
    assert {path.name for path in into.iterdir() if path.is_file()} == {"backup.lock"}


KILLED = """
import os, signal, sys
from palace.commands import backup
from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths
class Mortal(Kernel):
    left = 0
    def step(self):
        Mortal.left -= 1
        if Mortal.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
def mortal(name):
    def call(self, *arguments, **options):
        self.step()
        return getattr(Kernel, name)(self, *arguments, **options)
    return call
for name in ("open_append", "write", "sync", "rename", "write_durable", "sync_directory",
             "make_directory", "open_lock"):
    setattr(Mortal, name, mortal(name))
backup.Kernel = Mortal
palace, into = sys.argv[1:]
for step in range(1000):
    pid = os.fork()
    if not pid:
        Mortal.left = step
        backup.make_backup(Paths(palace), os.environ, into)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    found = [name for name in os.listdir(into) if name[0] == "2"] if os.path.isdir(into) else []
    for name in found:
        found_here = backup.find_backup(f"{into}/{name}", Kernel())
        backup.check_backup(found_here, Kernel(), backup.ANYBODYS)
    print(step, status, len(found), len(os.listdir(into)) if os.path.isdir(into) else 0, flush=True)
    if status == 0:
        break
"""


def test_backup_that_is_killed_at_any_step_leaves_none_or_a_whole_one(
    light_site: Site, tmp_path: Path
) -> None:
    site, into = light_site, tmp_path / "backups"
    with start_shim(site.environ(), f"--palace={site.palace}") as shim:
        for number in range(5):
            shim.tool("add_drawer", who="worker0", nonce=f"n0x{number}z", parts=2)

    done = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(site.palace), str(into)],
        env=site.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(rows) > 15
    assert {status for _, status, _, _ in rows[:-1]} == {-signal.SIGKILL}
    assert rows[-1][1] == 0
    killed_with_one = sum(found > 0 for _, _, found, _ in rows[:-1])
    assert killed_with_one in (1, 2), "it gets its name in the end, and is whole then"
    assert len(list(into.glob("making-*"))) == 0, "the next one has cleaned up"
    assert len(list(into.glob("2*"))) == rows[-1][2] == killed_with_one + 1


def test_backup_is_refused_where_it_would_lack_something_or_be_in_the_way(
    light_site: Site, tmp_path: Path
) -> None:
    site, into = light_site, tmp_path / "backups"
    with start_shim(site.environ(), f"--palace={site.palace}") as shim:
        shim.tool("add_drawer", who="worker0", nonce="n0x0z", parts=2)
    assert site.run("stop").returncode == 0

    def back_up(where: Path) -> Backup:
        return make_backup(Paths(str(site.palace)), site.environ(), str(where))

    made = back_up(into)
    with pytest.raises(NotEmpty, match="is a backup itself"):
        back_up(Path(made.path))
    with (into / "backup.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockHeld, match=f"pid {os.getpid()} is writing a backup"):
            back_up(into)
    pause = site.palace / "journal" / "paused"
    pause.touch()
    with pytest.raises(JournalBroken, match="has written without it"):
        back_up(into)
    pause.unlink()
    (site.palace / "palace.toml").write_text('journal = "off"\n')
    with pytest.raises(JournalBroken, match="has written without it"):
        back_up(into)
    assert [str(path) for path in into.glob("2*")] == [made.path]


def test_older_copy_put_back_by_hand_is_noticed_by_its_epoch(
    light_site: Site, tmp_path: Path
) -> None:
    site, old = light_site, tmp_path / "old"
    with impatient_shim(site, 8.0) as shim:
        for number in range(2):
            shim.tool("add_drawer", who="worker0", nonce=f"n0x{number}z", parts=1)
            assert site.run("stop").returncode == 0
            if number == 0:
                shutil.copytree(site.palace, old)
        shutil.rmtree(site.palace)
        shutil.copytree(old, site.palace)
        (site.palace / "epoch").write_text("0\n")  # as old as its next owner: 1, and not 2
        (site.palace / "journal" / "HEAD.json").unlink()
        shutil.rmtree(served.directory_of(site.environ()))  # a broker of this home would know
        Path(served.beside_path(str(site.palace))).unlink()  # and one of any other home

        told = shim.call("mempalace_get_drawer", who="worker0")["error"]["message"]

        assert "its owner has epoch 1, and this session knew epoch 2" in told
        assert f"write 2 into {site.palace}/epoch, and that owner leaves" in told
        (site.palace / "epoch").write_text("2\n")
        wait_until(lambda: site.run("status").returncode == 69, what="its owner has left")
        assert shim.tool("get_drawer", who="worker0")["success"], "as it was told to do"


def edit(path: Path, at: float) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    place = int(len(data) * at)
    data[place] ^= 1
    path.write_bytes(data)


def recount(path: Path) -> None:
    """Let a sealed manifest tell of other entities than the journal has."""
    manifest = read_manifest(str(path), Kernel())
    contents = attrs.evolve(manifest.contents, digest="0" * 16)
    changed = attrs.evolve(manifest, contents=contents)
    (path / "palace-backup.json").write_bytes(changed.encode())


DAMAGES = {
    "other entities in the manifest": recount,
    "a byte of the journal": lambda path: edit(next(path.glob("journal/0*.jsonl")), 0.5),
    "its last byte": lambda path: edit(next(path.glob("journal/0*.jsonl")), 0.999),
    "a byte of the settings": lambda path: edit(path / "palace.toml", 0.5),
    "a byte of the manifest": lambda path: edit(path / "palace-backup.json", 0.5),
    "a file is missing": lambda path: next(path.glob("journal/0*.jsonl")).unlink(),
    "a file is cut": lambda path: os.truncate(next(path.glob("journal/0*.jsonl")), 700),
    "a file too many": lambda path: (path / "journal" / f"{7:020d}.jsonl").write_text("{}\n"),
}
NAMES = {
    "other entities in the manifest": "palace-backup.json",
    "a byte of the settings": "palace.toml",
    "a byte of the manifest": "palace-backup.json",
    "a file too many": f"{7:020d}.jsonl",
}


@pytest.mark.engine
def test_backup_and_restore_by_hand(site: Site, tmp_path: Path) -> None:
    """One session lives through the palace's restoration: its owner's epoch has leapt."""
    into, other = tmp_path / "backups", tmp_path / "other" / "palace"
    done = site.run("backup", str(into))
    assert (done.returncode, "has no journal" in done.stderr) == (65, True)
    with site.shim() as shim:
        first = shim.tool("add_drawer", wing="w", room="r", content="Backed up.")
        epoch = site.status()["epoch"]
        done = site.run("backup", str(into))
        assert done.returncode == 0, done.stderr
        assert "No broker is running" not in done.stdout
        second = shim.tool("add_drawer", wing="w", room="r", content="Too late.")
        done = site.run("restore", str(into), "--replace")
        assert (done.returncode, "--stop" in done.stderr) == (75, True), "somebody owns it"

        done = site.run("restore", str(into), "--replace", "--stop")

        assert done.returncode == 0, done.stderr
        listed = [drawer["drawer_id"] for drawer in shim.tool("list_drawers")["drawers"]]
        assert listed == [first["drawer_id"]] != [second["drawer_id"]]
        assert site.status()["epoch"] > epoch + 1_000_000
    refuse_each_damage(site, into, other)
    assert site.run("stop").returncode == 0
    done = site.run("backup", "--verify", str(into))
    assert (done.returncode, "unchanged" in done.stdout) == (0, True), done.stderr
    done = site.run("backup", str(into))
    assert (done.returncode, "No broker is running" in done.stdout) == (0, True), done.stderr
    done = site.run("backup", str(site.palace / "here"))
    assert (done.returncode, "is inside the palace" in done.stderr) == (82, True)
    restore_elsewhere(site, into, other)


def refuse_each_damage(site: Site, into: Path, other: Path) -> None:
    """The remaining backup is damaged in every way, a copy each time."""
    whole = Path(find_backup(str(into), Kernel()).path)
    for what, damage in DAMAGES.items():
        copy = into.parent / "damaged"
        subprocess.run(["cp", "-a", str(whole), str(copy)], check=True)
        damage(copy)
        told = complaint_of(copy)
        assert NAMES.get(what, ".jsonl") in told, what
        subprocess.run(["rm", "-r", str(copy)], check=True)
    copy = into.parent / "damaged"
    subprocess.run(["cp", "-a", str(whole), str(copy)], check=True)
    edit(copy / "palace.toml", 0.5)
    done = site.run("restore", str(copy), "--palace", str(other))
    assert (done.returncode, f"{copy}/palace.toml" in done.stderr) == (65, True)
    assert not other.exists()


def complaint_of(path: Path) -> str:
    with pytest.raises(BackupBroken) as refused:
        check_backup(find_backup(str(path), Kernel()), Kernel(), ANYBODYS)
    return refused.value.message


def restore_elsewhere(site: Site, into: Path, other: Path) -> None:
    """A copy beside the original is another palace, and neither is taken for the other."""
    other.parent.mkdir()
    done = site.run("restore", str(into), "--palace", str(other))
    assert done.returncode == 0, done.stderr
    assert "an identity of its own" in done.stdout
    copy = Site(home=site.home, palace=other, extra=site.extra)
    done = copy.run("backup", str(into))
    assert (done.returncode, "a different palace" in done.stderr) == (82, True)
    with copy.shim() as shim:
        assert shim.tool("list_drawers")["total"] == 1
    with site.shim(MEMPALACE_BROKER=copy.record()["endpoints"][0]) as lost:
        assert "wrong_palace" in json.dumps(lost.call("mempalace_list_drawers"))
    end_brokers(other)
