"""Which MCP hosts start palace, which start stock beside it, and which files can't be read."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import OK, WARNING, Finding
from palace.mcp_hosts.entries import Program, described, opened_palace
from palace.mcp_hosts.survey import Entry, Survey, survey, working_directory
from palace.mcp_hosts.table import HOSTS
from palace.settings.installation import command_for


def check_hosts(found: Diagnostics) -> Iterator[Finding]:
    """Yield what this user's hosts run, over all files that they read in this directory."""
    started = []
    off = []
    for host in HOSTS:
        seen = survey(host, found.environ, working_directory())
        yield from _unreadable(seen)
        yield from map(_stock, [seen] * len(seen.stocks), seen.stocks)
        for entry in seen.palaces:
            yield from _not_there(seen, entry)
        if seen.palaces:
            started.append(_with_palaces(seen, found))
        elif any(_is_palace(one) and (one.switched_off or one.off_here) for one in seen.entries):
            off.append(_switched_off(seen))
        elif any(one.counts and one.hidden_by and _is_palace(one) for one in seen.entries):
            yield _hidden(seen)
    text = ", ".join(started) or "palace is installed in none of them"
    text += f"; switched off: {', '.join(off)}" if off else ""
    yield Finding(level=OK, code="hosts", text=text)


def _switched_off(seen: Survey) -> str:
    by = {one.off_by for one in seen.entries if _is_palace(one) and one.off_by}
    return f"{seen.host.name} (by {', '.join(sorted(by))})" if by else seen.host.name


def _is_palace(entry: Entry) -> bool:
    return entry.launch.program is Program.PALACE


def _unreadable(seen: Survey) -> Iterator[Finding]:
    for path, reason in seen.unreadable.items():
        yield Finding(
            level=WARNING,
            code="host_file",
            text=f"{path}, of {seen.host.title}, {reason}: that host may not start palace either.",
            remedy=f"Install it into palace's environment: {command_for('pyyaml')}"
            if "PyYAML" in reason
            else "Correct the file, then: palace install --list",
        )


def _stock(seen: Survey, entry: Entry) -> Finding:
    scope = f" {entry.source.scope}" if entry.source.scope else ""
    return Finding(
        level=WARNING,
        code="stock_entry",
        text=f"{seen.host.title} starts a mempalace server other than palace{scope}: "
        f"{entry.name}, `{described(entry.value)}` ({entry.source.path}), which can't write beside "
        "a broker.",
        remedy=entry.remedy,
    )


def _not_there(seen: Survey, entry: Entry) -> Iterator[Finding]:
    """Yield a finding if an entry names a program by a path where nothing is."""
    program = entry.launch.wrapper[:1] or entry.launch.command[:1]
    if program and os.path.isabs(program[0]) and not os.path.exists(program[0]):
        yield Finding(
            level=WARNING,
            code="host_command",
            text=f"{seen.host.title} starts palace as {program[0]}, which does not exist "
            f"({entry.source.path}).",
            remedy=entry.remedy,
        )


def _hidden(seen: Survey) -> Finding:
    entry = next(one for one in seen.entries if one.counts and one.hidden_by and _is_palace(one))
    hider = next((one for one in seen.entries if one.source == entry.hidden_by), None)
    return Finding(
        level=WARNING,
        code="hidden_entry",
        text=f"{seen.host.title} does not start palace here: {entry.hider} takes the place of the "
        f"entry in {entry.source.path}.",
        remedy=hider.remedy if hider is not None else "See what it has: palace install --list",
    )


def _with_palaces(seen: Survey, found: Diagnostics) -> str:
    """Return a host's name, and the palaces that it opens if they are not the one examined."""
    opened = {opened_palace(one.value, found.environ) for one in seen.palaces}
    others = sorted(path or "a palace elsewhere" for path in opened if path != found.paths.root)
    return f"{seen.host.name} (opens {', '.join(others)})" if others else seen.host.name
