"""The headers between shim and broker, as they are published: kinds, fields, lines."""

import ast
import inspect
import json
import subprocess
import textwrap
from pathlib import Path

import pytest

from palace.protocol import wire
from palace.protocol.errors import WireError
from palace.protocol.session import Goodbye, Hello
from tests.contract.reading import FOLDER
from tests.support.machines.needs import need_command

DOCUMENT = json.loads((FOLDER / "wire-v1.json").read_text())
GOLDEN = json.loads((FOLDER / "golden" / "wire-v1.json").read_text())


@pytest.mark.parametrize("one", GOLDEN["valid"], ids=lambda one: one["says"])
def test_a_line_says_what_it_is_said_to(one: dict) -> None:
    told = (one["version"], one["kind"], one["fields"])

    assert wire.decode_header(one["line"].encode()) == told
    written = wire.encode_header(one["kind"], one["fields"], version=one["version"])
    assert written == one["line"].encode() + b"\n", "byte for byte"


@pytest.mark.parametrize("one", GOLDEN["invalid"], ids=lambda one: one["says"])
def test_a_line_that_is_none_is_refused(one: dict) -> None:
    with pytest.raises(WireError):
        wire.decode_header(one["line"].encode())


@pytest.mark.process
def test_node_reads_and_writes_the_same_lines() -> None:
    node = need_command("node")
    run = subprocess.run(
        [node, str(Path(__file__).with_name("wire.mjs"))],
        input=json.dumps(GOLDEN),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = len(GOLDEN["valid"]) + len(GOLDEN["invalid"])

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"read": lines, "wrong": []}


def test_each_field_of_a_hello_is_published_and_no_other() -> None:
    read = ast.parse(textwrap.dedent(inspect.getsource(Hello.read)))
    named = {
        argument.value
        for node in ast.walk(read)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("fields.get", "_number")
        for argument in node.args[:2]
        if isinstance(argument, ast.Constant) and argument.value
    }

    assert named == set(DOCUMENT["kinds"]["hello"]["fields"])


def test_a_goodbye_has_the_fields_that_are_published() -> None:
    told = Goodbye(reason="away", read_upto=1, unrun=(0,), away="a" * 32).fields()

    assert set(told) == set(DOCUMENT["kinds"]["goodbye"]["fields"])
    for kind in DOCUMENT["kinds"]:
        assert getattr(wire, kind.upper()) == kind
