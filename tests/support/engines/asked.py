"""The hosted mempalace as the broker asks it: one call after the other, and what its log holds."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from palace.engine.api import Call
from palace.protocol.request import tool_call
from tests.support.engines.hosted import HostedEngine


class Palace:
    """A hosted engine, and calls of it as the broker makes them."""

    def __init__(self, home: Path, root: Path) -> None:
        self.root = root
        self.engine = HostedEngine(home, root)
        self.engine.load()
        self._calls = 0

    def ask(self, tool: str, **arguments: Any) -> Any:
        self._calls += 1
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        call = Call(request=tool_call(message), session=f"s{self._calls}", ordinal=1)
        reply = json.loads(self.engine.call(call).payload or b"null")
        return json.loads(reply["result"]["content"][0]["text"])

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.root / "logstream.sqlite3")) as connection:
            return connection.execute(query).fetchall()
