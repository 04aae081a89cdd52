"""What palace knows of the engine's tools is what the installed engine says of itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.request import tool_call
from palace.protocol.tools import TOOLS, UNKNOWN, Kind, Lane
from palace.settings.catalogue import load_catalogue
from tests.support.processes.clients import Site

pytestmark = pytest.mark.engine

SHIPPED = Path(__file__).parents[2] / "palace" / "settings" / "tools.json"
# Importing the server rewires stdout, so that it is asked in a process of its own.
ASK = """
import os, sys
out = os.fdopen(os.dup(1), "w")
import json
from mempalace import __version__
from mempalace import mcp_server as server
said = {
    "tools": list(server.TOOLS),
    "mutating": sorted(server._MUTATING_TOOLS),
    "catalogue": {
        "engine_version": __version__,
        "protocol_versions": list(server.SUPPORTED_PROTOCOL_VERSIONS),
        "read_only_refused": sorted(server._READ_ONLY_REFUSED_TOOLS),
        "tools": [server._tool_catalog_entry(name, tool) for name, tool in server.TOOLS.items()],
    },
    "yielding": sorted(server._HTTP_YIELDING_TOOLS),
}
out.write(json.dumps(said))
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the installed engine says of its tools."""
    root = tmp_path_factory.mktemp("tools")
    environ = Site(home=root, palace=root / "palace").environ()
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK], env=environ, capture_output=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def named(*kinds: Kind) -> set[str]:
    return {name for name, tool in TOOLS.items() if tool.kind in kinds}


def test_table_names_every_tool_of_the_engine_and_no_other(engine: dict[str, Any]) -> None:
    assert list(TOOLS) == engine["tools"]
    assert len(TOOLS) == 47


def test_mutations_are_the_engines_own(engine: dict[str, Any]) -> None:
    assert named(Kind.MUTATION) == set(engine["mutating"])


def test_external_effects_are_what_read_only_refuses_besides_and_reconnect(
    engine: dict[str, Any],
) -> None:
    besides = set(engine["catalogue"]["read_only_refused"]) - set(engine["mutating"])

    assert named(Kind.EXTERNAL) == besides | {"mempalace_reconnect"}


def test_tools_with_a_read_only_hint_are_queries(engine: dict[str, Any]) -> None:
    hinted = {
        entry["name"]
        for entry in engine["catalogue"]["tools"]
        if entry.get("annotations", {}).get("readOnlyHint")
    }

    assert len(hinted) == 14
    assert hinted <= named(Kind.QUERY)


def test_whatever_changes_something_runs_one_at_a_time(engine: dict[str, Any]) -> None:
    lanes = {name: tool.lane for name, tool in TOOLS.items()}

    assert {name for name, lane in lanes.items() if lane is Lane.BULK} == set(engine["yielding"])
    assert {name for name, lane in lanes.items() if lane is Lane.POLL} == {"mempalace_event_wait"}
    for name in named(Kind.MUTATION, Kind.EXTERNAL):
        assert lanes[name] in (Lane.WRITER, Lane.BULK, Lane.LONG), name


def test_shipped_catalogue_is_what_the_engine_says(engine: dict[str, Any]) -> None:
    assert json.loads(SHIPPED.read_bytes()) == engine["catalogue"]


def test_shipped_catalogue_is_what_the_shim_answers_with() -> None:
    catalogue = load_catalogue(None)

    assert catalogue.to_json() == SHIPPED.read_bytes()
    assert [tool["name"] for tool in catalogue.tools] == list(TOOLS)


@pytest.mark.parametrize(
    "params",
    [
        {"name": "mempalace_no_such"},
        {"name": "search"},
        {"name": "MEMPALACE_SEARCH"},
        {"name": ""},
        {"name": None},
        {"name": ["mempalace_search"]},
        {},
        [],
        "mempalace_search",
        None,
    ],
)
def test_call_of_an_unknown_tool_is_a_mutation(params: Any) -> None:
    tool = tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).tool

    assert tool is UNKNOWN
    assert (tool.kind, tool.lane) == (Kind.MUTATION, Lane.WRITER)
