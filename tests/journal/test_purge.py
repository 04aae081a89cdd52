"""Purging: of a purged memory no byte remains in any file, and all else is as it was."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.doctor.journal import inspect_journal
from palace.journal.checkpoint import make_checkpoint
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.purge import PURGED_REPLY, Going, purge_journal
from palace.journal.record import ADOPT, DELETE, OUTCOME, PURGED, PUT, UNDO, Draft, Record, Stamp
from palace.journal.replay import replay
from palace.journal.segment import ARCHIVE
from palace.protocol.errors import JournalFailed
from tests.support.disks.memory import ROOT, Disk, Stopped, all_kept, all_lost

JOURNAL = f"{ROOT}/journal"
SECRET = "the secret \udcff of the sea"
RAW = SECRET.encode("utf-8", "surrogatepass")
IDS = frozenset({"gone", "gone, too"})
GONE = Going(entities=frozenset(("k", ident) for ident in IDS))
STAMP = Stamp(epoch=1, writer="w")


def opened(disk: Disk) -> Journal:
    journal = Journal.open(JOURNAL, disk, STAMP)
    journal.fingerprints = lambda: {"store": journal.seq}
    return journal


def change(action: str, key: str, ident: str, payload: Any, before: Any = None) -> Draft:
    return Draft(
        action=action,
        key=key,
        kind="k",
        id=ident,
        payload=payload,
        before=before,
        deleted=payload is None,
    )


def put(key: str, ident: str, payload: Any, before: Any = None) -> Draft:
    return change(PUT, key, ident, payload, before)


def written() -> Disk:
    """Return a disk whose journal holds the secret in every place where one can be."""
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:1", "kept", 1), put("s:1", "gone", SECRET)])
    journal.close_key("s:1", OUTCOME, reply=f"filed {SECRET}")
    journal.append([put("s:2", "kept", 2, 1), change(ADOPT, "", "gone, too", [SECRET])])
    journal.close_key("s:2", OUTCOME, reply="filed something else")
    journal.roll()
    journal.append([put("s:3", "gone", {"better": SECRET}, SECRET)])
    journal.close_key("s:3", OUTCOME, reply=SECRET)
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, STAMP) is not None
    journal.append([put("t:1", "gone", "harmless", SECRET), put("t:1", "other", 5)])
    journal.append([change(UNDO, "t:2", "gone", SECRET)])
    journal.append([change(DELETE, "t:2", "gone, too", None, SECRET)])
    journal.roll()
    journal.append([put("t:1", "gone", SECRET, "harmless")])
    with_torn_line(disk, journal.segments()[1].path)
    repeated(disk, journal)
    journal.append([put("u:1", "new", 6)])
    journal.close()
    disk.put(f"{JOURNAL}/checkpoint-{9:020d}.jsonl.tmp", RAW)
    disk.put(f"{JOURNAL}/{ARCHIVE}/{9:020d}.jsonl.77.tmp", RAW)
    return disk.power_cut(all_kept)


def with_torn_line(disk: Disk, path: str) -> None:
    data = disk.read(path)
    disk.put(path, data + b'\n{"v":1,"seq":7,"payload":"' + RAW[:-1] + b"\n")


def repeated(disk: Disk, journal: Journal) -> None:
    """Let the records that no fsync has confirmed stand in two segments."""
    journal.sync(journal.seq)
    journal.append([put("s:4", "gone", SECRET)])
    disk.fail("sync", 5)
    with pytest.raises(JournalFailed):
        journal.sync(journal.seq)
    journal.repair()


def files(disk: Disk) -> dict[str, bytes]:
    return {path: disk.read(path) for path, file in sorted(disk.names.items()) if file is not None}


def contents(disk: Disk) -> dict[tuple[str, str], Any]:
    known = replay(JOURNAL, disk)
    assert (known.broken, known.gaps) == ([], [])
    return {entity: known.payload(entity) for entity in known.live}


def test_no_byte_of_what_was_purged_remains() -> None:
    disk = written()
    assert sum(RAW in data for data in files(disk).values()) >= 7

    assert purge_journal(JOURNAL, disk, GONE) > 7

    for path, data in files(disk).items():
        for part in (RAW, b"secret", b"of the sea", b"harmless"):
            assert part not in data, path
    assert not [path for path in disk.names if path.endswith(".tmp")]
    assert not disk.open_files


def test_everything_else_is_as_it_was() -> None:
    disk = written()
    before = [item for item in read_from(JOURNAL, disk) if isinstance(item, Record)]
    kept = {e: p for e, p in contents(_without_torn(disk)).items() if e[1] not in IDS}

    taken = purge_journal(JOURNAL, disk, GONE)

    after = list(read_from(JOURNAL, disk))
    assert [item.seq for item in after if isinstance(item, Record)] == [r.seq for r in before]
    for old, new in zip(before, after, strict=True):
        assert isinstance(new, Record)
        assert (new.ts, new.writer, new.epoch, new.key) == (old.ts, old.writer, old.epoch, old.key)
        if old.id in IDS:
            assert (new.action, new.kind, new.id) == (PURGED, "", "")
            assert (new.payload, new.before) == (None, None)
        elif old.action == OUTCOME:
            assert new.payload == old.payload | {"reply": PURGED_REPLY}
        else:
            assert new == old
    assert taken >= sum(record.id in IDS for record in before)
    assert contents(disk) == kept
    assert inspect_journal(JOURNAL, disk) == []


def _without_torn(disk: Disk) -> Disk:
    again = Disk()
    for path, data in files(disk).items():
        again.put(path, data.replace(b'\n{"v":1,"seq":7,"payload":"' + RAW[:-1] + b"\n", b""))
    again.names |= {path: None for path, file in disk.names.items() if file is None}
    return again


def test_the_journal_is_gone_on_with() -> None:
    disk = written()
    seq = opened(disk.power_cut(all_kept)).seq
    purge_journal(JOURNAL, disk, GONE)

    journal = opened(disk)

    assert (journal.seq, journal.tail.gaps) == (seq, 0)
    assert [journal.reply("s", n) for n in (1, 2, 3)] == [
        PURGED_REPLY,
        PURGED_REPLY,
        PURGED_REPLY,
    ]
    assert {c.id for changes in journal.tail.open.values() for c in changes} == {"other", "new"}
    assert not [entity for entity in journal.tail.touched if entity[1] in IDS]
    journal.append([put("v:1", "gone", "again")])
    journal.close()
    assert contents(disk)["k", "gone"] == "again"


def test_doing_it_twice_does_no_harm() -> None:
    disk = written()
    assert purge_journal(JOURNAL, disk, GONE) > 0
    once = files(disk)

    assert purge_journal(JOURNAL, disk, GONE) == 0
    assert files(disk) == once


def test_an_id_that_nobody_knows_changes_nothing_but_torn_lines() -> None:
    disk = _without_torn(written())
    before = {path: data for path, data in files(disk).items() if not path.endswith(".tmp")}

    assert purge_journal(JOURNAL, disk, Going(entities=frozenset({("k", "nobody")}))) == 0

    assert files(disk) == before


@pytest.mark.parametrize("choose", [all_kept, all_lost])
def test_a_purge_that_dies_at_any_call_and_is_repeated_ends_the_same(choose: Any) -> None:
    whole = written()
    purge_journal(JOURNAL, whole, GONE)
    number = 0
    while True:
        disk = written()
        disk.stop_after(number)
        try:
            purge_journal(JOURNAL, disk, GONE)
        except Stopped:
            pass
        ended = not disk.dead
        disk = disk.power_cut(choose)
        assert [e for e in contents(_without_torn(disk)) if e[1] not in IDS]
        assert opened(disk.power_cut(all_kept)).tail.gaps == 0
        purge_journal(JOURNAL, disk, GONE)
        assert files(disk) == files(whole), number
        if ended:
            break
        number += 1
    assert number > 40


def test_a_purge_that_finds_the_disk_full_has_lost_nothing() -> None:
    disk = written()
    before = {e: p for e, p in contents(_without_torn(disk)).items() if e[1] not in IDS}
    disk.room = 300
    with pytest.raises(OSError, match="No space"):
        purge_journal(JOURNAL, disk, GONE)
    assert {e: p for e, p in contents(_without_torn(disk)).items() if e[1] not in IDS} == before

    disk.room = None
    purge_journal(JOURNAL, disk, GONE)
    assert contents(disk) == before


ids = st.sampled_from(["a", "b", "gone"])
payloads = st.integers(0, 9) | st.just({"text": "x" * 30})
scripts = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([PUT, ADOPT, UNDO]), ids, payloads),
        st.tuples(st.just(DELETE), ids, st.none()),
        st.sampled_from([("end", "", None), ("roll", "", None), ("checkpoint", "", None)]),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(script=scripts)
def test_whatever_was_written_the_purged_is_gone_and_the_rest_stays(
    script: list[tuple[str, str, Any]],
) -> None:
    disk = Disk()
    journal = opened(disk)
    last: dict[str, Any] = {}
    for number, (step, ident, plain) in enumerate(script):
        key = f"s:{number // 4}"
        if step == "end":
            journal.close_key(key, OUTCOME, reply=f"{last.get('gone')}")
        elif step == "roll":
            journal.roll()
        elif step == "checkpoint":
            make_checkpoint(JOURNAL, disk, STAMP)
        else:
            payload = [SECRET, plain] if ident == "gone" and plain is not None else plain
            journal.append([change(step, key, ident, payload, last.get(ident))])
            last[ident] = payload
    journal.close()
    before = contents(disk)
    known = any(r.id == "gone" for r in read_from(JOURNAL, disk) if isinstance(r, Record))

    purge_journal(JOURNAL, disk, Going(entities=frozenset({("k", "gone")})))

    assert contents(disk) == {e: p for e, p in before.items() if e[1] != "gone"}
    assert inspect_journal(JOURNAL, disk) == []
    for record in read_from(JOURNAL, disk):
        assert isinstance(record, Record)
        assert SECRET not in str(record)
        if record.action == OUTCOME:
            assert (record.payload["reply"] == PURGED_REPLY) == known


def test_earlier_states_that_hold_its_words_go_and_the_last_word_on_what_stays_does_not() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([put("s:1", "gone", SECRET), put("s:1", "kept", f"says {SECRET}")])
    journal.append([put("s:1", "kept", "says it, still", f"says {SECRET}")])
    journal.append([put("s:1", "tells", f"{SECRET} as well")])
    journal.close_key("s:1", OUTCOME, reply="r")
    journal.close()
    known = replay(JOURNAL, disk)
    live = frozenset(known.live["k", ident].seq for ident in ("kept", "tells"))
    entities = frozenset({("k", "gone")})
    going = Going(entities=entities, holds=lambda data: b"secret" in data, live=live)

    assert purge_journal(JOURNAL, disk, going) == 2

    assert contents(disk) == {("k", "kept"): "says it, still", ("k", "tells"): f"{SECRET} as well"}
    told = [item for item in read_from(JOURNAL, disk) if isinstance(item, Record)]
    assert [one.action for one in told] == [PURGED, PURGED, PUT, PUT, OUTCOME]
    assert told[2].before is None, "the earlier state that it replaced"


def test_replies_in_files_without_its_records_go_wherever_a_purge_dies() -> None:
    def filed_and_quoted() -> Disk:
        disk = Disk()
        journal = opened(disk)
        journal.append([put("s:1", "gone", SECRET)])
        journal.close_key("s:1", OUTCOME, reply="filed")
        journal.roll()
        journal.append([put("s:2", "kept", 1)])
        journal.close_key("s:2", OUTCOME, reply=f"found {SECRET}")
        journal.close()
        return disk.power_cut(all_kept)

    number, ended = 0, False
    while not ended:
        disk = filed_and_quoted()
        disk.stop_after(number)
        with contextlib.suppress(Stopped):
            purge_journal(JOURNAL, disk, GONE)
        ended = not disk.dead
        disk = disk.power_cut(all_kept)
        purge_journal(JOURNAL, disk, GONE)
        assert not [path for path, data in files(disk).items() if RAW in data], number
        number += 1
    assert number > 10
