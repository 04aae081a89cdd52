"""Which servers a host will run, over all of its files: which of them are palace, which are stock.

Looking changes nothing.
"""

import os
import shlex
from collections.abc import Mapping
from typing import Any

import attrs

from palace.mcp_hosts.entries import Launch, Program, is_disabled, launch_of
from palace.mcp_hosts.sources import Reader, Source, sources_of
from palace.mcp_hosts.table import NAME, McpHost
from palace.mcp_hosts.takeover import CannotKeep, edits_to_palace
from palace.mcp_hosts.values import ABSENT, value_at


@attrs.frozen(kw_only=True)
class Entry:
    """One server as its host sees it: `value` has what earlier files add to it.

    `counts` says that it does in the directory that was asked about; `hidden_by` is the path of the
    file that takes its place there ("" if none does), `everywhere` says that it does so elsewhere,
    too.  `off_here` says that the host's record of this directory switches it off.
    """

    name: str
    value: Any
    source: Source
    switched_off: bool
    counts: bool
    hidden_by: str = ""
    everywhere: bool = False
    off_here: bool = False

    @property
    def launch(self) -> Launch:
        return launch_of(self.value)

    @property
    def runs(self) -> bool:
        """Tell whether the host starts it, in the directory that was asked about."""
        off = self.switched_off or self.off_here
        return self.counts and not self.hidden_by and not off

    @property
    def remedy(self) -> str:
        """Return the command that makes it start palace, or takes it out."""
        own_name = self.source.own_name(self.name)
        remove = self.source.remove.replace("{name}", shlex.quote(own_name))
        try:
            edits_to_palace(self.value, ("palace", "shim"))
        except CannotKeep:
            return f"Remove it: {remove}"
        if self.name != NAME or not self.source.install:
            return f"Remove it: {remove}"
        return f"Replace it with palace: {self.source.install} (or remove it: {remove})"


@attrs.frozen(kw_only=True)
class Survey:
    """All entries of a host that start palace or stock, or have our name; and unreadable files."""

    host: McpHost
    entries: tuple[Entry, ...]
    unreadable: dict[str, str]

    @property
    def palaces(self) -> list[Entry]:
        """Return the entries with which the host starts palace."""
        return [one for one in self.entries if one.runs and one.launch.program is Program.PALACE]

    @property
    def stocks(self) -> list[Entry]:
        """Return the entries with which the host starts stock, here or in another directory."""
        return [
            one
            for one in self.entries
            if one.launch.program is Program.STOCK and not one.switched_off and not one.everywhere
        ]


def survey(host: McpHost, environ: Mapping[str, str], directory: str = "") -> Survey:
    """Return what a host runs when it is started in a directory."""
    reader = Reader()
    found: list[Entry] = []
    switches = _Switches(host, environ, directory, reader)
    for source in sources_of(host, environ, directory, reader):
        servers = value_at(reader.values(source.path, source.format_of(host)), source.place)
        if source.alone:
            found = [attrs.evolve(one, hidden_by=source.path, everywhere=True) for one in found]
        for name, value in servers.items() if isinstance(servers, dict) else ():
            entry = Entry(
                name=f"{source.prefix}{name}",
                value=value,
                source=source,
                switched_off=switches.is_off(source, name),
                counts=switches.counts(source),
                off_here=switches.is_off_here(source, name),
            )
            _add(found, entry, merges=host.merges)
    mine = tuple(one for one in found if _is_of_interest(one))
    return Survey(host=host, entries=mine, unreadable=reader.unreadable)


def _add(found: list[Entry], entry: Entry, *, merges: bool) -> None:
    """Add an entry after those that it hides, or that it is put together with."""
    before = [
        index
        for index, one in enumerate(found)
        if one.name == entry.name and not one.hidden_by and (one.counts or not one.source.project)
    ]
    value = entry.value
    for index in before[-1:]:
        if merges:
            value = _merged(found[index].value, value)
    for index in before if entry.counts else ():
        found[index] = attrs.evolve(
            found[index], hidden_by=entry.source.path, everywhere=not entry.source.project
        )
    off = entry.switched_off or is_disabled(value)
    found.append(attrs.evolve(entry, value=value, switched_off=off))


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {
        key: _merged(below[key], value) if key in below else value for key, value in above.items()
    }


def _is_of_interest(entry: Entry) -> bool:
    return entry.source.own_name(entry.name) == NAME or entry.launch.program in (
        Program.PALACE,
        Program.STOCK,
    )


class _Switches:
    """Where a host keeps which servers it starts, beside the entries themselves."""

    def __init__(
        self, host: McpHost, environ: Mapping[str, str], directory: str, reader: Reader
    ) -> None:
        self._host = host
        self._directory = directory
        base = host.base.find(environ)
        self._user = reader.values(f"{base}/{host.files[0]}", host)
        self._names: set[str] = set()
        for file, place in host.disabled_names:
            self._names |= _texts(value_at(reader.values(f"{base}/{file}", host), place))

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

    def is_off(self, source: Source, name: str) -> bool:
        if name in self._names:
            return True
        if self._host.name != "claude-code" or not source.project:
            return False
        record = self._record(source.project)
        lists = ["disabledMcpServers"]
        lists += ["disabledMcpjsonServers"] if source.path.endswith("/.mcp.json") else []
        return any(name in _texts(value_at(record, (each,))) for each in lists)

    def is_off_here(self, source: Source, name: str) -> bool:
        """Tell whether Claude Code's record of the directory switches a server of the user's off.

        Its record of a project counts below that, too.
        """
        if self._host.name != "claude-code" or source.project:
            return False
        here = self._directory
        while here and self._record(here) is ABSENT and here != os.path.dirname(here):
            here = os.path.dirname(here)
        return f"{source.prefix}{name}" in _texts(
            value_at(self._record(here), ("disabledMcpServers",))
        )

    def _record(self, project: str) -> Any:
        return value_at(self._user, ("projects", project))


def _texts(value: Any) -> set[str]:
    return {text for text in value if isinstance(text, str)} if isinstance(value, list) else set()


def working_directory() -> str:
    """Return the directory that this process was started in, "" if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""
