"""What a record may say: one that says what ours never do is damaged, and never carried out."""

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from palace.journal.inspect import read_from
from palace.journal.journal import Journal, read_tail
from palace.journal.record import (
    ADOPT,
    OUTCOME,
    PUT,
    SEGMENT,
    BrokenRecord,
    Draft,
    Record,
    Stamp,
    authenticate,
    decode,
    encode,
    seal,
)
from palace.journal.replay import newest_checkpoint, replay
from palace.journal.schema import FILE_NAMES, header_problem
from palace.journal.segment import Broken, list_segments, segment_path
from palace.journal.tail import Tail
from palace.protocol.keyring import CODE_BYTES, SECRET_BYTES, Key
from tests.support.disks.memory import NOW, ROOT, Disk

STAMP = Stamp(epoch=1, writer="w")
JOURNAL = f"{ROOT}/journal"
HUGE = int("9" * 4300)

GOOD: dict[str, Any] = {
    "v": 1,
    "seq": 2,
    "epoch": 1,
    "ts": NOW,
    "writer": "w",
    "key": "s:1",
    "step": 1,
    "action": PUT,
    "kind": "k",
    "id": "i",
    "payload": 1,
    "deleted": False,
    "before": None,
}


def line(**changes: Any) -> bytes:
    return seal(json.dumps(GOOD | changes).encode()).strip(b"\n")


def test_a_plain_record_is_one() -> None:
    assert decode(line()).seq == 2


@pytest.mark.parametrize("name", ["seq", "epoch", "step"])
@pytest.mark.parametrize(
    "value", [HUGE, -1, 1.5, True, "1", None, [1], 10**20], ids=lambda value: str(value)[:21]
)
def test_a_number_out_of_bounds_is_damage(name: str, value: object) -> None:
    with pytest.raises(BrokenRecord):
        decode(line(**{name: value}))


@pytest.mark.parametrize("name", ["ts", "writer", "key", "action", "kind"])
@pytest.mark.parametrize("value", [1, None, ["x"], {}, "x" * 1001])
def test_a_text_out_of_bounds_is_damage(name: str, value: object) -> None:
    with pytest.raises(BrokenRecord):
        decode(line(**{name: value}))


@pytest.mark.parametrize("changes", [{"id": 1}, {"id": None}, {"deleted": 1}, {"v": HUGE}])
def test_other_shapes_are_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(BrokenRecord):
        decode(line(**changes))


@pytest.mark.parametrize("name", [*GOOD, "was"])
@pytest.mark.parametrize(
    "value",
    [HUGE, -1, 1.5, True, None, "", "x", "x" * 33, "\ud800", "../x", [1], {}, {"a": []}],
    ids=lambda value: repr(value)[:21],
)
def test_what_is_read_of_a_record_has_the_types_that_it_promises(name: str, value: object) -> None:
    """Whoever wrote it: below the floor of a home's first meeting any key will do."""
    key = Key(b"k" * SECRET_BYTES)
    body = authenticate(json.dumps(GOOD | {name: value}).encode(), key, "0" * 2 * CODE_BYTES)
    try:
        record = decode(seal(body).strip(b"\n"))
    except BrokenRecord:
        return
    opaque = {"payload", "before"}
    for field in attrs.fields(Record):
        if field.name not in opaque:
            assert type(getattr(record, field.name)) is field.type, field.name
    record.link.encode()


@pytest.mark.parametrize("body", [b"[1]", b"1", b"[" * 30_000, b'{"v":' + b"9" * 5000 + b"}"])
def test_what_is_no_object_is_damage(body: bytes) -> None:
    with pytest.raises(BrokenRecord):
        decode(seal(body).strip(b"\n"))


@pytest.mark.parametrize("name", FILE_NAMES)
def test_the_files_that_the_journal_keeps_are_named(name: str) -> None:
    assert decode(line(kind="file", id=name)).id == name


@pytest.mark.parametrize(
    "ident", ["../../.bashrc", "/etc/passwd", "palace.toml", "journal/x", "", ".", "replica.json/"]
)
@pytest.mark.parametrize("action", [PUT, ADOPT])
def test_no_other_file_is_named_by_a_record(action: str, ident: str) -> None:
    with pytest.raises(BrokenRecord, match="names a file"):
        decode(line(action=action, kind="file", id=ident))


def opened(disk: Disk) -> Journal:
    return Journal.open(JOURNAL, disk, STAMP)


def test_a_foreign_record_is_named_and_what_it_would_do_is_not_known() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([Draft(action=PUT, key="s:1", kind="k", id="i", payload=1)])
    journal.close_key("s:1", OUTCOME, reply="r")
    journal.close()
    path = journal.segments()[-1].path
    foreign = Draft(action=ADOPT, kind="file", id="../../x", payload={"base64": "eA=="})
    end = journal.seq
    disk.put(path, disk.read(path) + encode(foreign, end + 1, STAMP, NOW))

    tail = read_tail(list_segments(JOURNAL, disk), disk)
    known = replay(JOURNAL, disk)

    assert tail.seq == end
    assert ("file", "../../x") not in {*tail.touched, *known.live}
    assert [found.why for found in read_from(JOURNAL, disk) if isinstance(found, Broken)] == [
        "not a record of palace: it names a file that no palace keeps in its journal"
    ]


def header() -> dict[str, Any]:
    tail = Tail()
    tail.note(Draft(action=PUT, key="s:1", step=1, kind="k", id="i", payload=1), 1, 1)
    tail.note(Draft(action=OUTCOME, key="s:0", payload={"reply": "r", "at": {"k": 1}}), 2, 1)
    tail.note(Draft(action=PUT, key="s:2", step=1, kind="k", id="i", payload=1), 3, 1)
    return dict(tail.header())


def test_the_header_that_we_write_has_the_shape_that_we_read() -> None:
    assert header_problem(json.loads(json.dumps(header()))) == ""
    assert header_problem(json.loads(json.dumps(Tail().header()))) == ""


BREAKING: dict[str, Callable[[dict[str, Any]], object]] = {
    **{
        f"no {name}": lambda h, name=name: h.pop(name)
        for name in header()
        if name not in ("seq", "at", "holders", "left", "numbers", "paused")
    },
    "huge seq": lambda h: h.update(seq=HUGE),
    "huge horizon": lambda h: h.update(horizon=HUGE),
    "replies of another shape": lambda h: h.update(replies={"s": [1, 2]}),
    "a huge ordinal": lambda h: h.update(replies={"s": [1, 0, [[HUGE, "r"]]]}),
    "a reply that is no text": lambda h: h.update(replies={"s": [1, 0, [[1, 2]]]}),
    "a short change": lambda h: h.update(open={"s:1": [[1, "put", "k", "i"]]}),
    "a change of a file": lambda h: h.update(open={"s:1": [[1, "put", "file", "../x", 1, None]]}),
    "a touched file": lambda h: h.update(touched=[["file", "../x", None, 1]]),
    "a touched file beside one of ours": lambda h: h.update(
        touched=[["file", "replica.json", None, 1], ["file", "../x", "replica.json", 1]]
    ),
    "attempts without a count": lambda h: h.update(attempts={"s:1": "many"}),
    "numbers without a count": lambda h: h.update(numbers={"c": "many"}),
    "a list of attempts": lambda h: h.update(attempts=[1]),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_header_of_another_shape_is_not_believed(name: str) -> None:
    broken = json.loads(json.dumps(header()))
    BREAKING[name](broken)

    assert header_problem(broken)


@pytest.mark.parametrize("payload", [None, [], "x", 1, {}, {"seq": HUGE}])
def test_a_segment_with_a_header_of_nobodys_is_read_from_the_one_before(payload: object) -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([Draft(action=PUT, key="s:1", kind="k", id="i", payload=1)])
    journal.close_key("s:1", OUTCOME, reply="r")
    journal.roll()
    journal.close()
    last = journal.segments()[-1]
    disk.put(last.path, encode(Draft(action=SEGMENT, payload=payload), last.first, STAMP, NOW))

    tail = read_tail(list_segments(JOURNAL, disk), disk)

    assert tail.reply("s", 1) == "r"


def test_a_control_record_that_says_nothing_sensible_says_nothing() -> None:
    tail = Tail()
    for seq, payload in enumerate(([1], "text", 7, {"at": [1]}, {"reply": {"x": 1}}), 1):
        tail.note(Draft(action=OUTCOME, key=f"s:{seq}", payload=payload), seq, 1)

    assert tail.baseline is None
    assert tail.seq == 5


def test_files_with_other_names_are_no_files_of_a_journal() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.close()
    for name in (
        *(f"checkpoint-{'9' * 5000}.jsonl", "checkpoint-x.jsonl", "checkpoint-.jsonl"),
        *(
            "0" * 20 + ".jsonl",
            "9" * 21 + ".jsonl",
            "\u0661" * 20 + ".jsonl",
            " " * 20 + ".jsonl",
            "-" * 20 + ".jsonl",
        ),
    ):
        disk.put(f"{JOURNAL}/{name}", b"")

    assert newest_checkpoint(JOURNAL, disk) is None
    assert [segment.path for segment in list_segments(JOURNAL, disk)] == [segment_path(JOURNAL, 1)]
