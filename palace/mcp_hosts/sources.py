"""The places from which a host takes its servers, beside the file that `palace install` changes.

docs/hosts.md says which of them were seen at work, and which were only read about.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from palace.mcp_hosts.files import read_configuration
from palace.mcp_hosts.jsontext import JsonEditor
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import McpHost
from palace.mcp_hosts.target import editor_for, removal
from palace.mcp_hosts.values import Place, value_at
from palace.protocol.errors import HostFile
from palace.settings.paths import home_dir

_PROJECTS_MAX = 1000  # that a host remembers


@attrs.frozen(kw_only=True)
class Source:
    """One table of servers; sources are in the order in which a later one hides an earlier one.

    `scope` says for whom it counts ("" is the user's own), `project` in which directory alone.
    `remove` is how a server {name} goes from there, `install` the command that changes it.
    `alone` says that the host then reads no other source.
    """

    path: str
    place: Place
    scope: str = ""
    project: str = ""
    prefix: str = ""  # of the names that the host gives to its servers
    remove: str = ""
    install: str = ""
    alone: bool = False

    @property
    def described(self) -> str:
        """Return the file, and which part of it where it has several."""
        return f"{self.path} ({self.scope})" if self.scope else self.path

    def format_of(self, host: McpHost) -> McpHost | None:
        """Return the host in whose format the file is, None for JSON as plugins have it."""
        return None if self.scope.startswith(("plugin ", "extension ")) else host

    def own_name(self, name: str) -> str:
        """Return the name that an entry has in the file."""
        return name.removeprefix(self.prefix)


class Reader:
    """Reads each file once; what can't be read is kept in `unreadable`, by path."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self.unreadable: dict[str, str] = {}

    def values(self, path: str, host: McpHost | None = None) -> Any:
        """Return what a file says, {} if there is none or it can't be read."""
        if path not in self._values:
            self._values[path] = {}
            try:
                text = read_configuration(path).text
                editor = JsonEditor(lenient=True) if host is None else editor_for(host)
                self._values[path] = editor.parse(text)
            except Unreadable as error:
                self.unreadable[path] = error.summary
            except HostFile:
                self.unreadable[path] = "can't be parsed"
            except OSError as error:
                if not isinstance(error, NotADirectoryError):
                    self.unreadable[path] = f"can't be read ({error.strerror})"
        return self._values[path]


def sources_of(
    host: McpHost, environ: Mapping[str, str], directory: str, reader: Reader
) -> Iterator[Source]:
    """Yield where a host finds servers when it is started in a directory ("" for none)."""
    seen: set[str] = set()
    for source in _all_sources(host, environ, directory, reader):
        key = f"{os.path.realpath(source.path)}{source.place}"
        if key not in seen:
            seen.add(key)
            yield source


def _all_sources(
    host: McpHost, environ: Mapping[str, str], directory: str, reader: Reader
) -> Iterator[Source]:
    base = host.base.find(environ)
    for name in host.more_files:
        path = os.path.join(base, name.replace("~", home_dir(environ), 1))
        yield _in_file(host, path, reader)
    if host.name == "claude-code":
        yield from _claude_plugins(environ, reader)
    if host.name == "gemini-cli":
        yield from _gemini_extensions(base)
    if host.path == ("servers",):
        yield from _vs_code_profiles(base)
    user_file = reader.values(f"{base}/{host.files[0]}", host)
    if host.name == "codex":
        yield from _codex_plugins(base, user_file)
    if host.name == "kiro":
        yield from _kiro_agents(base)
    if host.name == "hermes":
        yield from _hermes_profiles(base)
    for name in host.files:
        source = _in_file(host, f"{base}/{name}", reader)
        yield attrs.evolve(source, install=f"palace install {host.name} --replace")
    projects = _enclosing(directory)
    others = [path for path in _remembered(host, user_file) if path not in projects]
    for project in (*others, *projects):
        yield from _in_project(host, project, reader, in_use=os.path.isdir(base))
    if host.name == "claude-code":
        yield from _claude_records(f"{base}/{host.files[0]}", user_file)
        yield from _claude_managed()
    if host.name == "gemini-cli":  # the system's settings come last
        yield _in_file(host, "/etc/gemini-cli/settings.json", reader)


def _in_file(host: McpHost, path: str, reader: Reader) -> Source:
    place = host.place(reader.values(path, host))
    return Source(path=path, place=place, remove=removal(host, "{name}", path))


def _in_project(host: McpHost, project: str, reader: Reader, *, in_use: bool) -> Iterator[Source]:
    quoted = shlex.quote(project)
    for name in (*host.project, *host.more_project):
        path = f"{project}/{name}"
        if not os.path.exists(path) or (name in host.shared and not in_use):
            continue  # a file of several hosts says nothing of one that isn't there
        install = f"palace install {host.name} --project {quoted} --replace"
        yield Source(
            path=path,
            place=host.place(reader.values(path, host)),
            scope=f"in {project}",
            project=project,
            remove=removal(host, "{name}", path, project),
            install=install if name in host.project else "",
        )


def _enclosing(directory: str) -> list[str]:
    """Return the directories up to the root of a repository, the outermost first."""
    found: list[str] = []
    here = directory
    while here:
        found.insert(0, here)
        if os.path.exists(f"{here}/.git"):
            return found
        parent = os.path.dirname(here)
        here = parent if parent != here else ""
    return [directory] if directory else []


def _remembered(host: McpHost, values: Any) -> list[str]:
    """Return the projects that a host knows, which may have servers of their own."""
    records = value_at(values, ("projects",)) if host.name in ("claude-code", "codex") else None
    names = list(records)[:_PROJECTS_MAX] if isinstance(records, dict) else []
    return [name for name in names if name.startswith("/") and "\0" not in name]


def _claude_records(path: str, values: Any) -> Iterator[Source]:
    """Yield what Claude Code keeps for one project in the user's own file (scope local)."""
    records = value_at(values, ("projects",))
    for project in list(records)[:_PROJECTS_MAX] if isinstance(records, dict) else ():
        yield Source(
            path=path,
            place=("projects", project, "mcpServers"),
            scope=f"in {project}, for this user",
            project=project,
            remove=f"(cd {shlex.quote(project)} && claude mcp remove {{name}} --scope local)",
        )


def _claude_plugins(environ: Mapping[str, str], reader: Reader) -> Iterator[Source]:
    home = environ.get("CLAUDE_CONFIG_DIR", "") or f"{home_dir(environ)}/.claude"
    enabled = value_at(reader.values(f"{home}/settings.json"), ("enabledPlugins",))
    known = value_at(reader.values(f"{home}/plugins/installed_plugins.json"), ("plugins",))
    for plugin, copies in known.items() if isinstance(known, dict) else ():
        if not isinstance(enabled, dict) or enabled.get(plugin) is not True:
            continue
        for copy in copies if isinstance(copies, list) else ():
            root = copy.get("installPath") if isinstance(copy, dict) else None
            if isinstance(root, str):
                prefix = f"plugin:{plugin.partition('@')[0]}:"
                remove = f"claude plugin uninstall {shlex.quote(plugin)}"
                yield from _in_plugin(root, plugin, prefix=prefix, remove=remove)


def _codex_plugins(base: str, user_file: Any) -> Iterator[Source]:
    """Yield what plugins bring; a server of the user's with the same name hides theirs."""
    known = value_at(user_file, ("plugins",))
    for plugin, settings in known.items() if isinstance(known, dict) else ():
        if value_at(settings, ("enabled",)) is not True:
            continue
        name, _, market = plugin.partition("@")
        cache = f"{base}/plugins/cache/{market}/{name}"
        for version in _names_in(cache):
            remove = f"codex plugin remove {shlex.quote(plugin)}"
            yield from _in_plugin(f"{cache}/{version}", plugin, prefix="", remove=remove)


def _in_plugin(root: str, plugin: str, *, prefix: str, remove: str) -> Iterator[Source]:
    for name, place in (
        (".claude-plugin/plugin.json", ("mcpServers",)),
        (".codex-plugin/plugin.json", ("mcpServers",)),
        (".mcp.json", ("mcpServers",)),
        (".mcp.json", ()),
    ):
        yield Source(
            path=f"{root}/{name}",
            place=place,
            scope=f"plugin {plugin}",
            prefix=prefix,
            remove=remove,
        )


def _chosen(kind: str, name: str, path: str, table: str) -> Source:
    """Return the file of a profile or an agent, whose servers run where that is chosen."""
    return Source(
        path=path,
        place=(table,),
        scope=f"in the {kind} {name}",
        prefix=f"{kind}:{name}:",
        remove=f"delete {table}.{{name}} from {path}",
    )


def _hermes_profiles(base: str) -> Iterator[Source]:
    for name in _names_in(f"{base}/profiles"):
        path = f"{base}/profiles/{name}/config.yaml"
        yield _chosen("profile", name, path, "mcp_servers")


def _kiro_agents(base: str) -> Iterator[Source]:
    agents = f"{os.path.dirname(base)}/agents"
    for name in _names_in(agents):
        if name.endswith(".json"):
            yield _chosen("agent", name.removesuffix(".json"), f"{agents}/{name}", "mcpServers")


def _claude_managed() -> Iterator[Source]:
    mac = "/Library/Application Support/ClaudeCode"
    path = f"{mac if sys.platform == 'darwin' else '/etc/claude-code'}/managed-mcp.json"
    if os.path.exists(path):
        yield Source(
            path=path,
            place=("mcpServers",),
            scope="set by whoever manages this machine",
            remove=f"delete mcpServers.{{name}} from {path}",
            alone=True,
        )


def _vs_code_profiles(base: str) -> Iterator[Source]:
    """Yield the files of VS Code's profiles, and the settings that held servers before mcp.json."""
    for name in _names_in(f"{base}/profiles"):
        yield _chosen("profile", name, f"{base}/profiles/{name}/mcp.json", "servers")
    path = f"{base}/settings.json"
    yield Source(
        path=path,
        place=("mcp", "servers"),
        scope="by its settings",
        prefix="settings:",
        remove=f"delete mcp.servers.{{name}} from {path}",
    )


def _names_in(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _gemini_extensions(base: str) -> Iterator[Source]:
    for name in _names_in(f"{base}/extensions"):
        yield Source(
            path=f"{base}/extensions/{name}/gemini-extension.json",
            place=("mcpServers",),
            scope=f"extension {name}",
            remove=f"gemini extensions uninstall {shlex.quote(name)}",
        )
