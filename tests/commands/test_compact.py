"""`palace doctor --compact`: a checkpoint on request, and nothing that is lost by it."""

import os
from pathlib import Path

import pytest

from palace.commands.maintenance import compact_journal, compacted_text
from palace.journal.inspect import Gap, read_from
from palace.journal.journal import Journal
from palace.journal.record import PUT, STATE, UNIT, Draft, Stamp
from palace.journal.replay import newest_checkpoint, replay
from palace.journal.segment import ARCHIVE, list_segments
from palace.journal.tail import Adopting
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalBroken
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

KERNEL = Kernel()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    root = tmp_path / "palace"
    root.mkdir(mode=0o700)
    (root / "palace_id").write_text("0" * 32 + "\n")
    journal = Journal.open(f"{root}/journal", KERNEL, Stamp(epoch=1, writer="w"))
    for number in range(100):
        journal.append([Draft(action=PUT, kind="drawer", id="a", payload={"n": number})])
    journal.append([Draft(action=PUT, key="s:1", kind="drawer", id="b", payload={"n": 1})])
    journal.close_key("own-1-1", UNIT)
    journal.close()
    return Paths(str(root))


def environment(paths: Paths) -> ShimEnvironment:
    return ShimEnvironment({"HOME": os.path.dirname(paths.root), "PATH": os.environ["PATH"]})


def test_a_journal_is_read_from_a_new_checkpoint_and_holds_what_it_held(paths: Paths) -> None:
    before = replay(paths.journal, KERNEL)
    entities = {entity: before.payload(entity) for entity in before.live}
    records = list(read_from(paths.journal, KERNEL))

    made = compact_journal(paths, environment(paths), stop=False)

    assert (made.seq, made.entities) == (before.seq, 2)
    assert made.after < made.before / 5
    assert made.archived > made.after
    after = replay(paths.journal, KERNEL)
    assert {entity: after.payload(entity) for entity in after.live} == entities
    newest = newest_checkpoint(paths.journal, KERNEL)
    assert newest is not None
    assert [segment.first for segment in list_segments(paths.journal, KERNEL)] == [newest[1] + 1]
    found = list(read_from(paths.journal, KERNEL))
    assert not [one for one in found if isinstance(one, Gap)]
    assert len(found) == len(records)
    assert f"{made.before} bytes before, {made.after} now" in compacted_text(made, paths)

    again = compact_journal(paths, environment(paths), stop=False)
    assert (again.seq, again.entities) == (made.seq, made.entities)


def test_what_a_killed_owner_left_open_is_still_open(paths: Paths) -> None:
    compact_journal(paths, environment(paths), stop=False)
    journal = Journal.open(paths.journal, KERNEL, Stamp(epoch=9, writer="x"))
    assert list(journal.tail.open) == ["", "s:1"]
    journal.close()


def test_a_journal_that_lacks_records_is_left_as_it_is(paths: Paths) -> None:
    compact_journal(paths, environment(paths), stop=False)
    os.remove(newest_path(paths))
    archive = Path(paths.journal) / ARCHIVE
    for path in archive.iterdir():
        path.unlink()
    with pytest.raises(JournalBroken, match="lacks records"):
        compact_journal(paths, environment(paths), stop=False)


def newest_path(paths: Paths) -> str:
    newest = newest_checkpoint(paths.journal, KERNEL)
    assert newest is not None
    return newest[0]


def test_a_journal_that_does_not_hold_the_whole_palace_yet_gets_no_checkpoint(
    paths: Paths,
) -> None:
    journal = Journal.open(paths.journal, KERNEL, Stamp(epoch=2, writer="w"))
    journal.close_key("", UNIT)
    journal.close_key("s:1", UNIT)
    journal.fingerprints = dict
    journal.begin_adoption(Adopting(since=journal.seq, total=1000))
    journal.close_key("", STATE)
    journal.close()
    with pytest.raises(JournalBroken, match="about 1000"):
        compact_journal(paths, environment(paths), stop=False)
    assert newest_checkpoint(paths.journal, KERNEL) is None
