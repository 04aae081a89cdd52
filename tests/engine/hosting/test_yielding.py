"""A long checkpoint lets others come between its items, and is all there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.journal.inspect import read_from
from palace.journal.record import OUTCOME, PUT, UNIT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.tools import LONG_ITEMS
from tests.engine.hosting.test_batched_writer import Palace, told

pytestmark = pytest.mark.engine

SUBJECTS = (
    *("tides", "bread", "violins", "tax law", "beetles", "glaciers", "chess", "welding"),
    *("orchids", "sonnets", "compilers", "volcanoes", "cheese", "railways", "enzymes", "kites"),
)


def items(count: int) -> list[dict[str, str]]:
    return [
        {"wing": "w", "room": "r", "content": f"What was decided about {subject}, item {number}."}
        for number, subject in enumerate(SUBJECTS[:count])
    ]


@pytest.fixture(scope="module")
def palace(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Palace]:
    palace = Palace(model_home, tmp_path_factory.mktemp("yielding") / "palace")
    yield palace
    palace.engine.end()


def test_others_write_between_the_items_and_nothing_is_missing(palace: Palace) -> None:
    long = palace.call("checkpoint", items=items(LONG_ITEMS), dedup_threshold=0.999)
    others = [
        palace.call("add_drawer", wing="o", room="o", content="Another agent's line."),
        palace.call("add_drawer", wing="o", room="o", content="And yet another."),
    ]

    reply, between, turns = palace.engine.call_between(long, others)

    assert turns == LONG_ITEMS
    assert [told(other.payload)["success"] for other, _ in between] == [True, True]
    assert between[0][1] == 3, "it takes stock's lock three times, and waits once"
    answer = told(reply.payload)
    assert (len(answer["added"]), answer["duplicates"], answer["errors"]) == (LONG_ITEMS, [], [])
    filed = palace.ask("list_drawers", limit=100)
    assert len(filed["drawers"]) == LONG_ITEMS + 2


def test_what_was_filed_is_kept_before_others_come(palace: Palace) -> None:
    """An owner that dies in it takes back no more than the item under way."""
    records = [
        record
        for record in read_from(palace.paths.journal, Kernel())
        if isinstance(record, Record)
        and record.key == "s1:1"
        and record.action in (PUT, UNIT, OUTCOME)
    ]

    kinds = [record.action for record in records]
    assert kinds.count(UNIT) == LONG_ITEMS - 1
    assert kinds[-1] == OUTCOME
    first_unit = kinds.index(UNIT)
    assert PUT in kinds[:first_unit]
    assert UNIT in kinds[first_unit + 1 :]


def test_a_short_checkpoint_is_one_change(palace: Palace) -> None:
    short = palace.call("checkpoint", items=items(2))

    _, between, turns = palace.engine.call_between(short, [])

    assert (between, turns) == ([], 0)
