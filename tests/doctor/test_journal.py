"""What `palace doctor` and `palace history` say about a journal: each damage under its own name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.commands import history
from palace.commands.config import set_config
from palace.doctor.diagnostics import gather
from palace.doctor.finding import Finding
from palace.doctor.journal import check_journal, inspect_journal
from palace.doctor.workspaces import check_workspaces
from palace.journal.checkpoint import make_checkpoint
from palace.journal.inspect import Gap, read_from
from palace.journal.journal import HEAD, Journal
from palace.journal.record import OUTCOME, PUT, QUARANTINE, STATE, Draft, Record, Stamp, encode
from palace.journal.segment import ARCHIVE, Broken, list_segments
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.disks.memory import NOW, ROOT, Disk, all_kept, all_lost

JOURNAL = f"{ROOT}/journal"


def put(number: int) -> Draft:
    key = f"s:{number % 10}"
    return Draft(action=PUT, key=key, kind="k", id=f"i{number}", payload="p" * 20)


def written(disk: Disk, epoch: int = 3) -> Journal:
    """Return a journal of four segments, the first two of them in a checkpoint; seqs 1 to 12."""
    journal = Journal.open(JOURNAL, disk, Stamp(epoch=epoch, writer="w"))
    for number in range(4):
        journal.append([put(number), put(number + 10)])
        journal.close_key(f"s:{number}", OUTCOME, reply="r")
        if number < 3:
            journal.roll()
        if number == 1:
            assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    return journal


def sound() -> Disk:
    disk = Disk()
    written(disk).close()
    return disk.power_cut(all_lost)


def found(disk: Disk) -> list[Finding]:
    return inspect_journal(JOURNAL, disk)


def codes(disk: Disk) -> list[tuple[str, str]]:
    return [(finding.level, finding.code) for finding in found(disk)]


def paths(disk: Disk) -> list[str]:
    return [segment.path for segment in list_segments(JOURNAL, disk, archived=True)]


def change(disk: Disk, path: str, edit: Callable[[bytes], bytes]) -> None:
    before = disk.read(path)
    disk.put(path, edit(before))
    assert disk.read(path) != before


def lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line]


def joined(kept: list[bytes]) -> bytes:
    return b"".join(b"\n%b\n" % line for line in kept)


# Nothing is wrong.


def test_there_is_nothing_to_say_of_a_sound_journal() -> None:
    disk = sound()
    assert codes(disk) == []
    assert ARCHIVE in paths(disk)[0]
    assert codes(Disk()) == []


def test_an_owner_that_lives_is_no_damage() -> None:
    disk = Disk()
    written(disk)

    assert codes(disk) == []


def test_after_a_crash_there_is_a_torn_line_at_most() -> None:
    torn = 0
    for cut in range(0, 600, 7):
        disk = Disk()
        journal = written(disk)
        journal.sync(journal.seq)
        journal.append([put(5), put(6)])
        disk = disk.power_cut(lambda low, high, cut=cut: min(low + cut, high))
        assert codes(disk) in ([], [("note", "torn_tail")])
        torn += codes(disk) != []
        again = Journal.open(JOURNAL, disk, Stamp(epoch=4, writer="x"))
        again.append([put(7)])
        again.close()
        assert codes(disk) in ([], [("note", "torn_line")]), "it is no tail any more"
    assert torn


def test_what_a_failed_fsync_left_behind_is_no_damage() -> None:
    disk = Disk()
    journal = written(disk)
    journal.sync(journal.seq)
    journal.append([put(5)])
    disk.fail("sync", 5)
    with pytest.raises(Exception, match="Input/output"):
        journal.sync(journal.seq)
    journal.repair()
    journal.append([put(6)])
    journal.close()

    assert codes(disk) == codes(disk.power_cut(all_lost)) == []


# Each damage.


@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_record_is_named_with_what_it_was(number: int) -> None:
    disk = sound()
    path = paths(disk)[number]
    change(disk, path, lambda data: data.replace(b"pppp", b"ppqp", 1))

    assert codes(disk) == [("error", "wrong_checksum"), ("error", "gap")]
    wrong, gap = found(disk)
    assert path in wrong.text
    assert f"Record {3 * number + 1} is missing" in gap.text
    assert "palace start" in gap.remedy


def test_a_line_that_ends_too_early_though_others_follow_is_broken() -> None:
    disk = sound()
    path = paths(disk)[1]

    def cut(data: bytes) -> bytes:
        kept = lines(data)
        kept[2] = kept[2][:-5]
        return joined(kept)

    change(disk, path, cut)

    assert codes(disk) == [("error", "broken_line"), ("error", "gap")]
    assert "Record 5 is missing" in found(disk)[1].text


def test_a_damaged_header_is_a_warning_since_no_memory_is_missing() -> None:
    disk = sound()
    change(disk, paths(disk)[-1], lambda data: data.replace(b'"action":"segment"', b'"action":"?"'))

    assert ("warning", "broken_header") in codes(disk)
    assert all(level != "error" for level, _ in codes(disk))


def test_missing_records_are_counted() -> None:
    disk = sound()
    change(disk, paths(disk)[1], lambda data: joined([lines(data)[0], lines(data)[3]]))
    assert codes(disk) == [("error", "gap")]
    assert "Record 4 to 5 is missing" in found(disk)[0].text

    disk = sound()
    del disk.names[paths(disk)[1]]
    assert "Record 4 to 6 is missing" in found(disk)[0].text


def test_a_torn_line_without_a_missing_record_is_a_note() -> None:
    disk = sound()
    change(disk, paths(disk)[1], lambda data: data + b"\n" + lines(data)[1][:40])

    assert codes(disk) == [("note", "torn_line")]


def test_a_torn_end_of_the_newest_segment_is_told_apart() -> None:
    disk = sound()
    change(disk, paths(disk)[3], lambda data: data + b"\n" + lines(data)[1][:40])

    assert codes(disk) == [("note", "torn_tail")]


def test_lines_that_an_opening_passes_over_are_counted() -> None:
    disk = sound()
    change(disk, paths(disk)[3], lambda data: data + b"\n" + lines(data)[1][:40])

    assert Journal.open(JOURNAL, disk, Stamp(epoch=4, writer="x")).tail.broken == 1


def test_what_was_taken_over_from_the_stores_needs_nothing_any_more() -> None:
    disk = sound()
    change(disk, paths(disk)[2], lambda data: data.replace(b"pppp", b"ppqp", 1))
    journal = Journal.open(JOURNAL, disk, Stamp(epoch=4, writer="x"))
    journal.close_key("", STATE, whole=True)
    journal.close()

    assert codes(disk) == [("note", "wrong_checksum"), ("note", "gap")]
    assert "Record 7" in found(disk)[1].text
    assert "record 13 took over" in found(disk)[1].remedy


def test_an_epoch_that_falls_is_found() -> None:
    disk = sound()
    other = Disk()
    written(other, epoch=2).close()
    disk.put(paths(disk)[3], other.read(paths(other)[3]))

    assert set(codes(disk)) == {("error", "epoch_fell")}
    assert "Record 10 is of epoch 2, though epoch 3 came before" in found(disk)[0].text


def test_a_key_that_is_not_tried_again_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    disk = sound()
    journal = Journal.open(JOURNAL, disk, Stamp(epoch=4, writer="x"))
    journal.append([Draft(action=QUARANTINE, key="s:9", payload="it was bad")])
    journal.close()

    assert codes(disk) == [("warning", "quarantine")]
    assert "s:9 is not tried again: it was bad" in found(disk)[0].text
    since = int(found(disk)[0].remedy.rpartition(" ")[2])
    told = Paths(ROOT)
    assert history.print_history(told, disk, since=since, follow=False, as_json=False) == 0
    assert "it was bad" in capsys.readouterr().out


def test_a_journal_that_lost_its_end_is_found_by_its_head() -> None:
    disk = sound()
    change(disk, paths(disk)[3], lambda data: joined(lines(data)[:-1]))

    assert codes(disk) == [("error", "head_ahead")]
    assert "record 12, but the journal ends with 11" in found(disk)[0].text


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"seq":"x"}', b'{"seq":null}', b'{"seq":12}'])
def test_a_damaged_head_is_nothing_to_speak_of(data: bytes) -> None:
    disk = sound()
    disk.put(f"{JOURNAL}/{HEAD}", data)
    assert codes(disk) == []
    del disk.names[f"{JOURNAL}/{HEAD}"]
    assert codes(disk) == []


def test_a_damaged_or_shortened_checkpoint_is_found() -> None:
    path = f"{JOURNAL}/checkpoint-{6:020d}.jsonl"
    edits: list[Callable[[bytes], bytes]] = [
        lambda data: data.replace(b"pppp", b"ppqp", 1),
        lambda data: data[:-30],
        lambda data: joined(lines(data)[:-1]),
        lambda data: joined(lines(data)[1:]),
        lambda data: b"",
    ]
    for edit in edits:
        disk = sound()
        change(disk, path, edit)
        assert codes(disk) == [("error", "broken_checkpoint")]
        assert path in found(disk)[0].text
        assert "archive" in found(disk)[0].remedy


def test_a_file_system_of_another_kernel_is_found() -> None:
    disk = sound()
    disk.fs_type = "virtiofs"

    assert codes(disk) == [("error", "network_file_system")]
    assert "virtiofs" in found(disk)[0].text


# Reading it in order.


def test_records_are_read_from_any_seq_on_archive_included() -> None:
    disk = sound()
    for since in range(1, 15):
        read = list(read_from(JOURNAL, disk, since))
        assert [item.seq for item in read if isinstance(item, Record)] == list(range(since, 13))
        assert len(read) == max(0, 13 - since)


def test_gaps_and_broken_lines_stand_where_they_belong() -> None:
    disk = sound()
    change(disk, paths(disk)[1], lambda data: data.replace(b"pppp", b"ppqp", 1))

    kinds = [item if isinstance(item, Gap) else type(item) for item in read_from(JOURNAL, disk, 3)]

    assert kinds == [Record, Broken, Gap(first=4, last=4), *[Record] * 8]


# What people see.


def test_the_log_is_readable_by_people_and_by_programs(capsys: pytest.CaptureFixture[str]) -> None:
    disk = sound()
    assert history.print_history(Paths(ROOT), disk, since=10, follow=False, as_json=False) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown] == [
        ["10", NOW, "put", "k", "i3", "[s:3]"],
        ["11", NOW, "put", "k", "i13", "[s:3]"],
        ["12", NOW, "outcome", "[s:3]"],
    ]

    change(disk, paths(disk)[3], lambda data: data.replace(b"pppp", b"ppqp", 1))
    assert history.print_history(Paths(ROOT), disk, since=10, follow=False, as_json=True) == 65
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0]["broken"] == "its checksum is wrong"
    assert told[1] == {"gap": [10, 10]}
    assert (told[2]["seq"], told[2]["id"], told[2]["payload"]) == (11, "i13", "p" * 20)
    assert history.print_history(Paths(ROOT), disk, since=10, follow=False, as_json=False) == 65
    assert "GAP: records 10 to 10 are missing" in capsys.readouterr().out


def test_a_record_of_a_newer_palace_is_no_record_here() -> None:
    disk = sound()
    data = encode(put(9), 13, Stamp(epoch=3, writer="w"), NOW)
    disk.put(paths(disk)[3], disk.read(paths(disk)[3]) + data.replace(b'"v":1', b'"v":2'))

    assert codes(disk.power_cut(all_kept)) == [("note", "torn_line")]


def test_a_journal_that_waits_for_no_disk_is_named(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "palace"))
    (tmp_path / "palace").mkdir(mode=0o700)
    (tmp_path / "palace" / "palace.toml").write_text('journal_fsync = "never"\n')
    environment = ShimEnvironment({"HOME": str(tmp_path), "PATH": os.environ["PATH"]})

    def is_named() -> bool:
        return "fsync_off" in {one.code for one in check_journal(gather(paths, environment))}

    assert is_named()
    set_config(paths, environment, ["journal_fsync=mutation"])
    assert not is_named()


def test_users_that_no_workspace_tells_apart_are_named(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "palace"))
    (tmp_path / "palace").mkdir(mode=0o700)
    environment = ShimEnvironment({"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    set_config(paths, environment, ["allow_uids=3000,3001"])
    found = gather(paths, environment)

    def told(workspaces: dict[str, Any] | None) -> list[str]:
        status = {"workspaces": workspaces}
        return [one.text for one in check_workspaces(attrs.evolve(found, status=status))]

    assert told(None) == []
    assert told({"uids": [3000, 3001]}) == []
    [text] = told({"uids": [3000]})
    assert "uid 3001, let in by allow_uids" in text


def test_workspaces_without_a_journal_are_named(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "palace"))
    (tmp_path / "palace").mkdir(mode=0o700)
    environment = ShimEnvironment({"HOME": str(tmp_path), "PATH": os.environ["PATH"]})

    def codes_of() -> list[str]:
        return [one.code for one in check_workspaces(gather(paths, environment))]

    set_config(paths, environment, ["journal=off"])
    assert codes_of() == []
    Path(paths.register).touch()
    assert codes_of() == ["workspaces_unknown"]
    set_config(paths, environment, ["journal=on"])
    assert codes_of() == []
