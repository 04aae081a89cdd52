"""A search's query is embedded before the search has stock's lock, which it only then keeps."""

from types import ModuleType
from typing import Any

import pytest
from mempalace import embedding

from palace.engine.hosting.current_call import CurrentCall
from palace.engine.hosting.query_prefetch import QueryPrefetch
from palace.engine.patches import Patches

TOOL = "mempalace_search"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the texts that were embedded with a model like stock's own."""
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    texts: list[str] = []

    class Listening(ONNXMiniLM_L6_V2):
        def __init__(self) -> None:
            pass

        def __call__(self, input: list[str]) -> Any:  # noqa: A002
            if "poison" in input:
                raise LookupError
            texts.extend(input)
            return [[0.0]]

    monkeypatch.setattr(embedding, "configured_embedding_function", Listening)
    return texts


@pytest.fixture
def server() -> Any:
    module = ModuleType("server")
    module.sanitize_query = lambda query: {"clean_query": query.strip()}  # type: ignore[attr-defined]
    module._embedding_release_mode = lambda _tool, _request, access: access  # type: ignore[attr-defined]
    return module


def prefetch_for(server: Any) -> QueryPrefetch:
    prefetch = QueryPrefetch(server, CurrentCall())
    Patches().apply(prefetch.patches())
    return prefetch


def searching(**arguments: Any) -> dict[str, Any]:
    return {"params": {"name": TOOL, "arguments": arguments}}


def test_the_query_that_stock_will_embed_is_embedded_and_the_lock_is_kept(
    server: Any, embedded: list[str]
) -> None:
    prefetch = prefetch_for(server)

    prefetch.prepare(searching(query=" where is the sea? "))

    assert embedded == ["where is the sea?"]
    assert server._embedding_release_mode(TOOL, {}, "read") is None
    assert server._embedding_release_mode("mempalace_check_duplicate", {}, "read") == "read"


@pytest.mark.parametrize(
    "message",
    [
        searching(),
        searching(query=5),
        searching(query="poison"),
        searching(query="long " * 500),  # its vector isn't kept
        searching(query="sea", cli_compatible=True),
        {"params": {"name": TOOL, "arguments": "none"}},
        {"params": {"name": TOOL}},
        {"params": {"name": "mempalace_kg_query", "arguments": {"query": "sea"}}},
    ],
)
def test_other_calls_are_left_to_stock(
    message: dict[str, Any], server: Any, embedded: list[str]
) -> None:
    prefetch = prefetch_for(server)
    prefetch.prepare(searching(query="sea"))
    embedded.clear()

    prefetch.prepare(message)

    assert embedded == []
    assert server._embedding_release_mode(TOOL, {}, "read") == "read"


def test_another_model_is_not_run_twice(
    server: Any, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "configured_embedding_function", lambda: embedded.append)
    prefetch = prefetch_for(server)

    prefetch.prepare(searching(query="sea"))

    assert embedded == []
    assert server._embedding_release_mode(TOOL, {}, "read") == "read"
