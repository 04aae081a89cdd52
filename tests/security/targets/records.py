"""What lies in and beside a palace and says who owns, serves, served and may use it.

Each file is what ours would be with some fields changed, or bytes, a link, a directory, a pipe.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.book import whose_token
from palace.ownership.claim import Claim, check_kernel, find_foreign, own_id, read_claim
from palace.ownership.epoch import last_epoch, take_epoch
from palace.ownership.guest_book import book_path, guests_directory, read_guests
from palace.ownership.guest_file import GuestFile, decode_guest_file, read_guest_file
from palace.ownership.keys import key_path, known_keys, read_keys, ring_of
from palace.ownership.record import publish, read_record
from palace.ownership.served import (
    beside_path,
    check_remembered_hold,
    check_there,
    entry_path,
    find_missing,
    gone,
    known_here,
    notices,
    read_served,
    saved_copies,
)
from palace.protocol.broker_record import SOCKET_NAME, decode_broker_record
from palace.protocol.errors import PalaceError
from palace.protocol.wire import IDENTITY_DIGITS
from palace.settings.paths import Paths
from tests.security.source import Source, steps_at_most
from tests.support.brokers.records import FIELDS

DRIVES = (
    "palace.protocol.broker_record",
    "palace.ownership.record",
    "palace.ownership.claim",
    "palace.ownership.epoch",
    "palace.ownership.served",
    "palace.ownership.guest_file",
    "palace.ownership.guest_book",
    "palace.ownership.keys",
)
STEPS = 400_000
ID = "1" * IDENTITY_DIGITS
TIME = "2026-01-01T00:00:00Z"
KEY = {"secret": "ab" * 32, "since": TIME}


class Place:
    """A directory with a palace, a home, and a canary that nobody may read or touch."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.paths = Paths(f"{base}/at/palace")
        self.environ = {"HOME": f"{base}/home", "XDG_STATE_HOME": f"{base}/state"}
        self.kernel = Kernel()
        self.canary = f"{base}/canary"
        for path in (self.paths.root, self.paths.journal, f"{base}/home", f"{base}/state"):
            os.makedirs(path, 0o700)
        root = self.paths.root
        # Each file, what it says in a palace of ours, and whether others may write it.
        self.files: tuple[tuple[str, Any], ...] = (
            (self.paths.record, FIELDS | {"endpoints": [f"unix:{root}/{SOCKET_NAME}"]}),
            (self.paths.claim, {"v": 1, "id": ID, "host": "h", "path": root, "since": TIME}),
            (self.paths.epoch, b"7\n"),
            (self.paths.palace_id, ID.encode() + b"\n"),
            (self.paths.protocol, b"1 0.1.0\n"),
            (self.paths.journal_head, {"seq": 1, "epoch": 5, "segment": "x"}),
            (f"{root}/guest.json", _guest_file(root)),
            (beside_path(root), _served(root)),
            (entry_path(root, self.environ), _served(root)),
            (book_path(guests_directory(root, self.environ)), _book()),
            (key_path(ID, self.environ), _keys()),
        )

    def snapshot(self, *, outside: bool) -> dict[str, object]:
        """Return what is there, outside of the palace and of the state directory, or everywhere."""
        found: dict[str, object] = {}
        for directory, _, names in os.walk(self.base):
            inside = directory.startswith((self.paths.root, f"{self.base}/state"))
            for name in names:
                path = f"{directory}/{name}"
                if not (outside and (inside or path == beside_path(self.paths.root))):
                    found[path] = (os.lstat(path).st_mtime_ns, os.lstat(path).st_size)
            found.setdefault(directory, None)
        if outside:
            found = {path: seen for path, seen in found.items() if f"{self.base}/state" not in path}
        return found


def _guest_file(root: str) -> dict[str, Any]:
    texts = {"name": "g", "palace": root, "palace_id": ID, "token": "t", "fingerprint": "f"}
    return {"v": 1, "endpoints": ["wss://h:1"], **texts}


def _served(root: str) -> dict[str, Any]:
    texts = {"path": root, "palace_id": ID, "since": TIME, "moved_to": "", "copied_from": ""}
    texts |= {"former_id": "", "saved": "", "disk": "", "lost_with": ""}
    numbers = {"epoch": 7, "seq": 9, "lost_from": 0, "lost_to": 0}
    return {"v": 1, **texts, **numbers, "held": False, "unjournalled": False}


def _book() -> dict[str, Any]:
    guest = {"name": "g", "digest": "0" * 64, "read_only": False, "since": TIME}
    return {"v": 1, "palace_id": ID, "guests": [guest]}


def _keys() -> dict[str, Any]:
    flags = {"is_first": False, "is_settled": True}
    return {"v": 1, "palace_id": ID, "keys": [KEY], "floor": 0, **flags}


@contextmanager
def scratch() -> Any:
    base = os.path.realpath(tempfile.mkdtemp(prefix="palace-fuzz-"))
    try:
        yield base
    finally:
        shutil.rmtree(base)


def one(data: bytes) -> None:
    source = Source(data)
    with scratch() as base:
        place = Place(base)
        _write(place, source)
        before = place.snapshot(outside=False)
        with steps_at_most(STEPS):
            _look(place)
        assert place.snapshot(outside=False) == before, "looking changes nothing"
        before = place.snapshot(outside=True)
        _become_owner(place)
        assert place.snapshot(outside=True) == before, "nothing outside is touched"


# What lies there.


def _write(place: Place, source: Source) -> None:
    Path(place.canary).write_bytes(b"canary")
    for path, ours in place.files:
        if source.byte() % 3 == 0:
            continue
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        kind = source.below(12)
        if kind == 0:
            Path(place.canary).write_bytes(_encoded(ours))
            os.symlink(place.canary, path)
        elif kind == 1:
            os.mkdir(path)
        elif kind == 2:
            os.mkfifo(path)
        else:
            Path(path).write_bytes(changed(ours, source))


def _encoded(ours: Any) -> bytes:
    return ours if isinstance(ours, bytes) else json.dumps(ours).encode()


def changed(ours: Any, source: Source) -> bytes:
    """Return what a file of ours says, or with other fields, or other bytes."""
    kind = source.below(6)
    if kind == 0:
        return _encoded(ours)
    if kind == 1:
        return source.raw()
    if isinstance(ours, bytes):
        return source.pick(NUMBERS)
    if kind == 2:
        data = _encoded(ours)
        at = source.below(len(data))
        return data[:at] + source.raw() + data[at + source.byte() :]
    fields = dict(ours)
    for _ in range(1 + source.below(3)):
        name = source.pick(list(fields))
        fields[name] = source.json() if source.byte() % 2 else source.pick(VALUES)
    try:
        return json.dumps(fields).encode()
    except RecursionError:
        return b"[" * 2000


NUMBERS = (
    *(b"", b"0", b"-1", b"1", b"2", b" 7 ", b"9" * 19, b"9" * 18, b"9" * 40, b"1e3", b"\xd9\xa1"),
    *(b"9223372036854775806", b"9223372036854775807", b"9200000000000000000", b"0" * 32, b"g" * 32),
)
VALUES: tuple[Any, ...] = (
    *(0, 1, 2**63 - 1, 2**63 - 2, 10**18, 10**18 - 1, -1, True, None, "", [], {}, ID, "a\nb"),
    *(
        "unix:/tmp/broker.sock",
        "unix:/../broker.sock",
        "wss://h:1",
        "wss:// ",
        "/",
        "..",
        "\x1b[2J",
    ),
    *(
        ["unix:/a/broker.sock"],
        ["unix:/../broker.sock", "unix:/tmp/other", "unix:x", "wss://h"],
        ["tcp:x"],
        [1],
        ["wss://x"] * 65,
        [KEY],
        [KEY, KEY],
        [{}],
        "é" * 5000,
    ),
)


# What is made of it.


def _look(place: Place) -> None:
    paths, kernel, environ = place.paths, place.kernel, place.environ
    root = paths.root
    _look_at_record(place)
    _look_at_claim(place)
    guest = read_guest_file(paths, kernel)
    if guest is not None:
        assert all(url.startswith("wss://") for url in guest.endpoints)
        again = decode_guest_file(guest.encode())
        assert again is not None
        assert again.encode() == guest.encode()
        assert isinstance(guest, GuestFile)
    with suppress(PalaceError, OSError):  # of a file that is none (palace/kernel/odd_files.py)
        check_kernel(paths, kernel, environ)
    paths.local = ""
    with suppress(PalaceError, OSError):
        assert 0 <= last_epoch(paths, kernel) < 2**63 - 1
    served = read_served(root, environ, kernel)
    if served is not None:
        assert served.path == root
        assert len(served.palace_id) == IDENTITY_DIGITS
        assert all(0 <= number < 2**63 for number in (served.epoch, served.seq, served.lost_to))
        assert all(isinstance(text, str) for text in notices(served))
        # `gone` is what people see: nothing that is printed may be a line or a sign of its own.
        assert isinstance(gone(served, environ, kernel).message, str)
    for copy in saved_copies(root, environ, kernel):
        assert os.path.basename(copy).startswith(os.path.basename(entry_path(root, environ))[:-5])
    assert isinstance(known_here(root, environ, kernel), str)
    find_missing(paths, environ, kernel)
    for check in (check_remembered_hold, check_there):
        with suppress(PalaceError, OSError):
            check(paths, environ, kernel)
    _look_at_secrets(place)


def _look_at_record(place: Place) -> None:
    record = read_record(place.paths, place.kernel)
    if record is None:
        return
    assert not os.path.islink(place.paths.record)
    again = decode_broker_record(record.encode())
    assert again is not None
    assert again.to_dict() == record.to_dict()
    assert record.token not in repr(record) or len(record.token) < 20
    for url in record.endpoints:
        kind, _, where = url.partition(":")
        assert url.isprintable()
        assert kind in ("unix", "wss")
        assert kind != "unix" or (where.startswith("/") and where.endswith(f"/{SOCKET_NAME}"))
        assert ".." not in where.split("/") or kind == "wss"


def _look_at_claim(place: Place) -> None:
    paths, kernel = place.paths, place.kernel
    try:
        claim = read_claim(paths, kernel)
        foreign = find_foreign(paths, kernel, place.environ)
    except (PalaceError, OSError):
        assert not os.path.isfile(paths.claim) or os.path.islink(paths.claim)
        return
    if claim is not None:
        assert isinstance(claim, Claim)
        # Whoever claims a palace keeps all others out, and one that can't be read does, too.
        assert foreign is not None or claim.id == own_id(kernel, place.environ)
        for text in (claim.id, claim.host, claim.path, claim.since):
            assert text.isprintable()


def _look_at_secrets(place: Place) -> None:
    paths, kernel, environ = place.paths, place.kernel, place.environ
    try:
        guests = read_guests(guests_directory(paths.root, environ), ID, kernel)
    except (PalaceError, OSError):
        guests = {}
    assert whose_token("t", guests) is None
    assert all(len(guest.name) <= 4096 for guest in guests.values())
    with suppress(PalaceError):
        keys = read_keys(ID, environ, kernel)
        assert keys is None or keys.ring.own is not None
    assert ring_of(ID, environ, kernel) is not None
    assert known_keys(paths, environ, kernel) is not None


def _become_owner(place: Place) -> None:
    """What is refused is refused with an error of ours; whoever owns it can be found."""
    paths, kernel = place.paths, place.kernel
    owner = None
    try:
        lock.check_directory(paths, kernel, place.environ)
        owner = lock.take_lock(paths, kernel)
        try:
            before = last_epoch(paths, kernel)
        except (PalaceError, OSError):
            before = -1
        take_epoch(owner, kernel)
        assert owner.epoch == before + 1
        assert last_epoch(paths, kernel) == owner.epoch
        published = publish(owner, f"{paths.root}/{SOCKET_NAME}", kernel, mode="broker")
        found = read_record(paths, kernel)
        assert found is not None
        assert found.to_dict() == published.to_dict()
    except PalaceError:
        pass
    except OSError as error:
        if not error.filename:  # people are told which file is none
            raise
    finally:
        if owner is not None:
            kernel.close(owner.lock_fd)


Look = Callable[[Place], None]
