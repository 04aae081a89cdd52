"""Files of a palace that are damaged, lacking, or on a disk that is full."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from palace.doctor.finding import ERROR, WARNING
from palace.journal.checkpoint import make_checkpoint
from palace.journal.journal import HEAD, Journal
from palace.journal.record import OUTCOME, PUT, Draft, Stamp, encode
from palace.journal.segment import ARCHIVE, DIGITS, list_segments
from tests.doctor.situations.place import KERNEL, Place, Situation
from tests.support.machines.needs import need_root

MIB = 1 << 20


def _written(place: Place) -> Journal:
    """Make a journal of four segments, the first two of them in a checkpoint."""
    journal = Journal.open(place.paths.journal, KERNEL, Stamp(epoch=3, writer="w"))
    for number in range(4):
        journal.append([Draft(action=PUT, key=f"s:{number}", kind="k", id=f"i{number}", payload=1)])
        journal.close_key(f"s:{number}", OUTCOME, reply="r")
        if number < 3:
            journal.roll()
        if number == 1:
            assert make_checkpoint(place.paths.journal, KERNEL, journal.stamp) is not None
    return journal


def _changed(which: int, edit: Callable[[bytes], bytes]) -> Callable[[Place], None]:
    """Damage a segment of a journal, whose former contents are kept as a backup would."""

    def arrange(place: Place) -> None:
        _written(place).close()
        shutil.copytree(place.paths.journal, place.home / "backup")
        path = Path(list_segments(place.paths.journal, KERNEL)[which].path)
        before = path.read_bytes()
        path.write_bytes(edit(before))
        assert path.read_bytes() != before

    return arrange


def _restored(place: Place) -> None:
    shutil.rmtree(place.paths.journal)
    (place.home / "backup").rename(place.paths.journal)


def _without_second_line(data: bytes) -> bytes:
    lines = data.split(b"\n")
    filled = [number for number, line in enumerate(lines) if line]
    return b"\n".join(line for number, line in enumerate(lines) if number != filled[1])


def _second_line_flipped(data: bytes) -> bytes:
    lines = data.split(b"\n")
    second = [number for number, line in enumerate(lines) if line][1]
    lines[second] = lines[second].replace(b"put", b"pat")
    return b"\n".join(lines)


def _second_line_cut(data: bytes) -> bytes:
    lines = data.split(b"\n")
    second = [number for number, line in enumerate(lines) if line][1]
    lines[second] = lines[second][:20]
    return b"\n".join(lines)


def _without_header(data: bytes) -> bytes:
    first = data.lstrip(b"\n").index(b"\n") + (len(data) - len(data.lstrip(b"\n")))
    return data[first:]


def mixed_copies(place: Place) -> None:
    journal = _written(place)
    journal.close()
    shutil.copytree(place.paths.journal, place.home / "backup")
    older = Draft(action=PUT, key="s:9", kind="k", id="i9", payload=1)
    line = encode(older, journal.seq + 1, Stamp(epoch=1, writer="old"), "2026-01-01T00:00:00Z")
    with Path(list_segments(place.paths.journal, KERNEL)[-1].path).open("ab") as file:
        file.write(line)


def lost_end(place: Place) -> None:
    _written(place).close()
    shutil.copytree(place.paths.journal, place.home / "backup")
    head = Path(place.paths.journal, HEAD)
    head.write_text(json.dumps(json.loads(head.read_text()) | {"seq": 99}))


def broken_checkpoint(place: Place) -> None:
    _written(place).close()
    [path] = Path(place.paths.journal).glob("checkpoint*")
    path.write_bytes(path.read_bytes()[:-40])


def checkpoint_away(place: Place) -> None:
    journal = Path(place.paths.journal)
    for path in journal.glob("checkpoint*"):
        path.rename(place.home / path.name)
    for path in (journal / "archive").iterdir():
        path.rename(journal / path.name)


def foreign_file(place: Place) -> None:
    """Name a file of the archive as the successor of the newest segment."""
    _written(place).close()
    path = Path(place.paths.journal, ARCHIVE, f"{99:0{DIGITS}d}.jsonl")
    path.write_bytes(Path(list_segments(place.paths.journal, KERNEL)[-1].path).read_bytes())


def foreign_file_moved(place: Place) -> None:
    [path] = Path(place.paths.journal, ARCHIVE).glob("*99.jsonl")
    path.rename(place.home / path.name)


def odd_epoch(place: Place) -> None:
    _written(place).close()
    path = Path(list_segments(place.paths.journal, KERNEL)[0].path)
    path.rename(place.home / "backup")
    path.mkdir()


def epoch_as_it_was(place: Place) -> None:
    path = Path(list_segments(place.paths.journal, KERNEL)[0].path)
    path.rmdir()
    (place.home / "backup").rename(path)


def healed_store(place: Place) -> None:
    kept = place.palace / "replaced-3"
    kept.mkdir()
    note = {
        "text": "chroma.sqlite3 is gone",
        "at": "2026-01-01T00:00:00Z",
        "index": False,
        "kept": [f"{kept}/chroma.sqlite3"],
    }
    (kept / "why.json").write_text(json.dumps([note]))


def kept_files_removed(place: Place) -> None:
    shutil.rmtree(place.palace / "replaced-3")


def torn_database(place: Place) -> None:
    (place.palace / "chroma.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(100))


def database_moved(place: Place) -> None:
    (place.palace / "chroma.sqlite3").rename(place.home / "chroma.sqlite3")


def _on_a_disk_of(mib: int, filled: int) -> Callable[[Place], None]:
    def arrange(place: Place) -> None:
        need_root()
        options = f"size={mib}m,mode=0700"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place.palace)]
        subprocess.run(mount, check=True)
        place.after.callback(subprocess.run, ["umount", "-l", str(place.palace)], check=True)
        (place.palace / "filler").write_bytes(bytes(filled * MIB))

    return arrange


def space_freed(place: Place) -> None:
    os.unlink(place.palace / "filler")


def _no_more_files(place: Place) -> None:
    need_root()
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=60,mode=0700", "tmpfs", str(place.palace)]
    subprocess.run(mount, check=True)
    place.after.callback(subprocess.run, ["umount", "-l", str(place.palace)], check=True)
    for number in range(50):
        (place.palace / f"filler{number}").touch()


def _fewer_files(place: Place) -> None:
    for path in place.palace.glob("filler*"):
        path.unlink()


SITUATIONS = {
    "the disk takes no more files": Situation(
        arrange=_no_more_files,
        code="no_inodes",
        level=ERROR,
        text="The disk takes no more files",
        remedy="Remove files there",
        heal=_fewer_files,
    ),
    "a file of the archive is too new": Situation(
        arrange=foreign_file,
        code="foreign_record",
        level=ERROR,
        text="is named for records that are not in the archive yet",
        remedy="Then move the file away",
        heal=foreign_file_moved,
    ),
    "a directory stands where a segment was": Situation(
        arrange=odd_epoch,
        code="not_examined",
        level=WARNING,
        text="The journal could not be examined: ",
        remedy="See what it names",
        heal=epoch_as_it_was,
    ),
    "a record is missing": Situation(
        arrange=_changed(1, _without_second_line),
        code="gap",
        level=ERROR,
        text="is missing",
        remedy="Restore the journal's file from a backup",
        heal=_restored,
    ),
    "a record was changed": Situation(
        arrange=_changed(1, _second_line_flipped),
        code="wrong_checksum",
        level=ERROR,
        text="checksum",
        remedy="Restore the journal's file from a backup",
        heal=_restored,
    ),
    "a record was cut": Situation(
        arrange=_changed(1, _second_line_cut),
        code="broken_line",
        level=ERROR,
        text="at byte",
        remedy="Restore the journal's file from a backup",
        heal=_restored,
    ),
    "a segment has no header": Situation(
        arrange=_changed(1, _without_header),
        code="broken_header",
        level=WARNING,
        text="does not begin with its header",
        remedy="restore the file from a backup",
        heal=_restored,
    ),
    "two copies were mixed": Situation(
        arrange=mixed_copies,
        code="epoch_fell",
        level=ERROR,
        text="though epoch 3 came before",
        remedy="Restore all of its files from one backup",
        heal=_restored,
    ),
    "the journal has lost its end": Situation(
        arrange=lost_end,
        code="head_ahead",
        level=ERROR,
        text="HEAD.json names record 99",
        remedy="Restore it",
        heal=_restored,
    ),
    "a checkpoint is damaged": Situation(
        arrange=broken_checkpoint,
        code="broken_checkpoint",
        level=ERROR,
        text="checkpoint",
        remedy="Move it away, and move the segments in",
        heal=checkpoint_away,
    ),
    "a database can't be read": Situation(
        arrange=torn_database,
        code="store_damaged",
        level=ERROR,
        text="chroma.sqlite3",
        remedy="",
        heal=database_moved,
    ),
    "a store was brought back": Situation(
        arrange=healed_store,
        code="store_healed",
        level=WARNING,
        text="It was brought back at 2026-01-01T00:00:00Z",
        remedy="rm -r ",
        heal=kept_files_removed,
    ),
    "the disk is full": Situation(
        arrange=_on_a_disk_of(24, 20),
        code="disk_full",
        level=ERROR,
        text="every change is refused",
        remedy="Free some space",
        heal=space_freed,
    ),
    "the disk is nearly full": Situation(
        arrange=_on_a_disk_of(400, 200),
        code="disk_low",
        level=WARNING,
        text="The disk is nearly full",
        remedy="Free some space",
        heal=space_freed,
    ),
}
