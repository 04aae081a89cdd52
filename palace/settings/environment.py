"""What the environment may say to a shim or to a command: the only reader of environ.

Settings that must not depend on which shim wins the election live in palace.toml instead
(palace/settings/config.py).  Standard library only: the shim imports this.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE = ("1", "true", "yes", "on")
# A broker must not inherit what the environment says of one session or one call.
_OF_ONE_SESSION = (
    "MEMPALACE_BROKER",
    "MEMPALACE_MCP_READ_ONLY",
    "MEMPALACE_MCP_ALLOW_PEER_WRITER",
    "PALACE_NO_SPAWN",
    "PALACE_TOKEN_FILE",
    "PALACE_BRIDGE_COMMAND",
    "PALACE_BRIDGE_CONFIG",
)


def is_true(value: str) -> bool:
    """Read a switch as stock reads its own."""
    return value.strip().lower() in _TRUE


class ShimEnvironment:
    """The environment of one shim or command, read once.  `all` is the whole of it."""

    __slots__ = (
        "all",
        "bridge_command",
        "bridge_config",
        "broker",
        "no_spawn",
        "read_only",
        "token_file",
        "trace",
    )

    def __init__(self, environ: "Mapping[str, str]") -> None:
        self.all = dict(environ)
        self.broker = environ.get("MEMPALACE_BROKER", "")
        self.no_spawn = is_true(environ.get("PALACE_NO_SPAWN", ""))
        self.read_only = is_true(environ.get("MEMPALACE_MCP_READ_ONLY", ""))
        self.token_file = environ.get("PALACE_TOKEN_FILE", "")
        self.bridge_config = environ.get("PALACE_BRIDGE_CONFIG", "")
        self.bridge_command = environ.get("PALACE_BRIDGE_COMMAND", "")
        self.trace = environ.get("PALACE_TRACE", "")

    def for_broker(self) -> "dict[str, str]":
        """Return the environment of a broker that this process starts."""
        return {name: value for name, value in self.all.items() if name not in _OF_ONE_SESSION}


def read_environment() -> ShimEnvironment:
    """Read this process's environment."""
    return ShimEnvironment(os.environ)
