"""A long checkpoint lets others come between its items, and is all there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.commands.config import change_settings
from palace.journal.inspect import read_from
from palace.journal.record import OUTCOME, PUT, UNIT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.tools import LONG_ITEMS
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.engine.hosting.test_batched_writer import Palace, told, without_times

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

    assert turns == 2 * LONG_ITEMS, "to compare an item, and to file it"
    assert [told(other.payload)["success"] for other, _ in between] == [True, True]
    # Once more at most: while its reply is on the way, the next part may begin and end.
    assert between[0][1] <= 4, "it takes stock's lock three times, and has one turn"
    answer = told(reply.payload)
    assert (len(answer["added"]), answer["duplicates"], answer["errors"]) == (LONG_ITEMS, [], [])
    filed = [palace.ask("list_drawers", wing=wing, limit=100)["drawers"] for wing in ("w", "o")]
    assert list(map(len, filed)) == [LONG_ITEMS, 2]


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


def long_text(subject: str) -> str:
    return " ".join(f"Line {number} about {subject}, and no other." for number in range(260))


def large_changes(palace: Palace) -> list[Any]:
    """Make changes whose texts are long; return what was answered, and what is there."""
    filed = {"wing": "l", "room": "r"}
    drawer = palace.ask("add_drawer", **filed, content=long_text("tides"))
    answers = [
        drawer,
        palace.ask("add_drawer", **filed, content=long_text("tides")),
        palace.ask("add_drawer", wing="../etc", room="r", content=long_text("tides")),
        palace.ask("add_drawer", **filed, content=long_text("bread") + "\0"),
        palace.ask("add_drawer", **filed, content=long_text("chess") + "\ud800"),
        palace.ask("update_drawer", drawer_id=drawer["drawer_id"], content=long_text("kites")),
        palace.ask("diary_write", agent_name="ada", entry=long_text("cheese")),
        palace.ask(
            "checkpoint",
            items=[
                *({**filed, "content": long_text(subject)} for subject in SUBJECTS[:2]),
                {**filed, "content": long_text(SUBJECTS[0])},
                {**filed, "content": 5},
                {**filed, "content": long_text("glaciers") + "\ud800"},
            ],
            diary={"agent_name": "bob", "entry": long_text("sonnets")},
        ),
    ]
    listed = palace.ask("list_drawers", wing="l", limit=100)
    found = palace.ask("search", query="kites", wing="l", limit=5)
    return [without_times(answer) for answer in (*answers, listed, found)]


def test_large_texts_are_embedded_before_their_turn_and_answered_alike(
    palace: Palace, model_home: Path, tmp_path: Path
) -> None:
    """A text that is embedded in its turn would hold up all others for seconds."""
    root, environ = tmp_path / "palace", {"XDG_STATE_HOME": str(tmp_path / "state")}
    root.mkdir(mode=0o700)
    off = {"adjustments_off": ["embed_ahead"]}
    change_settings(
        Paths(str(root)), ShimEnvironment({"HOME": str(model_home)} | environ), off, Kernel()
    )
    plain = Palace(model_home, root, environ=environ)
    palace.ask("add_drawer", wing="l", room="r", content="The collection is there.")
    plain.ask("add_drawer", wing="l", room="r", content="The collection is there.")
    try:
        for each in (palace, plain):
            each.engine.watch_embedding()
        assert large_changes(palace) == large_changes(plain)
        counted, otherwise = palace.engine.embedded(), plain.engine.embedded()
    finally:
        plain.engine.end()
    assert counted["in_turn"] == 0
    assert counted["ahead"] > 50
    assert otherwise["in_turn"] > 50
