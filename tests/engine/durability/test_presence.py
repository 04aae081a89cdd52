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
    chroma = SimpleNamespace(path=str(tmp_path / "chroma"), root=str(tmp_path), drops=0)
    stores: Any = SimpleNamespace(
        chroma=chroma,
        milvus=None,
        drawer_files=(chroma,),
        drawers=chroma,
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


def test_a_file_that_was_replaced_or_cut_is_named(memory: DurableCalls, tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    graph.write_text("rows and more rows")
    assert memory.trouble() == "", "it may grow"
    graph.write_text("row")
    assert "graph was cut from 18 to 3 bytes while it was open" in memory.trouble()

    graph.write_text("rows and more rows")
    assert memory.trouble() == ""
    (tmp_path / "copy").write_text("rows and more rows")
    (tmp_path / "copy").rename(graph)
    assert "graph was replaced while it was open" in memory.trouble()


def test_an_index_that_was_removed_is_named(memory: DurableCalls, tmp_path: Path) -> None:
    index = tmp_path / "0123abcd"
    index.mkdir()
    (index / "data_level0.bin").write_text("rows")
    assert memory.trouble() == ""

    (index / "data_level0.bin").unlink()
    assert f"the index in {index} was removed while it was open" in memory.trouble()


def test_an_index_goes_with_its_collection(memory: DurableCalls, tmp_path: Path) -> None:
    stores: Any = memory.stores
    for name in ("0123abcd", "4567cdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data_level0.bin").write_text("rows")
    assert memory.trouble() == ""

    stores.drawers.drops += 1  # our own deletion of the first one
    (tmp_path / "0123abcd/data_level0.bin").unlink()
    assert memory.trouble() == ""
    (tmp_path / "4567cdef/data_level0.bin").unlink()
    assert "the index in" in memory.trouble()
