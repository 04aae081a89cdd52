"""What `palace try` says where a tool of stock's fails."""

import json
import sys
from collections.abc import Iterator

import pytest

from palace.commands.agent import Agent
from palace.commands.try_out import Steps, _done, _drawers, _search
from palace.protocol.errors import PalaceError

ANSWERS = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    told = {"content": [{"type": "text", "text": sys.argv[1]}]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": told}), flush=True)
"""
CLOSED = {"error": "Could not open the collection", "details": "the disk is full"}
SAID = ": Could not open the collection: the disk is full"


@pytest.fixture
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    """The client of a process that answers all with one result."""
    told = json.dumps(request.param)
    agent = Agent("tries", [sys.executable, "-c", ANSWERS, told], {})
    yield agent
    agent.close()


@pytest.mark.parametrize("agent", [CLOSED, {"wings": {}, **CLOSED}], indirect=True)
def test_a_store_that_does_not_open_is_said_and_is_not_an_empty_one(agent: Agent) -> None:
    with pytest.raises(PalaceError, match=f"mempalace_list_wings{SAID}"):
        _drawers(agent)
    with pytest.raises(PalaceError, match=f"mempalace_search{SAID}"):
        _search(agent, Steps(), "found")
    with pytest.raises(PalaceError, match=f"mempalace_add_drawer{SAID}"):
        _done(agent, "mempalace_add_drawer")


@pytest.mark.parametrize("agent", [{"success": False, "reason": "too long"}], indirect=True)
def test_a_reason_is_said_as_an_error_is(agent: Agent) -> None:
    with pytest.raises(PalaceError, match="mempalace_add_drawer: too long"):
        _done(agent, "mempalace_add_drawer")


@pytest.mark.parametrize("agent", [{"success": True, "reason": "already_exists"}], indirect=True)
def test_what_has_been_done_has_no_error(agent: Agent) -> None:
    assert _done(agent, "mempalace_add_drawer")["success"]
    assert _drawers(agent) == 0
    with pytest.raises(PalaceError, match="The search found nothing"):
        _search(agent, Steps(), "found")
