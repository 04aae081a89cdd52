"""An authenticated journal in somebody else's hands: what its owner didn't write never counts.

Each attack is what a container can do that sees the palace's directory and has kept whatever it
ever saw there.  It knows the format, and no key.
"""

import errno
import json
from collections.abc import Callable
from typing import Any

import pytest

from palace.doctor.finding import ERROR, WARNING
from palace.doctor.journal import inspect_journal
from palace.journal.aside import ASIDE, kept_aside, read_aside
from palace.journal.checkpoint import make_checkpoint
from palace.journal.inspect import read_from
from palace.journal.journal import Journal, read_tail
from palace.journal.purge import Going, purge_journal
from palace.journal.record import (
    ADOPT,
    DELETE,
    FIRST,
    OUTCOME,
    PUT,
    SEGMENT,
    STATE,
    BrokenRecord,
    Draft,
    Record,
    Stamp,
    decode,
    encode,
    fields_of,
    seal,
    told_of,
)
from palace.journal.replay import newest_checkpoint, replay
from palace.journal.reseal import reseal
from palace.journal.segment import ARCHIVE, Broken, list_segments, read_lines, segment_path
from palace.protocol.keyring import ANYBODYS, Key, Keyring
from tests.support.disks.memory import NOW, ROOT, Disk, all_kept, all_lost

JOURNAL = f"{ROOT}/journal"
KEYS = Keyring([Key(b"k" * 32)])
OTHERS = Keyring([Key(b"o" * 32)])
TRUE = {("k", "a"): 3, ("k", "b"): 2, ("k", "c"): 5, ("k", "d"): 6}
Attack = Callable[[Disk], None]


def stamp(epoch: int = 1, keys: Keyring = KEYS) -> Stamp:
    return Stamp(epoch=epoch, writer=f"w{epoch}", keys=keys)


def opened(disk: Disk, epoch: int = 1, keys: Keyring = KEYS) -> Journal:
    return Journal.open(JOURNAL, disk, stamp(epoch, keys))


def going(*ids: str) -> Going:
    return Going(entities=frozenset(("k", ident) for ident in ids))


def put(ident: str, payload: Any, key: str = "s:1") -> Draft:
    return Draft(
        action=PUT if payload is not None else DELETE,
        key=key,
        kind="k",
        id=ident,
        payload=payload,
        deleted=payload is None,
        before=0,
    )


def written(keys: Keyring = KEYS) -> Disk:
    """Return a journal: a checkpoint up to record 5, and two segments after it."""
    disk = Disk()
    journal = opened(disk, keys=keys)
    journal.append([put("a", 1), put("b", 2), put("gone", 9)])
    journal.append([put("gone", None)])
    journal.close_key("s:1", OUTCOME, reply="first")
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    journal.append([put("a", 3, "s:2"), put("c", 4, "s:2")])
    journal.close_key("s:2", OUTCOME, reply="second")
    journal.roll()
    journal.append([put("c", 5, "s:3"), put("d", 6, "s:3")])
    journal.close_key("s:3", OUTCOME, reply="third")
    journal.close()
    return disk.power_cut(all_kept)


def segments(disk: Disk) -> list[str]:
    return [segment.path for segment in list_segments(JOURNAL, disk)]


def lines(disk: Disk, path: str) -> list[bytes]:
    return [line for _, line in read_lines(path, disk)]


def write(disk: Disk, path: str, texts: list[bytes]) -> None:
    disk.put(path, b"".join(b"\n%b\n" % text for text in texts))


def line_of(disk: Disk, seq: int) -> tuple[str, bytes]:
    """Return where a record stands, and its line."""
    for path in (segment.path for segment in list_segments(JOURNAL, disk, archived=True)):
        for line in lines(disk, path):
            record = decode(line)
            if record.seq == seq and record.action != SEGMENT:
                return path, line
    raise AssertionError(seq)


def forged(seq: int, draft: Draft, keys: Keyring = ANYBODYS, after: str = FIRST) -> bytes:
    return encode(draft, seq, stamp(1, keys), NOW, after).strip(b"\n")


def edited(line: bytes, **changes: Any) -> bytes:
    """Return a record with other fields, its code kept and its checksum right."""
    told = told_of(line)
    fields = {**fields_of(line), **changes}
    for name in ("by", "after", "code"):
        fields.pop(name, None)
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    sealed = b'%b,"by":"%b","after":"%b","code":"%b"}' % (
        body[:-1],
        told.by.encode(),
        told.after.encode(),
        told.code.encode(),
    )
    return seal(sealed).strip(b"\n")


# What an attacker does.


def append_without_a_code(disk: Disk) -> None:
    path = segments(disk)[-1]
    write(disk, path, [*lines(disk, path), forged(12, put("a", "evil"))])


def append_with_another_key(disk: Disk) -> None:
    path = segments(disk)[-1]
    link = decode(lines(disk, path)[-1]).link
    draft = Draft(action=ADOPT, kind="k", id="a", payload="evil")
    write(disk, path, [*lines(disk, path), forged(12, draft, OTHERS, link)])


def append_an_old_record_again(disk: Disk) -> None:
    path = segments(disk)[-1]
    write(disk, path, [*lines(disk, path), line_of(disk, 6)[1], line_of(disk, 3)[1]])


def append_an_old_record_with_a_new_number(disk: Disk) -> None:
    path = segments(disk)[-1]
    write(disk, path, [*lines(disk, path), edited(line_of(disk, 3)[1], seq=12)])


def append_for_a_later_epoch(disk: Disk) -> None:
    path = segments(disk)[-1]
    line = encode(put("a", "evil"), 12, Stamp(epoch=99, writer="x"), NOW).strip(b"\n")
    write(disk, path, [*lines(disk, path), line])


def add_a_segment(disk: Disk) -> None:
    header = read_tail(list_segments(JOURNAL, disk), disk).header()
    texts = [forged(11, Draft(action=SEGMENT, payload=header)), forged(12, put("a", "evil"))]
    write(disk, segment_path(JOURNAL, 12), texts)


def add_an_empty_segment_between(disk: Disk) -> None:
    write(disk, segment_path(JOURNAL, 8), [])


def add_a_segment_to_the_archive(disk: Disk) -> None:
    write(disk, segment_path(f"{JOURNAL}/{ARCHIVE}", 10), [forged(10, put("a", "evil"))])


def add_an_old_segment_under_another_name(disk: Disk) -> None:
    write(disk, segment_path(JOURNAL, 12), lines(disk, segment_path(f"{JOURNAL}/{ARCHIVE}", 1)))


def append_an_old_header(disk: Disk) -> None:
    """Say again what an owner said of the present, long ago."""
    path = segments(disk)[-1]
    old = lines(disk, segment_path(f"{JOURNAL}/{ARCHIVE}", 1))[0]
    write(disk, path, [*lines(disk, path), old])


def add_old_records_under_another_name(disk: Disk) -> None:
    texts = lines(disk, segment_path(f"{JOURNAL}/{ARCHIVE}", 1))[1:]
    write(disk, segment_path(JOURNAL, 13), [b"garbage", *texts])


def add_a_checkpoint(disk: Disk) -> None:
    entity = forged(1, put("a", "evil"))
    end = forged(11, Draft(action="checkpoint", payload={"upto": 11, "entities": 1}))
    write(disk, f"{JOURNAL}/checkpoint-{11:020d}.jsonl", [entity, end])


ADDED: list[Attack] = [
    append_without_a_code,
    append_with_another_key,
    append_an_old_record_again,
    append_an_old_record_with_a_new_number,
    append_for_a_later_epoch,
    append_an_old_header,
    add_a_segment,
    add_an_empty_segment_between,
    add_a_segment_to_the_archive,
    add_an_old_segment_under_another_name,
    add_old_records_under_another_name,
    add_a_checkpoint,
]


def edit_a_record(disk: Disk) -> None:
    path, line = line_of(disk, 10)
    texts = [edited(t, payload="evil") if t == line else t for t in lines(disk, path)]
    write(disk, path, texts)


def exchange_two_records(disk: Disk) -> None:
    path = segments(disk)[-1]
    header, first, second, *rest = lines(disk, path)
    write(disk, path, [header, second, first, *rest])


def remove_a_record(disk: Disk) -> None:
    path, line = line_of(disk, 10)
    write(disk, path, [text for text in lines(disk, path) if text != line])


def edit_the_newest_header(disk: Disk) -> None:
    path = segments(disk)[-1]
    header, *rest = lines(disk, path)
    payload = {**fields_of(header)["payload"], "at": {"k": "evil"}}
    write(disk, path, [edited(header, payload=payload), *rest])


CHANGED: list[Attack] = [
    edit_a_record,
    exchange_two_records,
    remove_a_record,
    edit_the_newest_header,
]


def remove_a_line_of_the_checkpoint(disk: Disk) -> None:
    path = checkpoint(disk)
    write(disk, path, lines(disk, path)[1:])


def exchange_a_line_of_the_checkpoint(disk: Disk) -> None:
    """Put an older state of an entity back, and one that was deleted."""
    path = checkpoint(disk)
    _, *rest = lines(disk, path)
    write(disk, path, [line_of(disk, 3)[1], *rest])


def repeat_a_line_of_the_checkpoint(disk: Disk) -> None:
    path = checkpoint(disk)
    first, *rest = lines(disk, path)
    write(disk, path, [first, first, *rest])


MIXED: list[Attack] = [
    remove_a_line_of_the_checkpoint,
    exchange_a_line_of_the_checkpoint,
    repeat_a_line_of_the_checkpoint,
]


def checkpoint(disk: Disk) -> str:
    newest = newest_checkpoint(JOURNAL, disk)
    assert newest is not None
    return newest[0]


def contents(disk: Disk, keys: Keyring = KEYS) -> dict[tuple[str, str], Any]:
    known = replay(JOURNAL, disk, keys=keys)
    return {entity: known.payload(entity) for entity in known.live}


def codes(disk: Disk) -> set[tuple[str, str]]:
    return {(found.level, found.code) for found in inspect_journal(JOURNAL, disk, KEYS)}


def everything(disk: Disk) -> list[Any]:
    """Return all payloads of what counts, headers left out."""
    return [f.payload for f in read_from(JOURNAL, disk, keys=KEYS) if isinstance(f, Record)]


# What its owner makes of it.


def test_an_untouched_journal_is_in_order() -> None:
    disk = written()

    assert contents(disk) == TRUE
    assert codes(disk) == set()
    journal = opened(disk, 2)
    assert (journal.seq, journal.reply("s", 3)) == (11, "third")
    assert kept_aside(JOURNAL, disk) == (0, 0, 0)


@pytest.mark.parametrize("attack", ADDED)
def test_what_is_added_is_named_and_not_carried_out(attack: Attack) -> None:
    disk = written()
    attack(disk)

    assert codes(disk) & {
        (ERROR, "foreign_record"),
        (ERROR, "broken_checkpoint"),
        (ERROR, "gap"),
        (WARNING, "broken_header"),
    }
    assert "evil" not in everything(disk)
    journal = opened(disk, 2)

    assert contents(disk) == TRUE
    assert journal.seq == 11
    assert journal.reply("s", 3) is None, "any outcome may be among what is not believed"
    assert journal.is_forgotten("s", 3, 1)
    assert kept_aside(JOURNAL, disk)[1] == 1
    assert codes(disk) == {(WARNING, "set_aside")}
    journal.append([put("a", 7)])
    journal.append([put("e", 8)])
    journal.close()
    assert contents(disk) == TRUE | {("k", "a"): 7, ("k", "e"): 8}
    assert opened(disk, 3).seq == 13


@pytest.mark.parametrize("attack", CHANGED)
def test_what_is_changed_or_removed_is_named_and_leaves_a_gap(attack: Attack) -> None:
    disk = written()
    attack(disk)

    assert codes(disk), "it is named before a broker starts"
    assert not ({"evil", 1} & {v for v in everything(disk) if isinstance(v, str | int)} - {1})
    journal = opened(disk, 2)

    assert "evil" not in map(str, contents(disk).values())
    assert journal.tail.baseline != {"k": "evil"}
    assert journal.is_forgotten("s", 3, 1)
    journal.close_key("", STATE, whole=True)
    journal.close()
    assert {level for level, _ in codes(disk)} <= {WARNING, "note"}


@pytest.mark.parametrize("attack", MIXED)
def test_a_checkpoint_of_authentic_lines_has_to_be_the_one_that_was_written(
    attack: Attack,
) -> None:
    disk = written()
    attack(disk)

    assert contents(disk) == TRUE, "the segments that it replaced say the same"
    assert (ERROR, "broken_checkpoint") in codes(disk)
    for path in [path for path in disk.names if ARCHIVE in path]:
        del disk.names[path]
    known = replay(JOURNAL, disk, keys=KEYS)

    assert known.gaps[0] == (1, 5)
    assert ("k", "gone") not in known.live
    assert ("k", "b") not in known.live


def without_its_last_line(disk: Disk, path: str) -> None:
    write(disk, path, lines(disk, path)[:-1])


def without_any_line(disk: Disk, path: str) -> None:
    write(disk, path, [])


def with_another_last_line(disk: Disk, path: str) -> None:
    *rest, last = lines(disk, path)
    write(disk, path, [*rest, last.replace(b'"upto":', b'"upto":1')])


DAMAGE = [without_its_last_line, without_any_line, with_another_last_line]


@pytest.mark.parametrize("keys", [KEYS, ANYBODYS])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_hides_nothing(
    damage: Callable[[Disk, str], None], keys: Keyring
) -> None:
    """Whatever its name says: one for records to come would hide those that are written next."""
    disk = written(keys)
    old = disk.read(checkpoint(disk))
    damage(disk, checkpoint(disk))
    assert contents(disk, keys) == TRUE
    journal = opened(disk, 2, keys)
    disk.put(f"{JOURNAL}/checkpoint-{14:020d}.jsonl", old)
    damage(disk, checkpoint(disk))
    journal.append([put("a", 7)])
    journal.roll()

    assert contents(disk, keys) == TRUE | {("k", "a"): 7}
    known = replay(JOURNAL, disk, keys=keys)
    assert known.gaps == [(13, 14)], "what it names and nobody has is missing"
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is None


def test_what_is_set_aside_is_kept_line_for_line() -> None:
    disk = written()
    append_without_a_code(disk)
    append_with_another_key(disk)
    evil = lines(disk, segments(disk)[-1])[-2:]

    opened(disk, 2)

    (name,) = disk.list_directory(f"{JOURNAL}/{ASIDE}")
    assert name == f"2-{9:020d}.jsonl"
    assert lines(disk, f"{JOURNAL}/{ASIDE}/{name}") == evil
    kept = list(read_aside(JOURNAL, disk))
    assert [one.seq for one in kept if isinstance(one, Record)] == [decode(e).seq for e in evil]


def test_a_checkpoint_is_not_made_of_what_changes_under_it() -> None:
    disk = written()
    journal = opened(disk, 2)
    journal.roll()
    path, line = line_of(disk, 10)
    calls: list[None] = []

    def pause() -> None:
        calls.append(None)
        if len(calls) < 3:  # one for each segment that is read
            return
        write(disk, path, [forged if t == line else t for t in lines(disk, path)])

    forged = edited(line, payload=7)
    assert len(forged) == len(line), "what is read at its place is a whole record"
    was = checkpoint(disk)
    assert make_checkpoint(JOURNAL, disk, journal.stamp, pause) is None
    assert checkpoint(disk) == was
    assert len(calls) == 3


def test_an_old_line_of_a_checkpoint_is_not_sealed_by_the_next() -> None:
    disk = written()
    journal = opened(disk, 2)
    journal.roll()
    remove_a_line_of_the_checkpoint(disk)

    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    assert contents(disk) == TRUE, "it is made of the segments"


def test_another_owner_took_the_segments_into_a_checkpoint_of_its_own() -> None:
    disk = written()
    theirs = Keyring([*OTHERS.keys, *KEYS.keys])
    other = opened(disk, 2, theirs)
    other.append([put("a", "theirs")])
    other.close_key("s:1", OUTCOME, reply="theirs")
    other.roll()
    assert make_checkpoint(JOURNAL, disk, other.stamp) is not None
    other.append([put("a", "theirs, too")])
    other.close()

    journal = opened(disk, 3)

    assert journal.seq == 11
    assert contents(disk) == TRUE
    assert replay(JOURNAL, disk, keys=KEYS).gaps == []
    assert kept_aside(JOURNAL, disk)[1] == 3, "two segments' worth of it, and the checkpoint"


def test_owners_that_have_each_others_keys_go_on_with_one_journal() -> None:
    disk = written()
    both = Keyring([*OTHERS.keys, *KEYS.keys])
    other = opened(disk, 2, both)
    other.append([put("a", "theirs")])
    other.close_key("s:1", OUTCOME, reply="theirs")
    other.close()

    journal = opened(disk, 3, Keyring([*KEYS.keys, *OTHERS.keys]))

    assert journal.reply("s", 1) == "theirs"
    assert kept_aside(JOURNAL, disk) == (0, 0, 0)
    journal.append([put("a", 7)])
    journal.close()
    assert contents(disk, both)["k", "a"] == 7
    assert read_tail(list_segments(JOURNAL, disk), disk, both).foreign == 0


def test_older_versions_read_an_authenticated_journal() -> None:
    disk = written()

    assert contents(disk, ANYBODYS) == TRUE
    assert read_tail(list_segments(JOURNAL, disk), disk).reply("s", 3) == "third"


def test_a_purged_journal_is_still_its_owners() -> None:
    disk = written()
    assert purge_journal(JOURNAL, disk, going("c", "b"), KEYS) > 0
    assert purge_journal(JOURNAL, disk, going("d"), KEYS) > 0

    assert contents(disk) == {("k", "a"): 3}
    assert codes(disk) == set()
    journal = opened(disk, 2)
    assert journal.seq == 11
    assert kept_aside(JOURNAL, disk) == (0, 0, 0)


def test_purging_takes_foreign_lines_out_as_well() -> None:
    disk = written()
    append_without_a_code(disk)

    purge_journal(JOURNAL, disk, going("c"), KEYS)

    assert b"evil" not in disk.read(segments(disk)[-1])


# Sealing.


def unsealed() -> Disk:
    disk = Disk()
    journal = opened(disk, keys=ANYBODYS)
    for number in range(3):
        journal.append([put("a", number), put(f"b{number}", number)])
        journal.close_key("s:1", OUTCOME, reply="r")
        journal.roll()
        if number == 1:
            assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    journal.append([put("c", 1)])
    journal.close()
    return disk.power_cut(all_kept)


def test_a_journal_of_an_earlier_version_is_sealed_whole() -> None:
    disk = unsealed()
    was, records = contents(disk, ANYBODYS), list(read_from(JOURNAL, disk))
    assert contents(disk) == {}

    reseal(JOURNAL, disk, ANYBODYS, KEYS.keys[0])

    assert contents(disk) == was
    assert contents(disk.power_cut(all_lost)) == was
    assert codes(disk) == set()
    now = [found for found in read_from(JOURNAL, disk, keys=KEYS) if isinstance(found, Record)]
    assert [(r.seq, r.payload) for r in now] == [
        (r.seq, r.payload) for r in records if isinstance(r, Record)
    ]
    journal = opened(disk, 2)
    assert (journal.seq, list(journal.tail.open)) == (10, ["s:1"])
    assert kept_aside(JOURNAL, disk) == (0, 0, 0)


def test_sealing_may_be_interrupted_at_any_step() -> None:
    done = unsealed()
    reseal(JOURNAL, done, ANYBODYS, KEYS.keys[0])
    paths = [*segments(done), checkpoint(done)]
    expected = {path: done.read(path) for path in paths}
    for step in range(1, 400):
        disk = unsealed()
        disk.fail("rename", errno.EIO, skip=step - 1)
        try:
            reseal(JOURNAL, disk, ANYBODYS, KEYS.keys[0])
        except OSError:
            reseal(JOURNAL, disk, ANYBODYS, KEYS.keys[0])
            assert {path: disk.read(path) for path in paths} == expected
        else:
            assert step > 1
            return
    raise AssertionError("it never ends")


def test_sealing_what_was_accepted_leaves_the_rest_nobodys() -> None:
    disk = written()
    append_without_a_code(disk)

    reseal(JOURNAL, disk, KEYS, OTHERS.keys[0])

    assert contents(disk, OTHERS) == TRUE
    assert "evil" not in map(str, contents(disk, OTHERS).values())
    found = read_from(JOURNAL, disk, keys=OTHERS)
    assert [one.is_foreign for one in found if isinstance(one, Broken)] == [True]


# A floor.


def test_up_to_its_floor_a_journal_counts_as_it_was_found() -> None:
    disk = written()
    newcomer = Keyring(OTHERS.keys, 11)

    journal = opened(disk, 2, newcomer)

    assert (journal.seq, journal.reply("s", 3)) == (11, "third")
    assert contents(disk, newcomer) == TRUE
    journal.append([put("a", 7)])
    journal.close()
    append = lines(disk, segments(disk)[-1])
    write(disk, segments(disk)[-1], [*append, forged(13, put("a", "evil"))])
    assert contents(disk, newcomer)["k", "a"] == 7


def test_a_code_of_a_known_key_is_proven_below_the_floor_as_well() -> None:
    line = edited(forged(5, put("a", 1), KEYS), payload="evil")

    with pytest.raises(BrokenRecord, match="was changed after it was written"):
        decode(line, Keyring(KEYS.keys, 11))
