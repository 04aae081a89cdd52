"""The file of a host that `palace install` changes, and our entries in it."""

import os
import shlex
from collections.abc import Mapping
from typing import Any

import attrs

from palace.mcp_hosts.commands import mempalace_command, palace_command
from palace.mcp_hosts.entries import starts_palace
from palace.mcp_hosts.files import read_configuration
from palace.mcp_hosts.jsontext import JsonEditor
from palace.mcp_hosts.kinds import SaveHooks, Servers
from palace.mcp_hosts.plan import Editor, Kind, Slot
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import HOSTS, NAME, NAMES, McpHost
from palace.mcp_hosts.tomltext import TomlEditor
from palace.mcp_hosts.values import ABSENT, value_at
from palace.mcp_hosts.yamltext import YamlEditor
from palace.protocol.errors import ConfigError, HostFile


@attrs.frozen(kw_only=True)
class Target:
    """One file of one host: its servers, or with `hooks` its hooks.

    `project` is the absolute path of a project whose file it is, "" if it is the user's.
    """

    host: McpHost
    path: str
    hooks: bool
    project: str
    environ: Mapping[str, str]

    @property
    def hint(self) -> str:
        """Return what else the user should know."""
        if self.hooks and self.host.hooks is not None:
            return self.host.hooks.note
        return self.host.project_note if self.project else self.host.note

    @property
    def editor(self) -> Editor:
        return editor_for(self.host, hooks=self.hooks)

    @property
    def kind(self) -> Kind:
        return SaveHooks() if self.hooks else Servers()

    @property
    def entry_name(self) -> str:
        return "its hook" if self.hooks else ".".join((*self.host.path, NAME))

    @property
    def removal(self) -> str:
        """Return how the host's user removes what is in the way."""
        if self.hooks:
            return f"delete it from {self.path}"
        return removal(self.host, NAME, self.path, self.project)

    def _command(self) -> list[str]:
        return [*palace_command(self.environ, desktop=self.host.desktop), "shim"]

    def slots(self, values: Any) -> tuple[Slot, ...]:
        """Return the entries for a file with these values; raises ConfigError."""
        if self.hooks:
            return tuple(self._hook_slots())
        entry = self.host.entry(self._command())
        return (Slot(path=self.host.place(values), key=NAME, value=entry),)

    def _hook_slots(self) -> list[Slot]:
        assert self.host.hooks is not None
        command = mempalace_command(self.environ)
        slots = []
        for event, hook, timeout_s in self.host.hooks.events:
            words = f"{command} hook run --hook {hook} --harness {self.host.name}"
            inner = {"type": "command", "command": words, "timeout": timeout_s}
            slots.append(Slot(path=("hooks", event), key=None, value={"hooks": [inner]}))
        return slots


def editor_for(host: McpHost, *, hooks: bool = False) -> Editor:
    """Return the editor of a host's files."""
    if host.toml and not hooks:
        return TomlEditor()
    if host.yaml:
        return YamlEditor()
    return JsonEditor(lenient=host.lenient, json5=host.json5)


def removal(host: McpHost, name: str, path: str, project: str = "") -> str:
    """Return the command that removes a server from a host's file, or words where it has none.

    The name is one that a shell takes as it is.
    """
    template = host.remove_from_project if project else host.remove
    if not template:
        return f"delete {'.'.join((*host.path, name))} from {path}"
    command = template.replace("{name}", name)
    return f"(cd {shlex.quote(project)} && {command})" if project else command


def find_target(
    name: str, environ: Mapping[str, str], *, project: str = "", hooks: bool = False
) -> Target:
    """Return the file that a host reads; raises ConfigError."""
    targets = _targets(name, environ, project=project, hooks=hooks)
    in_use = _in_use(targets)
    return next(one for one in targets if one.path == in_use)


def targets_with_palace(
    name: str, environ: Mapping[str, str], *, project: str = "", hooks: bool = False
) -> list[Target]:
    """Return those of a host's files that have an entry of palace, else the one that it reads.

    A host with several files takes the entry of the last: palace's may be in one before it.
    Raises ConfigError.
    """
    targets = _targets(name, environ, project=project, hooks=hooks)
    with_palace = [one for one in targets if len(targets) > 1 and _starts_palace(one)]
    return with_palace or [find_target(name, environ, project=project, hooks=hooks)]


def _starts_palace(target: Target) -> bool:
    values = _values(target)
    return starts_palace(value_at(values, (*target.host.place(values), NAME)))


def _values(target: Target) -> Any:
    """Return what a file says, {} if there is none or it can't be read."""
    try:
        return target.editor.parse(read_configuration(target.path).text)
    except (Unreadable, HostFile, OSError):
        return {}


def _targets(name: str, environ: Mapping[str, str], *, project: str, hooks: bool) -> list[Target]:
    """Return the files of a host that palace may write to, in the order in which it reads them."""
    host = next((host for host in HOSTS if host.name == name), None)
    if host is None:
        raise ConfigError(f"{name!r} is not a known host. Use one of: {', '.join(NAMES)}.")
    if hooks and host.hooks is None:
        known = ", ".join(other.name for other in HOSTS if other.hooks)
        raise ConfigError(f"Stock has no save hooks for {host.title}, only for {known}.")
    if project and not os.path.isdir(project):
        raise ConfigError(f"--project {project}: the directory does not exist.")
    names = host.project if project else host.files
    base = os.path.abspath(project) if project else host.base.find(environ)
    if hooks and host.hooks is not None:
        names = (host.hooks.project if project else host.hooks.file,)
        base = base if project else host.hooks.base.find(environ)
    if not names:
        raise ConfigError(f"{host.title} has no configuration file per project. Omit --project.")
    return [
        Target(
            host=host,
            path=f"{base}/{name}",
            hooks=hooks,
            project=os.path.abspath(project) if project else "",
            environ=environ,
        )
        for name in names
    ]


def _in_use(targets: list[Target]) -> str:
    """Return the file whose entry the host takes, else the first that exists, else the first."""
    there = [one for one in targets if os.path.lexists(one.path)]
    for target in reversed(there if len(there) > 1 else ()):
        values = _values(target)
        if value_at(values, (*target.host.place(values), NAME)) is not ABSENT:
            return target.path
    return (there or targets)[0].path
