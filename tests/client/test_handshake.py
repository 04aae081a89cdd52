"""Whose socket a client talks to, and what it makes of the first line that it reads there."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from palace.client.connector import Connector
from palace.client.control import Control
from palace.doctor.boundary import explore
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.errors import PalaceError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from tests.support.needs import need_root

OWNER, STRANGER = 54_321, 54_322


@pytest.fixture
def palace(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A palace that belongs to another user, whom its `allow_uids` lets us visit."""
    need_root()
    monkeypatch.delenv("MEMPALACE_BROKER", raising=False)
    root = short_dir / "palace"
    root.mkdir(mode=0o755)
    os.chown(root, OWNER, OWNER)
    return root


@contextmanager
def served_by(uid: int, palace: Path) -> Iterator[None]:
    """Serve a palace's socket as that user: the kernel notes who calls listen(2)."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(palace / "broker.sock"))
        os.seteuid(uid)
        try:
            listener.listen(1)
        finally:
            os.seteuid(0)
        serving = threading.Thread(target=_answer, args=(listener,))
        serving.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def _answer(listener: socket.socket) -> None:
    try:
        sock, _ = listener.accept()
    except OSError:
        return  # the test is over
    with sock:
        line = sock.makefile("rb").readline()
        if not line:
            return  # it saw whose socket this is, and left
        _, kind, _ = wire.decode_header(line.rstrip(b"\n"))
        if kind == wire.CONTROL:
            sock.sendall(wire.encode_header(wire.ANSWER, {}) + b'{"running": true}\n')
        else:
            sock.sendall(wire.encode_header(wire.WELCOME, {"epoch": "1"}))


def status(palace: Path) -> bool:
    try:
        with Control(Paths(str(palace)), ShimEnvironment({})) as control:
            return bool(control.status()["running"])
    except PalaceError:
        return False


def shim(palace: Path) -> bool:
    environment = ShimEnvironment({"PALACE_NO_SPAWN": "1"})
    connector = Connector(Site(Kernel(), Paths(str(palace)), environment), deadline_s=5.0)
    connector.begin(lambda: wire.encode_header(wire.HELLO, {}))
    connector.wait()
    connected = connector.state == Connector.CONNECTED
    connector.end()
    return connected


def doctor(palace: Path) -> bool:
    found = explore(Paths(str(palace)), ShimEnvironment({"PALACE_NO_SPAWN": "1"}))
    return found.taken is not None


@pytest.mark.parametrize("client", [status, shim, doctor])
def test_the_broker_of_the_palaces_owner_is_trusted(
    palace: Path, client: Callable[[Path], bool]
) -> None:
    with served_by(OWNER, palace):
        assert client(palace)


@pytest.mark.parametrize("client", [status, shim, doctor])
def test_a_socket_of_another_user_is_not_trusted(
    palace: Path, client: Callable[[Path], bool]
) -> None:
    with served_by(STRANGER, palace):
        assert not client(palace)
