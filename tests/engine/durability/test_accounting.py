"""What Chroma's numbers tell of rows that are missing: deleted by somebody, or lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromadb
import pytest

from palace.engine.durability.accounting import is_accounted_for
from palace.engine.stores.chroma import Chroma
from palace.journal.journal import Journal
from palace.journal.record import ABORT, OUTCOME, PUT, UNDO, Draft, Json, Stamp
from palace.kernel.kernel import Kernel
from tests.support.faults.losses import run_sql

pytestmark = pytest.mark.engine

KIND = "chroma:some"
Do = Callable[["Palace"], None]


class Palace:
    """A collection of Chroma's with three records, and the journal of whoever wrote them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        client = chromadb.PersistentClient(str(root))
        self.some: Any = client.create_collection("some", embedding_function=None)
        stamp = Stamp(epoch=1, writer="w")
        self.journal = Journal.open(f"{root}/journal", Kernel(), stamp)
        for name in "abc":
            self.record(PUT, name, "s:0")
            self.write(name)
        self.end(OUTCOME, "s:0")
        self.then = self.fingerprint()
        self.journal.tail.baseline_seq = self.journal.seq

    def fingerprint(self) -> Json:
        self.chroma = Chroma(
            str(self.root),
            lambda: pytest.fail("it is not opened"),
            lambda *_: pytest.fail("it is not written"),
        )
        return self.chroma.read_fingerprint()

    def write(self, name: str) -> None:
        self.some.upsert(ids=[name], embeddings=[[1.0, 2.0]], documents=[name])

    def record(self, action: str, name: str, key: str) -> None:
        self.journal.append([Draft(action=action, key=key, kind=KIND, id=name, payload={})])

    def sql(self, statement: str) -> None:
        run_sql(self.root / "chroma.sqlite3", statement)

    def end(self, action: str, key: str) -> None:
        self.journal.append([Draft(action=action, key=key, payload={})])

    def is_accounted_for(self) -> bool:
        self.fingerprint()
        return is_accounted_for(self.journal, self.chroma, self.then)


@pytest.fixture
def palace(tmp_path: Path) -> Iterator[Palace]:
    palace = Palace(tmp_path)
    yield palace
    palace.journal.close()


def ours(palace: Palace) -> None:
    """A call of ours writes a record, and is acknowledged."""
    palace.record(PUT, "d", "s:1")
    palace.write("d")
    palace.end(OUTCOME, "s:1")


def taken_back(palace: Palace) -> None:
    """One that fails, so that what was there is written again: two numbers, and one row."""
    palace.record(PUT, "a", "s:2")
    palace.write("a")
    palace.record(UNDO, "a", "s:2")
    palace.write("a")
    palace.end(ABORT, "s:2")


def begun(palace: Palace) -> None:
    """One that an owner died in before it wrote anything."""
    palace.record(PUT, "e", "s:3")


def written(palace: Palace) -> None:
    """One that an owner died in when it had written."""
    palace.record(PUT, "f", "s:4")
    palace.write("f")


def another_writes(palace: Palace) -> None:
    palace.write("g")


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    "doings",
    [
        (),
        (ours,),
        (taken_back,),
        (taken_back, taken_back),
        (begun,),
        (written,),
        (another_writes,),
        (ours, taken_back, another_writes, begun, written),
    ],
)
def test_what_nobody_has_deleted_is_lost(palace: Palace, doings: list[Do], *, lost: bool) -> None:
    for do in doings:
        do(palace)
    if lost:
        palace.sql("DELETE FROM embeddings WHERE embedding_id = 'b'")
    assert palace.is_accounted_for()

    palace.sql("DELETE FROM embeddings_queue")  # as Chroma does with what its indexes hold
    assert palace.is_accounted_for()


@pytest.mark.parametrize("doings", [(), (ours,), (begun,), (written,), (another_writes,)])
def test_a_number_that_no_write_has_is_a_deletion(palace: Palace, doings: list[Do]) -> None:
    for do in doings:
        do(palace)
    palace.some.delete(ids=["b"])
    assert not palace.is_accounted_for()
