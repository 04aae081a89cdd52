"""What an owner holds and publishes comes back when it is removed, or the owner leaves."""

import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from palace.broker.holdings import private_holdings
from palace.broker.watch import PATIENCE_S, Holding, cannot_renew
from palace.ownership.keys import key_path
from palace.protocol import wire
from palace.protocol.lifecycle import Reason
from palace.settings.user_settings import user_settings_path
from tests.support.brokers.owner import Running, open_broker, until


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


def renewed(running: Running, name: str) -> int:
    found = {one["name"]: one["renewed"] for one in running.state.watch.report()}
    count = found[name]
    assert isinstance(count, int)
    return count


def reason(running: Running) -> str:
    drain = running.state.lifecycle.drain
    return f"{drain.reason.value}: {drain.text}" if drain else ""


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield


def a_holding(**fields: Any) -> Holding:
    wanted: dict[str, Any] = {
        "name": "thing",
        "path": "/thing",
        "is_ours": lambda: True,
        "renew": lambda: None,
    }
    return Holding(**(wanted | fields))


# The socket.


async def test_a_removed_socket_is_bound_again_and_nobody_is_cut_off(root: Path) -> None:
    async with open_broker(root) as running:
        before = await running.session("before")
        for time in (1, 2):
            (root / "broker.sock").unlink()
            await until((root / "broker.sock").exists)
            assert renewed(running, "broker.sock") == time

            found = await running.session(f"after{time}")
            for shim in (before, found):
                shim.call("add_drawer", name="x")
                await shim.reply()
        assert {path.name for path in root.glob("broker.*")} == {
            *("broker.lock", "broker.sock", "broker.json", "broker.tools.json")
        }
    assert not (root / "broker.sock").exists()  # the new one, too, is the owner's own


async def test_those_who_found_the_old_socket_are_served(root: Path) -> None:
    async with open_broker(root) as running:
        # No checkpoint in between: the broker finds the connection and the removal at once.
        waiting = running.connect()
        (root / "broker.sock").unlink()
        running.state.watch.look(trio.current_time())

        assert renewed(running, "broker.sock") == 1
        await waiting.welcome()


@pytest.mark.parametrize(("uids", "mode"), [((), 0o600), ((4711,), 0o666)])
async def test_the_new_socket_has_the_old_ones_mode(
    root: Path, uids: tuple[int, ...], mode: int
) -> None:
    umask = os.umask(0)
    try:
        async with open_broker(root, allow_uids=uids) as running:
            assert running.state.services.endpoint is not None
            running.state.services.endpoint.shared = bool(uids)
            (root / "broker.sock").unlink()
            running.state.watch.look(trio.current_time())
            assert stat.S_IMODE((root / "broker.sock").stat().st_mode) == mode
    finally:
        os.umask(umask)


async def test_a_dead_thing_in_the_sockets_place_is_replaced(root: Path) -> None:
    async with open_broker(root) as running:
        (root / "broker.sock").unlink()
        (root / "broker.sock").write_text("restored from a backup")
        await until(lambda: renewed(running, "broker.sock") == 1)
        await running.session()


async def test_an_owner_does_not_quarrel_over_its_socket(root: Path) -> None:
    async with open_broker(root) as running:
        (root / "broker.sock").unlink()
        with listening(root / "broker.sock"):
            await running.ended.wait()
            assert "another process listens" in reason(running).lower()
        assert (root / "broker.sock").exists()  # it is not ours to remove


# Files that others read.


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((name, "removed") for name in ("broker.json", "epoch", "palace_id", "protocol")),
        *((name, "emptied") for name in ("broker.json", "epoch", "palace_id")),
    ],
)
async def test_control_files_are_written_again(root: Path, name: str, harm: str) -> None:
    async with open_broker(root) as running:
        path = root / name
        before = path.read_bytes()
        if harm == "removed":
            path.unlink()
        else:
            path.write_bytes(b"")
        await until(lambda: path.exists() and path.read_bytes() == before)
        assert reason(running) == ""
        assert renewed(running, name) == 1


async def test_a_file_put_back_as_it_was_is_no_trouble(root: Path) -> None:
    async with open_broker(root) as running:
        data = (root / "broker.json").read_bytes()
        (root / "copy").write_bytes(data)
        (root / "copy").rename(root / "broker.json")
        running.state.watch.look(trio.current_time())
        assert renewed(running, "broker.json") == 0


async def test_a_younger_owners_record_is_left_alone(root: Path) -> None:
    async with open_broker(root) as running:
        record = json.loads((root / "broker.json").read_text())
        younger = json.dumps(record | {"epoch": record["epoch"] + 1, "incarnation": "f" * 32})
        (root / "broker.json").write_text(younger)
        await running.ended.wait()

    assert reason(running).startswith("moved: broker.json")
    assert (root / "broker.json").read_text() == younger


@pytest.mark.parametrize(
    ("name", "text"),
    [("epoch", "7\n"), ("palace_id", "0" * 32), ("protocol", "9 9.9\n"), ("owner.json", "{}")],
)
async def test_what_another_owner_has_written_ends_this_one(
    root: Path, name: str, text: str
) -> None:
    async with open_broker(root) as running:
        (root / name).write_text(text)
        await running.ended.wait()

    assert reason(running).startswith(f"moved: {name}")
    assert (root / name).read_text() == text


async def test_settings_are_their_users_to_edit_and_come_back_when_removed(root: Path) -> None:
    root.mkdir(mode=0o700)
    path = root / "palace.toml"
    path.write_text('graph = "a"\n')
    async with open_broker(root) as running:
        path.write_text('graph = "b"\n')
        running.state.watch.look(trio.current_time())
        assert path.read_text() == 'graph = "b"\n'

        path.unlink()
        running.state.watch.look(trio.current_time())
        assert path.read_text() == 'graph = "b"\n'
        assert reason(running) == ""


@pytest.mark.parametrize("upto", ["keys", "settings", "palace", "state"])
async def test_the_users_own_files_come_back_with_their_directories(
    root: Path, short_dir: Path, upto: str
) -> None:
    """Keys and settings lie in the state directory, which cleaners remove as a whole."""
    root.mkdir(mode=0o700)
    environ = {"HOME": str(short_dir)}
    async with open_broker(root) as running:
        ownership, kernel = running.state.services.ownership, running.state.services.kernel
        kept = (
            Path(key_path(ownership.palace_id, environ)),
            Path(user_settings_path(ownership.paths, environ)),
        )
        for path in kept:
            path.parent.mkdir(mode=0o700, parents=True)
            path.write_text(f"# {path.name}")
        for holding in private_holdings(ownership, environ, kernel):
            running.state.watch.add(holding)

        shutil.rmtree(
            next(path for path in (*kept[1].parents, kept[0].parent) if path.name == upto)
        )
        running.state.watch.look(trio.current_time())

        assert [path.read_text() for path in kept] == [f"# {path.name}" for path in kept]
        assert [one["problem"] for one in running.state.watch.report() if one["problem"]] == []
        made = {stat.S_IMODE(path.parent.stat().st_mode) for path in kept}
        assert made == {0o700}
        assert reason(running) == ""


async def test_what_stock_reads_is_told_again(root: Path, short_dir: Path) -> None:
    async with open_broker(root, home=str(short_dir)) as running:
        server = short_dir / ".mempalace" / "server"
        await until(lambda: list(server.glob("*/serverinfo.json")))
        (directory,) = server.iterdir()
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        assert files.keys() == {"token", "serverinfo.json"}
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        server.rmdir()

        await until(lambda: server.exists() and len(list(server.glob("*/*"))) == 2)
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == files
        assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
        assert reason(running) == ""
    assert not (directory / "serverinfo.json").exists()


async def test_another_servers_announcement_stays(root: Path, short_dir: Path) -> None:
    async with open_broker(root, home=str(short_dir)) as running:
        server = short_dir / ".mempalace" / "server"
        await until(lambda: list(server.glob("*/serverinfo.json")))
        (path,) = server.glob("*/serverinfo.json")
        theirs = json.dumps({"pid": os.getppid(), "port": 1, "server": "stock"})
        path.write_text(theirs)
        running.state.watch.look(trio.current_time())

        assert path.read_text() == theirs
        (problem,) = (one["problem"] for one in running.state.watch.report() if one["problem"])
        assert f"another server, pid {os.getppid()}" in str(problem)
        assert reason(running) == ""


async def test_a_token_that_was_changed_makes_room_for_another_owner(
    root: Path, short_dir: Path
) -> None:
    async with open_broker(root, home=str(short_dir)) as running:
        server = short_dir / ".mempalace" / "server"
        await until(lambda: list(server.glob("*/serverinfo.json")))
        (path,) = server.glob("*/token")
        path.write_text("mine\n")
        await running.ended.wait()

    assert reason(running).startswith("moved: token")
    assert path.read_text() == "mine\n"


# Leaving.


@pytest.mark.parametrize("name", ["broker.lock", ""])
async def test_the_lock_and_the_directory_are_had_once(root: Path, name: str) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        (root / name).rename(root.parent / "elsewhere")
        kind, fields = await shim.header()
        assert (kind, fields["reason"]) == (wire.GOODBYE, "moved")
        await running.ended.wait()
        if not name:
            assert not root.exists()


async def test_no_change_begins_once_a_holding_is_lost(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        # As after SIGSTOP: the call is read before the clock has ticked again.
        running.state.watch.add(a_holding(is_ours=lambda: False, renew=cannot_renew("gone")))
        shim.call("add_drawer", name="late")
        kind, fields = await shim.header()

        assert (kind, fields["reason"]) == (wire.GOODBYE, "moved")
        assert fields["unrun"] == "0" or fields["read_upto"] == "-1"
        await running.ended.wait()
    assert running.engine.begun == []
    assert running.engine.written == []


async def test_nothing_is_published_again_by_an_owner_that_leaves(root: Path) -> None:
    async with open_broker(root) as running:
        shim = await running.session()
        shim.call("add_drawer", name="x", hold="w")
        await until(lambda: running.engine.begun)
        running.state.leaving.stop(Reason.STOP)
        running.state.watch.look(trio.current_time() + PATIENCE_S)

        assert not {"broker.sock", "broker.json"} & set(os.listdir(root))
        running.engine.gate("w").set()
        await running.ended.wait()


async def test_what_cant_be_renewed_is_tried_again_and_then_given_up(root: Path) -> None:
    def renew() -> None:
        raise OSError(28, "No space left on device")

    async with open_broker(root) as running:
        watch = running.state.watch
        watch.add(a_holding(is_ours=lambda: False, renew=renew))
        watch.add(a_holding(name="hint", is_ours=lambda: False, renew=renew, vital=False))
        now_s = trio.current_time()
        watch.look(now_s)
        assert {one["problem"] for one in watch.report()} == {"", "/thing: No space left on device"}
        assert reason(running) == ""
        watch.look(now_s + PATIENCE_S - 0.1)
        assert reason(running) == ""
        watch.look(now_s + PATIENCE_S)
        assert reason(running) == "moved: thing: /thing: No space left on device"


async def test_a_hint_that_cant_be_renewed_ends_nobody(root: Path) -> None:
    async with open_broker(root) as running:
        watch = running.state.watch
        watch.add(a_holding(is_ours=lambda: False, renew=cannot_renew("lost"), vital=False))
        now_s = trio.current_time()
        for later_s in (0.0, PATIENCE_S, 10 * PATIENCE_S):
            watch.look(now_s + later_s)
        assert reason(running) == ""
