"""The process of bench/raw.py as its asker sees it: chromadb alone, without palace or stock."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import rig
from bench.lean import Broken


class Raw:
    """The process of bench/raw.py; `close` ends it."""

    # In the installed palace's environment, which this tree's own palace must not hide.
    PROGRAM = "import sys; sys.path.append(sys.argv[1]); from bench import raw; raw.main()"

    def __init__(
        self, scratch: Path, commands: Path, more: Mapping[str, str] | None = None
    ) -> None:
        self._root = str(scratch / "raw")
        self._process = subprocess.Popen(
            [str(commands / "python"), "-P", "-c", self.PROGRAM, str(rig.HERE.parent)],
            env=rig.environment(scratch, **(more or {})),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(scratch / "raw.log").open("ab"),
            text=True,
            process_group=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._tasks, self._answers = self._process.stdin, self._process.stdout

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        self._tasks.write(json.dumps(task) + "\n")
        self._tasks.flush()
        reply = self._answers.readline()
        if not reply:
            raise Broken("bench/raw.py ended: see raw.log")
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def per_second(
        self, first: int, words: int, batch: int, seconds: float, what: str = "embed_and_upsert"
    ) -> float:
        task = {"do": what, "root": self._root, "first": first, "words": words}
        told = self.ask(task | {"batch": max(1, batch), "seconds": seconds})
        return float(told["count"] / told["seconds"])

    def close(self) -> None:
        self._tasks.close()
        self._process.wait(30)
