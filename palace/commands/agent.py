"""Commands as MCP clients: what they ask of a broker goes through a shim of their own.

So it is elected, sent again and answered once, as what any client asks.
"""

import json
import subprocess
import sys
from typing import Any

from palace.protocol import errors
from palace.protocol.decoding import decode_json
from palace.protocol.errors import PalaceError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

OWNERS_SHIM = "palace.shim.of_command"


def error_of(error: dict[str, Any], before: str = "") -> PalaceError:
    """Return a reply's error as one that a command ends with; stock's are told behind `before`."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, PalaceError) and kind.wire_code == error.get("code"):
            return kind(str(error["message"]))
    return PalaceError(f"{before}{error['message']}")


class Agent:
    """A blocking MCP client of one shim; close it. `welcome` is what initialize was answered.

    With `quiet`, what its shim complains of is not shown: the replies say it as well.  `cwd` is
    where it is started, None for here.
    """

    def __init__(
        self,
        name: str,
        argv: list[str],
        environ: dict[str, str],
        *,
        quiet: bool = False,
        cwd: str | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            argv,
            env=environ,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
        )
        self._ids = 0
        info = {"name": name, "version": "1"}
        reply = self.request(
            "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=info
        )
        self.welcome: dict[str, Any] = reply.get("result", {})

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one request and wait for its reply."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._ids += 1
        message = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PalaceError("A shim exited early; its output is above. Please report this.")
        reply: dict[str, Any] = decode_json(line)
        return reply

    def tool(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result; raises PalaceError if it fails."""
        reply = self.request("tools/call", name=name, arguments=arguments)
        if "error" in reply:
            raise error_of(reply["error"], f"{name}: ")
        value: dict[str, Any] = decode_json(reply["result"]["content"][0]["text"])
        return value

    def close(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(30)
        self._process.stdout.close()
        return code


def ask_broker(
    paths: Paths, environment: ShimEnvironment, tool: str, /, **arguments: Any
) -> dict[str, Any]:
    """Call one of the owner's tools, once, whatever dies meanwhile; return what it says.

    A broker is started where none runs.  Raises the error that the broker answers with.
    """
    argv = [sys.executable, "-P", "-m", OWNERS_SHIM, f"--palace={paths.root}"]
    agent = Agent("palace", argv, environment.all, quiet=True)
    try:
        return agent.tool(tool, **arguments)
    finally:
        agent.close()
