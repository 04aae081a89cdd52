"""The table of rights, cell by cell, and who counts as whom."""

from pathlib import Path
from typing import Any

import pytest

from palace.protocol.request import tool_call
from palace.protocol.rights import (
    GUEST,
    NOBODY,
    OVER_HTTP,
    RIGHTS,
    Peer,
    Right,
    Who,
    is_out_of_place,
    local_peer,
    right_of,
)
from palace.protocol.tools import TOOLS, Kind

READ, WRITE, LENT, PATHS, CONTROL = (
    *(Right.READ, Right.WRITE, Right.LENT_PATHS, Right.PATHS, Right.CONTROL),
)
TABLE = {  # docs/security.md shows it
    Who.OWNER: {READ, WRITE, LENT, PATHS, CONTROL},
    Who.ROOT: {READ, WRITE, LENT, PATHS, CONTROL},
    Who.CONTAINER: {READ, WRITE, LENT, CONTROL},
    Who.ALLOWED: {READ, WRITE, LENT},
    Who.GUEST: {READ, WRITE, LENT},
    Who.HTTP: {READ, WRITE, LENT, PATHS},
    Who.WORKSPACE: {READ, WRITE},
    Who.STRANGER: set(),
}


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize("who", Who)
def test_who_may_what(who: Who, right: Right) -> None:
    assert (right in RIGHTS[who]) == (right in TABLE[who])


def test_the_documentation_shows_the_table() -> None:
    lines = [f"| who | {' | '.join(right.value for right in Right)} |"]
    for who, rights in RIGHTS.items():
        cells = ("yes" if right in rights else "no" for right in Right)
        lines.append(f"| {who.value} | {' | '.join(cells)} |")
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert "\n".join(line for line in text.splitlines() if line in lines) == "\n".join(lines)


@pytest.mark.parametrize(
    ("uid", "near", "who"),
    [
        (1000, True, Who.OWNER),
        (0, True, Who.ROOT),
        (1000, False, Who.CONTAINER),
        (0, False, Who.CONTAINER),
        (1001, True, Who.ALLOWED),
        (1001, False, Who.ALLOWED),
        (1002, True, Who.STRANGER),
        (65534, True, Who.STRANGER),
    ],
)
def test_a_process_is_what_the_kernel_says(uid: int, near: bool, who: Who) -> None:
    peer = local_peer(pid=7, uid=uid, owner=1000, allowed=(1001,), near=near)
    assert (peer.who, peer.pid, peer.uid) == (who, 7, uid)


def test_a_broker_of_roots_has_one_owner() -> None:
    assert local_peer(pid=7, uid=0, owner=0, allowed=(), near=True).who is Who.OWNER


def test_others_are_what_a_token_says() -> None:
    assert (GUEST.who, OVER_HTTP.who, NOBODY.who) == (Who.GUEST, Who.HTTP, Who.STRANGER)


@pytest.mark.parametrize("name", [*TOOLS, "mempalace_of_tomorrow", 7])
def test_each_tool_takes_one_right(name: Any) -> None:
    call = tool_call({"method": "tools/call", "params": {"name": name, "arguments": {}}})
    expected = READ if call.tool.kind is Kind.QUERY else WRITE
    assert right_of(call) is (CONTROL if name == "mempalace_hook_settings" else expected)


@pytest.mark.parametrize(
    ("peer", "called"),
    [
        (Peer(who=Who.CONTAINER, pid=7, uid=1000), "a process with other mounts than the broker's"),
        (Peer(who=Who.ALLOWED, pid=7, uid=1000), "uid 1000"),
        (Peer(who=Who.STRANGER, pid=7, uid=0), "uid 0"),
        (Peer(who=Who.GUEST, address="10.0.0.7", guest="ci"), "guest"),
    ],
)
def test_a_message_calls_a_peer_by_what_its_owner_can_look_for(peer: Peer, called: str) -> None:
    assert peer.called == called


def test_a_peer_may_what_the_table_says_of_it() -> None:
    for who, rights in RIGHTS.items():
        assert {right for right in Right if Peer(who=who).may(right)} == set(rights)


def test_the_owners_tools_are_for_palaces_own_commands_and_the_others_are_not() -> None:
    def call(name: str) -> dict[str, object]:
        return {"id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}}

    owners, stocks = tool_call(call("palace_workspace_add")), tool_call(call("mempalace_search"))
    assert is_out_of_place(owners, from_command=False)
    assert not is_out_of_place(owners, from_command=True)
    assert is_out_of_place(stocks, from_command=True)
    assert not is_out_of_place(stocks, from_command=False)
