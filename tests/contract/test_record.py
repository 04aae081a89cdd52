"""broker.json as it is published: palace, JSON Schema and Node judge the same texts alike."""

import json
import subprocess

import pytest
from jsonschema import Draft7Validator

from palace.protocol import broker_record
from palace.protocol.broker_record import decode_broker_record
from tests.contract.reading import FOLDER
from tests.contract.test_document import AJV, READER
from tests.support.machines.npm import npm_packages

SCHEMA = json.loads((FOLDER / "record-v1.schema.json").read_text())
GOLDEN = json.loads((FOLDER / "golden" / "record-v1.json").read_text())


def test_palace_and_json_schema_judge_alike() -> None:
    validator = Draft7Validator(SCHEMA)
    for kind in ("valid", "invalid"):
        for one in GOLDEN[kind]:
            assert (decode_broker_record(one["text"].encode()) is not None) is (kind == "valid"), (
                one
            )
            try:
                said = validator.is_valid(json.loads(one["text"]))
            except ValueError:
                said = False
            assert said is (kind == "valid"), one


def test_the_schema_has_each_field_and_no_other() -> None:
    fields = set(broker_record._FIELDS)
    assert set(SCHEMA["properties"]) == fields
    assert set(SCHEMA["required"]) == fields - set(broker_record._YOUNGER)


def test_what_palace_writes_is_what_is_published() -> None:
    for one in GOLDEN["valid"]:
        record = decode_broker_record(one["text"].encode())
        assert record is not None
        written = json.loads(record.encode())
        Draft7Validator(SCHEMA).validate(written)
        said = {"fingerprint": ""} | json.loads(one["text"])
        said["endpoints"] = [url for url in said["endpoints"] if not url.startswith("http")]
        assert written == {name: said[name] for name in written}


def test_node_reads_the_same_records(pytestconfig: pytest.Config) -> None:
    home = npm_packages(pytestconfig, "contract", *AJV)
    run = subprocess.run(
        ["node", str(READER), str(home / "node_modules")],
        input=json.dumps({"schemas": {"Record": SCHEMA}, "cases": GOLDEN}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert json.loads(run.stdout or "{}").get("wrong") == [], run.stderr
