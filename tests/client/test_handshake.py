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
from palace.client.handshake import Conversation, LineBuffer, decode_response, say
from palace.doctor.boundary import explore
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.ownership.record import publish
from palace.protocol import wire
from palace.protocol.errors import PalaceError, WireError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from tests.support.machines.needs import need_root

OWNER, STRANGER = 54_321, 54_322


@pytest.fixture
def palace(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A palace of another user, who has named us in `allow_uids`."""
    need_root()
    monkeypatch.delenv("MEMPALACE_BROKER", raising=False)
    root = short_dir / "palace"
    root.mkdir(mode=0o755)
    os.chown(root, OWNER, OWNER)
    return root


@contextmanager
def served_by(uid: int, path: Path) -> Iterator[None]:
    """Serve a socket as that user: the kernel notes who calls listen(2)."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        ours = os.geteuid()
        os.seteuid(uid)
        try:
            listener.listen(1)
        finally:
            os.seteuid(ours)
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
    with served_by(OWNER, palace / "broker.sock"):
        assert client(palace)


@pytest.mark.parametrize("client", [status, shim, doctor])
def test_a_socket_of_another_user_is_not_trusted(
    palace: Path, client: Callable[[Path], bool]
) -> None:
    with served_by(STRANGER, palace / "broker.sock"):
        assert not client(palace)


@pytest.mark.parametrize("client", [status, shim, doctor])
def test_a_broker_that_listens_elsewhere_is_found_though_a_dead_socket_is_in_the_usual_place(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, client: Callable[[Path], bool]
) -> None:
    monkeypatch.delenv("MEMPALACE_BROKER", raising=False)
    root, elsewhere = short_dir / "palace", short_dir / "s" / "broker.sock"
    root.mkdir(mode=0o700)
    elsewhere.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(root / "broker.sock"))
    lock_fd = os.open(root / "lock", os.O_CREAT)
    publish(Ownership(Paths(str(root)), lock_fd), str(elsewhere), Kernel(), mode="broker")
    os.close(lock_fd)

    with served_by(os.geteuid(), elsewhere):
        assert client(root)


def test_a_line_is_complete_with_its_newline_however_it_is_cut() -> None:
    lines = LineBuffer()

    lines.feed(b"on")
    assert lines.take() is None
    lines.feed(b"e\ntwo\nthr")

    assert [lines.take(), lines.take(), lines.take()] == [b"one", b"two", None]
    assert lines.rest == b"thr"


@pytest.mark.parametrize("line", [b"", b"HTTP/1.1 400", b"palace/1 welcome epoch=x"])
def test_what_is_no_response_of_a_broker_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        decode_response(line)


def test_a_response_names_its_kind_and_the_owners_epoch() -> None:
    found = decode_response(b"palace/1 welcome epoch=7 palace_id=x")

    assert (found.kind, found.epoch, found.fields["palace_id"]) == (wire.WELCOME, 7, "x")
    assert decode_response(b"palace/1 refused code=busy").epoch == 0


def test_what_was_said_before_it_hung_up_is_read_although_nothing_can_be_asked(
    tmp_path: Path,
) -> None:
    """As a full broker refuses: at once, and perhaps before the question was sent."""
    ours, theirs = socket.socketpair()
    theirs.sendall(wire.encode_header(wire.REFUSED, {"error": "busy"}))
    theirs.close()
    talk = Conversation(ours, Paths(str(tmp_path)), Kernel())

    answer = talk.ask(wire.encode_header(wire.CONTROL, {"verb": "status"}), 5.0)
    with pytest.raises(ConnectionResetError):
        talk.ask(wire.encode_header(wire.CONTROL, {"verb": "status"}), 5.0)
    talk.close()

    assert (answer.kind, answer.fields) == (wire.REFUSED, {"error": "busy"})


def test_a_shim_that_is_refused_before_it_has_said_hello_learns_why(tmp_path: Path) -> None:
    """It must not take a full broker for an absent one, and start another."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(wire.encode_header(wire.REFUSED, {"code": "busy"}))
    theirs.close()

    say(ours, wire.encode_header(wire.HELLO, {}))
    line = ours.recv(1000)
    ours.close()

    assert decode_response(line.removesuffix(b"\n")).fields == {"code": "busy"}
