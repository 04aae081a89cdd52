"""What the environment may say to a shim or to a command: the only reader of environ.

Settings that must not depend on which shim wins the election live in palace.toml instead
(palace/settings/config.py).  Standard library only: the shim imports this.
"""

import os

from palace.protocol.errors import ConfigError
from palace.settings.given_path import GivenPath
from palace.settings.paths import expanded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

UNIX = "unix:"
NO_DOWNLOAD = "PALACE_NO_DOWNLOAD"
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


def is_true(value: str, where: str) -> bool:
    """Read a switch as stock reads its own; raises ConfigError for what is neither on nor off."""
    text = value.strip().lower()
    if text not in _TRUE and text not in _FALSE:
        raise ConfigError(
            f"{where} is {value[:40]!r}, which is neither on nor off. Write 1 or 0, or remove it."
        )
    return text in _TRUE


def forbids_downloads(environ: "Mapping[str, str]") -> bool:
    """Tell whether no model may be fetched; raises ConfigError for what is neither on nor off."""
    return is_true(environ.get(NO_DOWNLOAD, ""), f"${NO_DOWNLOAD}")


def _path_in(environ: "Mapping[str, str]", name: str) -> str:
    """Return a path that a variable names, "" where it is not set; raises ConfigError."""
    text = environ.get(name, "")
    return expanded(GivenPath(text, f"${name}"), environ) if text else ""


def _broker_in(environ: "Mapping[str, str]") -> str:
    """Return the broker that the user names: a socket's path is checked here, a URL by its way."""
    text = environ.get("MEMPALACE_BROKER", "")
    if not text.startswith(UNIX) or text == UNIX:
        return text
    return UNIX + expanded(GivenPath(text[len(UNIX) :], "the socket in $MEMPALACE_BROKER"), environ)


class ShimEnvironment:
    """The environment of one shim or command, read once.  `all` is the whole of it.

    Making one raises ConfigError for a variable that is set to what can't be understood.
    """

    __slots__ = (
        "all",
        "bridge_command",
        "bridge_config",
        "broker",
        "no_spawn",
        "read_only",
        "token_file",
        "trace",
        "workspace_token_file",
    )

    def __init__(self, environ: "Mapping[str, str]") -> None:
        self.all = dict(environ)
        self.broker = _broker_in(environ)
        self.no_spawn = is_true(environ.get("PALACE_NO_SPAWN", ""), "$PALACE_NO_SPAWN")
        read_only = "MEMPALACE_MCP_READ_ONLY"
        self.read_only = is_true(environ.get(read_only, ""), f"${read_only}")
        self.token_file = _path_in(environ, "PALACE_TOKEN_FILE")
        self.bridge_config = _path_in(environ, "PALACE_BRIDGE_CONFIG")
        self.bridge_command = environ.get("PALACE_BRIDGE_COMMAND", "")
        self.trace = _path_in(environ, "PALACE_TRACE")
        self.workspace_token_file = _path_in(environ, "PALACE_WORKSPACE_TOKEN_FILE")

    def without_broker(self) -> "ShimEnvironment":
        """Return it for palaces of which $MEMPALACE_BROKER says nothing."""
        return ShimEnvironment({k: v for k, v in self.all.items() if k != "MEMPALACE_BROKER"})

    def for_broker(self) -> "dict[str, str]":
        """Return the environment of a broker that this process starts.

        It holds what palace.toml may yet have to fix; the broker drops that if it is fixed.
        """
        from palace.settings.inherited import inherited, to_be_fixed

        return inherited(self.all) | to_be_fixed(self.all)


def read_environment() -> ShimEnvironment:
    """Read this process's environment."""
    return ShimEnvironment(os.environ)
