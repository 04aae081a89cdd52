"""A write of many records goes to Chroma a few at a time, with the interpreter let go between."""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from palace.engine.stores import chroma_seam
from palace.engine.stores.chroma_seam import SLICE, _in_slices


class Bindings:
    """Chromadb's part: a method that takes columns, and its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def upsert(
        self,
        collection_id: str,
        ids: list[str],
        embeddings: list[list[float]],
        documents: list[str] | None = None,
        tenant: str = "t",
    ) -> bool:
        columns = {"ids": ids, "embeddings": embeddings, "documents": documents}
        self.calls.append(columns | {"collection_id": collection_id, "tenant": tenant})
        return True


def written(count: int, bindings: Bindings | None = None, **more: Any) -> Bindings:
    bindings = bindings or Bindings()
    signature = inspect.signature(Bindings.upsert)
    upsert = _in_slices(Bindings.upsert, signature, lambda *_: None)
    ids = [f"r{number}" for number in range(count)]
    assert upsert(bindings, "c", ids, embeddings=[[float(n)] for n in range(count)], **more)
    assert [ident for call in bindings.calls for ident in call["ids"]] == ids
    return bindings


def test_every_slice_has_its_part_of_each_column(monkeypatch: pytest.MonkeyPatch) -> None:
    count, bindings = 2 * SLICE + 3, Bindings()
    rests: list[int] = []  # how many slices were written before the interpreter was let go
    clock = SimpleNamespace(
        monotonic=lambda: 0.0, sleep=lambda _seconds: rests.append(len(bindings.calls))
    )
    monkeypatch.setattr(chroma_seam, "time", clock)
    documents = [f"d{number}" for number in range(count)]
    written(count, bindings, documents=documents, tenant="mine")

    assert [len(call["ids"]) for call in bindings.calls] == [SLICE, SLICE, 3]
    for call in bindings.calls:
        assert [f"d{ident[1:]}" for ident in call["ids"]] == call["documents"]
        assert [[float(ident[1:])] for ident in call["ids"]] == call["embeddings"]
        assert (call["collection_id"], call["tenant"]) == ("c", "mine")
    assert rests == [1, 2], "another thread can run between two slices"


def test_a_column_that_is_left_out_stays_out() -> None:
    bindings = written(SLICE + 1, documents=None)

    assert [call["documents"] for call in bindings.calls] == [None, None]


def test_a_few_records_are_one_write() -> None:
    assert len(written(SLICE).calls) == 1
