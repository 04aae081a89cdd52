"""A write of many records goes to Chroma a few at a time, with the interpreter let go between."""

import inspect
import threading
from typing import Any

from palace.engine.stores.chroma_seam import SLICE, _in_slices


class Bindings:
    """Chromadb's part: a method that takes columns; its calls, and a thread that wants to run."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.had_turn = threading.Event()
        self.turns = 0

    def upsert(
        self,
        collection_id: str,
        ids: list[str],
        embeddings: list[list[float]],
        documents: list[str] | None = None,
        tenant: str = "t",
    ) -> bool:
        self.turns += self.had_turn.is_set()
        self.had_turn.clear()
        threading.Thread(target=self.had_turn.set).start()
        columns = {"ids": ids, "embeddings": embeddings, "documents": documents}
        self.calls.append(columns | {"collection_id": collection_id, "tenant": tenant})
        return True


def written(count: int, **more: Any) -> Bindings:
    bindings = Bindings()
    signature = inspect.signature(Bindings.upsert)
    upsert = _in_slices(Bindings.upsert, signature, lambda *_: None)
    ids = [f"r{number}" for number in range(count)]
    assert upsert(bindings, "c", ids, embeddings=[[float(n)] for n in range(count)], **more)
    assert [ident for call in bindings.calls for ident in call["ids"]] == ids
    return bindings


def test_every_slice_has_its_part_of_each_column() -> None:
    count = 2 * SLICE + 3
    bindings = written(count, documents=[f"d{number}" for number in range(count)], tenant="mine")

    assert [len(call["ids"]) for call in bindings.calls] == [SLICE, SLICE, 3]
    for call in bindings.calls:
        assert [f"d{ident[1:]}" for ident in call["ids"]] == call["documents"]
        assert [[float(ident[1:])] for ident in call["ids"]] == call["embeddings"]
        assert (call["collection_id"], call["tenant"]) == ("c", "mine")
    assert bindings.turns == 2, "another thread has run between two slices"


def test_a_column_that_is_left_out_stays_out() -> None:
    bindings = written(SLICE + 1, documents=None)

    assert [call["documents"] for call in bindings.calls] == [None, None]


def test_a_few_records_are_one_write() -> None:
    assert len(written(SLICE).calls) == 1
