"""What keeps a broker from being started, where its first words go, and how its end is told."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.client import spawn
from palace.client.endpoints import client_fields, workspace_token
from palace.client.spawn import Child, _first_log, reason_not_to_spawn
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.errors import ConfigError, VersionMismatch
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from tests.client.test_control import RECORD
from tests.support.machines.needs import need_root

KERNEL = Kernel()


@pytest.fixture
def palace(tmp_path: Path) -> Paths:
    (tmp_path / "palace").mkdir(mode=0o700)
    return Paths(f"{tmp_path}/palace")


def site(palace: Paths) -> Site:
    return Site(KERNEL, palace, ShimEnvironment({"HOME": os.path.dirname(palace.root)}))


@pytest.mark.parametrize(
    ("ours", "served", "is_newer"),
    [("0.9.0", "0.10.0", True), ("0.10.0", "0.9.0", False), ("1.0", "1.0", False)],
)
def test_a_palace_that_a_newer_version_has_served_is_left_to_it(
    palace: Paths, monkeypatch: pytest.MonkeyPatch, ours: str, served: str, is_newer: bool
) -> None:
    monkeypatch.setattr(spawn, "__version__", ours)
    Path(palace.record).write_text(json.dumps(RECORD | {"endpoints": [], "version": served}))

    reason = reason_not_to_spawn(site(palace))

    assert isinstance(reason, VersionMismatch) is is_newer
    assert is_newer or reason is None


@pytest.mark.parametrize("spoilt", ["", "no file", "a link", "two names", "everybody's", "theirs"])
def test_first_words_go_to_a_log_of_ours_alone_or_nowhere(palace: Paths, spoilt: str) -> None:
    log = Path(palace.log)
    if spoilt != "no file":
        log.touch()
    if spoilt == "a link":
        log.rename(log.with_name("other"))
        log.symlink_to("other")
    elif spoilt == "two names":
        os.link(log, log.with_name("other"))
    elif spoilt == "everybody's":
        Path(palace.root).chmod(0o777)
    elif spoilt == "theirs":
        need_root()
        os.chown(log, 54_321, 54_321)

    fd = _first_log(palace, KERNEL)

    into = os.fstat(fd)
    os.close(fd)
    wanted = log.stat() if not spoilt else os.stat(os.devnull)
    assert (into.st_dev, into.st_ino) == (wanted.st_dev, wanted.st_ino)


class Reaping(Kernel):
    """A kernel that has reaped the process which was started."""

    def __init__(self, status: int | None) -> None:
        self.status = status

    def reap(self, _pid: int) -> int | None:
        return self.status


@pytest.fixture
def report() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(writing)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", -1),
        (wire.encode_header(wire.FAILED, {"exit": "75", "text": "why"}), 75),
        (wire.encode_header(wire.SERVING, {"exit": "75"}), -1),
        (wire.encode_header(wire.FAILED, {"exit": "256"}), -1),
        (b"nonsense\n", -1),
    ],
)
def test_a_detached_broker_ends_with_its_report(said: bytes, status: int) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    child = Child(Reaping(0), 7, reading, direct=False)

    os.write(writing, said)
    assert child.exit_status() is None, "who was started has ended, and its own child serves"
    os.close(writing)
    assert child.exit_status() == status
    assert child.report_fd == -1


@pytest.mark.parametrize(
    ("direct", "reaped", "status"), [(True, 0, 0), (True, None, None), (False, 77, 77)]
)
def test_a_direct_one_and_one_that_came_to_nothing_end_with_their_process(
    report: tuple[int, int], direct: bool, reaped: int | None, status: int | None
) -> None:
    child = Child(Reaping(reaped), 7, report[0], direct=direct)

    assert child.exit_status() == status
    child.close()


def test_a_client_says_that_it_may_only_read() -> None:
    said = client_fields(KERNEL, ShimEnvironment({"MEMPALACE_MCP_READ_ONLY": "1"}))

    assert said["read_only"] == "1"
    assert "read_only" not in client_fields(KERNEL, ShimEnvironment({}))


def test_a_token_has_its_digits_and_no_fewer(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 64 + "\n")
    assert workspace_token(KERNEL, str(path)) == "a" * 64

    for text in ("", "a" * 63, "a" * 65, "g" * 64):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no token"):
            workspace_token(KERNEL, str(path))
