"""A copy of a journal that is being written: a beginning of it, whole, whatever its owner does."""

import hashlib
from typing import Any

import pytest

from palace.journal import copying
from palace.journal.checkpoint import make_checkpoint
from palace.journal.copying import (
    Contents,
    check_whole,
    copy_journal,
    file_digest,
    read_contents,
)
from palace.journal.journal import Journal
from palace.journal.record import OUTCOME, PUT, Draft, Stamp
from palace.journal.replay import replay
from palace.journal.segment import ARCHIVE, CHUNK
from palace.journal.tail import Adopting
from palace.protocol.errors import JournalBroken
from tests.support.disks.busy import Busy
from tests.support.disks.memory import ROOT, Disk

JOURNAL = f"{ROOT}/journal"
COPY = "/copy"
STAMP = Stamp(epoch=3, writer="w")


def opened(disk: Disk) -> Journal:
    return Journal.open(JOURNAL, disk, STAMP)


def put(ident: str, payload: Any, before: Any = None, key: str = "s:1") -> Draft:
    return Draft(action=PUT, key=key, kind="k", id=ident, payload=payload, before=before)


def call(journal: Journal, number: int, extra: int = 0) -> None:
    """Make a whole call of two records and its outcome."""
    key, now = f"s:{number}", number + extra
    journal.append([put(f"a{number}", now, key=key), put("last", now, now - 1, key)])
    journal.close_key(key, OUTCOME, reply="{}")


def a_journal(disk: Disk, extra: int = 0) -> Journal:
    """Return a journal of a checkpoint, some segments and an archive; `extra` tells two apart."""
    journal = opened(disk)
    for number in range(1, 7):
        call(journal, number, extra)
        if number % 2 == 0:
            journal.roll()
        if number == 3:
            assert make_checkpoint(JOURNAL, disk, STAMP) is not None
    return journal


def entities(directory: str, disk: Disk, upto: int | None = None) -> dict[str, Any]:
    known = replay(directory, disk, upto=upto)
    return {ident: known.payload((kind, ident)) for kind, ident in known.live}


def copied(disk: Disk) -> Contents:
    """Copy the journal; the copy can be opened by an owner and says the same."""
    contents = copy_journal(JOURNAL, COPY, disk)
    assert contents == read_contents(COPY, disk)
    again = Journal.open(COPY, disk, Stamp(epoch=9, writer="next"))
    assert again.seq == contents.seq
    return contents


def test_a_copy_holds_checkpoint_and_segments_and_no_archive() -> None:
    disk = Disk()
    journal = a_journal(disk)
    open_files = set(disk.open_files)

    contents = copy_journal(JOURNAL, COPY, disk)

    assert set(disk.open_files) == open_files
    assert contents == copied(disk), "a second one takes the place of the first"
    assert (contents.seq, contents.epoch, contents.kinds) == (journal.seq, 3, {"k": 7})
    assert entities(COPY, disk) == entities(JOURNAL, disk)
    names = [name for name in disk.list_directory(COPY) if name.endswith(".jsonl")]
    assert sum(name.startswith("checkpoint-") for name in names) == 1
    assert not set(names) & set(disk.list_directory(f"{JOURNAL}/{ARCHIVE}"))


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("every", [1, 2, 3, 5, 8, 13])
def test_whatever_the_owner_does_meanwhile_the_copy_is_whole(
    monkeypatch: pytest.MonkeyPatch, every: int, shift: int
) -> None:
    """The owner appends, rolls, checkpoints and archives between any two calls of the copier."""
    monkeypatch.setattr(copying, "TRIES_MAX", 1)  # a second is for what isn't foreseen
    disk = Busy()
    journal = a_journal(disk)
    promised, number = journal.seq, 6

    def turn() -> None:
        nonlocal number
        if disk.turns % every or number > 60:
            return
        number += 1
        call(journal, number)
        journal.roll()
        if (number + shift) % 3 == 0:
            assert make_checkpoint(JOURNAL, disk, STAMP) is not None

    disk.turn = turn
    contents = copy_journal(JOURNAL, COPY, disk)
    disk.turn = None

    assert contents.seq >= promised, "what was acknowledged before is in it"
    assert disk.turns > 20
    assert number > 10
    whole = (contents.seq // 3) * 3  # a call that was under way is no part of it
    last = whole // 3
    expected = {f"a{n}": n for n in range(1, last + 1)} | {"last": last}
    assert contents.kinds == {"k": len(expected)}
    assert entities(COPY, disk, upto=whole) == expected


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_what_the_owner_is_in_the_middle_of_writing_is_cut_off(left: int) -> None:
    disk = Disk()
    journal = a_journal(disk)
    call(journal, 7)
    path = journal._appender.path
    whole = disk.read(path)
    line = whole.rstrip(b"\n").rpartition(b"\n")[2]
    disk.put(path, whole[: -(len(line) - left)])

    contents = copied(disk)

    assert contents.seq == journal.seq - 1
    assert contents.entities == 7, "and its call, which has no outcome now, is taken back"
    assert disk.read(path) != whole[:-1], "the journal itself is left as it is"
    torn_off = disk.read(f"{COPY}/{path.rpartition('/')[2]}")
    assert torn_off == whole[: whole.rindex(b"\n" + line)], "and its copy ends with a whole record"


def test_an_unfinished_call_counts_as_taken_back() -> None:
    disk = Disk()
    journal = a_journal(disk)
    before = copy_journal(JOURNAL, COPY, disk)
    journal.append([put("new", 1, key="s:9"), put("last", 99, 6, key="s:9")])
    journal.append([put("last", 100, 99, key="s:9")])

    contents = copied(disk)

    assert contents.seq == before.seq + 3
    assert (contents.kinds, contents.digest) == (before.kinds, before.digest)


def test_of_two_unfinished_calls_that_changed_one_entity_both_count_as_taken_back() -> None:
    disk = Disk()
    journal = a_journal(disk)
    before = copy_journal(JOURNAL, COPY, disk)
    journal.append([put("last", 99, 6, key="s:8"), put("last", 100, 99, key="s:9")])

    contents = copied(disk)

    assert (contents.kinds, contents.digest) == (before.kinds, before.digest)


def damage(disk: Disk, path: str, old: bytes, new: bytes) -> None:
    data = disk.read(path)
    assert data.count(old) == 1
    disk.put(path, data.replace(old, new))


@pytest.mark.parametrize("number", [5, 7])
def test_a_damaged_record_is_named_and_not_cut_off(number: int) -> None:
    """In the middle, or the very last one, which a crash tears and nothing else."""
    disk = Disk()
    journal = a_journal(disk)
    call(journal, 7)
    path = f"{JOURNAL}/{13 if number == 5 else 19:020d}.jsonl"
    old = b'"key":"s:%d","step":0,"action":"outcome"' % number
    damage(disk, path, old, old.replace(b"step", b"stop"))

    with pytest.raises(JournalBroken) as refused:
        copy_journal(JOURNAL, COPY, disk)

    assert "its checksum is wrong" in refused.value.message
    assert path.rpartition("/")[2] in refused.value.message
    assert "palace doctor" in refused.value.message


def test_a_missing_segment_is_noticed() -> None:
    disk = Disk()
    a_journal(disk)
    names = sorted(n for n in disk.list_directory(JOURNAL) if n[0] == "0")
    disk.unlink(f"{JOURNAL}/{names[0]}")

    with pytest.raises(JournalBroken) as refused:
        copy_journal(JOURNAL, COPY, disk)

    assert "no segment begins at record" in refused.value.message


@pytest.mark.parametrize("at", [8, 10, 12, 14, 16, 18])
def test_a_journal_that_is_replaced_meanwhile_is_not_mixed_with_the_new_one(at: int) -> None:
    """The other has files of the same names and records of the same numbers, as a copy would."""
    disk, other = Busy(), Disk()
    a_journal(disk)
    a_journal(other, extra=100)

    def replace() -> None:
        if disk.turns == at:
            for path in [path for path in disk.names if path.startswith(f"{JOURNAL}/")]:
                del disk.names[path]
            disk.names |= {path: other.names[path] for path in other.names if JOURNAL in path}
            disk.file_id = lambda _path: (1, 1)  # type: ignore[method-assign, assignment]

    disk.file_id = lambda _path: (1, 0)  # type: ignore[method-assign, assignment]
    disk.turn = replace
    contents = copy_journal(JOURNAL, COPY, disk)

    assert disk.turns > at
    assert contents == read_contents(JOURNAL, other)


def test_a_palace_that_is_being_adopted_is_not_copied_yet() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.fingerprints = dict
    call(journal, 1)
    check_whole(JOURNAL, disk)

    journal.begin_adoption(Adopting(since=journal.seq, total=9))

    with pytest.raises(JournalBroken, match="2 of about 9 entries"):
        check_whole(JOURNAL, disk)
    journal.end_adoption()
    check_whole(JOURNAL, disk)


@pytest.mark.parametrize("size", [0, 7, CHUNK + 7])
def test_a_files_digest_is_of_all_its_bytes(size: int) -> None:
    disk = Disk()
    data = bytes(number % 251 for number in range(size))
    disk.put(f"{ROOT}/file", data)

    assert file_digest(f"{ROOT}/file", disk) == (size, hashlib.sha256(data).hexdigest())
    assert not disk.open_files
