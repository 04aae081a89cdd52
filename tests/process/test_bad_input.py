"""Everything that can be wrong with what is found: records, locks, directories, files, settings.

Each is told apart in one message that says what to do, and by its exit code.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palace import __version__
from palace.settings.installation import command_for
from tests.support.machines.mounts import on_small_disk
from tests.support.machines.needs import need_root
from tests.support.processes.brokers import (
    Line,
    Serving,
    call_line,
    code_of,
    impatient_shim,
    make_palace,
    make_site,
    processes_of,
    run,
    status_of,
    unprivileged,
    wait_ready,
)
from tests.support.processes.clients import PALACE, Client, Site, end_brokers, wait_until

pytestmark = pytest.mark.process

NOBODY = 65_534
RECORD: dict[str, Any] = {
    "v": 1,
    "epoch": 3,
    "incarnation": "0" * 32,
    "palace_id": "1" * 32,
    "pid": 1,
    "start_time": "1",
    "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    "pid_namespace": "",
    "host_id": "somebody",
    "endpoints": ["unix:/nowhere/broker.sock"],
    "token": "",
    "version": __version__,
    "mode": "broker",
    "started_at": "",
}


def one_line(text: str) -> str:
    """Return a command's only line of words."""
    assert text.strip(), "it says nothing"
    assert text.strip().count("\n") == 0, text
    return text


# Records and sockets that an earlier owner, or somebody else, has left.


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def leave_record_of(uid: int, mode: int) -> Callable[[Path], object]:
    def leave(palace: Path) -> None:
        need_root()
        path = palace / "broker.json"
        path.write_text(json.dumps(RECORD))
        path.chmod(mode)
        os.chown(path, uid, uid)

    return leave


def write_record(text: str) -> Callable[[Path], object]:
    return lambda palace: (palace / "broker.json").write_text(text) and None


LEFTOVERS: dict[str, Callable[[Path], object]] = {
    "torn": write_record(json.dumps(RECORD)[:100]),
    "empty": write_record(""),
    "alien": write_record('[{"v": 1}, "not ours"]'),
    "binary": lambda palace: (palace / "broker.json").write_bytes(os.urandom(500)) and None,
    "wrong-types": write_record(json.dumps(RECORD | {"pid": "1", "endpoints": "unix:/x"})),
    "odd-endpoints": write_record(json.dumps(RECORD | {"endpoints": [7, {}, "tcp:1"]})),
    "later-schema": write_record(json.dumps(RECORD | {"v": 99, "version": "99.0"})),
    "other-boot": write_record(json.dumps(RECORD | {"boot_id": "another"})),
    "dead-owner": write_record(json.dumps(RECORD)),
    "pipe": lambda palace: os.mkfifo(palace / "broker.json"),
    "squatted": leave_record_of(NOBODY, 0o644),
    "stale-socket": lambda palace: leave_stale_socket(palace / "broker.sock"),
    "no-socket": lambda palace: (palace / "broker.sock").write_text("not a socket") and None,
}

BY_ROOT = frozenset({"squatted"})  # only root can leave it

# Our own record that can be read tells the last epoch; the epoch file is missing here.
EPOCHS_AFTER = dict.fromkeys(("dead-owner", "other-boot"), RECORD["epoch"] + 1)


@pytest.fixture(scope="module")
def elected(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path
) -> Iterator[dict[str, tuple[Site, "subprocess.CompletedProcess[str]"]]]:
    """`palace ensure` beside each leftover, all at once, since each waits for a while."""
    sites = {}
    started = {}
    for name, leave in LEFTOVERS.items():
        if name in BY_ROOT and os.geteuid() != 0:
            continue
        sites[name] = make_site(tmp_path_factory.mktemp(name), model_home)
        make_palace(sites[name])
        leave(sites[name].palace)
        started[name] = subprocess.Popen(
            [*PALACE, "ensure"],
            env=sites[name].environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    ended = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=90)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        ended[name] = (sites[name], done)
    yield ended
    for site in sites.values():
        end_brokers(site.palace)


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftover_of_an_earlier_owner_does_not_hinder_an_election(
    elected: dict[str, tuple[Site, "subprocess.CompletedProcess[str]"]], name: str
) -> None:
    if name in BY_ROOT:
        need_root()
    site, done = elected[name]

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epoch"] == EPOCHS_AFTER.get(name, 1)
    assert site.record()["incarnation"] == json.loads(done.stdout)["incarnation"]
    assert status_of(site)["pid"] == site.record()["pid"]


def test_record_that_cannot_be_read_counts_as_absent(site: Site) -> None:
    make_palace(site)
    leave_record_of(NOBODY, 0o600)(site.palace)

    done = run(unprivileged([*PALACE, "ensure"]), site)

    assert done.returncode == 0, done.stderr


def test_status_beside_an_odd_record_says_that_nobody_serves(site: Site) -> None:
    make_palace(site)
    LEFTOVERS["odd-endpoints"](site.palace)

    done = site.run("status")

    assert done.returncode == 69, done.stderr


def test_record_of_a_newer_palace_forbids_an_older_broker(site: Site) -> None:
    make_palace(site)
    record = json.dumps(RECORD | {"version": "99.1.0"})
    (site.palace / "broker.json").write_text(record)
    with site.shim() as client:
        client.send(call_line("old", "get_aaak_spec"))
        done = site.run("ensure")
        reply = json.loads(client.receive())

    assert done.returncode == 76
    assert "99.1.0" in one_line(done.stderr)
    assert f"Upgrade it: {command_for()}" in done.stderr
    assert (reply["id"], code_of(reply)) == ("old", -31055)
    assert (site.palace / "broker.json").read_text() == record
    assert not (site.palace / "epoch").exists()


def test_socket_of_another_user_is_not_spoken_to(site: Site) -> None:
    need_root()
    make_palace(site)
    squatter = subprocess.Popen(
        [sys.executable, "-c", SQUAT, str(site.palace / "broker.sock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "listening\n"
        with site.shim() as client:
            client.initialize()
            reply = client.call("mempalace_add_drawer", wing="w", room="r", content="a secret")
        status = site.run("status")
    finally:
        squatter.terminate()
        heard, _ = squatter.communicate()

    assert code_of(reply) == -31061
    assert "another user" in reply["error"]["message"]
    assert status.returncode == 69
    assert "secret" not in heard
    assert "hello" not in heard


SQUAT = f"""
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.seteuid({NOBODY})  # what the other end is told is who called listen(2)
listener.listen()
print("listening", flush=True)
while True:
    print(listener.accept()[0].recv(65536), flush=True)
"""


def answer_nothing(peer: socket.socket) -> None:
    peer.recv(1)  # the rest stays unread: the kernel resets the connection


def answer_http(peer: socket.socket) -> None:
    peer.recv(65_536)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def answer_bytes(peer: socket.socket) -> None:
    peer.recv(65_536)
    peer.sendall(bytes(range(256)) + b"\n")


@pytest.mark.parametrize("answer", [answer_nothing, answer_http, answer_bytes])
def test_what_is_no_broker_is_told_so_by_status_and_shim(
    site: Site, answer: Callable[[socket.socket], None]
) -> None:
    make_palace(site)
    path = site.palace / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        serving = threading.Thread(target=answer_all, args=(listener, answer), daemon=True)
        serving.start()
        more: dict[str, Any] = {"MEMPALACE_BROKER": f"unix:{path}"}
        with site.shim(**more) as client:
            reply = client.call("mempalace_get_aaak_spec")
        done = site.run("status", **more)
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()

    assert -31060 < code_of(reply) <= -31050
    assert str(path) in reply["error"]["message"]
    assert done.returncode in (69, 76)
    assert "Traceback" not in done.stderr


def answer_all(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with peer:
            answer(peer)


# Locks that others hold.


def test_lock_held_by_another_process_is_reported_with_its_pid(site: Site) -> None:
    make_palace(site)
    fd = os.open(site.palace / "broker.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with impatient_shim(site, 3.0) as client:
            client.send(call_line("held", "get_aaak_spec"))
            served, status = site.run("serve"), site.run("status")
            reply = json.loads(client.receive())
    finally:
        os.close(fd)

    assert served.returncode == 75
    assert f"pid {os.getpid()}" in one_line(served.stderr)
    assert status.returncode == 69
    assert f"pid {os.getpid()}" in status.stdout
    assert (reply["id"], code_of(reply)) == ("held", -31053)
    assert f"pid {os.getpid()}" in reply["error"]["message"]
    assert not (site.palace / "epoch").exists()


def test_lock_held_by_a_stock_writer_is_reported_with_its_pid(site: Site) -> None:
    make_palace(site, "mempalace_lock_wait_s = 0.3\n")
    with site.stock() as stock:
        stock.tool("add_drawer", wing="w", room="r", content="by stock")
        started = site.run("start")
        assert started.returncode == 73
        assert f"pid {stock.process.pid} (" in one_line(started.stderr)
        with site.shim() as client:
            client.send(call_line("stock", "add_drawer", wing="w", room="r", content="refused"))
            reply = json.loads(client.receive())
            assert (reply["id"], code_of(reply)) == ("stock", -31052)
            assert str(stock.process.pid) in reply["error"]["message"]
            assert not (site.palace / "journal").exists()

            stock.close()
            wait_ready(site)
            assert len(client.tool("list_drawers", wing="w")["drawers"]) == 1


# Directories.


def spoil_parent(site: Site) -> None:
    site.palace = site.palace.parent / "gone" / "away" / "store"


def spoil_file(site: Site) -> None:
    site.palace.write_text("a file")


def spoil_group(site: Site) -> None:
    make_palace(site)
    site.palace.chmod(0o770)


def spoil_others(site: Site) -> None:
    make_palace(site)
    site.palace.chmod(0o707)


def spoil_owner(site: Site) -> None:
    need_root()
    make_palace(site)
    os.chown(site.palace, NOBODY, NOBODY)


def spoil_write(site: Site) -> None:
    make_palace(site)
    site.palace.chmod(0o500)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_parent, "mkdir -p"),
        (spoil_file, "it is not a directory. Name the palace's directory"),
        (spoil_group, "chmod go-w"),
        (spoil_others, "chmod go-w"),
        (spoil_owner, f"uid {NOBODY}"),
        (spoil_write, "chmod u+w"),
    ],
)
def test_unsafe_directory_is_refused(site: Site, spoil: Callable[[Site], None], says: str) -> None:
    spoil(site)
    before = site.palace.lstat() if site.palace.exists() else None

    done = run(unprivileged([*PALACE, "serve"]), site)

    assert done.returncode == 77, done.stderr
    assert says in one_line(done.stderr)
    assert str(site.palace) in done.stderr
    if before is None:
        assert not site.palace.parent.exists()
    else:
        assert site.palace.lstat() == before
    site.palace.chmod(0o700) if site.palace.is_dir() else None


def test_call_for_an_unsafe_palace_is_answered_with_the_reason(site: Site) -> None:
    spoil_group(site)

    with site.shim() as client:
        assert "result" in client.initialize()
        reply = client.call("mempalace_get_aaak_spec")

    assert code_of(reply) == -31061
    assert f"chmod go-w {site.palace}" in reply["error"]["message"]


def test_ambiguous_palace_is_refused_before_anything_starts(site: Site) -> None:
    make_palace(site)
    (site.palace / "palace").mkdir()
    for directory in (site.palace, site.palace / "palace"):
        (directory / "chroma.sqlite3").touch()

    for command in ("shim", "serve", "ensure", "status", "stop"):
        done = run([*PALACE, command], site)

        assert done.returncode == 78, command
        assert f"{site.palace}/palace" in one_line(done.stderr)
        assert "--palace" in done.stderr
    assert not list(site.palace.glob("broker*"))


def test_palace_with_a_long_path_is_served_from_the_runtime_directory(
    site: Site, short_dir: Path
) -> None:
    deep = site.palace.parent / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    far = Site(home=site.home, palace=deep / "palace", extra={"XDG_RUNTIME_DIR": str(short_dir)})
    assert len(str(far.palace)) > 107
    with Serving(far, XDG_RUNTIME_DIR=str(short_dir)) as owner:
        path = far.record()["endpoints"][0].removeprefix("unix:")

        assert path.startswith(f"{short_dir}/palace-")
        assert Path(path).parent.stat().st_mode & 0o777 == 0o700
        assert Path(path).stat().st_mode & 0o777 == 0o600
        with far.shim() as near, far.shim(XDG_RUNTIME_DIR="/elsewhere") as other:
            assert near.tool("kg_add", subject="a", predicate="is", object="b")["success"]
            assert other.tool("kg_query", entity="a")["count"] == 1
        assert far.run("status").returncode == 0
        assert owner.end() == 0
        assert not Path(path).exists()


def test_broker_of_another_palace_is_refused(site: Site, tmp_path: Path, model_home: Path) -> None:
    other = make_site(tmp_path / "other", model_home)
    with Serving(site) as owner, Serving(other):
        owner.end()
        socket_path = f"unix:{other.palace}/broker.sock"
        with site.shim(MEMPALACE_BROKER=socket_path) as client:
            client.initialize()
            reply = client.call("mempalace_add_drawer", wing="w", room="r", content="mine")

        assert code_of(reply) == -31050
        assert (site.palace / "palace_id").read_text().strip() in reply["error"]["message"]
        assert (other.palace / "palace_id").read_text().strip() in reply["error"]["message"]
        assert status_of(other)["requests"] == 0


# Disks.


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """The palace on a disk of its own, of 64 KiB."""
    with on_small_disk(site, "64k") as palace:
        yield palace


def fill(directory: Path, *, leave: int) -> None:
    """Fill a disk but for some bytes."""
    with (directory / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(file.tell() - leave)


def test_full_disk_is_named_as_such(site: Site, small_disk: Path) -> None:
    fill(small_disk, leave=0)
    with site.shim() as client:
        client.send(call_line("full", "get_aaak_spec"))
        served = site.run("serve")
        reply = json.loads(client.receive())

        assert served.returncode == 74
        assert "No space left" in one_line(served.stderr)
        assert reply["id"] == "full"
        assert code_of(reply) == -31058
        assert "No space left" in reply["error"]["message"]
        assert not processes_of(site.palace / "broker.lock")

        (small_disk / "filler").unlink()
        # 64 KiB hold no graph and no store: what needs neither is answered.
        assert "result" in client.call("mempalace_get_aaak_spec")


def test_full_disk_is_named_by_ensure(site: Site, small_disk: Path) -> None:
    fill(small_disk, leave=0)

    done = site.run("ensure")

    assert done.returncode == 74
    assert "No space left" in one_line(done.stderr)


def test_disk_without_room_for_the_catalogue_is_served_all_the_same(
    site: Site, small_disk: Path
) -> None:
    fill(small_disk, leave=40_960)  # for all that an owner writes before it, and not for that
    with Serving(site) as owner, site.shim(PALACE_NO_SPAWN="1") as client:
        assert "result" in client.call("mempalace_get_aaak_spec")
        assert owner.process.poll() is None


# Stores.


@pytest.fixture(scope="module")
def good_store(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace with some drawers, whose owner has left."""
    site = make_site(tmp_path_factory.mktemp("good"), model_home)
    with Serving(site) as owner, site.shim() as client:
        for number in range(3):
            client.tool("add_drawer", wing="w", room="r", content=f"drawer {number} " * 40)
        owner.end()
    yield site
    end_brokers(site.palace)


def not_sqlite(_good: bytes) -> bytes:
    return b"this was a database once\n" * 4000


def truncated(good: bytes) -> bytes:
    return good[: len(good) // 2 + 100]


def garbage_inside(good: bytes) -> bytes:
    third = len(good) // 3
    return good[:third] + bytes(range(256)) * 80 + good[third + 256 * 80 :]


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (not_sqlite, -31049, "not a SQLite database"),
        (truncated, -32002, "integrity check failed"),
        (garbage_inside, -32002, "integrity check failed"),
    ],
)
def test_corrupt_store_without_a_journal_is_refused_and_left_as_it_is(
    site: Site,
    good_store: Site,
    spoil: Callable[[bytes], bytes],
    code: int,
    says: str,
) -> None:
    shutil.copytree(good_store.palace, site.palace)
    (site.palace / "palace.toml").unlink()
    shutil.rmtree(site.palace / "journal")  # else it would be brought back
    store = site.palace / "chroma.sqlite3"
    spoilt = spoil(store.read_bytes())
    store.write_bytes(spoilt)

    with Serving(site), site.shim() as client:
        replies = [
            client.call("mempalace_search", query="drawer"),
            client.call("mempalace_add_drawer", wing="w", room="r", content="one more"),
        ]

    assert [code_of(reply) for reply in replies] == [code, code]
    assert says in replies[0]["error"]["message"]
    if code == -32002:
        assert "never taken into its journal" in replies[0]["error"]["message"]
        assert "Put a copy of the file back" in replies[0]["error"]["message"]
    assert store.read_bytes() == spoilt


# Settings and control files.


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("idle_s = \n", "not valid TOML"),
        ("\udcff", "not valid TOML"),
        ("idle_seconds = 5\n", "idle_seconds"),
        ('idle_s = "5"\n', "idle_s"),
        ("idle_s = true\n", "idle_s"),
        ("idle_s = nan\n", "idle_s"),
        ("readers = 2.5\n", "readers"),
        ("readers = 0\n", "readers"),
        ('graph = "../relative.sqlite3"\n', "graph"),
        ('allow_uids = ["root"]\n', "allow_uids"),
    ],
)
def test_broken_settings_are_refused(site: Site, settings: str, says: str) -> None:
    make_palace(site)
    path = site.palace / "palace.toml"
    path.write_bytes(settings.encode("utf-8", "surrogateescape"))

    done = site.run("serve")

    assert done.returncode == 78
    assert str(path) in one_line(done.stderr)
    assert says in done.stderr
    assert path.read_bytes() == settings.encode("utf-8", "surrogateescape")
    assert not (site.palace / "epoch").exists()


def test_broken_setting_of_the_environment_is_refused(site: Site) -> None:
    done = site.run("serve", PALACE_IDLE_S="soon")

    assert done.returncode == 78
    assert "PALACE_IDLE_S" in one_line(done.stderr)


def test_call_beside_broken_settings_is_answered_with_the_reason(site: Site) -> None:
    make_palace(site)
    (site.palace / "palace.toml").write_text("idle_s = \n")

    with site.shim() as client:
        reply = client.call("mempalace_get_aaak_spec")

    assert code_of(reply) == -31060
    assert "palace.toml" in reply["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        "twelve\n",
        "-1\n",
        "1.5\n",
        "٣\n",
        "9" * 40,
        "",
    ],
)
def test_malformed_epoch_is_refused(site: Site, text: str) -> None:
    make_palace(site)
    (site.palace / "epoch").write_text(text)
    process = subprocess.Popen(
        [*PALACE, "serve"], env=site.environ(), stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(
            lambda: process.poll() is not None or (site.palace / "broker.json").exists(),
            what="it refuses or serves",
        )
    finally:
        process.terminate()
        _, words = process.communicate()

    assert process.returncode == 74
    assert f"{site.palace}/epoch" in one_line(words)
    assert (site.palace / "epoch").read_text() == text


@pytest.mark.parametrize("text", ["é\n", "x" * 100_000], ids=["accent", "long"])
def test_malformed_identity_is_refused_or_replaced(site: Site, text: str) -> None:
    make_palace(site)
    (site.palace / "palace_id").write_text(text)

    done = site.run("ensure")

    if done.returncode == 0:
        assert len(json.loads(done.stdout)["palace_id"]) == 32
    else:
        assert done.returncode == 74
        assert "palace_id" in one_line(done.stderr)


@pytest.mark.parametrize(
    "odd",
    [
        {"protocol_versions": []},
        {"tools": [1]},
    ],
)
def test_catalogue_of_the_wrong_shape_counts_as_absent(site: Site, odd: dict[str, Any]) -> None:
    make_palace(site)
    catalogue = {
        "engine_version": "3.11.0",
        "protocol_versions": ["2025-06-18"],
        "read_only_refused": [],
        "tools": [],
    }
    (site.palace / "broker.tools.json").write_text(json.dumps(catalogue | odd))

    with site.shim(PALACE_NO_SPAWN="1", MEMPALACE_MCP_READ_ONLY="1") as client:
        version = client.initialize()["result"]["protocolVersion"]
        tools = client.request("tools/list")["result"]["tools"]

    assert version == "2025-06-18"
    assert "mempalace_search" in {tool["name"] for tool in tools}


def test_path_that_is_no_text_is_served_or_refused_with_the_reason(site: Site) -> None:
    path = os.fsdecode(os.fsencode(site.palace.parent) + b"/\xff")

    done = site.run("ensure", MEMPALACE_PATH=path)
    end_brokers(site.palace.parent)

    assert done.returncode in (0, 77, 78), done.stderr


@pytest.mark.parametrize("command", ["serve", "ensure"])
@pytest.mark.parametrize("name", ["broker.lock", "broker.json"])
def test_link_in_place_of_a_control_file_is_not_followed(
    site: Site, tmp_path: Path, name: str, command: str
) -> None:
    make_palace(site)
    target = tmp_path / "target"
    target.write_text("untouched")
    (site.palace / name).symlink_to(target)

    done = site.run(command)

    assert done.returncode == 77
    assert f"{name} is a link" in one_line(done.stderr)
    assert target.read_text() == "untouched"


def test_shim_with_unknown_arguments_is_refused(site: Site) -> None:
    for arguments in (["shim", "--nonsense"], ["serve", "--nonsense"], ["ensure", "nonsense"]):
        with Client([*PALACE, *arguments], site.environ()) as client:
            assert client.receive() == b""
            assert client.process.wait(30) == 78


# Lines that no client should send.


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace that is served, with small limits where the default would take long."""
    site = make_site(tmp_path_factory.mktemp("running"), model_home)
    make_palace(site)
    with Serving(site):
        wait_ready(site)
        yield site
        assert status_of(site)["epoch"] == 1


@pytest.fixture
def client(running: Site) -> Iterator[Client]:
    """A session that must go on, whatever happens."""
    with running.shim(PALACE_NO_SPAWN="1") as client:
        assert client.tool("get_aaak_spec")
        yield client
        assert client.tool("get_aaak_spec")


HEAD = b'{"jsonrpc": "2.0", "method": "tools/call", '
LINE_BYTES_MAX = 33_554_432  # the default of line_bytes_max
SESSIONS_MAX = 256  # the default of sessions_max


def big_line(ident: bytes, size: int, *, id_first: bool) -> bytes:
    """Return a line of `size` bytes, newline included, whose id stands before or after."""
    before = HEAD + (b'"id": %b, ' % ident if id_first else b"")
    before += b'"params": {"id": "decoy", "name": "mempalace_get_aaak_spec", "pad": "'
    after = (
        b'", "arguments": {}, "_meta": {"id": [0]}}'
        + (b"" if id_first else b', "id": %b' % ident)
        + b"}\n"
    )
    return before + b"x" * (size - len(before) - len(after)) + after


@pytest.mark.parametrize("id_first", [True, False])
@pytest.mark.parametrize("ident", [b'"a \\" quoted id"', b"7"])
def test_line_of_80_megabytes_is_refused_with_its_id(
    client: Client, ident: bytes, id_first: bool
) -> None:
    client.send(big_line(ident, 80_000_000, id_first=id_first) + call_line("next", "get_aaak_spec"))
    first, second = json.loads(client.receive()), json.loads(client.receive())

    assert first["id"] == json.loads(ident)
    assert code_of(first) == -31043
    assert "line_bytes_max" in first["error"]["message"]
    assert second["id"] == "next"
    assert "result" in second


def test_line_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(client: Client) -> None:
    client.send(big_line(b"1", LINE_BYTES_MAX + 1, id_first=False))
    client.send(big_line(b"2", LINE_BYTES_MAX + 2, id_first=False))
    replies = {reply["id"]: reply for reply in (json.loads(client.receive()) for _ in range(2))}

    assert "result" in replies[1], "the newline does not count"
    assert code_of(replies[2]) == -31043


@pytest.mark.parametrize(
    "line",
    [
        bytes(byte for byte in range(256) if byte != 10) * 40,
        b"\xff\xfe{\x00",
        b"palace/1 goodbye reason=stop",
        b"[" * 100_000,
        b'{"jsonrpc": "2.0", "id": 1, "method": ',
        b"[]",
        b"[{}]",
        b"null",
        b'"tools/call"',
        b'{"id": 5, "method": 7}',
        b'{"id": 5, "method": "tools/call", "params": []}',
        b'{"id": 5, "method": "tools/call", "params": {"name": 9}}',
        b'{"id": 5, "method": "tools/call", "params": {"name": "x", "arguments": 3}}',
        b'{"id": {"a": [1]}, "method": "tools/call", "params": {"name": "mempalace_nothing"}}',
        b'{"id": 1e999, "method": "no/such"}',
    ],
)
def test_nonsense_is_answered_with_an_error_and_the_session_goes_on(
    client: Client, line: bytes
) -> None:
    client.send(line + b"\n" + call_line("next", "get_aaak_spec"))
    first, second = json.loads(client.receive()), json.loads(client.receive())

    assert "error" in first
    assert second["id"] == "next"
    assert "result" in second


def test_binary_without_a_newline_and_the_end_are_answered_once(running: Site) -> None:
    with running.shim() as client:
        client.send(os.urandom(100_000).replace(b"\n", b"") + b"\x00")
        assert client.process.stdin is not None
        client.process.stdin.close()

        assert code_of(json.loads(client.receive())) == -32700
        assert client.receive() == b""
        assert client.process.wait(30) == 0


def test_half_a_line_before_the_end_is_answered(running: Site) -> None:
    with running.shim() as client:
        client.send(call_line("half", "get_aaak_spec").rstrip(b"\n"))
        assert client.process.stdin is not None
        client.process.stdin.close()

        reply = json.loads(client.receive())
        assert reply["id"] == "half"
        assert "result" in reply
        assert client.receive() == b""
        assert client.process.wait(30) == 0


def test_client_that_leaves_without_reading_ends_its_shim(running: Site) -> None:
    with running.shim() as client:
        client.send(b"".join(call_line(number, "get_aaak_spec") for number in range(300)))
        assert client.process.stdout is not None
        client.process.stdout.close()
        client.process.stdout = None
        assert client.process.stdin is not None
        client.process.stdin.close()

        assert client.process.wait(30) == 0
    wait_until(lambda: not connected(running), what="its connection is closed")


def connected(site: Site) -> list[str]:
    """Return the sessions that have a connection."""
    sessions = status_of(site)["sessions"]
    return [session["session"] for session in sessions if session["connected"]]


# Strangers on the socket.


def refusal_of(line: Line) -> str:
    kind, fields = line.header()
    assert kind == "refused"
    assert line.line() == b"", "the broker does not hang up"
    return fields["code"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "wire"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n', "wire"),
        (bytes(range(256)) + b"\n", "wire"),
        (b"palace/99 hello session=s next=0\n", "version_mismatch"),
        (b"palace/1 hello next=0\n", "wire"),
        (b"palace/1 hello session=s next=many\n", "wire"),
        (b"palace/1 hello session=s next=0 resend=3:1,2:0\n", "wire"),
        (b"palace/1 hello session=%zz next=0\n", "wire"),
        (b"palace/1 hello session\n", "wire"),
        (b"palace/1 control ask=nonsense\n", "wire"),
        (b"palace/1 welcome epoch=9\n", "wire"),
        (b"palace/1 hello session=s palace_id=another next=0\n", "wrong_palace"),
    ],
)
def test_stranger_is_refused_and_the_others_are_served(
    running: Site, client: Client, words: bytes, code: str
) -> None:
    with Line(running.palace / "broker.sock") as line:
        line.send(words)
        assert refusal_of(line) == code
        assert client.tool("get_aaak_spec")


def test_stranger_without_an_end_of_line_is_refused_at_the_limit(
    running: Site, client: Client
) -> None:
    with Line(running.palace / "broker.sock") as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it hangs up meanwhile
            for _ in range(40):
                line.send(b"x" * 1_000_000)
        wait_until(lambda: "a line of more than" in status_of(running)["last_error"])
    assert client.tool("get_aaak_spec")


def test_stranger_after_its_hello_is_cut_off_alone(running: Site, client: Client) -> None:
    with Line(running.palace / "broker.sock") as line:
        assert line.hello("stranger")[0] == "welcome"
        line.send(b"\x00\xff\n" + call_line(1, "get_aaak_spec"))
        first, second = line.line(), line.line()

        assert first.startswith(b"0 ")
        assert code_of(json.loads(first[2:])) == -32700
        assert second.startswith(b"1 ")
        assert client.tool("get_aaak_spec")


def test_silent_strangers_are_cut_off_while_others_are_served(
    running: Site, client: Client
) -> None:
    path = running.palace / "broker.sock"
    with Line(path) as silent, Line(path) as half:
        half.send(b"palace/1 hello session=ha")
        for _ in range(20):
            assert client.tool("get_aaak_spec")

        assert [refusal_of(silent), refusal_of(half)] == ["silent", "silent"]


def test_three_hundred_strangers_keep_nobody_out(running: Site, client: Client) -> None:
    path = running.palace / "broker.sock"
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(Line(path)) for _ in range(300)]
        for stranger in strangers[::3]:
            stranger.send(b"palace/1 hel")
        for stranger in strangers[1::3]:
            stranger.send(b"nonsense\n")
        with running.shim(PALACE_NO_SPAWN="1") as late:
            assert late.tool("get_aaak_spec")
            assert client.tool("get_aaak_spec")
        for stranger in strangers[1::3]:
            assert refusal_of(stranger) == "wire"
    assert len(connected(running)) == 1


def test_strangers_leave_the_engine_its_descriptors(site: Site) -> None:
    make_palace(site)
    few = ("prlimit", "--nofile=128:128")
    with contextlib.ExitStack() as stack:
        stack.enter_context(Serving(site, prefix=few))
        client = stack.enter_context(site.shim(PALACE_NO_SPAWN="1"))
        assert client.tool("add_drawer", wing="w", room="r", content="before")["success"]
        for _ in range(200):
            stack.enter_context(Line(site.palace / "broker.sock"))

        assert client.tool("add_drawer", wing="w", room="r", content="meanwhile")["success"]
        assert client.tool("search", query="meanwhile")["results"]


def test_more_sessions_than_allowed_are_told_busy(running: Site, client: Client) -> None:
    path = running.palace / "broker.sock"
    room = SESSIONS_MAX - len(connected(running))  # those that nobody is connected to give way
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(Line(path)) for _ in range(300)]
        kinds = [line.hello(f"session-{number}")[0] for number, line in enumerate(lines)]

        assert set(kinds) == {"welcome", "refused"}
        assert kinds.count("welcome") == room
        assert client.tool("get_aaak_spec")
    wait_until(lambda: len(connected(running)) == 1, what="their connections are closed")
