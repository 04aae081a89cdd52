"""Whether sessions are shown palace's own tools."""

import pytest

from palace.protocol.policy import (
    AUTO,
    DEFAULT,
    MEMORIES,
    OFF,
    ON,
    SHARED,
    shows_candidates,
    shows_own,
)
from palace.protocol.resolver import Tree
from palace.protocol.workspaces import Workspace


@pytest.mark.parametrize(
    ("own_tools", "alone", "together"),
    [(AUTO, False, True), (ON, True, True), (OFF, False, False)],
)
def test_own_tools_are_shown_where_there_are_workspaces_or_its_owner_says_so(
    own_tools: str, alone: bool, together: bool
) -> None:
    lead = Workspace(id="lead")

    assert shows_own(own_tools, Tree()) is alone
    assert shows_own(own_tools, Tree({"lead": lead})) is together


def test_secrets_are_taken_out_and_shared_memories_marked_unless_somebody_says_otherwise() -> None:
    assert (DEFAULT.redact, DEFAULT.wrap, DEFAULT.own_tools) == (MEMORIES, SHARED, AUTO)


@pytest.mark.parametrize("own_tools", [AUTO, ON, OFF])
def test_candidates_are_shown_where_others_are_pulled_from_unless_that_is_off(
    own_tools: str,
) -> None:
    assert shows_candidates(own_tools, pulls=True) is (own_tools != OFF)
    assert shows_candidates(own_tools, pulls=False) is False
