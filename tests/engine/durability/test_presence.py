"""The names of open stores: which calls look at them, and which share a look."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palace.engine.durability.calls import LOOK_S, DurableCalls
from palace.engine.durability.checkpointer import Checkpointer
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.presence import StoreFiles
from palace.engine.durability.recovery import Recovery
from palace.engine.stores.files import Files
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import no_progress
from palace.kernel.kernel import Kernel


class StoppedClock(Kernel):
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def memory(tmp_path: Path, clock: StoppedClock) -> Iterator[DurableCalls]:
    """A journal and three databases, as names; the index is none of this file's subject."""
    for name in ("chroma", "graph", "logstream"):
        (tmp_path / name).write_text("rows")
    journal = Journal.open(str(tmp_path / "journal"), clock, Stamp(epoch=1, writer="w"))
    stores: Any = SimpleNamespace(
        chroma=SimpleNamespace(path=str(tmp_path / "chroma"), root=str(tmp_path), drops=0),
        graph=SimpleNamespace(path=str(tmp_path / "graph")),
        logstream=SimpleNamespace(path=str(tmp_path / "logstream")),
        kept_whole=(Files(str(tmp_path), clock),),
    )
    recovery = Recovery(journal=journal, projections=(), progress=no_progress)
    parts = (CallGroups(journal), recovery, Checkpointer(journal=journal))
    memory = DurableCalls(journal, stores, *parts, files=StoreFiles(stores, clock))
    assert memory.trouble() == ""
    yield memory
    journal.close()


def test_queries_that_begin_together_share_a_look(
    memory: DurableCalls, clock: StoppedClock, tmp_path: Path
) -> None:
    (tmp_path / "graph").unlink()
    clock.now_s += LOOK_S / 2
    assert memory.trouble(shared=True) == ""
    clock.now_s += 2 * LOOK_S
    assert "graph was removed while it was open" in memory.trouble(shared=True)


def test_a_change_looks_for_itself(memory: DurableCalls, tmp_path: Path) -> None:
    (tmp_path / "graph").unlink()
    assert "graph was removed while it was open" in memory.trouble()


def test_trouble_is_said_to_every_query_that_follows(
    memory: DurableCalls, clock: StoppedClock, tmp_path: Path
) -> None:
    (tmp_path / "graph").unlink()
    clock.now_s += 2 * LOOK_S
    said = [memory.trouble(shared=True) for _ in range(3)]
    assert all("graph was removed" in text for text in said)
