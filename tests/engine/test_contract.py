"""What a broker relies on, checked on the light engine of the tests and on the real one alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.api import Call
from palace.protocol.request import tool_call
from tests.support.engines.gated import LightEngine
from tests.support.engines.hosted import HostedEngine

CALL = {"jsonrpc": "2.0", "id": "x", "method": "tools/call"}


@pytest.fixture(params=["light", pytest.param("real", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "light":
        yield LightEngine()
        return
    home: Path = request.getfixturevalue("model_home")
    hosted = HostedEngine(home, tmp_path / "store" / "palace")
    try:
        yield hosted
    finally:
        hosted.end()


def call(engine: Any, tool: str, *, read_only: bool = False, **arguments: Any) -> Any:
    message = CALL | {"params": {"name": f"mempalace_{tool}", "arguments": arguments}}
    return engine.call(Call(request=tool_call(message), read_only=read_only))


def test_an_engine_loads_answers_and_closes(engine: Any) -> None:
    catalogue = engine.load()
    before = engine.progress()
    added = call(engine, "add_drawer", wing="w", room="r", content="the cat sat on the mat")
    read = call(engine, "get_aaak_spec")

    assert len(catalogue.tools) == 47
    assert "2025-06-18" in catalogue.protocol_versions
    for reply in (added, read):
        decoded = json.loads(reply.payload)
        assert (decoded["id"], reply.outdated) == ("x", False)
        assert decoded["result"]["content"][0]["type"] == "text"
    assert engine.progress() != before
    assert engine.replaced() == ""
    assert isinstance(engine.loading_text(), str)
    engine.close()
