"""What a batch does and answers is what some serial order of its calls would."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.api import Call
from palace.journal.inspect import read_from
from palace.journal.record import OUTCOME, PUT
from palace.kernel.kernel import Kernel
from palace.protocol.request import tool_call
from palace.settings.paths import Paths
from tests.support.engines.hosted import HostedEngine
from tests.support.engines.milvus import need_milvus

pytestmark = pytest.mark.engine

LONG = "The tide comes in twice a day and takes the sand with it. " * 40  # several chunks
TIMES = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+|\d{8}_\d{12}")


class Palace:
    """A hosted engine with a palace of its own, and calls of as many sessions as one likes."""

    def __init__(
        self,
        home: Path,
        root: Path,
        *,
        refuses: str = "",
        environ: dict[str, str] | None = None,
    ) -> None:
        self.engine = HostedEngine(home, root, environ)
        if refuses:
            self.engine.refuse(refuses)
        self.paths = Paths(str(root))
        self.engine.load()
        self._calls = 0

    def call(self, tool: str, *, read_only: bool = False, **arguments: Any) -> Call:
        self._calls += 1
        params = {"name": f"mempalace_{tool}", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        session = f"s{self._calls}"
        return Call(request=tool_call(message), session=session, ordinal=1, read_only=read_only)

    def ask(self, tool: str, **arguments: Any) -> Any:
        return told(self.engine.call(self.call(tool, **arguments)).payload)

    def contents(self) -> Any:
        """Return all that is there, without times."""
        listed = self.ask("list_drawers", limit=100)
        found = [self.ask("search", query=query, limit=20) for query in ("tide", "cat", "note")]
        diary = [self.ask("diary_read", agent_name=name, last_n=50) for name in ("ada", "bob")]
        return without_times([listed, found, diary])


def told(payload: bytes | None) -> Any:
    reply = json.loads(payload or b"null")
    if "error" in reply:
        return reply["error"]
    return json.loads(reply["result"]["content"][0]["text"])


def without_times(value: Any) -> Any:
    """Mask times, and sort what is listed, since entries of one moment have no order."""
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key != "last_modified"}
    if isinstance(value, list):
        return sorted((without_times(entry) for entry in value), key=json.dumps)
    if isinstance(value, float):
        return round(value, 4)
    return TIMES.sub("TIME", value) if isinstance(value, str) else value


@pytest.fixture(params=["chroma", "sqlite_exact", "milvus"])
def palaces(
    model_home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Palace, Palace]]:
    if request.param == "milvus":
        need_milvus()
    environ = {} if request.param == "chroma" else {"MEMPALACE_BACKEND": str(request.param)}
    both = (
        Palace(model_home, tmp_path / "a" / "palace", environ=environ),
        Palace(model_home, tmp_path / "b" / "palace", environ=environ),
    )
    try:
        yield both
    finally:
        for palace in both:
            palace.engine.end()


def mixture(palace: Palace) -> list[Call]:
    """Return calls with different keys: new drawers and old, long ones, entries, and nonsense."""
    return [
        palace.call("add_drawer", wing="w", room="r", content="the cat sat on the mat"),
        palace.call("add_drawer", wing="w", room="r", content="it was there before"),
        palace.call("add_drawer", wing="w", room="r", content=LONG),
        palace.call("diary_write", agent_name="ada", entry="READ|otters|yes"),
        palace.call("diary_write", agent_name="Ada", entry="READ|otters|again"),
        palace.call("diary_write", agent_name="bob", entry=LONG),
        palace.call("add_drawer", wing="../etc", room="r", content="no such wing"),
        palace.call("add_drawer", wing="w", room="r", content="a note", source_file="/tmp/x.md"),
        palace.call("add_drawer", wing="w", room="r", content="may not", read_only=True),
        palace.call("add_drawer", wing="w", room="r"),
    ]


def test_a_batch_does_and_answers_what_a_serial_order_would(
    palaces: tuple[Palace, Palace],
) -> None:
    together, serial = palaces
    for palace in palaces:
        palace.ask("add_drawer", wing="w", room="r", content="it was there before")

    replies = together.engine.call_together(mixture(together))
    expected = [serial.engine.call(call) for call in mixture(serial)]

    one, other = ([told(reply.payload) for reply in each] for each in (replies, expected))
    assert list(map(without_times, one)) == list(map(without_times, other))
    assert [entry.get("success") for entry in one[:6]] == [True] * 6
    assert one[1]["reason"] == "already_exists"
    assert one[2]["chunks"] > 1
    assert together.contents() == serial.contents()


def test_a_batch_is_journalled_at_once_and_each_call_has_its_outcome(
    palaces: tuple[Palace, Palace],
) -> None:
    palace, _ = palaces
    palace.ask("add_drawer", wing="w", room="r", content="the first one makes the collection")
    since, progress = len(records(palace)), palace.engine.progress()
    calls = [palace.call("add_drawer", wing="w", room="r", content=f"note {n}") for n in range(5)]

    palace.engine.call_together(calls)

    found = records(palace)[since:]
    assert [record.action for record in found] == [PUT] * 5 + [OUTCOME] * 5
    keys = {call.key for call in calls}
    assert {record.key for record in found[:5]} == {record.key for record in found[5:]} == keys
    begun_and_ended = 2 * len(calls)
    assert palace.engine.progress() - progress == begun_and_ended + 1  # one write of the store


@pytest.mark.parametrize("where", ["model", "store"])
def test_one_drawer_that_is_refused_fails_alone(
    where: str, model_home: Path, tmp_path: Path
) -> None:
    palace = Palace(model_home, tmp_path / "p" / "palace", refuses=where)
    try:
        texts = ["note 1", "note of poison", "note 2", "note 3"]
        calls = [palace.call("add_drawer", wing="w", room="r", content=text) for text in texts]

        replies = [told(reply.payload) for reply in palace.engine.call_together(calls)]

        assert [reply["success"] for reply in replies] == [True, False, True, True]
        assert "poison" in str(replies[1])
        there = palace.ask("list_drawers", limit=9)["drawers"]
        assert sorted(drawer["content_preview"] for drawer in there) == [
            "note 1",
            "note 2",
            "note 3",
        ]
        outcomes = [record.key for record in records(palace) if record.action == OUTCOME]
        assert calls[0].key in outcomes
    finally:
        palace.engine.end()


def records(palace: Palace) -> list[Any]:
    return list(read_from(palace.paths.journal, Kernel(), 1))


def test_a_store_that_is_closed_while_a_batch_is_embedded_is_opened_again(
    model_home: Path, tmp_path: Path
) -> None:
    palace = Palace(model_home, tmp_path / "p" / "palace", refuses="closing")
    try:
        for batch in ("ab", "cd"):
            texts = [f"note {name}" for name in batch]
            calls = [palace.call("add_drawer", wing="w", room="r", content=text) for text in texts]
            replies = [told(reply.payload) for reply in palace.engine.call_together(calls)]
            assert [reply["success"] for reply in replies] == [True, True]

        assert len(palace.ask("list_drawers")["drawers"]) == 4
    finally:
        palace.engine.end()


def test_a_search_finds_what_was_just_filed_in_a_palace_that_had_nothing(
    palaces: tuple[Palace, Palace],
) -> None:
    palace, _ = palaces
    assert "No palace" in str(palace.ask("search", query="tide"))

    (reply,) = palace.engine.call_together(
        [palace.call("add_drawer", wing="w", room="r", content="the tide is late")]
    )

    assert told(reply.payload)["success"]
    assert palace.ask("search", query="tide")["results"]


def test_a_search_needs_one_turn_at_the_store(palaces: tuple[Palace, Palace]) -> None:
    palace, _ = palaces
    palace.ask("add_drawer", wing="w", room="r", content="the tide is late")
    palace.engine.turns()

    assert palace.ask("search", query="tide")["results"]

    assert palace.engine.turns() == 1


@pytest.mark.parametrize("backend", ["chroma", "sqlite_exact"])
def test_calls_follow_each_other_on_every_backend(
    backend: str, model_home: Path, tmp_path: Path
) -> None:
    palace = Palace(model_home, tmp_path / "p" / "palace", environ={"MEMPALACE_BACKEND": backend})
    try:
        for number in range(3):
            content = f"tide number {number}"
            (reply,) = palace.engine.call_together(
                [palace.call("add_drawer", wing="w", room="r", content=content)]
            )
            assert told(reply.payload)["success"], reply
            assert len(palace.ask("search", query="tide")["results"]) == number + 1
        assert palace.ask("delete_drawer", drawer_id=told(reply.payload)["drawer_id"])["success"]
        assert len(palace.ask("search", query="tide")["results"]) == 2
    finally:
        palace.engine.end()
