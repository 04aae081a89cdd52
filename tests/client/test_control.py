"""What the commands say of a broker that they can't talk to, and where they look for one."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from palace.cli import running
from palace.client import control
from palace.client.endpoints import socket_candidates
from palace.commands.running import stop_broker
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.claim import Claim, id_file, local_directory
from palace.protocol import wire
from palace.protocol.errors import BrokerUnreachable, ConfigError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site


@pytest.fixture
def palace(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MEMPALACE_BROKER", raising=False)
    monkeypatch.setattr(control, "STATUS_S", 0.2)
    root = short_dir / "palace"
    root.mkdir(mode=0o700)
    return root


@pytest.fixture
def silent(palace: Path) -> Iterator[socket.socket]:
    """Something that listens and says nothing, as a stopped broker does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(palace / "broker.sock"))
        listener.listen(1)
        yield listener


def told(palace: Path, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    """Return what `palace status` prints where there is no status."""
    assert running.status(palace=str(palace), as_json=as_json) == 69
    return capsys.readouterr().out


def test_status_of_a_silent_broker_says_that_it_does_not_answer(
    palace: Path, silent: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(palace, capsys)
    machine = json.loads(told(palace, capsys, as_json=True))

    assert "accepts but does not answer" in text
    assert "no broker runs" not in text
    assert "accepts but does not answer" in machine["text"]
    assert machine["running"] is False


def test_status_of_a_broker_whose_backlog_is_full_says_that_it_is_stuck(
    palace: Path, silent: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as waiting:
        while _waits_in_the_backlog(silent, waiting):
            pass

        text = told(palace, capsys)

    assert "takes no more connections: it is stopped or stuck" in text


def _waits_in_the_backlog(listener: socket.socket, waiting: ExitStack) -> bool:
    sock = waiting.enter_context(socket.socket(socket.AF_UNIX))
    sock.setblocking(False)
    return sock.connect_ex(listener.getsockname()) == 0


def test_status_of_what_hangs_up_says_that_it_did(
    palace: Path, silent: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    def accept() -> None:
        silent.accept()[0].close()

    hanging_up = threading.Thread(target=accept)
    hanging_up.start()
    text = told(palace, capsys)
    hanging_up.join()

    assert "hung up" in text


def test_status_names_who_holds_the_lock_beside_the_reason(
    palace: Path, silent: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    (palace / "broker.hold").write_text("2026-01-01T00:00:00Z\n")
    owner = lock.take_lock(Paths(str(palace)), Kernel())

    reason, hold, holder = told(palace, capsys).splitlines()

    assert "does not answer" in reason
    assert "on hold since 2026-01-01" in hold
    assert f"held by pid {os.getpid()}" in holder
    os.close(owner.lock_fd)


@pytest.mark.parametrize("left", ["nothing", "a dead socket"])
def test_status_of_a_palace_that_nobody_serves_says_that_none_runs(
    palace: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    if left == "a dead socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(palace / "broker.sock"))

    text = told(palace, capsys)

    assert text == f"no broker runs for {palace}\n"


def test_status_of_an_endpoint_that_can_not_be_one_says_why(
    palace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMPALACE_BROKER", f"unix:/{'x' * 200}")

    text = told(palace, capsys)

    assert "can't be reached" in text
    assert "too long" in text


_NAMES = (
    "incarnation palace_id start_time boot_id pid_namespace host_id token version mode started_at"
)
RECORD: dict[str, object] = dict.fromkeys(_NAMES.split(), "x") | {"v": 1, "epoch": 1, "pid": 1}


def candidates_of(palace: Path, **environ: str) -> list[str]:
    return list(socket_candidates(Site(Kernel(), Paths(str(palace)), ShimEnvironment(environ))))


@pytest.mark.parametrize(
    ("broker", "endpoints", "expected"),
    [
        ("", None, ["{root}/broker.sock"]),
        ("", [], ["{root}/broker.sock"]),
        ("", ["unix:{root}/broker.sock"], ["{root}/broker.sock"]),
        (
            "",
            ["tcp://h:1", "unix:/a/broker.sock", "unix:/b/broker.sock"],
            ["{root}/broker.sock", "/a/broker.sock"],
        ),
        ("", ["unix:/a/docker.sock", "unix:/../broker.sock"], ["{root}/broker.sock"]),
        ("unix:/mine", ["unix:/a"], ["/mine"]),
        ("wss://h:1", ["unix:/a"], []),
    ],
)
def test_a_socket_is_the_named_one_or_the_usual_one_then_the_published_one(
    palace: Path, broker: str, endpoints: list[str] | None, expected: list[str]
) -> None:
    if endpoints is not None:
        urls = [url.format(root=palace) for url in endpoints]
        record = RECORD | {"boot_id": Kernel().boot_id(), "endpoints": urls}
        (palace / "broker.json").write_text(json.dumps(record))

    found = candidates_of(palace, MEMPALACE_BROKER=broker)

    assert found == [path.format(root=palace) for path in expected]


def test_what_a_broker_of_another_boot_published_is_not_dialled(palace: Path) -> None:
    (palace / "broker.json").write_text(json.dumps(RECORD | {"endpoints": ["unix:/a/broker.sock"]}))

    assert candidates_of(palace) == [f"{palace}/broker.sock"]


def test_a_palace_that_is_owned_over_a_mount_is_served_beside_its_lock(palace: Path) -> None:
    environ = {"XDG_STATE_HOME": str(palace.parent / "state")}
    paths = Paths(str(palace))
    identity = "0" * 32
    Path(id_file(environ)).parent.mkdir(parents=True, mode=0o700)
    Path(id_file(environ)).write_text(identity)
    claim = Claim(id=identity, host="h", path=str(palace), since="2026-01-01T00:00:00Z")
    (palace / "owner.json").write_bytes(claim.encode())

    found = candidates_of(palace, **environ)

    assert found == [paths.socket(""), f"{local_directory(str(palace), environ)}/broker.sock"]


@pytest.mark.parametrize("published", ["/nonexistent/broker.sock", "{root}/closed/broker.sock"])
def test_where_the_palace_has_another_name_its_usual_socket_is_asked(
    palace: Path, silent: socket.socket, published: str
) -> None:
    (palace / "closed").mkdir(mode=0)
    urls = [f"unix:{published.format(root=palace)}"]
    record = RECORD | {"boot_id": Kernel().boot_id(), "endpoints": urls}
    (palace / "broker.json").write_text(json.dumps(record))

    try:
        with control.Control(Paths(str(palace)), ShimEnvironment({})) as asking:
            assert asking.path == f"{palace}/broker.sock"
    finally:
        (palace / "closed").chmod(0o700)  # so that whoever is not root can remove it


@pytest.mark.parametrize("broker", ["ssh://host", "wss://host:1", "unix:", "nonsense"])
def test_an_endpoint_of_another_kind_is_refused(palace: Path, broker: str) -> None:
    environment = ShimEnvironment({"MEMPALACE_BROKER": broker})

    with pytest.raises(ConfigError, match="on its own machine"):
        control.Control(Paths(str(palace)), environment)


def test_only_an_absence_is_told_as_one(palace: Path) -> None:
    with pytest.raises(BrokerUnreachable) as caught:
        control.Control(Paths(str(palace)), ShimEnvironment({}))

    assert caught.value.details == {"absent": True}


@pytest.mark.parametrize(
    ("sign", "advised"), [({"silent": True}, True), ({"absent": True}, True), ({}, False)]
)
def test_only_what_was_asked_and_kept_silent_is_to_be_killed(
    tmp_path: Path, sign: dict[str, bool], advised: bool
) -> None:
    """A broker that this user may not ask serves others well."""
    kernel, paths = Kernel(), Paths(str(tmp_path))
    fd = kernel.open_lock(paths.lock)
    assert kernel.try_lock(fd)
    try:
        text = control.known_without_answer(paths, kernel, BrokerUnreachable("No.", **sign))["text"]
    finally:
        kernel.close(fd)

    assert f"its lock is held by pid {os.getpid()}" in text
    assert (f"kill {os.getpid()}" in text) == advised


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ({"code": "busy", "text": "64 connections are open."}, "64 connections are open."),
        ({"code": "version_mismatch", "text": "It is newer."}, "It is newer."),
    ],
)
def test_a_hold_does_not_say_of_a_broker_that_refuses_that_none_runs(
    palace: Path, silent: socket.socket, refusal: dict[str, str], said: str
) -> None:
    def refuse() -> None:
        sock = silent.accept()[0]
        sock.recv(4096)
        sock.sendall(wire.encode_header(wire.REFUSED, refusal))
        sock.close()

    refusing = threading.Thread(target=refuse)
    refusing.start()
    with pytest.raises(BrokerUnreachable) as stopping:
        stop_broker(Paths(str(palace)), ShimEnvironment({}), now=False, hold=True)
    refusing.join()

    assert said in stopping.value.message
    assert "this one was not stopped" in stopping.value.message
    assert (palace / "broker.hold").exists()


def test_a_hold_of_what_nobody_serves_says_that_none_runs(palace: Path) -> None:
    told = stop_broker(Paths(str(palace)), ShimEnvironment({}), now=False, hold=True)

    assert told == f"No broker runs for {palace}. On hold until `palace start`."
