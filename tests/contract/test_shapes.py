"""Journal, feed, status and provider as published: readers judge alike, and palace writes that."""

import json
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource

from palace.commands.history import _json_line
from palace.journal.checkpoint import make_checkpoint
from palace.journal.feed import Snapshot, Summary, go_on, read_feed
from palace.journal.following import Follower, Position
from palace.journal.inspect import Gap
from palace.journal.purge import Going, purge_journal
from palace.journal.record import (
    ACTIONS,
    SEGMENT,
    UNIT,
    BrokenRecord,
    Draft,
    Record,
    Stamp,
    decode,
    encode,
)
from palace.journal.schema import _HEADER, header_problem
from palace.journal.segment import ARCHIVE, Broken
from palace.protocol.decoding import decode_json_once
from palace.protocol.resend import CRASHES_MAX
from palace.provider.claim import claim_slot
from palace.provider.declaration import Declaration, read_slot
from tests.contract.reading import FOLDER
from tests.contract.test_document import AJV, READER
from tests.contract.test_doors import run
from tests.support.disks.memory import Disk, Stopped, all_kept
from tests.support.loads.light import storm_site
from tests.support.machines.npm import npm_packages
from tests.support.processes.brokers import Serving, settle
from tests.support.processes.clients import Site, end_brokers
from tests.support.stores.memory import JOURNAL, KEYS, Life, after, awake, born, dying_at

NAMES = ("journal", "feed", "status", "provider")
SCHEMAS = {name: json.loads((FOLDER / f"{name}-v1.schema.json").read_text()) for name in NAMES}
UNSEALED = Stamp(epoch=1, writer="w")
GOLDEN = {name: json.loads((FOLDER / "golden" / f"{name}-v1.json").read_text()) for name in NAMES}


def validator(name: str, part: str = "") -> Draft7Validator:
    """Return what validates a whole text, or one of a schema's definitions."""
    schema = SCHEMAS[name]
    if not part:
        return Draft7Validator(schema)
    whole = Resource.from_contents(schema)
    known = Registry().with_resource("palace:whole", whole)
    return Draft7Validator({"$ref": f"palace:whole#/definitions/{part}"}, registry=known)


def is_whole(line: str) -> bool:
    """Tell whether a line's checksum is that of what stands before it."""
    body, found, end = line.rpartition(',"crc":"')
    return found + end == f',"crc":"{zlib.crc32((body + "}").encode()):08x}"}}'


def is_valid(name: str, text: str) -> bool:
    try:
        told = decode_json_once(text)
    except ValueError:
        return False
    return validator(name).is_valid(told) and (name != "journal" or is_whole(text))


# What palace reads.


def journal_takes(text: str, _tmp: Path) -> bool:
    try:
        record = decode(text.encode())
    except BrokenRecord:
        return False
    return record.action != SEGMENT or not header_problem(record.payload)


def provider_takes(text: str, tmp: Path) -> bool:
    """Tell whether a slot counts, and nothing of it as absent."""
    home = tmp / "home"
    home.mkdir(0o700, exist_ok=True)
    (home / "slot.json").write_text(text)
    (home / "slot.json").chmod(0o600)
    found = read_slot(str(home / "slot.json")).declaration
    if found is None:
        return False
    told = json.loads(text)
    kept = {**found.as_json(), **({"plugin": None} if found.has_plugin else {})}
    return {*told} & {*SCHEMAS["provider"]["properties"]} == {*kept}


READS: dict[str, Callable[[str, Path], bool]] = {
    "journal": journal_takes,
    "provider": provider_takes,
}


@pytest.mark.parametrize("name", NAMES)
def test_palace_and_json_schema_judge_alike(name: str, tmp_path: Path) -> None:
    Draft7Validator.check_schema(SCHEMAS[name])
    for kind in ("valid", "invalid"):
        assert GOLDEN[name][kind]
        for one in GOLDEN[name][kind]:
            assert is_valid(name, one["text"]) is (kind == "valid"), one
            if name in READS:
                assert READS[name](one["text"], tmp_path) is (kind == "valid"), one


@pytest.mark.process
def test_node_judges_the_same_texts(pytestconfig: pytest.Config) -> None:
    home = npm_packages(pytestconfig, "contract", *AJV)
    cases = {
        kind: [one for name in NAMES for one in GOLDEN[name][kind]] for kind in ("valid", "invalid")
    }
    asked = {"schemas": {name.title(): SCHEMAS[name] for name in NAMES}, "cases": cases}
    done = subprocess.run(
        ["node", str(READER), str(home / "node_modules")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert json.loads(done.stdout or "{}").get("wrong") == [], done.stderr


# The journal.


def stuck(deaths: int) -> Life:
    """Return a life whose journal holds a key that has ended so many owners."""
    life = awake(Disk())
    life.call("s:1", ("a", "x", 1), ("a", "y", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x=2, y=2)
    for epoch in range(2, 2 + deaths):
        one, two = life.platters
        life = born(life.disk.power_cut(all_kept), (one.copy(), two.copy()), epoch)
        dying_at(life, "take_back")
        with suppress(Stopped):
            life.recovery.run()
    return life


def lived() -> Disk:
    """Return a disk whose journal holds whatever an owner may write."""
    life = after(stuck(CRASHES_MAX - 1))
    life.call("s:3", ("a", "x", None), ("b", "secret", "word"))
    with life.durable.group("s:4", non_atomic=False):
        life.set("a", x=4)
    life.one.platter.set(("a", "y"), "theirs")
    life = after(life)
    life.journal.close_key("s:5", UNIT)
    life.journal.leave()
    life.journal.roll()
    assert make_checkpoint(JOURNAL, life.disk, life.journal.stamp) is not None
    life.call("s:6", ("a", "z", 1))
    life.journal.close()
    assert purge_journal(JOURNAL, life.disk, Going(entities=frozenset({("b", "secret")})), KEYS)
    return life.disk.power_cut(all_kept)


def lines_of(disk: Disk) -> list[bytes]:
    found = [
        disk.read(path)
        for path, file in disk.names.items()
        if path.endswith(".jsonl") and file is not None
    ]
    return [line for data in found for line in data.split(b"\n") if line.strip(b"\0 ")]


@pytest.fixture(scope="module")
def disk() -> Disk:
    return lived()


def test_a_record_of_each_action_is_what_is_published(disk: Disk) -> None:
    met = set()
    for line in lines_of(disk):
        told = json.loads(line)
        validator("journal").validate(told)
        assert is_whole(line.decode())
        assert set(told) <= set(SCHEMAS["journal"]["properties"])
        met.add(told["action"])

    assert met == ACTIONS == set(SCHEMAS["journal"]["definitions"]["actions"]["enum"])


def test_a_record_has_each_field_and_no_other(disk: Disk) -> None:
    told = [json.loads(line) for line in lines_of(disk)]
    schema = SCHEMAS["journal"]
    assert {name for one in told for name in one} == set(schema["properties"])
    assert set.intersection(*map(set, told)) >= set(schema["required"])
    assert set(json.loads(encode(Draft(action="unit"), 1, UNSEALED, "now"))) == set(
        schema["required"]
    )
    header = schema["definitions"]["header"]
    assert set(header["properties"]) == set(_HEADER)
    needed = {name for name, is_right in _HEADER.items() if not is_right(None)}
    assert set(header["required"]) == needed
    for one in told:
        if one["action"] == SEGMENT:
            assert set(one["payload"]) <= set(_HEADER)


# The feed.


def fed(disk: Disk, position: Position | None = None) -> list[Any]:
    follower = Follower(directory=JOURNAL, kernel=disk, keys=KEYS)
    return [*go_on(follower, position), *read_feed(follower)]


def test_what_a_feed_says_is_what_is_published(disk: Disk) -> None:
    lost = disk.power_cut(all_kept)
    for name in lost.list_directory(f"{JOURNAL}/{ARCHIVE}"):
        lost.unlink(f"{JOURNAL}/{ARCHIVE}/{name}")
    others = Position(seq=3, epoch=1, writer="somebody")
    found = [*fed(disk), *fed(lost), *fed(disk, others)]
    parts = {Record: "record", Snapshot: "snapshot", Summary: "summary"}
    for one in found:
        validator("feed").validate(told := json.loads(_json_line(one, "aa")))
        validator("feed", parts[type(one)]).validate(told)
    assert {type(one) for one in found} == set(parts)

    fields = SCHEMAS["feed"]["definitions"]["fields"]
    names = {field.name for field in attrs.fields(Record)}
    assert set(fields["properties"]) == set(fields["required"]) == names
    gone = {field.name for field in attrs.fields(Summary)}
    assert set(SCHEMAS["feed"]["definitions"]["summary"]["properties"]["gap"]["required"]) == gone


def test_what_is_missing_or_broken_is_said_as_published(disk: Disk) -> None:
    torn = disk.power_cut(all_kept)
    for name in torn.list_directory(f"{JOURNAL}/{ARCHIVE}"):
        path = f"{JOURNAL}/{ARCHIVE}/{name}"
        torn.put(path, torn.read(path).replace(b'"seq":2,', b'"seq":3,'))
    found = list(Follower(directory=JOURNAL, kernel=torn, keys=KEYS).read(ends=True))
    assert {Gap, Broken} <= {type(one) for one in found}
    for one in found:
        if isinstance(one, Gap | Broken):
            part = "missing" if isinstance(one, Gap) else "broken"
            validator("feed", part).validate(json.loads(_json_line(one)))
            validator("feed").validate(json.loads(_json_line(one)))


# What real processes print.


def names_in(value: Any) -> Iterator[str]:
    """Yield the names of a schema's properties, whatever they are inside of."""
    if isinstance(value, dict):
        properties = value.get("properties", {})
        yield from properties if isinstance(properties, dict) else ()
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from names_in(one)


def unknown(value: Any, schema: Any, root: Any) -> Iterator[str]:
    """Yield what an object says that its schema doesn't have."""
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for one in value:
            yield from unknown(one, schema["items"], root)
    if "anyOf" in schema and isinstance(value, dict):
        [schema] = [one for one in schema["anyOf"] if one != {"type": "null"}]
        yield from unknown(value, schema, root)
    elif isinstance(value, dict) and "properties" in schema:
        for name, inner in value.items():
            if name in schema["properties"]:
                yield from unknown(inner, schema["properties"][name], root)
            elif "additionalProperties" not in schema:
                yield name


@pytest.fixture(scope="module")
def printed() -> Iterator[dict[str, Any]]:
    """Yield what commands printed of one palace: at work, and after its broker's death."""
    root = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    try:
        yield _printed(storm_site(root))
    finally:
        end_brokers(root)
        shutil.rmtree(root)


def _printed(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = {}
    settle(site, 'memory_contract = "on"\nmemory_plugin = "http://127.0.0.1:9"')
    run(site, "provider", "claim")
    with Serving(site) as broker:
        run(site, "workspace", "add", "lead")
        with site.shim() as client:
            client.initialize()
            assert client.tool("add_drawer", who="w", nonce="n", parts=1)["success"]
            found["working"] = json.loads(run(site, "status", "--json"))
        broker.end()
    found["gone"] = json.loads(site.run("status", "--json").stdout)
    for name, more in (("history", ()), ("feed", ("--cursor", "x"))):
        lines = run(site, "history", "--json", *more).splitlines()
        found[name] = [json.loads(line) for line in lines]
    found["provider"] = json.loads(run(site, "provider", "show", "--json"))
    return found


@pytest.mark.process
def test_status_is_what_is_published(printed: dict[str, Any]) -> None:
    schema = SCHEMAS["status"]
    for name, part in (("working", "answered"), ("gone", "unanswered")):
        validator("status").validate(printed[name])
        extra = set(unknown(printed[name], schema["definitions"][part], schema))
        assert extra == set(schema["properties"])
    page = (FOLDER.parent / "docs" / "reference" / "status.md").read_text()
    assert set(names_in(schema)) <= set(re.findall(r"`(\w+)`", page)), "and documented"


@pytest.mark.process
def test_histories_are_what_is_published(printed: dict[str, Any]) -> None:
    assert printed["history"] == printed["feed"]
    assert {"put", "outcome"} <= {one["action"] for one in printed["feed"]}
    for one in printed["feed"]:
        validator("feed", "record").validate(one)


@pytest.mark.process
def test_a_provider_is_shown_as_it_declared_itself(printed: dict[str, Any]) -> None:
    shown = printed["provider"]
    validator("provider", "shown").validate(shown)
    assert set(shown) == set(SCHEMAS["provider"]["definitions"]["shown"]["properties"])
    validator("provider").validate(shown["declaration"])
    assert (shown["declaration"]["provider"], shown["problem"]) == ("palace", "")


def test_what_a_slot_is_given_is_what_is_published(tmp_path: Path) -> None:
    slot = tmp_path / "slot.json"
    claim_slot(str(slot), "/p", {"PATH": ""}, heartbeat=str(tmp_path / "beat"), replace=False)
    written = json.loads(slot.read_text())
    validator("provider").validate(written)
    assert {*written, "plugin"} == set(SCHEMAS["provider"]["properties"])
    told = read_slot(str(slot)).declaration
    assert told is not None
    assert told.as_json() == written
    fields = {field.name for field in attrs.fields(Declaration)} - {"has_plugin", "registered_at"}
    assert fields == {*written} - {"registeredAt"}
