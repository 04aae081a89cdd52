"""What a host says of the servers that it may start, beside the entries themselves.

An entry that is there and is not to be started looks like one that is; docs/hosts.md says which of
these lists were seen at work.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from palace.mcp_hosts.entries import words_of
from palace.mcp_hosts.sources import Reader, Source
from palace.mcp_hosts.table import McpHost
from palace.mcp_hosts.values import ABSENT, value_at
from palace.mcp_hosts.verdicts import denied_by_opencode, is_trusted_by_gemini
from palace.settings.paths import home_dir

ETC = "/etc"  # where whoever manages the machine keeps what counts for all of its users
_CLAUDE_ON_MACOS = "/Library/Application Support/ClaudeCode"


@attrs.frozen(kw_only=True)
class _Server:
    """A server as a host's lists look at it: by its own name in its file, and by the host's."""

    source: Source
    name: str
    value: Any

    @property
    def full_name(self) -> str:
        return f"{self.source.prefix}{self.name}"


class Switches:
    """Which servers a host starts when it is started in a directory.

    `off_by` and `off_here_by` return the path of the file that says no, "" if none does.
    """

    def __init__(
        self, host: McpHost, environ: Mapping[str, str], directory: str, reader: Reader
    ) -> None:
        self._host = host
        self._directory = directory
        self._reader = reader
        base = host.base.find(environ)
        self._base = base
        self._user_file = f"{base}/{host.files[0]}"
        self._user = reader.values(self._user_file, host)
        claude = environ.get("CLAUDE_CONFIG_DIR", "") or f"{home_dir(environ)}/.claude"
        managed = _CLAUDE_ON_MACOS if sys.platform == "darwin" else f"{ETC}/claude-code"
        self._claude_everywhere = [f"{claude}/settings.json", f"{managed}/managed-settings.json"]

    def counts(self, source: Source) -> bool:
        """Tell whether a source does in the directory that was asked about."""
        project = source.project
        if not project:
            return True
        if not f"{self._directory}/".startswith(f"{project.rstrip('/')}/"):
            return False
        return self._host.name != "codex" or self._is_trusted(project)

    def _is_trusted(self, project: str) -> bool:
        """Codex reads a project's file only where the project, or one around it, is trusted."""
        records = value_at(self._user, ("projects",))
        return any(
            f"{project}/".startswith(f"{name.rstrip('/')}/")
            and value_at(record, ("trust_level",)) == "trusted"
            for name, record in (records.items() if isinstance(records, dict) else ())
        )

    def off_by(self, source: Source, name: str, value: Any) -> str:
        """Return what keeps a server from being started wherever its source counts."""
        server = _Server(source=source, name=name, value=value)
        by = {
            "claude-code": self._off_in_claude,
            "gemini-cli": self._off_in_gemini,
            "codex": self._off_in_codex,
            "opencode": self._off_in_opencode,
            "vscode": self._off_in_vs_code,
        }.get(_family_of(self._host))
        return next(iter(by(server) if by else ()), "") or next(self._listed(name), "")

    def off_here_by(self, source: Source, name: str, value: Any) -> str:
        """Return what keeps a server from being started in this directory alone."""
        server = _Server(source=source, name=name, value=value)
        by = {
            "claude-code": self._off_in_claude_here,
            "gemini-cli": self._off_in_gemini_here,
            "opencode": self._off_in_opencode_here,
            "vscode": self._off_in_vs_code_here,
        }.get(_family_of(self._host))
        return next(iter(by(server) if by and self._directory else ()), "")

    def _listed(self, name: str) -> Iterator[str]:
        for file, place in self._host.disabled_names:
            path = f"{self._base}/{file}"
            if name in _texts(value_at(self._reader.values(path, self._host), place)):
                yield path

    # Gemini CLI.

    def _off_in_gemini(self, server: _Server) -> Iterator[str]:
        system = (f"{ETC}/gemini-cli/{name}.json" for name in ("system-defaults", "settings"))
        for path in (*system, self._user_file):
            yield from self._refused_by_gemini(path, server)
        path = f"{self._base}/mcp-server-enablement.json"  # what `/mcp disable` writes
        told = self._reader.values(path, self._host)
        if value_at(told, (server.name.strip().lower(), "enabled")) is False:
            yield path

    def _off_in_gemini_here(self, server: _Server) -> Iterator[str]:
        trust = f"{self._base}/trustedFolders.json"
        rules = self._reader.values(trust, self._host)
        if not is_trusted_by_gemini(self._directory, rules, self._folder_trust()):
            yield trust
        yield from self._refused_by_gemini(f"{self._directory}/.gemini/settings.json", server)

    def _folder_trust(self) -> Any:
        """Return the setting, which whoever manages the machine may have fixed."""
        etc = f"{ETC}/gemini-cli"
        found: Any = ABSENT
        for path in (f"{etc}/system-defaults.json", self._user_file, f"{etc}/settings.json"):
            told = self._reader.values(path, self._host)
            told = value_at(told, ("security", "folderTrust", "enabled"))
            found = told if told is not ABSENT else found
        return found

    def _refused_by_gemini(self, path: str, server: _Server) -> Iterator[str]:
        told = value_at(self._reader.values(path, self._host), ("mcp",))
        name = server.name.strip().lower()
        allowed = value_at(told, ("allowed",))
        refused = name in _lower(value_at(told, ("excluded",)))
        if refused or (isinstance(allowed, list) and name not in _lower(allowed)):
            yield path

    # opencode.

    def _off_in_opencode(self, server: _Server) -> Iterator[str]:
        if self._directory and not any(self._off_in_opencode_here(server)):
            return  # the project offers what is denied elsewhere
        yield from self._denied_by_opencode(server, self._opencode_files())

    def _off_in_opencode_here(self, server: _Server) -> Iterator[str]:
        project = (*self._host.project, *self._host.more_project)
        here = [f"{self._directory}/{name}" for name in project]
        yield from self._denied_by_opencode(server, [*self._opencode_files(), *here])

    def _opencode_files(self) -> list[str]:
        return [f"{self._base}/{name}" for name in (*self._host.more_files, *self._host.files)]

    def _denied_by_opencode(self, server: _Server, paths: list[str]) -> Iterator[str]:
        files = ((path, self._reader.values(path, self._host)) for path in paths)
        if path := denied_by_opencode(server.name, files):
            yield path

    # VS Code.

    def _off_in_vs_code(self, _server: _Server) -> Iterator[str]:
        yield from self._refused_by_vs_code(f"{self._base}/settings.json")

    def _off_in_vs_code_here(self, _server: _Server) -> Iterator[str]:
        yield from self._refused_by_vs_code(f"{self._directory}/.vscode/settings.json")

    def _refused_by_vs_code(self, path: str) -> Iterator[str]:
        """An entry in a file is no server that was installed from a registry."""
        told = self._reader.values(path, self._host)
        access = value_at(told, ("chat.mcp.access",))
        if access in ("none", "registry") or value_at(told, ("chat.mcp.enabled",)) is False:
            yield path

    # Codex.

    def _off_in_codex(self, server: _Server) -> Iterator[str]:
        """Whoever manages the machine may name the servers that are allowed, each as it is."""
        path = f"{ETC}/codex/requirements.toml"
        known = value_at(self._reader.values(path, self._host), ("mcp_servers",))
        if not isinstance(known, dict):
            return
        identity = value_at(known, (server.name, "identity"))
        given = [
            value_at(server.value, (key,)) == value_at(identity, (key,))
            for key in ("command", "url")
            if value_at(identity, (key,)) is not ABSENT
        ]
        if not given or not all(given):
            yield path

    # Claude Code.

    def _off_in_claude(self, server: _Server) -> Iterator[str]:
        everywhere = self._claude_everywhere
        if server.source.project:
            yield from self._refused_in_project(server)
        yield from self._denied(everywhere, server)
        if any(self._allowing(path) is not None for path in everywhere):
            yield from self._not_allowed(server)

    def _off_in_claude_here(self, server: _Server) -> Iterator[str]:
        if not server.source.project and self._is_off_in_record(server):
            yield self._user_file
        yield from self._denied(_claude_settings(self._directory), server)
        yield from self._not_allowed(server)

    def _refused_in_project(self, server: _Server) -> Iterator[str]:
        """A project's servers are refused in its record, and in settings since they hold that."""
        project = server.source.project
        record = value_at(self._user, ("projects", project))
        shared = server.source.path.endswith("/.mcp.json")
        for key in ("disabledMcpServers", *(["disabledMcpjsonServers"] if shared else [])):
            if server.name in _texts(value_at(record, (key,))):
                yield self._user_file
        for path in (*self._claude_everywhere, *_claude_settings(project)) if shared else ():
            told = self._reader.values(path)
            if server.name in _texts(value_at(told, ("disabledMcpjsonServers",))):
                yield path

    def _is_off_in_record(self, server: _Server) -> bool:
        """Tell whether the record of the directory, or of one above it, switches a server off."""
        here = self._directory
        while self._record(here) is ABSENT and here != os.path.dirname(here):
            here = os.path.dirname(here)
        off = value_at(self._record(here), ("disabledMcpServers",))
        return server.full_name in _texts(off)

    def _record(self, project: str) -> Any:
        return value_at(self._user, ("projects", project))

    def _denied(self, paths: list[str], server: _Server) -> Iterator[str]:
        for path in paths:
            denied = value_at(self._reader.values(path), ("deniedMcpServers",))
            if any(_names(one, server) or _starts(one, server) for one in _tables(denied)):
                yield path

    def _allowing(self, path: str) -> list[dict[str, Any]] | None:
        allowed = value_at(self._reader.values(path), ("allowedMcpServers",))
        return _tables(allowed) if isinstance(allowed, list) else None

    def _not_allowed(self, server: _Server) -> Iterator[str]:
        """All lists together say what is allowed, unless only the manager's counts.

        Where one of them names commands, a server that is started has to be among those.
        """
        managed = self._claude_everywhere[-1]
        alone = value_at(self._reader.values(managed), ("allowManagedMcpServersOnly",)) is True
        paths = [*self._claude_everywhere, *_claude_settings(self._directory)]
        lists = {path: self._allowing(path) for path in ([managed] if alone else paths)}
        given = {path: allowed for path, allowed in lists.items() if allowed is not None}
        every = [one for allowed in given.values() for one in allowed]
        by_command = any("serverCommand" in one for one in every) and words_of(server.value)
        fits = _starts if by_command else _names
        if given and not any(fits(one, server) for one in every):
            yield next(iter(given))


def _family_of(host: McpHost) -> str:
    """Return the host's name; VS Code's variants read the same settings."""
    return "vscode" if host.name.startswith(("vscode", "vscodium")) else host.name


def _claude_settings(directory: str) -> list[str]:
    if not directory:
        return []
    return [f"{directory}/.claude/settings.json", f"{directory}/.claude/settings.local.json"]


def _names(one: dict[str, Any], server: _Server) -> bool:
    return one.get("serverName") == server.full_name


def _starts(one: dict[str, Any], server: _Server) -> bool:
    words = words_of(server.value)
    return bool(words) and one.get("serverCommand") == words


def _tables(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> set[str]:
    return {text for text in value if isinstance(text, str)} if isinstance(value, list) else set()


def _lower(value: Any) -> set[str]:
    return {text.strip().lower() for text in _texts(value)}
