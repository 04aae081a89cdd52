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
from palace.mcp_hosts.switches import Switches
from palace.mcp_hosts.table import NAME, McpHost
from palace.mcp_hosts.takeover import CannotKeep, edits_to_palace
from palace.mcp_hosts.values import value_at


@attrs.frozen(kw_only=True)
class Entry:
    """One server as its host sees it: `value` has what earlier files add to it.

    `counts` says that it does in the directory that was asked about; `hidden_by` is the source that
    takes its place there (None if none does), `everywhere` says that it does so elsewhere, too.
    `off_here` says that the host's record or settings of this directory switch it off, `off_by`
    which file does that, or does it everywhere ("" if the entry itself says so).
    """

    name: str
    value: Any
    source: Source
    switched_off: bool
    counts: bool
    hidden_by: Source | None = None
    everywhere: bool = False
    off_here: bool = False
    off_by: str = ""

    @property
    def launch(self) -> Launch:
        return launch_of(self.value)

    @property
    def hider(self) -> str:
        """Return where the entry stands that takes this one's place, "" if there is none."""
        return self.hidden_by.described if self.hidden_by else ""

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
    switches = Switches(host, environ, directory, reader)
    for source in sources_of(host, environ, directory, reader):
        servers = value_at(reader.values(source.path, source.format_of(host)), source.place)
        if source.alone:
            found = [attrs.evolve(one, hidden_by=source, everywhere=True) for one in found]
        for name, value in servers.items() if isinstance(servers, dict) else ():
            off_by = switches.off_by(source, name, value)
            off_here_by = switches.off_here_by(source, name, value)
            entry = Entry(
                name=f"{source.prefix}{name}",
                value=value,
                source=source,
                switched_off=bool(off_by),
                counts=switches.counts(source),
                off_here=bool(off_here_by),
                off_by=off_by or off_here_by,
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
            found[index], hidden_by=entry.source, everywhere=not entry.source.project
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


def working_directory() -> str:
    """Return the directory that this process was started in, "" if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""
