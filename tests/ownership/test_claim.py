"""Who may open a palace, decided from the mount table, owner.json and this user's identity."""

import json
import os
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.claim import (
    Claim,
    Foreign,
    check_kernel,
    find_foreign,
    id_file,
    local_directory,
    read_claim,
)
from palace.ownership.data_locks import take_other_locks
from palace.ownership.guest_file import GuestFile, guest_path
from palace.protocol.errors import ForeignKernel, LockFailed
from palace.settings.config import Config
from palace.settings.paths import Paths

KERNEL = Kernel()
ID = "ab" * 16


@pytest.fixture
def palace(short_dir: Path) -> Paths:
    root = short_dir / "palace"
    root.mkdir(mode=0o700)
    return Paths(str(root))


@pytest.fixture
def environ(short_dir: Path) -> dict[str, str]:
    """The environment of a user whose kernel has an identity."""
    environ = {"HOME": str(short_dir / "home")}
    path = Path(id_file(environ))
    path.parent.mkdir(parents=True)
    path.write_text(f"{ID}\n")
    return environ


def claim(palace: Paths, **more: str) -> None:
    fields = {"id": ID, "host": "container-7", "path": palace.root, "since": "2026-01-01T00:00:00Z"}
    Path(palace.claim).write_bytes(Claim(**fields | more).encode())


def test_a_claim_of_ours_moves_lock_and_socket_into_the_state_directory(
    palace: Paths, environ: dict[str, str]
) -> None:
    claim(palace)

    lock.check_directory(palace, KERNEL, environ)

    assert palace.local == local_directory(palace.root, environ)
    assert palace.lock == f"{palace.local}/broker.lock"
    assert palace.socket("/run") == f"{palace.local}/broker.sock"
    assert palace.record == f"{palace.root}/broker.json"
    assert os.stat(palace.local).st_mode & 0o777 == 0o700
    os.unlink(palace.claim)
    check_kernel(palace, KERNEL, environ)
    assert palace.lock == f"{palace.root}/broker.lock"


def test_a_lock_directory_that_others_could_list_is_closed(
    palace: Paths, environ: dict[str, str]
) -> None:
    claim(palace)
    os.mkdir(local_directory(palace.root, environ), 0o755)

    lock.check_directory(palace, KERNEL, environ)

    assert os.stat(palace.local).st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 10_000,
        json.dumps({"v": 2, "id": ID, "host": "h", "path": "/p", "since": "s"}).encode(),
        json.dumps({"v": 1, "id": ID}).encode(),
    ],
)
def test_a_claim_that_cannot_be_read_is_somebodys(
    palace: Paths, environ: dict[str, str], written: bytes
) -> None:
    Path(palace.claim).write_bytes(written)

    with pytest.raises(ForeignKernel, match="can't be read"):
        check_kernel(palace, KERNEL, environ)


@pytest.mark.parametrize(
    ("more", "home"),
    [
        ({"id": "cd" * 16}, "home"),
        ({"id": ""}, "home"),
        ({"path": "/other/palace"}, "home"),
        ({}, "nobody"),
        ({"id": ""}, "nobody"),
    ],
)
def test_a_claim_of_somebody_else_or_by_another_name_is_refused(
    palace: Paths, environ: dict[str, str], more: dict[str, str], home: str
) -> None:
    claim(palace, **more)

    foreign = find_foreign(
        palace, KERNEL, environ | {"HOME": environ["HOME"].replace("home", home)}
    )

    assert foreign is not None
    assert "palace own" in foreign.remedy
    if more.get("id") != "":
        assert foreign.details["owner"] in ("container-7", "container-7 since 2026-01-01T00:00:00Z")
    assert palace.local == ""


@pytest.mark.parametrize("change", ["claimed by another", "claimed here", "released"])
def test_what_changes_while_a_broker_waits_for_locks_ends_it(
    palace: Paths, environ: dict[str, str], change: str
) -> None:
    if change == "released":
        claim(palace)
    lock.check_directory(palace, KERNEL, environ)
    owner = lock.take_lock(palace, KERNEL)
    config = Config(graph=f"{palace.root}/kg", config_dir="/c", mempalace_lock_wait_s=0.0)
    if change == "released":
        os.unlink(palace.claim)
    else:
        claim(palace, id=ID if change == "claimed here" else "cd" * 16)
    held = palace.lock

    with pytest.raises(ForeignKernel if change == "claimed by another" else LockFailed):
        take_other_locks(owner, config, environ, KERNEL)

    if change != "claimed by another":
        assert palace.lock == held
    for fd in (*owner.other_fds, owner.lock_fd):
        os.close(fd)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 30_000, "[]", "7", "{}", '{"v": ' + "9" * 5000 + "}"),
        '{"v": 1, "id": "../x", "host": "h", "path": "/p", "since": "s"}',
        '{"v": 1, "id": "' + ID + '", "host": 7, "path": "/p", "since": "s"}',
        '{"v": 1, "id": "' + ID + '", "host": "h", "path": ["/p"], "since": "s"}',
        '{"v": 1, "id": "' + ID + '", "host": "' + "h" * 5000 + '", "path": "/p", "since": "s"}',
        '{"v": 1, "id": "' + ID + '", "host": "h", "path": "/p", "since": ' + "9" * 4300 + "}",
    ],
    ids=lambda text: text[:60],
)
def test_a_claim_that_palace_own_never_writes_is_another_kernels(
    palace: Paths, environ: dict[str, str], text: str
) -> None:
    Path(palace.claim).write_text(text)

    assert find_foreign(palace, KERNEL, environ) is not None
    assert palace.local == ""
    claim = read_claim(palace, KERNEL)
    assert claim is not None
    assert claim.owner == "an owner that can't be read"


def test_a_guests_file_beside_a_claim_says_nothing(palace: Paths, environ: dict[str, str]) -> None:
    texts = {"name": "g", "palace": "/p", "palace_id": ID, "token": "t", "fingerprint": "f"}
    Path(guest_path(palace)).write_bytes(GuestFile(["wss://h:1"], **texts).encode())

    guest = find_foreign(palace, KERNEL, environ)
    assert guest is not None
    assert guest.details == {"guest": "g"}
    claim(palace)
    assert find_foreign(palace, KERNEL, environ) is None
    assert palace.local == local_directory(palace.root, environ)
    claim(palace, id="cd" * 16)
    foreign = find_foreign(palace, KERNEL, environ)
    assert foreign is not None
    assert foreign.details == {"owner": "container-7"}


def test_what_was_tried_is_told_where_something_was() -> None:
    foreign = Foreign("It is theirs", "Ask them.")

    assert foreign.text() == "It is theirs, so it is not opened here. Ask them."
    assert foreign.text("no route") == (
        "It is theirs, so it is not opened here, and its broker was not reached: no route. Ask "
        "them."
    )
