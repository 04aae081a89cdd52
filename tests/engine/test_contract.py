"""What a broker relies on, checked on the light engines of the tests and on the real one alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.api import Call
from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.protocol.request import tool_call
from palace.settings.config import load_config
from palace.settings.paths import Paths
from tests.support.engines.gated import GatedEngine
from tests.support.engines.hosted import HostedEngine
from tests.support.engines.light.engine import MempalaceEngine as JournalledEngine

CALL = {"jsonrpc": "2.0", "id": "x", "method": "tools/call"}


@pytest.fixture(params=["gated", "light", pytest.param("real", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "gated":
        yield GatedEngine()
        return
    if request.param == "light":
        (tmp_path / "palace").mkdir()
        paths, stamp = Paths(str(tmp_path / "palace")), Stamp(epoch=1, writer="w")
        config = load_config(paths, {"HOME": str(tmp_path)}, Kernel())
        yield JournalledEngine(paths, config, {}, Kernel(), stamp)
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
    drawer: dict[str, Any] = {"wing": "w", "room": "r", "content": "the cat sat on the mat"}
    if isinstance(engine, JournalledEngine):  # whose tools are its own
        drawer = {"who": "w", "nonce": "n", "parts": 1}
    added = call(engine, "add_drawer", **drawer)
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


@pytest.mark.parametrize("engine", ["light"], indirect=True)
@pytest.mark.parametrize("early", [True, False])
def test_a_leave_is_journalled_even_where_it_comes_before_there_is_a_journal(
    engine: Any, tmp_path: Path, *, early: bool
) -> None:
    """Opening goes on in its thread for as long as the process lives, taking back what it finds."""
    if early:
        engine.leave()
    engine.load()
    if not early:
        engine.leave()
    engine.close()

    [said] = (tmp_path / "palace" / "journal").glob("*.jsonl")
    assert said.read_text().count('"action":"leave"') == 1
