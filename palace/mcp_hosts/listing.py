"""`palace install --list`: every host, its file, and what is in it."""

from collections.abc import Mapping
from functools import partial

from palace.mcp_hosts.entries import Program, is_disabled, launch_of
from palace.mcp_hosts.files import read_configuration
from palace.mcp_hosts.plan import find
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import HOSTS
from palace.mcp_hosts.target import Target, find_target
from palace.protocol.errors import HostFile, PalaceError


def list_hosts(environ: Mapping[str, str], *, project: str = "") -> str:
    """Return a table of all hosts, their files and the state of our entry there."""
    rows = [("host", "state", "file")]
    for host in HOSTS:
        for hooks in (False, True):
            if (hooks and not host.hooks) or (project and not hooks and not host.project):
                continue
            target = find_target(host.name, environ, project=project, hooks=hooks)
            name = f"{host.name} --hooks" if hooks else host.name
            rows.append((name, state_of(target), target.path))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0  # no padding at the end of a line
    pad = partial(zip, widths, strict=True)
    return "\n".join("  ".join(f"{cell:{width}}" for width, cell in pad(row)) for row in rows)


def state_of(target: Target) -> str:
    """Return the state of our entry in a host's file, in a few words."""
    try:
        before = read_configuration(target.path)
        if before.data is None:
            return "absent (no file)"
        values = target.editor.parse(before.text)
        found = [find(values, slot, target.kind)[:1] for slot in target.slots(values)]
    except Unreadable as error:
        return f"can't be parsed (line {error.line})"
    except PalaceError as error:
        return (
            "can't be parsed"
            if isinstance(error, HostFile)
            else "unknown (no mempalace command here)"
        )
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if not all(found):
        return "another hook" if any(found) else "absent"
    if target.hooks:
        ours = all(target.kind.is_ours(one[0].value) for one in found)
        return "installed" if ours else "another hook"
    return state_of_entry(found[0][0].value)


def state_of_entry(entry: object) -> str:
    """Return what an entry starts and how, in a few words."""
    launch = launch_of(entry)
    through = f" through {launch.through}" if launch.through else ""
    state = {
        Program.PALACE: f"installed{',' * bool(through)}{through}",
        Program.STOCK: f"stock{through}",
        Program.REMOTE: "a server by its URL",
        Program.OTHER: "something else",
    }[launch.program]
    return f"{state}, switched off" if is_disabled(entry) else state
