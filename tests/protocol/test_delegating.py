"""What palace's own tools for tasks may be asked, and by whom: each attack on its guard."""

import math
from typing import Any

import attrs
import pytest

from palace.protocol.delegating import (
    DEADLINE_S,
    KEY_CHARS_MAX,
    LIMIT,
    LIMIT_MAX,
    NAME_CHARS_MAX,
    NOTE_CHARS_MAX,
    SILENCE_S,
    STATUSES,
    TEXT_CHARS_MAX,
    Listing,
    Sign,
    Speaker,
    id_of_key,
    listing,
    ordered,
    refusal_of_sign,
    signed,
)
from palace.protocol.delegations import DEADLINE_S_MAX, Delegation, fold
from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.resolver import Tree
from palace.protocol.tools import Kind, classify_call
from palace.protocol.workspaces import Workspace
from tests.protocol.test_delegations import request, said

TREE = Tree(
    {
        one.id: one
        for one in (
            *(Workspace(id="lead"), Workspace(id="coder", parent="lead")),
            *(Workspace(id="tester", parent="lead"), Workspace(id="other")),
            Workspace(id="gone", parent="lead", removed=True),
        )
    },
    customs={"custom:both": frozenset({"coder", "other"})},
)
OWNER = Speaker(tree=TREE)
CODER = Speaker(tree=TREE, workspace="coder", confined=True)
TESTER = attrs.evolve(CODER, workspace="tester")
ASKED: dict[str, Any] = {
    "project": "x",
    "to_agent": "tester",
    "goal": "mend it",
    "done": "it is mended",
    "branch": "main",
    "base_commit": "abcdef0",
}


def test_what_is_left_out_of_an_order() -> None:
    order = ordered({**ASKED, "from_agent": "lead"}, OWNER)

    assert (order.caller, order.callee, order.id) == ("lead", "tester", "")
    assert order.metadata == {"palace": {"deadline_s": DEADLINE_S, "silence_s": SILENCE_S}}
    assert ordered(ASKED, attrs.evolve(OWNER, workspace="coder")).caller == "coder"


def test_an_order_says_by_when_and_how_long_its_worker_may_be_silent() -> None:
    order = ordered({**ASKED, "from_agent": "lead", "deadline_s": 1, "silence_s": 60.5}, OWNER)

    assert order.metadata == {"palace": {"deadline_s": 1.0, "silence_s": 60.5}}


def test_a_key_is_its_callers_own() -> None:
    ids = {
        id_of_key(*pair)
        for pair in (("a", "k"), ("b", "k"), ("a", "l"), ("ak", ""), ("", "ak"), ("1:a", "k"))
    }
    assert len(ids) == 6
    order = ordered({**ASKED, "from_agent": "lead", "idempotency_key": "k\n\ud800"}, OWNER)
    assert order.id == id_of_key("lead", "k\n\ud800")
    named = ordered({**ASKED, "from_agent": "lead", "delegation_id": "fix-1.a:b"}, OWNER)
    assert named.id == "fix-1.a:b"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"workspace": "lead"}, "no argument 'workspace'"),
        ({"from_agent": ""}, "from_agent"),
        ({"to_agent": None}, "to_agent"),
        ({"to_agent": "a\nb"}, "one line"),
        ({"to_agent": "x" * (NAME_CHARS_MAX + 1)}, "characters"),
        ({"goal": "  "}, "goal"),
        ({"goal": "g" * (TEXT_CHARS_MAX + 1)}, "characters"),
        ({"done": "\x00 x"}, "NUL"),
        ({"done": ["x"]}, "done"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": DEADLINE_S_MAX + 1}, "deadline_s"),
        ({"deadline_s": 253_402_300_799}, "deadline_s"),  # the year 9999
        ({"deadline_s": math.nan}, "deadline_s"),
        ({"deadline_s": True}, "deadline_s"),
        ({"deadline_s": 10**400}, "deadline_s"),
        ({"silence_s": "600"}, "silence_s"),
        ({"silence_s": 59}, "silence_s"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": 7}, "idempotency_key"),
        ({"idempotency_key": "k" * (KEY_CHARS_MAX + 1)}, "idempotency_key"),
        ({"idempotency_key": "k", "delegation_id": "i"}, "not both"),
        ({"delegation_id": "../up"}, "delegation_id"),
        ({"delegation_id": "i" * 129}, "delegation_id"),
        ({"delegation_id": id_of_key("coder", "k")}, "keys make such ids"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidMemory, match=why):
        ordered({**ASKED, "from_agent": "lead", **wrong}, OWNER)


def test_who_is_confined_speaks_as_itself_and_nobody_speaks_as_palace() -> None:
    assert ordered(ASKED, CODER).caller == "coder"
    assert ordered({**ASKED, "from_agent": "coder"}, CODER).caller == "coder"
    for asked in (lambda given: ordered({**ASKED, **given}, CODER), _sign_of(CODER)):
        with pytest.raises(Forbidden, match="as nobody else"):
            asked({"from_agent": "lead"})
    with pytest.raises(Forbidden, match="palace itself"):
        ordered({**ASKED, "from_agent": "palace"}, OWNER)
    with pytest.raises(InvalidMemory, match="from_agent"):
        ordered(ASKED, OWNER)


def _sign_of(speaker: Speaker) -> Any:
    return lambda given: signed({"id": "t", **given}, speaker)


@pytest.mark.parametrize(
    ("speaker", "callee", "may"),
    [
        (CODER, "coder", True),
        (CODER, "tester", True),  # of its team
        (CODER, "lead", True),  # as is the root
        (CODER, "other", True),  # a custom namespace has both
        (TESTER, "other", False),
        (TESTER, "gone", False),
        (TESTER, "nobody", False),
        (TESTER, "*", False),
        (OWNER, "*", True),
        (attrs.evolve(TESTER, confined=False), "nobody", True),
    ],
)
def test_a_confined_one_reaches_nobody_whom_it_could_not_reach(
    speaker: Speaker, callee: str, may: bool
) -> None:
    asked = {**ASKED, "to_agent": callee, **({} if speaker.workspace else {"from_agent": "me"})}
    if may:
        assert ordered(asked, speaker).callee == callee
        return
    with pytest.raises(Forbidden) as refused:
        ordered(asked, speaker)
    # Whether there is such a workspace can't be learnt by it.
    assert refused.value.message.replace(callee, "X").count("none of these") == 1


def test_what_a_worker_says() -> None:
    assert signed({"id": "t", "from_agent": "w"}, OWNER) == Sign(id="t", agent="w")
    assert Sign(id="t", agent="w").says_nothing
    ended = signed({"id": "t", "from_agent": "w", "status": "failed", "note": "no disk"}, OWNER)
    assert (ended.status, ended.note, ended.says_nothing) == ("failed", "no disk", False)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"status": "stuck"}, "status"),
        ({"status": "superseded"}, "status"),
        ({"status": ["claimed"]}, "status"),
        ({"status": "failed"}, "says why"),
        ({"status": "blocked", "note": None}, "says why"),
        ({"note": " "}, "note"),
        ({"note": "n" * (NOTE_CHARS_MAX + 1)}, "characters"),
        ({"id": ""}, "id"),
        ({"id": None}, "id"),
        ({"event_id": "e"}, "no argument"),
    ],
)
def test_a_sign_that_makes_no_sense_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidMemory, match=why):
        signed({"id": "t", "from_agent": "w", **wrong}, OWNER)


def task_of(*events: Any, **fields: Any) -> Delegation:
    (task,) = fold([request(agent="coder", to="tester"), *events])
    return attrs.evolve(task, **fields)


CLAIM = said(1, "event.ack", "claimed", agent="tester")


@pytest.mark.parametrize(
    ("speaker", "agent", "status", "task", "why"),
    [
        (TESTER, "tester", "claimed", task_of(), ""),
        (TESTER, "tester", "claimed", task_of(CLAIM), ""),
        (TESTER, "tester", "", task_of(CLAIM), ""),
        (TESTER, "tester", "ready", task_of(CLAIM), ""),
        (TESTER, "tester", "", task_of(), "nobody works on"),
        (TESTER, "tester", "", None, "no task task_1 of yours"),
        (TESTER, "tester", "claimed", task_of(callee="other"), "no task task_1 of yours"),
        (TESTER, "tester", "claimed", task_of(callee="*"), "no task task_1 of yours"),
        (CODER, "coder", "claimed", task_of(), "is for tester"),
        (CODER, "coder", "ready", task_of(CLAIM), "tester works on"),
        (CODER, "coder", "claimed", task_of(CLAIM), "tester works on"),
        (CODER, "coder", "claimed", task_of(callee="*"), "is for *"),
        (OWNER, "any", "claimed", task_of(callee="*"), ""),
        (OWNER, "any", "claimed", task_of(callee=""), ""),
        (OWNER, "any", "claimed", task_of(), "is for tester"),
        (OWNER, "any", "failed", task_of(CLAIM), "tester works on"),
    ],
)
def test_nobody_speaks_for_another_ones_task(
    speaker: Speaker, agent: str, status: str, task: Delegation | None, why: str
) -> None:
    found = refusal_of_sign(Sign(id="task_1", agent=agent, status=status), task, speaker)

    assert (why in found) if why else not found
    if task is not None and speaker.confined and not speaker.sees(task):
        # A task that it may not know of is answered like none.
        none = refusal_of_sign(Sign(id="task_1", agent=agent, status=status), None, speaker)
        assert found == none


def test_a_confined_one_sees_what_it_gave_and_was_given() -> None:
    task = task_of()

    assert [speaker.sees(task) for speaker in (OWNER, CODER, TESTER)] == [True] * 3
    assert not attrs.evolve(CODER, workspace="other").sees(task)


def test_what_a_listing_is_asked_for() -> None:
    assert listing({}, OWNER) == Listing(limit=LIMIT)
    asked = {"agent": "lead", "states": ["stuck", "stuck"], "limit": LIMIT_MAX, "id": "t"}
    assert listing(asked, OWNER) == Listing(
        id="t", agent="lead", states=("stuck",), limit=LIMIT_MAX
    )
    assert listing({"agent": "lead"}, CODER).agent == "coder"


@pytest.mark.parametrize(
    "wrong",
    [
        {"states": "stuck"},
        {"states": ["lost"]},
        {"states": [["stuck"]]},
        {"limit": 0},
        {"limit": LIMIT_MAX + 1},
        {"limit": True},
        {"agent": 7},
        {"id": "a b"},
        {"worker": "x"},
    ],
)
def test_a_listing_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidMemory):
        listing(wrong, OWNER)


def test_a_heartbeat_that_only_says_that_somebody_is_there_changes_nothing() -> None:
    assert classify_call("palace_heartbeat", {"id": "t"}).kind is Kind.QUERY
    for said_besides in ({"note": "x"}, {"status": STATUSES[0]}, {"status": None}):
        called = classify_call("palace_heartbeat", {"id": "t", **said_besides})
        assert called.kind is Kind.MUTATION
