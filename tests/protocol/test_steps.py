"""The glossary of the protocol's steps names what the code traces, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from palace.protocol import steps
from palace.protocol.lifecycle import Reason

PACKAGE = Path(steps.__file__).parent.parent
NAME = re.compile(r"[ABCX]\d?\.[a-z]+|fault")


def traced() -> Iterator[str]:
    """Yield the steps that the code names in strings of their own."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and NAME.fullmatch(value):
                yield value


def test_the_glossary_names_each_step_that_the_code_traces() -> None:
    leaves = {f"X0.{reason.value}" for reason in Reason}  # broker traces `X0.{reason.value}`

    glossary = re.findall(r"^    (\S+)  +\S", steps.__doc__ or "", re.MULTILINE)

    assert len(glossary) == len(set(glossary))
    assert set(glossary) == {*traced(), *leaves}
