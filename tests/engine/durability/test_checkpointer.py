"""The checkpointer's thread: checkpoints beside the work."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.durability.checkpointer import Checkpointer
from palace.journal.journal import Journal
from palace.journal.record import PUT, UNIT, Draft, Stamp
from palace.journal.replay import newest_checkpoint, replay
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel

CEILING_S = 20.0


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    stamp = Stamp(epoch=1, writer="w")
    journal = Journal.open(str(tmp_path / "journal"), Kernel(), stamp, segment_bytes=2000)
    yield journal
    journal.close()


def write(journal: Journal, count: int) -> None:
    for number in range(count):
        key = f"own-{number}"
        draft = Draft(action=PUT, key=key, kind="k", id=f"i{number % 7}", payload={"n": number})
        journal.append([draft])
        journal.close_key(key, UNIT)


def wait_for_checkpoint(journal: Journal) -> None:
    ceiling_s = time.monotonic() + CEILING_S
    while newest_checkpoint(journal.directory, journal.kernel) is None:
        assert time.monotonic() < ceiling_s
        time.sleep(0.01)


def test_a_grown_journal_gets_a_checkpoint_and_says_the_same(journal: Journal) -> None:
    checkpointer = Checkpointer(journal=journal, bytes_min=5000, first_s=0.0)
    checkpointer.start()

    write(journal, 100)
    wait_for_checkpoint(journal)
    write(journal, 20)
    journal.sync(journal.seq)
    checkpointer.end()

    live = replay(journal.directory, journal.kernel)
    payloads: dict[str, Any] = {ident: live.payload(("k", ident)) for ident in live.ids("k")}
    found = {ident: payload["n"] for ident, payload in payloads.items()}
    assert found == {f"i{number % 7}": number for number in range(13, 20)}
    assert not live.gaps


def test_an_owner_that_leaves_breaks_a_checkpoint_off(journal: Journal) -> None:
    write(journal, 100)
    before = list_segments(journal.directory, journal.kernel)
    checkpointer = Checkpointer(journal=journal, bytes_min=1, first_s=0.0)
    checkpointer.end()
    checkpointer.start()

    assert newest_checkpoint(journal.directory, journal.kernel) is None
    assert list_segments(journal.directory, journal.kernel) == before


def test_what_an_earlier_owner_has_left_waits_for_a_while_after_an_opening(
    journal: Journal,
) -> None:
    """Nobody who waits for a first reply waits for it; a segment that fills up is work now."""
    write(journal, 100)
    checkpointer = Checkpointer(journal=journal, bytes_min=1, first_s=3600.0)
    checkpointer.start()
    time.sleep(0.5)
    assert newest_checkpoint(journal.directory, journal.kernel) is None

    write(journal, 40)
    wait_for_checkpoint(journal)
    checkpointer.end()
