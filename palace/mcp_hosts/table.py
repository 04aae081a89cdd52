"""The hosts: where each keeps its MCP servers and hooks, and what an entry looks like there.

docs/hosts.md has the source of each line, and says which of them are unconfirmed.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

import attrs

from palace.settings.paths import home_dir

NAME = "mempalace"  # stock's own name for its server, so that no prompt has to change


@attrs.frozen(kw_only=True)
class Base:
    """A directory: `$variable` with `suffix` if that is set, otherwise the default.

    Hosts take a relative one from where they are started, which is here as far as anybody can tell;
    one of the XDG directories has to be absolute, and is ignored otherwise.
    """

    default: str
    variable: str = ""
    suffix: str = ""
    mac: str = ""

    def find(self, environ: Mapping[str, str], platform: str = sys.platform) -> str:
        home = home_dir(environ)
        if platform == "darwin" and self.mac:
            return self.mac.replace("~", home, 1)
        given = environ.get(self.variable, "") if self.variable else ""
        if given.startswith("/") or (given and not self.variable.startswith("XDG_")):
            return os.path.abspath(given) + self.suffix
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

    `files` are read one after the other, so that an entry in a later one hides one in an earlier
    one; where none has an entry, the first that exists gets ours.  `more_files` are read before
    them.  Where the host `merges`, an entry of several files is put together key by key.

    `shape` is the form of an entry: "plain" (command, args), "typed" (and type stdio), "local"
    (type local, one list).
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
    json5: bool = False  # and names without quotes, and single quotes
    yaml: bool = False
    merges: bool = False
    more_files: tuple[str, ...] = ()  # absolute, or in the home (~), or in the base directory
    more_project: tuple[str, ...] = ()  # further files in a project's directory
    shared: tuple[str, ...] = ()  # those of a project's files that other hosts read, too
    disabled_names: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (file, where its list is)
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


def _vs_code(name: str, title: str, directory: str) -> McpHost:
    return McpHost(
        name=name,
        title=title,
        base=Base(
            variable="XDG_CONFIG_HOME",
            suffix=f"/{directory}/User",
            default=f"~/.config/{directory}/User",
            mac=f"~/Library/Application Support/{directory}/User",
        ),
        files=("mcp.json",),
        project=(".vscode/mcp.json",),
        shared=() if name == "vscode" else (".vscode/mcp.json",),
        path=("servers",),
        shape="typed",
        lenient=True,
        desktop=True,
    )


def _vs_code_server(name: str, title: str, directory: str) -> McpHost:
    """VS Code's half on a machine that somebody works on from elsewhere."""
    return McpHost(
        name=name,
        title=title,
        base=Base(default=f"{directory}/data/User"),
        files=("mcp.json",),
        path=("servers",),
        shape="typed",
        lenient=True,
    )


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
        merges=True,
        more_files=("/etc/codex/config.toml",),
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
        more_files=("~/.config/mcp/mcp.json",),
        more_project=(".mcp.json",),
        shared=(".mcp.json",),
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
        merges=True,
        more_files=("config.json",),
        more_project=(".opencode/opencode.json", ".opencode/opencode.jsonc"),
    ),
    McpHost(
        name="cursor",
        title="Cursor",
        base=Base(default="~/.cursor"),
        files=("mcp.json",),
        project=(".cursor/mcp.json",),
        desktop=True,
    ),
    _vs_code("vscode", "VS Code", "Code"),
    _vs_code("vscode-insiders", "VS Code Insiders", "Code - Insiders"),
    _vs_code("vscodium", "VSCodium", "VSCodium"),
    _vs_code_server("vscode-server", "VS Code Server", "~/.vscode-server"),
    _vs_code_server("vscodium-server", "VSCodium Server", "~/.vscodium-server"),
    McpHost(
        name="copilot-cli",
        title="GitHub Copilot CLI",
        base=Base(variable="COPILOT_HOME", default="~/.copilot"),
        files=("mcp-config.json",),
        project=(".github/mcp.json",),
        more_project=(".mcp.json",),
        shared=(".mcp.json",),
        disabled_names=(("settings.json", ("disabledMcpServers",)),),
        remove="copilot mcp remove {name}",
    ),
    McpHost(
        name="kiro",
        title="Kiro",
        base=Base(default="~/.kiro/settings"),
        files=("mcp.json",),
        project=(".kiro/settings/mcp.json",),
        desktop=True,
        note="Kiro CLI reads the same file; an agent of its own may bring servers with it.",
    ),
    McpHost(
        name="hermes",
        title="Hermes",
        base=Base(variable="HERMES_HOME", default="~/.hermes"),
        files=("config.yaml",),
        path=("mcp_servers",),
        yaml=True,
    ),
    McpHost(
        name="lm-studio",
        title="LM Studio",
        base=Base(default="~/.lmstudio"),
        files=("mcp.json",),
        desktop=True,
    ),
    McpHost(
        name="openclaw",
        title="OpenClaw",
        base=Base(variable="OPENCLAW_STATE_DIR", default="~/.openclaw"),
        files=("openclaw.json",),
        path=("mcp", "servers"),
        lenient=True,
        json5=True,
        remove="openclaw mcp unset {name}",
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
        more_files=("/etc/gemini-cli/system-defaults.json",),
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
        more_project=(".zed/settings.json",),
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
