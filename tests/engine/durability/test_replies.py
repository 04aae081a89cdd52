"""What a call is answered with that comes a second time, as the journal knows it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from palace.engine.api import Call, Reply
from palace.engine.durability.calls import DurableCalls
from palace.engine.durability.checkpointer import Checkpointer
from palace.engine.durability.journalled import JournalledEngine
from palace.journal.purge import Going, purge_journal
from palace.protocol.errors import Forbidden
from palace.protocol.principals import OWNER, Principal
from palace.protocol.request import tool_call
from palace.protocol.resend import CRASHES_MAX
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
    tool: str = "mempalace_add_drawer",
    *,
    maybe_ran: bool = False,
    elsewhere: bool = False,
    who: Principal | None = OWNER,
) -> Call:
    params = {"name": tool, "arguments": {"wing": "w", "room": "r", "content": "c"}}
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return Call(
        request=tool_call(message),
        session="s",
        ordinal=3,
        maybe_ran=maybe_ran,
        elsewhere=elsewhere,
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


def test_what_another_palace_may_have_carried_out_is_not_begun_here(life: Life) -> None:
    """Our journal knows nothing of it, and would know if it had been ours."""
    reply = json.loads(
        calls(life).answer(call(maybe_ran=True, elsewhere=True), never).payload or b""
    )
    assert reply["error"]["data"]["palace"] == "outcome_unknown"

    change(life, b'{"filed"}')
    asked = calls(life).answer(call(maybe_ran=True, elsewhere=True), never)
    assert asked.payload == b'{"filed"}', "what we have recorded, we have carried out"


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
        engine = JournalledEngine()
        engine.remember(calls(one))
        if asks is not None:  # by the id of a task, which is a session's
            recorded = engine.recorded("s", 3, asks.signature)
            assert (recorded is not None) == (was.signature == asks.signature)
        if is_told:
            assert told == b'{"filed"}'
            continue
        assert b"filed" not in told
        assert json.loads(told)["error"]["data"]["palace"] == "outcome_unknown"


# What may not run now.

REFUSED = Forbidden("It was removed. Nothing was done; ask for another.")
FORBIDDEN, UNKNOWN = Forbidden.name, "outcome_unknown"


def told(life: Life | None, again: Call) -> tuple[str, str]:
    """Return what a call is told that is refused now: the error's name, and its text."""
    engine = JournalledEngine()
    if life is not None:
        engine.remember(calls(life))
    error = json.loads(engine.refuse(again, REFUSED).payload or b"")["error"]
    return error["data"]["palace"], error["message"]


def test_what_was_never_begun_is_told_that_nothing_was_done(life: Life) -> None:
    for again in (call(), call("mempalace_search", maybe_ran=True), call("mempalace_mine")):
        for one in (life, None):
            assert told(one, again) == (FORBIDDEN, REFUSED.message)
    assert told(life, call(maybe_ran=True)) == (FORBIDDEN, REFUSED.message), "it left no trace"


def test_what_was_taken_back_is_told_that_nothing_was_done(life: Life) -> None:
    with life.durable.group(call().key, non_atomic=False):
        life.set("a", drawer=1)
    assert told(life, call(maybe_ran=True))[0] == UNKNOWN, "it is still there"
    assert told(after(life), call(maybe_ran=True)) == (FORBIDDEN, REFUSED.message)


def test_what_was_carried_out_is_told_so_and_no_more(life: Life) -> None:
    change(life, b'{"filed"}', LEAD)
    for one in (life, after(life)):
        name, text = told(one, call(maybe_ran=True, who=LEAD))
        assert name == UNKNOWN
        assert "has answered mempalace_add_drawer, and what it changed stays" in text
        assert text.endswith("nothing is begun again. It was removed. Ask for another.")
        assert "filed" not in text


@pytest.mark.parametrize("who", [OWNER, REVIEWER, NOBODY, None])
def test_of_what_was_carried_out_for_another_nothing_is_told(
    life: Life, who: Principal | None
) -> None:
    change(life, b'{"filed"}', LEAD)
    name, text = told(life, call(maybe_ran=True, who=who))
    assert (name, "may or may not" in text) == (UNKNOWN, True)


def test_what_may_have_been_done_is_told_so(life: Life) -> None:
    found = [
        told(None, call(maybe_ran=True)),
        told(life, call("mempalace_reconnect", maybe_ran=True)),
        told(life, call("mempalace_mine", maybe_ran=True)),  # parts of it may stay
    ]
    change(life, b'{"the secret"}')
    purge_journal(JOURNAL, life.disk, UNDER_WAY, KEYS)
    found.append(told(after(life), call(maybe_ran=True)))
    for name, text in found:
        assert (name, "may or may not" in text, "othing was" in text) == (UNKNOWN, True, False)


def test_what_was_under_way_at_several_deaths_is_told_so(life: Life) -> None:
    for _ in range(CRASHES_MAX):
        with life.durable.group(call().key, non_atomic=False):
            life.set("a", drawer=1)
        life = after(life)
    assert told(life, call(maybe_ran=True))[0] == "quarantined"


def test_what_changed_nothing_runs_again(life: Life) -> None:
    answers = calls(life)
    for payload in (b"1", b"2"):
        found = answers.answer(call(maybe_ran=True), lambda payload=payload: Reply(payload=payload))
        assert found.payload == payload


def test_what_peers_are_shown_leaves_once_all_that_it_can_tell_of_is_durable(life: Life) -> None:
    change(life)

    shown = calls(life).answer(call("palace_mesh_ops"), lambda: Reply(payload=b"{}"))
    usual = calls(life).answer(call("mempalace_event_list"), lambda: Reply(payload=b"{}"))
    assert shown.seq == life.journal.seq > 0
    assert usual.seq == 0
