"""What a real broker has locked, bound and written, and what it does when somebody removes it."""

import fcntl
import json
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from palace.ownership.lock import FENCE
from tests.support.processes.brokers import make_site, status_of, wait_gone, wait_ready
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.process]

# What a broker makes and does not watch: the stores, which the engine has open and the journal is
# compared with; and what is a note for people or a cache, made again when it is needed.
ENGINES_OWN = ("chroma.sqlite3", "knowledge_graph.sqlite3", "tunnels.json", "hallways.json")
NEVER_NEEDED_AGAIN = (
    ".mempalace/wal/",
    ".cache/",
    ".mempalace/locks/mine_",
    "config.json",
    ".local/state/palace/served/",  # what was served where, written again with the next change
    "deaths/",  # an owner's own mark is written again, and the log begins again
    "lifecycle.log",
    "palace.served.json",  # the same, for other homes
)
HAD_ONCE = ("palace", "broker.lock")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    site = make_site(tmp_path_factory.mktemp("served"), model_home)
    try:
        yield site
    finally:
        end_brokers(site.palace)


@pytest.fixture
def served(shared: Site) -> Site:
    """A palace with a detached broker, as shims start it."""
    start(shared)
    return shared


def start(site: Site) -> None:
    assert site.run("ensure").returncode == 0
    wait_ready(site)
    wait_until(lambda: "serverinfo.json" in held(site), what="stock is told")


def held(site: Site) -> dict[str, Any]:
    return {one["name"]: one for one in status_of(site)["holdings"]}


def locked_by(pid: int) -> set[str]:
    """Return the files that a process has locked with flock(2), by the kernel's word."""
    names: dict[str, str] = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{number}"
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        where = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        names[where] = os.readlink(path)
    rows = [row.split() for row in Path("/proc/locks").read_text().splitlines()]
    return {names[row[5]] for row in rows if row[1] == "FLOCK" and row[4] == str(pid)}


def bound_by(root: Path) -> set[str]:
    rows = Path("/proc/net/unix").read_text().splitlines()
    return {row.split()[-1] for row in rows if str(root) in row}


def written(site: Site) -> set[str]:
    root = site.palace.parents[1]
    made = {str(path) for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    journal = {path for path in made if path.startswith(f"{site.palace}/journal/")}
    engines = {path for path in made if any(name in path for name in ENGINES_OWN)}
    index = {path for path in made if Path(path).name in ("header.bin", "data_level0.bin")}
    others = {path for path in made if any(part in path for part in NEVER_NEEDED_AGAIN)}
    return made - journal - engines - index - others


def test_all_that_a_broker_holds_or_publishes_is_watched(served: Site) -> None:
    pid = served.record()["pid"]
    watched = {one["path"] for one in held(served).values()}

    assert len(locked_by(pid)) >= 3  # the palace's, mempalace's, those of files beside the palace
    assert locked_by(pid) <= watched
    assert bound_by(served.palace) == {str(served.palace / "broker.sock")} <= watched
    assert written(served) <= watched
    assert str(served.palace) in watched  # and its journal with it: see what is had once, below
    assert not any(one["problem"] for one in held(served).values())


def test_all_that_is_removed_comes_back_under_the_same_broker(served: Site) -> None:
    pid = served.record()["pid"]
    before = {name: Path(one["path"]) for name, one in held(served).items()}
    kept = (
        "epoch",
        "palace_id",
        "protocol",
        "palace.toml",
        "keys",
        "settings",
        "broker.json",
        "token",
        "serverinfo.json",
    )
    contents = {name: before[name].read_bytes() for name in kept}
    with served.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="before")
        for name, path in before.items():
            if name in HAD_ONCE or not path.exists():
                continue
            count = held(served)[name]["renewed"]
            path.unlink()
            wait_until(path.exists, what=f"{name} is back")
            wait_until(lambda n=name, c=count: held(served)[n]["renewed"] == c + 1, what=name)
            assert client.call("mempalace_status")["result"]
    assert served.record()["pid"] == pid
    assert {name: before[name].read_bytes() for name in contents} == contents
    assert locked_by(pid) >= {str(path) for path in before.values() if "lock" in path.name}
    said = served.run("doctor").stdout
    assert "was removed under the broker" in said
    with served.shim() as another:
        another.tool("add_drawer", wing="w", room="r", content="after")


def test_stocks_off_switch_leaves_nobody_to_write_beside_the_broker(served: Site) -> None:
    pid = served.record()["pid"]
    fence = Path(held(served)[FENCE]["path"])
    shutil.rmtree(served.home / ".mempalace")
    wait_until(fence.exists, what="the lock is there again")
    wait_until(lambda: str(fence) in locked_by(pid), what="it is the broker's")

    with served.stock() as stock:
        reply = stock.call("mempalace_add_drawer", wing="w", room="r", content="beside")
    assert "result" not in reply or "drawer_id" not in json.dumps(reply["result"])
    assert served.record()["pid"] == pid


@contextmanager
def halted(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("name", [FENCE, "tunnels.json"])
def test_a_lock_that_another_process_took_meanwhile_ends_the_broker(site: Site, name: str) -> None:
    start(site)
    (found,) = [one for key, one in held(site).items() if key.endswith(name)]
    path, pid = Path(found["path"]), site.record()["pid"]
    with site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="before")
        with halted(pid):
            path.unlink()
            other = os.open(path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(other, fcntl.LOCK_EX)
        wait_gone(pid)
        how = "under its holder, and made again by" if name == FENCE else "and another process has"
        assert f"was removed{'' if name == FENCE else ','} {how}" in site.log()
        os.close(other)  # the lock is free: the next owner may have it

        client.tool("add_drawer", wing="w", room="r", content="after")
        assert site.record()["epoch"] == 2
        assert str(path) in locked_by(site.record()["pid"])


@pytest.mark.parametrize(
    ("name", "last_words"),
    [("broker.lock", "leaving: moved"), ("journal", "its journal is saved in")],
)
def test_what_is_had_once_ends_the_broker_and_the_next_one_has_all(
    site: Site, name: str, last_words: str
) -> None:
    start(site)
    with site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="a heron by the mill pond")
        pid = site.record()["pid"]
        (site.palace / name).rename(site.palace / f"{name}.away")
        wait_gone(pid)
        assert last_words in site.log()

        assert "heron" in json.dumps(client.tool("search", query="a heron by the mill pond"))
        assert site.record()["epoch"] == 2
    said = site.run("doctor", "--drift", "--stop")
    assert "unknown to the journal" not in said.stdout, said.stdout


def test_the_socket_is_private_after_it_came_back(served: Site) -> None:
    path = served.palace / "broker.sock"
    path.unlink()
    wait_until(path.exists, what="the socket is back")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_doctor_sees_a_lock_that_is_gone_while_the_broker_sleeps(site: Site) -> None:
    start(site)
    fence = Path(held(site)[FENCE]["path"])
    with halted(site.record()["pid"]):
        fence.unlink()
        said = site.run("doctor")

    assert said.returncode == 65
    assert "mempalace's lock is not held" in said.stdout
