"""The hosts: where each keeps its MCP servers and hooks, and what an entry looks like there.

docs/hosts.md has the source of each line, and says which of them are unconfirmed.
"""

import sys
from collections.abc import Mapping
from typing import Any

import attrs

from palace.settings.paths import home_dir

NAME = "mempalace"  # stock's own name for its server, so that no prompt has to change


@attrs.frozen(kw_only=True)
class Base:
    """A directory: `$variable` with `suffix` if that is set, otherwise the default."""

    default: str
    variable: str = ""
    suffix: str = ""
    mac: str = ""

    def find(self, environ: Mapping[str, str], platform: str = sys.platform) -> str:
        home = home_dir(environ)
        if platform == "darwin" and self.mac:
            return self.mac.replace("~", home, 1)
        given = environ.get(self.variable, "") if self.variable else ""
        if given.startswith("/"):
            return given.rstrip("/") + self.suffix
        return self.default.replace("~", home, 1)


@attrs.frozen(kw_only=True)
class Hooks:
    """Where a host keeps its hooks, and for which of its events stock has one.

    An event is (the host's name for it, stock's name, the timeout in seconds that stock uses).
    """

    base: Base
    file: str
    project: str
    events: tuple[tuple[str, str, int], ...]
    note: str = ""


@attrs.frozen(kw_only=True)
class McpHost:
    """An MCP client and its configuration.

    `files` are alternatives: the first that exists is used.  `shape` is the form of an entry:
    "plain" (command, args), "typed" (and type stdio), "local" (type local, one list).
    """

    name: str
    title: str
    base: Base
    files: tuple[str, ...]
    project: tuple[str, ...] = ()
    path: tuple[str, ...] = ("mcpServers",)
    nested: str = ""  # if `path` has an object of this name, that holds the servers
    shape: str = "plain"
    toml: bool = False
    lenient: bool = False  # its JSON may have comments and trailing commas
    desktop: bool = False  # started by a desktop, which knows little of a shell's PATH
    hooks: Hooks | None = None
    remove: str = ""  # the host's own command for removing a server {name}
    remove_from_project: str = ""  # the same within a project's directory
    note: str = ""
    project_note: str = ""

    def entry(self, command: list[str]) -> dict[str, Any]:
        """Return the entry that starts a command."""
        if self.shape == "local":
            return {"type": "local", "command": command}
        kind = {"type": "stdio"} if self.shape == "typed" else {}
        return {**kind, "command": command[0], "args": command[1:]}

    def place(self, values: Any) -> tuple[str, ...]:
        """Return the path of the servers in a configuration with these values."""
        inner = values.get(self.path[0]) if isinstance(values, dict) else None
        found = inner.get(self.nested) if isinstance(inner, dict) and self.nested else None
        if isinstance(found, dict) and not isinstance(found.get("type"), str):
            return (*self.path, self.nested)
        return self.path


HOSTS = (
    McpHost(
        name="claude-code",
        title="Claude Code",
        base=Base(variable="CLAUDE_CONFIG_DIR", default="~"),
        files=(".claude.json",),
        project=(".mcp.json",),
        shape="typed",
        remove="claude mcp remove {name} --scope user",
        remove_from_project="claude mcp remove {name} --scope project",
        project_note="Claude Code asks before it uses a project's servers for the first time.",
        note="A running Claude Code writes to this file, too: close it first, or check it after.",
        hooks=Hooks(
            base=Base(variable="CLAUDE_CONFIG_DIR", default="~/.claude"),
            file="settings.json",
            project=".claude/settings.local.json",
            events=(("Stop", "stop", 30), ("PreCompact", "precompact", 90)),
        ),
    ),
    McpHost(
        name="codex",
        title="Codex",
        base=Base(variable="CODEX_HOME", default="~/.codex"),
        files=("config.toml",),
        project=(".codex/config.toml",),
        path=("mcp_servers",),
        toml=True,
        remove="codex mcp remove {name}",
        project_note="Codex reads a project's file only where the project is trusted.",
        hooks=Hooks(
            base=Base(variable="CODEX_HOME", default="~/.codex"),
            file="hooks.json",
            project=".codex/hooks.json",
            events=(("Stop", "stop", 20), ("PreCompact", "precompact", 75)),
            note="Codex runs no hook until you have reviewed it: /hooks",
        ),
    ),
    McpHost(
        name="pi",
        title="pi",
        base=Base(variable="PI_CODING_AGENT_DIR", default="~/.pi/agent"),
        files=("mcp.json",),
        project=(".pi/mcp.json",),
        lenient=True,
        note="Before 0.99, pi needs an extension to read it: pi install npm:pi-mcp-adapter",
    ),
    McpHost(
        name="opencode",
        title="opencode",
        base=Base(variable="XDG_CONFIG_HOME", suffix="/opencode", default="~/.config/opencode"),
        files=("opencode.json", "opencode.jsonc"),
        project=("opencode.json", "opencode.jsonc"),
        path=("mcp",),
        nested="servers",
        shape="local",
        lenient=True,
    ),
    McpHost(
        name="cursor",
        title="Cursor",
        base=Base(default="~/.cursor"),
        files=("mcp.json",),
        project=(".cursor/mcp.json",),
        desktop=True,
    ),
    McpHost(
        name="vscode",
        title="VS Code",
        base=Base(
            variable="XDG_CONFIG_HOME",
            suffix="/Code/User",
            default="~/.config/Code/User",
            mac="~/Library/Application Support/Code/User",
        ),
        files=("mcp.json",),
        project=(".vscode/mcp.json",),
        path=("servers",),
        shape="typed",
        lenient=True,
        desktop=True,
    ),
    McpHost(
        name="gemini-cli",
        title="Gemini CLI",
        base=Base(default="~/.gemini"),
        files=("settings.json",),
        project=(".gemini/settings.json",),
        lenient=True,
        remove="gemini mcp remove {name} --scope user",
        remove_from_project="gemini mcp remove {name} --scope project",
    ),
    McpHost(
        name="windsurf",
        title="Windsurf",
        base=Base(default="~/.codeium/windsurf"),
        files=("mcp_config.json",),
        desktop=True,
    ),
    McpHost(
        name="zed",
        title="Zed",
        base=Base(
            variable="XDG_CONFIG_HOME",
            suffix="/zed",
            default="~/.config/zed",
            mac="~/.config/zed",
        ),
        files=("settings.json",),
        path=("context_servers",),
        lenient=True,
        desktop=True,
    ),
    McpHost(
        name="claude-desktop",
        title="Claude Desktop",
        base=Base(
            variable="XDG_CONFIG_HOME",
            suffix="/Claude",
            default="~/.config/Claude",
            mac="~/Library/Application Support/Claude",
        ),
        files=("claude_desktop_config.json",),
        desktop=True,
    ),
)
NAMES = tuple(host.name for host in HOSTS)
