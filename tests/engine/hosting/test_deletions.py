"""Deletions of many drawers let others come between, and take nothing that is theirs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from palace.commands.config import change_settings
from palace.engine.api import Call, Reply
from palace.engine.hosting import deletions
from palace.journal.inspect import read_from
from palace.journal.record import OUTCOME, UNIT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.tools import LONG_ITEMS, Lane
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.engine.hosting.test_batched_writer import Palace, told, without_times

pytestmark = pytest.mark.engine

MANY = 3 * deletions.ROWS
LONG = "The tide comes in twice a day and takes the sand with it. " * 40  # several chunks


@pytest.fixture(scope="module")
def palaces(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Palace]]:
    """Return a palace that deletes in parts, and one that leaves that to stock."""
    made = []
    try:
        for off in ([], ["yield_between_items"]):
            place = tmp_path_factory.mktemp("deletions")
            root, environ = place / "palace", {"XDG_STATE_HOME": str(place / "state")}
            root.mkdir(mode=0o700)
            shim = ShimEnvironment({"HOME": str(model_home)} | environ)
            change_settings(Paths(str(root)), shim, {"adjustments_off": off}, Kernel())
            made.append(Palace(model_home, root, environ=environ))
        yield made
    finally:
        for palace in made:
            palace.engine.end()


def filed(palace: Palace, wing: str, count: int, **more: Any) -> list[str]:
    """File so many short drawers; return their ids."""
    texts = [f"Note {number} of {wing}." for number in range(count)]
    calls = [palace.call("add_drawer", wing=wing, room="r", content=text, **more) for text in texts]
    ids = []
    for start in range(0, count, 8):
        replies = palace.engine.call_together(calls[start : start + 8])
        ids += [told(reply.payload)["drawer_id"] for reply in replies]
    return ids


def left(palace: Palace, wing: str) -> int:
    return int(palace.ask("list_drawers", wing=wing, limit=1)["total"])


def units(palace: Palace, call: Call) -> list[str]:
    """Return how the parts of a call were closed in the journal."""
    return [
        record.action
        for record in read_from(palace.paths.journal, Kernel())
        if isinstance(record, Record)
        and record.key == f"{call.session}:{call.ordinal}"
        and record.action in (UNIT, OUTCOME)
    ]


def by_ids(palace: Palace) -> list[Any]:
    ids = filed(palace, "ids", LONG_ITEMS)
    long = palace.ask("add_drawer", wing="ids", room="r", content=LONG)
    chunk = long["chunk_ids"][1]
    asked = [*ids, ids[0], "no such drawer", chunk, long["drawer_id"], chunk]
    answer = palace.ask("delete_drawers", drawer_ids=asked)
    return [answer, left(palace, "ids")]


def test_a_deletion_in_parts_answers_as_stock_does(palaces: list[Palace]) -> None:
    """Equal ids, a chunk beside its drawer, and one that isn't there included."""
    in_parts, stock = (by_ids(palace) for palace in palaces)

    assert without_times(in_parts) == without_times(stock)
    assert (in_parts[0]["errors"], in_parts[1]) == (1, 0)


def test_others_come_between_the_drawers_of_a_list(palaces: list[Palace]) -> None:
    palace = palaces[0]
    ids = filed(palace, "list", LONG_ITEMS)
    call = palace.call("delete_drawers", drawer_ids=ids)
    others = [
        palace.call("update_drawer", drawer_id=ids[-1], content="Another one's words."),
        palace.call("delete_drawer", drawer_id=ids[-2]),
        palace.call("add_drawer", wing="list", room="r", content="Another one's note."),
    ]

    reply, between, turns = palace.engine.call_between(call, others)

    assert call.tool.lane is Lane.LONG
    assert turns == LONG_ITEMS
    assert [told(answer.payload)["success"] for answer, _ in between] == [True] * len(others)
    assert all(by_then < turns for _, by_then in between)
    answer = told(reply.payload)
    assert (answer["deleted"], answer["errors"]) == (LONG_ITEMS - 1, 1)
    assert "not found" in answer["results"][-2]["error"]
    assert left(palace, "list") == 1
    assert units(palace, call) == [UNIT] * (LONG_ITEMS - 2) + [OUTCOME]


def test_others_come_between_the_parts_of_a_source(palaces: list[Palace]) -> None:
    palace = palaces[0]
    ids = filed(palace, "source", MANY, source_file="/notes.md")
    call = palace.call("delete_by_source", source_file="/notes.md", dry_run=False)
    others = [palace.call("add_drawer", wing="source", room="r", content="Another one's note.")]

    reply, between, _ = palace.engine.call_between(call, others)

    assert told(between[0][0].payload)["success"]
    assert told(reply.payload)["deleted"] == len(ids)
    assert left(palace, "source") == 1
    assert units(palace, call)[-1] == OUTCOME
    assert units(palace, call).count(UNIT) >= MANY // deletions.ROWS - 1


def source_alike(palace: Palace) -> list[Any]:
    filed(palace, "alike", 20, source_file="/alike.md")
    return [
        palace.ask("delete_by_source", source_file="/alike.md"),
        palace.ask("delete_by_source", source_file="/alike.md", dry_run=False),
        palace.ask("delete_by_source", source_file="/alike.md", dry_run=False),
        palace.ask("delete_by_source", source_file=" "),
    ]


def test_a_source_deleted_in_parts_is_answered_as_by_stock(palaces: list[Palace]) -> None:
    in_parts, stock = (source_alike(palace) for palace in palaces)

    assert in_parts == stock


def project(place: Path, files: Sequence[str]) -> Path:
    place.mkdir()
    (place / ".gitignore").write_text("ignored*\n")
    for name in files:
        (place / name).write_text("x")
    return place


def synced(palace: Palace, place: Path) -> list[Any]:
    for name, count in (("stays.md", 3), ("gone.md", 5), ("ignored.md", 4)):
        filed(palace, name, count, source_file=str(place / name))
    given = {"project_dir": str(place)}
    answers = [
        palace.ask("sync", **given),
        palace.ask("sync", **given, wing="gone.md", apply=True),
        palace.ask("sync", **given, apply=True),
        palace.ask("sync", **given, apply=True),
        palace.ask("sync", apply=True),
    ]
    for answer in answers:  # other tests' drawers
        for part in ("scanned", "no_source", "out_of_scope"):
            answer.pop(part, None)
    return [answers, [left(palace, name) for name in ("stays.md", "gone.md", "ignored.md")]]


def test_a_sync_in_parts_answers_as_stock_does(palaces: list[Palace], tmp_path: Path) -> None:
    place = project(tmp_path / "project", ("stays.md", "ignored.md"))

    in_parts, stock = (synced(palace, place) for palace in palaces)

    assert in_parts == stock
    assert in_parts[1] == [3, 0, 0]


def told_all(replies: Sequence[Reply]) -> list[Any]:
    return [told(reply.payload) for reply in replies]


def test_a_sync_deletes_only_what_it_has_looked_at(palaces: list[Palace], tmp_path: Path) -> None:
    palace = palaces[0]
    place = project(tmp_path / "project", ("stays.md",))
    filed(palace, "stays", 1, source_file=str(place / "stays.md"))
    ids = filed(palace, "gone", MANY, source_file=str(place / "gone.md"))
    call = palace.call("sync", project_dir=str(place), apply=True)
    others = [
        palace.call("update_drawer", drawer_id=ids[0], wing="elsewhere"),
        palace.call("add_drawer", wing="gone", room="r", content="Another one's note."),
        palace.call("search", query="note", limit=1),
    ]

    reply, between = palace.engine.call_before(call, "mempalace.sync._delete_in_batches", others)

    assert [answer.get("success", True) for answer in told_all(between)] == [True, True, True]
    answer = told(reply.payload)
    assert (answer["missing"], answer["removed_drawers"]) == (MANY, MANY - 1)
    assert (left(palace, "gone"), left(palace, "elsewhere"), left(palace, "stays")) == (1, 1, 1)
    assert units(palace, call).count(UNIT) >= MANY // deletions.ROWS - 1
