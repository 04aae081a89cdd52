"""Tasks that are asked for once, in the hosted mempalace: by its own events, and by no others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.journal.inspect import read_from
from palace.journal.record import PUT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.errors import Forbidden, InvalidMemory
from tests.engine.hosting.test_memories import SECRET, Palace

pytestmark = pytest.mark.engine

WORK: dict[str, Any] = {
    "project": "x",
    "to_agent": "tester",
    "goal": "mend it",
    "done": "it is mended",
    "branch": "main",
    "base_commit": "abcdef0",
}
FORBIDDEN, INVALID = Forbidden.wire_code, InvalidMemory.wire_code


@pytest.fixture(scope="module")
def palace(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Palace]:
    """Return a palace of a lead with two below it, and of somebody else."""
    palace = Palace(model_home, tmp_path_factory.mktemp("tasks") / "palace")
    for ident, parent in (("lead", ""), ("coder", "lead"), ("tester", "lead"), ("other", "")):
        assert "workspace" in palace.ask("workspace_add", id=ident, parent=parent)
    yield palace
    palace.engine.end()


def events(palace: Palace, task: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = palace.stock("event_list", correlation_id=task)["events"]
    return sorted(found, key=lambda event: int(event["seq"]))


def seen(palace: Palace, who: str, **asked: Any) -> list[str]:
    return [task["id"] for task in palace.ask("delegations", who, **asked)["tasks"]]


def test_a_task_is_what_stocks_own_tool_makes_of_it(palace: Palace) -> None:
    told = palace.ask("delegate", "coder", **WORK)
    stocks = palace.stock("task_create", from_agent="coder", **WORK)["task"]
    (event,) = events(palace, told["task"]["id"])

    made = {"id", "seq", "origin_seq", "hlc", "created_at", "correlation_id", "metadata"}
    assert {k: v for k, v in event.items() if k not in made} == {
        k: v for k, v in stocks.items() if k not in made
    }
    assert event["metadata"] == {"palace": {"deadline_s": 21600.0, "silence_s": 600.0}}
    assert told["handoff"].startswith(f"Open MemPalace task {told['task']['id']} as tester.")
    assert (told["existing"], told["task"]["state"], told["is_over"]) == (False, "queued", False)


def test_a_task_with_a_key_is_asked_for_once(palace: Palace) -> None:
    first = palace.ask("delegate", "coder", idempotency_key="k1", **WORK)
    again = palace.ask("delegate", "coder", idempotency_key="k1", **WORK | {"goal": "other words"})
    others = palace.ask("delegate", "lead", idempotency_key="k1", **WORK)

    assert (first["existing"], again["existing"], others["existing"]) == (False, True, False)
    assert again["task"] == first["task"]
    assert again["handoff"] == first["handoff"]
    assert others["task"]["id"] != first["task"]["id"], "no collision of two callers"
    assert len(events(palace, first["task"]["id"])) == 1
    palace.stock(
        "event_ack", event_id=first["task"]["request"], from_agent="tester", status="failed"
    )
    over = palace.ask("delegate", "coder", idempotency_key="k1", **WORK)
    assert (over["existing"], over["is_over"], over["task"]["state"]) == (True, True, "failed")
    assert palace.ask("delegate", "coder", idempotency_key="k2", **WORK)["existing"] is False


def test_another_ones_id_is_no_way_to_its_task(palace: Palace) -> None:
    told = palace.ask("delegate", "!coder", delegation_id="mine-1", **WORK)
    assert palace.ask("delegate", "!coder", delegation_id="mine-1", **WORK)["task"] == told["task"]
    refused = palace.ask("delegate", "!tester", delegation_id="mine-1", **WORK)
    assert refused["code"] == INVALID
    assert "mend" not in json.dumps(refused)
    # Who knows an id beforehand can't say that it is done before it was asked for.
    early = {"stream": "s", "room": "r", "from_agent": "thief", "correlation_id": "early-1"}
    palace.stock("event_append", type="patch.ready", status="ready", **early)
    told = palace.ask("delegate", "!coder", delegation_id="early-1", **WORK)
    assert (told["existing"], told["task"]["state"]) == (False, "queued")


def test_a_confined_worker_claims_and_ends_what_it_was_given_alone(palace: Palace) -> None:
    mine = palace.ask("delegate", "!coder", idempotency_key="w", **WORK)["task"]["id"]
    theirs = palace.ask("delegate", "other", **WORK | {"to_agent": "coder"})["task"]["id"]
    for ident in (mine, theirs, "none"):
        for more in ({}, {"status": "claimed"}, {"status": "ready"}, {"note": "hello"}):
            who = "!other" if ident == mine else "!tester"
            refused = palace.ask("heartbeat", who, id=ident, **more)
            assert refused["code"] == INVALID
            assert refused["message"].endswith(f"there is no task {ident} of yours.")
    forged = palace.ask("heartbeat", "!other", id=mine, from_agent="tester", status="claimed")
    assert forged["code"] == FORBIDDEN
    assert len(events(palace, mine)) == 1, "nothing of all that was written"

    assert palace.ask("heartbeat", "!tester", id=mine)["code"] == INVALID, "it is not claimed yet"
    claimed = palace.ask("heartbeat", "!tester", id=mine, status="claimed")["task"]
    assert (claimed["state"], claimed["worker"]) == ("in_progress", "tester")
    assert palace.ask("heartbeat", "!tester", id=mine, status="claimed")["task"] == claimed
    assert palace.ask("heartbeat", "!tester", id=mine)["task"] == claimed
    assert len(events(palace, mine)) == 2, "who is just still at it writes nothing"
    noted = palace.ask("heartbeat", "!tester", id=mine, note=f"half way, with {SECRET}")["task"]
    assert noted["sign"] != claimed["sign"]
    done = palace.ask("heartbeat", "!tester", id=mine, status="ready", note="all of it")
    assert (done["task"]["state"], done["is_over"]) == ("completed", True)
    late = palace.ask("heartbeat", "!tester", id=mine, status="failed", note="after all")
    assert late["task"] == done["task"]
    told = events(palace, mine)
    assert [event["status"] for event in told] == ["open", "claimed", None, "ready"]
    assert SECRET not in json.dumps(told)


def test_stocks_tools_are_no_way_around_for_confined_ones(palace: Palace) -> None:
    task = palace.ask("delegate", "coder", **WORK)["task"]
    for name, asked in (
        ("event_ack", {"event_id": task["request"], "from_agent": "tester", "status": "ready"}),
        ("event_list", {"correlation_id": task["id"]}),
        ("event_wait", {"correlation_id": task["id"], "timeout_ms": 1}),
        ("event_append", {"type": "task.stuck", "correlation_id": task["id"]}),
        ("patch_submit", {"content": "+", "correlation_id": task["id"], "stream": "s"}),
        ("task_create", {"from_agent": "lead", **WORK}),
    ):
        call = palace.call(f"mempalace_{name}", "!other", **asked)
        reply = json.loads(palace.engine.call(call).payload or b"null")
        assert reply["error"]["code"] == FORBIDDEN, name
    assert len(events(palace, task["id"])) == 1


def test_who_is_shown_which_tasks(palace: Palace) -> None:
    given = palace.ask("delegate", "!coder", **WORK | {"goal": "g" * 5000})["task"]["id"]

    for who in ("!coder", "!tester", "lead", "", "other"):
        assert given in seen(palace, who, limit=100)
    assert given not in seen(palace, "!other", limit=100)
    assert given not in seen(palace, "!other", limit=100, agent="coder")
    assert palace.ask("delegations", "!other", id=given)["code"] == INVALID
    (whole,) = palace.ask("delegations", "!tester", id=given)["tasks"]
    assert "g" * 5000 in whole["goal"]
    assert given in seen(palace, "", agent="tester", states=["queued"])
    assert given not in seen(palace, "", agent="lead", states=["queued"])
    assert seen(palace, "", states=["stuck"]) == []
    some = palace.ask("delegations", limit=1)
    assert (len(some["tasks"]), some["more"]) == (1, True)


def test_what_stock_refuses_is_refused(palace: Palace) -> None:
    before = len(seen(palace, "", limit=100))
    refused = palace.ask("delegate", "coder", **WORK | {"base_commit": "main"})
    assert refused["code"] == INVALID
    assert "not a branch or tag" in refused["message"]
    assert len(seen(palace, "", limit=100)) == before
    held = palace.call("palace_delegate", "coder", **WORK)
    held.read_only = True
    reply = json.loads(palace.engine.call(held).payload or b"null")
    assert reply["error"]["code"] == FORBIDDEN


def test_a_task_is_one_group_of_the_journal(palace: Palace) -> None:
    told = palace.ask("delegate", "coder", idempotency_key="journalled", **WORK)
    found = list(read_from(f"{palace.root}/journal", Kernel()))
    kept = [one for one in found if isinstance(one, Record) and one.action == PUT]
    of_it = [one for one in kept if told["task"]["id"] in json.dumps(one.payload)]
    assert len(of_it) == 1, "its event, and nothing beside it"
    assert "event" in of_it[0].kind


def test_four_hundred_sessions_that_are_still_at_it_write_not_a_byte(palace: Palace) -> None:
    """Each says so once: no record, no fsync, no event, however often they do."""
    idents = []
    for number in range(4):
        task = palace.ask("delegate", "coder", idempotency_key=f"beat {number}", **WORK)["task"]
        palace.ask("heartbeat", "tester", id=task["id"], status="claimed")
        idents.append(task["id"])

    def kept() -> dict[str, tuple[int, int]]:
        files = [path for path in palace.root.rglob("*") if path.is_file()]
        found = {str(path): path.stat() for path in files}
        return {path: (one.st_size, one.st_mtime_ns) for path, one in found.items()}

    before = kept()
    for number in range(400):
        told = palace.ask("heartbeat", "tester", id=idents[number % 4])
        assert told["task"]["state"] == "in_progress"
    assert kept() == before
