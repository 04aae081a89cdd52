"""What a call is answered with that comes a second time, as the journal knows it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from palace.engine.api import Call, Reply
from palace.engine.durability.calls import DurableCalls
from palace.engine.durability.checkpointer import Checkpointer
from palace.journal.purge import Going, purge_journal
from palace.protocol.principals import OWNER, Principal
from palace.protocol.request import tool_call
from tests.support.disks.memory import Disk
from tests.support.stores.memory import JOURNAL, KEYS, Life, after, awake

UNDER_WAY = Going(entities=frozenset(), under_way=True)


@pytest.fixture
def life() -> Life:
    return awake(Disk())


def calls(life: Life) -> DurableCalls:
    stores: Any = SimpleNamespace()
    checkpointer = Checkpointer(journal=life.journal)
    return DurableCalls(life.journal, stores, life.durable, life.recovery, checkpointer)


def call(
    tool: str = "mempalace_add_drawer", *, maybe_ran: bool = False, who: Principal | None = OWNER
) -> Call:
    params = {"name": tool, "arguments": {"wing": "w", "room": "r", "content": "c"}}
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return Call(
        request=tool_call(message),
        session="s",
        ordinal=3,
        maybe_ran=maybe_ran,
        epoch=1,
        principal=who,
    )


def change(
    life: Life, payload: bytes | None = b'{"filed"}', who: Principal | None = OWNER
) -> Reply:
    """Carry a first delivery out; return its reply."""

    def dispatch() -> Reply:
        life.set("a", drawer=1)
        return Reply(payload=payload)

    return calls(life).answer(call(who=who), dispatch)


def never() -> Reply:
    raise AssertionError("it ran a second time")


@pytest.mark.parametrize("payload", [b'{"filed"}', b"\xed\xb3\xbf", None])
def test_a_change_that_comes_again_is_answered_as_before_and_not_made_again(
    life: Life, payload: bytes | None
) -> None:
    assert change(life, payload).payload == payload

    for one in (life, after(life)):
        assert calls(one).answer(call(maybe_ran=True), never).payload == payload


def test_a_reply_that_was_purged_is_not_repeated_and_neither_is_the_change(life: Life) -> None:
    change(life, b'{"the secret"}')
    purge_journal(JOURNAL, life.disk, UNDER_WAY, KEYS)

    reply = json.loads(calls(after(life)).answer(call(maybe_ran=True), never).payload or b"")

    assert reply["id"] == 7
    assert reply["error"]["data"]["palace"] == "outcome_unknown"


LEAD = Principal("lead")
REVIEWER = Principal("reviewer", confined=True)
NOBODY = Principal("", confined=True, token="0" * 64)


@pytest.mark.parametrize("rolled", [False, True])
@pytest.mark.parametrize(
    ("was", "asks", "is_told"),
    [
        (OWNER, OWNER, True),
        (LEAD, LEAD, True),
        (REVIEWER, REVIEWER, True),
        (LEAD, Principal("lead", confined=True), True),
        (OWNER, LEAD, True),  # its directory is a workspace's since: it sees as much
        (OWNER, REVIEWER, False),
        (OWNER, NOBODY, False),
        (OWNER, None, False),
        (LEAD, OWNER, False),
        (LEAD, REVIEWER, False),
        (REVIEWER, LEAD, False),
        (REVIEWER, NOBODY, False),
        (REVIEWER, None, False),
    ],
)
def test_a_reply_is_told_to_nobody_but_whom_it_was_made_for(
    life: Life, was: Principal, asks: Principal | None, is_told: bool, rolled: bool
) -> None:
    """Whoever else has the session's secret, and sends its line again, learns nothing."""
    change(life, b'{"filed"}', was)
    if rolled:
        life.journal.roll()
    for one in (life, after(life)):
        told = calls(one).answer(call(maybe_ran=True, who=asks), never).payload or b""
        if is_told:
            assert told == b'{"filed"}'
            continue
        assert b"filed" not in told
        assert json.loads(told)["error"]["data"]["palace"] == "outcome_unknown"


def test_what_changed_nothing_runs_again(life: Life) -> None:
    answers = calls(life)
    for payload in (b"1", b"2"):
        found = answers.answer(call(maybe_ran=True), lambda payload=payload: Reply(payload=payload))
        assert found.payload == payload
