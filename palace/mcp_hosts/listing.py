"""`palace install --list`: every host, its file, and what is in it."""

from collections.abc import Mapping
from functools import partial

from palace.mcp_hosts.entries import Program, is_disabled, launch_of, opened_palace
from palace.mcp_hosts.files import read_configuration
from palace.mcp_hosts.plan import find
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.survey import Entry, survey
from palace.mcp_hosts.table import HOSTS, NAME
from palace.mcp_hosts.target import Target, find_target
from palace.protocol.errors import HostFile, PalaceError

_OFF = ", switched off"


def list_hosts(environ: Mapping[str, str], *, project: str = "", directory: str = "") -> str:
    """Return a table of all hosts, their files, the state of our entry there and what it opens.

    Below it are the entries elsewhere that start palace or stock, or take our entry's place in a
    directory.
    """
    rows = [("host", "state", "palace", "file")]
    elsewhere = []
    for host in HOSTS:
        for hooks in (False, True):
            if (hooks and not host.hooks) or (project and not hooks and not host.project):
                continue
            target = find_target(host.name, environ, project=project, hooks=hooks)
            name = f"{host.name} --hooks" if hooks else host.name
            state = state_of(target)
            if hooks:
                rows.append((name, state, "", target.path))
                continue
            found = survey(host, environ, target.project or directory).entries
            own = [one for one in found if _is_of(target, one)]
            if any(one.switched_off for one in own) and not state.endswith(_OFF):
                state += _OFF
            elif any(one.off_here for one in own):
                state += f"{_OFF} here"
            rows.append((name, state, _opened_by(target), target.path))
            others = [one for one in found if one not in own or one.hidden_by]
            elsewhere += [_described(one, host.name) for one in others]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0  # no padding at the end of a line
    pad = partial(zip, widths, strict=True)
    table = ["  ".join(f"{cell:{width}}" for width, cell in pad(row)) for row in rows]
    return "\n".join([*table, *([""] if elsewhere else []), *elsewhere])


def _opened_by(target: Target) -> str:
    """Return the palace that our entry opens, "" if there is none or it can't be told."""
    try:
        values = target.editor.parse(read_configuration(target.path, beneath=target.project).text)
        found = [find(values, slot, target.kind) for slot in target.slots(values)]
    except (Unreadable, PalaceError, OSError):
        return ""
    entries = [one.value for ones in found for one in ones if target.kind.is_ours(one.value)]
    return opened_palace(entries[0], target.environ) if entries else ""


def _is_of(target: Target, entry: Entry) -> bool:
    """Tell whether an entry is the one that a row is about."""
    own = entry.name == NAME and entry.source.path == target.path
    return own and entry.source.project == target.project


def _described(entry: Entry, host: str) -> str:
    """Return a line about an entry: where it is, what it starts, and how it goes."""
    scope = f" {entry.source.scope}" if entry.source.scope else ""
    off = entry.switched_off and not is_disabled(entry.value)
    state = state_of_entry(entry.value) + (_OFF if off else "")
    hidden = f"; {entry.hider} takes its place here" if entry.hidden_by else ""
    stock = entry.launch.program is Program.STOCK and not entry.switched_off
    remedy = f". {entry.remedy}" if stock else ""
    return f"{host}: {entry.name}{scope}: {state}{hidden} ({entry.source.path}){remedy}"


def state_of(target: Target) -> str:
    """Return the state of our entry in a host's file, in a few words."""
    try:
        before = read_configuration(target.path, beneath=target.project)
        if before.data is None:
            return "absent (no file)"
        values = target.editor.parse(before.text)
        found = [find(values, slot, target.kind)[:1] for slot in target.slots(values)]
    except Unreadable as error:
        return error.summary
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
    return f"{state}{_OFF}" if is_disabled(entry) else state
