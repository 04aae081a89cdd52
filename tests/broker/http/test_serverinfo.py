"""serverinfo.json and token: ours while we serve, and nobody else's file is touched."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.broker.http.serverinfo import CAPABILITIES, ServerInfo
from palace.broker.watch import Lost
from palace.kernel.kernel import Kernel
from palace.protocol.errors import LockFailed


@pytest.fixture
def info(tmp_path: Path) -> ServerInfo:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    info = ServerInfo(home=str(home), palace=str(tmp_path / "palace"), kernel=Kernel())
    os.makedirs(info.directory, 0o700)
    return info


@pytest.fixture
def living() -> Iterator[int]:
    """The pid of another process that lives."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def told(info: ServerInfo) -> dict[str, object]:
    found = json.loads(Path(info.path).read_text())
    assert isinstance(found, dict)
    return found


def put(info: ServerInfo, **fields: object) -> bytes:
    data = json.dumps(fields).encode()
    Path(info.path).write_bytes(data)
    return data


def test_stock_is_told_where_we_listen_and_how(info: ServerInfo) -> None:
    assert not info.is_published
    info.publish(port=4711, fingerprint="f")

    assert info.is_published
    assert told(info) == {
        "pid": os.getpid(),
        "host": "127.0.0.1",
        "port": 4711,
        "scheme": "http",
        "read_only": False,
        "capabilities": list(CAPABILITIES),
        "search_config_fingerprint": "f",
        "palace_path": info.palace,
        "server": "palace",
    }
    assert Path(info.path).stat().st_mode & 0o777 == 0o600


def test_each_broker_has_a_token_of_its_own_that_its_user_alone_can_read(info: ServerInfo) -> None:
    first, second = info.token(), info.token()

    assert first != second
    assert len(second) >= 43, "256 bits"
    assert Path(info.token_path).read_text() == f"{second}\n"
    assert Path(info.token_path).stat().st_mode & 0o777 == 0o600


def test_a_directory_that_others_may_write_to_holds_no_token(info: ServerInfo) -> None:
    Path(info.directory).chmod(0o777)

    with pytest.raises(LockFailed, match="can't hold a token"):
        info.token()
    assert not Path(info.token_path).exists()


def test_what_was_published_is_withdrawn_and_only_that(info: ServerInfo) -> None:
    info.publish(port=1, fingerprint="")
    info.withdraw()
    assert not Path(info.path).exists()
    assert not info.is_published
    info.publish(port=1, fingerprint="")
    theirs = put(info, pid=1, port=2)
    info.withdraw()
    info.withdraw()

    assert Path(info.path).read_bytes() == theirs


def test_a_server_that_lives_and_is_not_us_has_the_place(info: ServerInfo, living: int) -> None:
    assert not info.is_anothers()
    put(info, pid=os.getpid())
    assert not info.is_anothers()
    put(info, pid=living)
    assert info.is_anothers()
    put(info, pid=1 << 22)
    assert not info.is_anothers(), "it is dead"
    Path(info.path).write_text("{")
    assert not info.is_anothers()


@pytest.mark.parametrize(
    ("fields", "removed"), [({"server": "palace", "pid": 1}, True), ({"pid": 1}, False)]
)
def test_what_a_killed_broker_left_is_removed_and_stocks_is_not(
    info: ServerInfo, fields: dict[str, object], removed: bool
) -> None:
    put(info, **fields)

    info.remove_dead()

    assert Path(info.path).exists() is not removed


@pytest.mark.parametrize("data", [b"[]", b"{", b'"palace"'])
def test_what_is_no_such_file_stays(info: ServerInfo, data: bytes) -> None:
    Path(info.path).write_bytes(data)
    info.remove_dead()

    assert Path(info.path).read_bytes() == data


def test_what_was_removed_is_written_again_and_what_a_server_put_there_is_left(
    info: ServerInfo, living: int
) -> None:
    info.token()
    info.publish(port=1, fingerprint="")
    token, server = info.holdings()
    assert token.vital
    assert not server.vital
    assert server.is_ours()
    published = Path(info.path).read_bytes()
    Path(info.path).unlink()
    assert not server.is_ours()
    server.renew()
    assert Path(info.path).read_bytes() == published
    theirs = put(info, pid=living)
    with pytest.raises(Lost, match=f"another server, pid {living}"):
        server.is_ours()
    assert Path(info.path).read_bytes() == theirs


def test_a_token_that_was_changed_is_lost(info: ServerInfo) -> None:
    info.token()
    info.publish(port=1, fingerprint="")
    token, _ = info.holdings()
    assert token.is_ours()
    Path(info.token_path).write_text("another\n")

    with pytest.raises(Lost, match="each broker makes its own"):
        token.is_ours()
