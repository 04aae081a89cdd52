"""A journal in somebody else's hands: its files are changed, then read, opened and gone on with.

The journal is an authenticated one, or one without keys.  Whoever changes it knows the format and
has seen all of it, and knows no key of its owner's.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from palace.doctor.journal import inspect_journal
from palace.journal.aside import read_aside
from palace.journal.checkpoint import make_checkpoint
from palace.journal.copying import Missing, check_whole, copy_journal, read_contents
from palace.journal.inspect import Gap, read_from
from palace.journal.journal import HEAD, PAUSE, Journal, read_tail
from palace.journal.purge import Going, purge_journal
from palace.journal.record import (
    DELETE,
    FIRST,
    OUTCOME,
    PUT,
    Draft,
    Record,
    Stamp,
    authenticate,
    decode,
    fields_of,
    seal,
    told_of,
)
from palace.journal.replay import checkpoint_path, digest_of, replay
from palace.journal.segment import ARCHIVE, list_segments, segment_path
from palace.journal.undo import records_of_undoing
from palace.protocol.errors import JournalBroken, JournalFailed
from palace.protocol.keyring import ANYBODYS, Key, Keyring
from tests.security.source import Source, steps_at_most
from tests.support.disks.memory import ROOT, Disk, all_kept, all_lost

DRIVES = (
    "palace.journal.record",
    "palace.journal.schema",
    "palace.journal.segment",
    "palace.journal.inspect",
    "palace.journal.replay",
    "palace.journal.tail",
    "palace.journal.journal",
    "palace.journal.aside",
    "palace.journal.append",
    "palace.journal.checkpoint",
    "palace.journal.copying",
    "palace.journal.purge",
    "palace.journal.undo",
    "palace.protocol.keyring",
    "palace.doctor.journal",
)
JOURNAL = f"{ROOT}/journal"
KEYS = Keyring([Key(b"k" * 32)])
OTHERS = Keyring([Key(b"o" * 32)])
EPOCH = 4  # of the owner that finds it
STEPS = 400_000
READS = 60  # how often the whole journal may be read by one question, a pass for each segment
FIELDS = (
    *("v", "seq", "epoch", "ts", "writer", "key", "step", "action", "kind", "id", "payload"),
    *("deleted", "before", "was"),
)
VALUES: tuple[Any, ...] = (
    *(0, 1, 5, 9, 12, 13, 20, 2**63, 10**20 - 1, "s:1", "s:2", "adoption", "file", "../up", None),
    *("put", "delete", "undo", "adopt", "outcome", "unit", "abort", "segment", "state"),
    *("attempt", "checkpoint", "purged", "quarantine", True, False, {}, [], "a", "b", "k"),
    *({"whole": True}, {"at": {}}, {"so_far": {"at": {}, "since": 2, "total": 3}}, {"reply": 1}),
)
Said = tuple[int, str, str, str, str, bool, str]


class CountingDisk(Disk):
    """Counts the bytes that are read."""

    taken = 0

    def read_at(self, fd: int, offset: int, size: int) -> bytes:
        data = super().read_at(fd, offset, size)
        self.taken += len(data)
        return data

    @property
    def bytes(self) -> int:
        return sum(len(file.data) for file in self.names.values() if file is not None)


def one(data: bytes) -> None:
    source = Source(data)
    keys = source.pick((KEYS, KEYS, ANYBODYS))
    disk = _copy(_written(keys.own is not None))
    _attack(disk, source)
    world = _World(disk, keys)
    world.look()
    source.pick((world.go_on, world.go_on, world.copy, world.purge))()


# What is attacked.


def _put(ident: str, payload: Any, key: str, before: Any = 0) -> Draft:
    is_gone = payload is None
    return Draft(
        action=DELETE if is_gone else PUT,
        key=key,
        kind="k",
        id=ident,
        payload=payload,
        deleted=is_gone,
        before=before,
    )


@cache
def _written(with_keys: bool) -> dict[str, bytes]:
    """Return the files of a journal: a checkpoint, segments after it, and an unfinished call."""
    disk = Disk()
    stamp = _stamp(KEYS if with_keys else ANYBODYS, epoch=2)
    journal = Journal.open(JOURNAL, disk, stamp)
    journal.fingerprints = lambda: {"k": 1}
    journal.append([_put("a", 1, "s:1"), _put("b", {"vector": [0.5]}, "s:1")])
    journal.append([_put("gone", 9, "s:1"), _put("gone", None, "s:1", 9)])
    journal.close_key("s:1", OUTCOME, reply="first")
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, stamp) is not None
    journal.append([_put("a", 3, "s:2", 1), _put("c", 4, "s:2", None)])
    journal.close_key("s:2", OUTCOME, reply="second")
    journal.append([_put("c", 5, "t:1", 4)])
    journal.roll()
    journal.append([_put("d", 6, "t:1", None)])
    journal.close()
    found = disk.power_cut(all_kept)
    return {path: found.read(path) for path, file in found.names.items() if file is not None}


def _copy(files: dict[str, bytes]) -> CountingDisk:
    disk = CountingDisk()
    for path in (JOURNAL, f"{JOURNAL}/{ARCHIVE}"):
        disk.names[path] = disk.safe_names[path] = None
    for path, data in files.items():
        disk.put(path, data)
    return disk


def _stamp(keys: Keyring, epoch: int = EPOCH) -> Stamp:
    return Stamp(epoch=epoch, writer=f"w{epoch}", keys=keys)


def _said(record: Record) -> Said:
    payload = json.dumps(record.payload, sort_keys=True)
    return record.seq, record.action, record.key, record.kind, record.id, record.deleted, payload


@cache
def _truth() -> tuple[frozenset[Said], frozenset[str]]:
    """Return all that the owner has ever written, and all replies that it has recorded."""
    said, replies = set(), set()
    for path, data in _written(with_keys=True).items():
        for line in data.split(b"\n"):
            if line and path.endswith(".jsonl"):
                record = decode(line, KEYS)
                said.add(_said(record))
                if record.action == OUTCOME:
                    replies.add(record.payload["reply"])
    return frozenset(said), frozenset(replies)


# How it is attacked.


def _attack(disk: Disk, source: Source) -> None:
    for _ in range(source.below(6)):
        paths = [path for path, file in disk.names.items() if file is not None]
        if paths:
            source.pick(ATTACKS)(disk, source.pick(paths), source)


def _bytes(disk: Disk, path: str, source: Source) -> None:
    data = disk.read(path)
    at, size = source.below(len(data) + 1), source.pick((0, 1, 1, 9, 100))
    disk.put(path, data[:at] + source.raw() + data[at + size :])


def _lines(disk: Disk, path: str) -> list[bytes]:
    return [line for line in disk.read(path).split(b"\n") if line]


def _put_lines(disk: Disk, path: str, lines: list[bytes]) -> None:
    disk.put(path, b"".join(b"\n%b\n" % line for line in lines))


def _edit(disk: Disk, path: str, source: Source) -> None:
    """Change fields of a record, and give it a right checksum."""
    lines = _lines(disk, path)
    at = source.below(len(lines) + 1)
    try:
        line = (lines or [b""])[min(at, len(lines) - 1)]
        told, fields = told_of(line), fields_of(line)
    except ValueError:
        return
    for name in ("by", "after", "code"):
        fields.pop(name, None)
    for _ in range(1 + source.below(3)):
        name = source.pick(FIELDS)
        payload = fields.get("payload")
        if name == "payload" and isinstance(payload, dict) and source.byte() % 2:
            fields["payload"] = {**payload, source.pick([*payload, "at"]): _value(source)}
        else:
            fields[name] = _value(source)
    body = _json(fields)
    how = source.below(4)
    if how == 1 and told.by:
        text = b'%b,"by":"%b","after":"%b"' % (body[:-1], told.by.encode(), told.after.encode())
        body = b'%b,"code":"%b"}' % (text, told.code.encode())
    elif how == 2:
        assert OTHERS.own is not None
        body = authenticate(body, OTHERS.own, told.after or FIRST)
    new = seal(body).strip(b"\n")
    if source.byte() % 2 and at < len(lines):
        lines[at] = new
    else:
        lines.insert(at, new)
    _put_lines(disk, path, lines)


def _value(source: Source) -> Any:
    return source.json() if source.byte() % 4 == 0 else source.pick(VALUES)


def _json(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        text = '{"v":1,"payload":' + "[" * 900 + "]" * 900 + "}"
    return text.encode("utf-8", "surrogatepass")


def _move(disk: Disk, path: str, source: Source) -> None:
    """Put a line elsewhere, again or for the first time; or take it out."""
    lines = _lines(disk, path)
    if not lines:
        return
    at = source.below(len(lines))
    line = lines[at]
    if source.byte() % 2:
        del lines[at]
        _put_lines(disk, path, lines)
    if source.byte() % 2:
        other = source.pick([p for p, file in disk.names.items() if file is not None])
        lines = _lines(disk, other)
        lines.insert(source.below(len(lines) + 1), line)
        _put_lines(disk, other, lines)


def _name(disk: Disk, path: str, source: Source) -> None:
    """Rename, copy, remove or cut off a file, or make a new one."""
    number = source.pick((1, 5, 6, 8, 9, 10, 12, 13, 14, 10**20 - 1, 10**20, 0))
    where = source.pick((JOURNAL, f"{JOURNAL}/{ARCHIVE}"))
    others = (
        *(segment_path(where, number), checkpoint_path(where, number), f"{where}/{HEAD}"),
        *(f"{where}/{PAUSE}", f"{where}/{number}.jsonl", f"{where}/x.tmp", f"{where}/é\n.jsonl"),
    )
    other = source.pick(others)
    data = disk.read(path)
    kind = source.below(4)
    if kind == 0:
        data = data[: source.below(len(data) + 1)]
    elif kind == 1:
        data = source.raw()
    elif kind == 2:
        disk.unlink(path)
        disk.safe_names.pop(path, None)
    disk.put(other, data)


ATTACKS: tuple[Callable[[Disk, str, Source], None], ...] = (
    _edit,
    _edit,
    _edit,
    _move,
    _name,
    _bytes,
)


# What must hold.


class _World:
    """A journal that others have changed, and what its owner makes of it."""

    def __init__(self, disk: CountingDisk, keys: Keyring) -> None:
        self.disk = disk
        self.keys = keys
        self.is_ours = keys.own is not None

    def look(self) -> None:
        """Read all of it in all ways: nothing changes, and nothing is believed that isn't ours."""
        before = {path: bytes(file.data) for path, file in self.disk.names.items() if file}
        self._bounded(self._read)
        self._bounded(lambda: inspect_journal(JOURNAL, self.disk, self.keys))
        self._bounded(lambda: list(read_aside(JOURNAL, self.disk)))
        after = {path: bytes(file.data) for path, file in self.disk.names.items() if file}
        assert before == after

    def _bounded(self, work: Callable[[], Any]) -> None:
        self.disk.taken = 0
        # Chunks have a size whatever is in the file, but no more is read than there is.
        limit = READS * (self.disk.bytes + 1)
        with steps_at_most(STEPS):
            work()
        assert self.disk.taken <= limit, (self.disk.taken, limit)
        assert not self.disk.open_files

    def _read(self) -> None:
        self._check_records()
        known = replay(JOURNAL, self.disk, keys=self.keys)
        for entity, live in known.live.items():
            payload = known.payload(entity)
            assert digest_of(payload) == live.digest
            if self.is_ours:
                text = json.dumps(payload, sort_keys=True)
                assert any(
                    (kind, ident) == entity and text == told
                    for *_, kind, ident, _, told in _truth()[0]
                )
        tail = read_tail(list_segments(JOURNAL, self.disk, archived=True), self.disk, self.keys)
        self._check_replies(tail)
        for draft in records_of_undoing(tail.open, "x"):
            assert isinstance(draft.kind, str)
        tail.header()
        try:
            read_contents(JOURNAL, self.disk, keys=self.keys)
            check_whole(JOURNAL, self.disk, self.keys)
        except (Missing, JournalBroken):
            pass

    def _check_records(self) -> None:
        expected = 1
        for found in read_from(JOURNAL, self.disk, 1, self.keys):
            if isinstance(found, Gap):
                assert found.first <= found.last
            elif isinstance(found, Record):
                assert not self.is_ours or _said(found) in _truth()[0], found
                assert not self.is_ours or found.seq >= expected
                expected = found.seq + 1

    def _check_replies(self, tail: Any) -> None:
        if self.is_ours:
            texts = {text for replies in tail.replies.values() for text in replies.texts.values()}
            assert texts <= _truth()[1], texts

    def go_on(self) -> None:
        """Its owner opens it, writes, and dies: what was acknowledged is there."""
        disk = self.disk
        try:
            journal = Journal.open(JOURNAL, disk, _stamp(self.keys))
        except JournalBroken:
            return
        self._check_replies(journal.tail)
        try:
            for draft in list(records_of_undoing(journal.tail.open, "its owner died")):
                journal.append([draft])
            journal.append([_put("new", "new", "u:7", None)])
            seq = journal.close_key("u:7", OUTCOME, reply="new")
            journal.roll()
            make_checkpoint(JOURNAL, disk, journal.stamp)
            journal.append([_put("newer", "newer", "u:8", None)])
            journal.sync(journal.close_key("u:8", OUTCOME, reply="newer"))
        except JournalFailed:
            return  # and so its client is told
        self.disk = CountingDisk(disk.power_cut(all_lost).names)
        known = replay(JOURNAL, self.disk, keys=self.keys)
        for name, at in (("new", seq - 1), ("newer", seq + 1)):
            # Without keys a file's name may hide records; they are missing then, not forgotten.
            if self.is_ours or not any(first <= at <= last for first, last in known.gaps):
                assert known.payload(("k", name)) == name, seq
        tail = read_tail(list_segments(JOURNAL, self.disk, archived=True), self.disk, self.keys)
        assert [tail.reply("u", ordinal) for ordinal in (7, 8)] == ["new", "newer"]

    def copy(self) -> None:
        """A backup of it holds what is in it, or is refused."""
        target = f"{ROOT}/copy"
        try:
            contents = copy_journal(JOURNAL, target, self.disk, keys=self.keys)
        except JournalBroken:
            return
        assert read_contents(target, self.disk, keys=self.keys) == contents
        assert not self.disk.open_files

    def purge(self) -> None:
        """After a purge nothing is left of a memory, in no file that counts."""
        going = Going(entities=frozenset({("k", "a")}))
        purge_journal(JOURNAL, self.disk, going, self.keys)
        for found in read_from(JOURNAL, self.disk, 1, self.keys):
            assert not isinstance(found, Record) or found.entity not in going.entities
        assert not self.disk.open_files
