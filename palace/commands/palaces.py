"""`palace list` and `palace status --all`: every palace that brokers of this user have served.

Nothing is opened and nothing is started: brokers that run are asked, several at once, and of the
others the files are looked at from outside.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import attrs

from palace.client import control
from palace.commands.status import ask_status, text_of
from palace.kernel.durations import span
from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line, say
from palace.kernel.wall import wall_s
from palace.ownership.served import Served, all_served, entry_path
from palace.protocol.errors import BrokerUnreachable, PalaceError
from palace.protocol.wire import identity_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

ASKED_AT_ONCE = 8
ENTRIES_MAX = 100_000  # whose sizes are added up, of one palace

SERVED, UNSERVED, HOLD, SILENT = "served", "not served", "on hold", "silent"
GONE, MOVED, REPLACED = "gone", "moved", "replaced"


@attrs.frozen(kw_only=True)
class KnownPalace:
    """One palace as `palace list` shows it.

    `state` is one of the words above; `owner` says who has it now, or where it went, "" for nobody.
    `bytes` is what its directory takes on the disk; `used_s` is when a broker last used it (seconds
    since 1970), None where none ever did.  `is_default`: it is the one that is named here.
    """

    path: str
    palace_id: str
    state: str
    owner: str = ""
    bytes: int = 0
    used_s: float | None = None
    is_default: bool = False


def print_list(default: Paths, environment: ShimEnvironment, *, as_json: bool) -> int:
    """Print what is known of each palace; return 0."""
    found = known_palaces(default, environment)
    if as_json:
        say(json.dumps([attrs.asdict(one) for one in found], indent=1))
    elif found:
        say("\n".join(_table(found, environment)))
    else:
        say("No broker of this user has served a palace yet: the first `palace shim` starts one.")
    return 0


def print_all(default: Paths, environment: ShimEnvironment, *, as_json: bool) -> int:
    """Print the status of each palace that is there; return the code of the worst answer.

    A palace that no broker serves is no failure; one whose broker is silent is.
    """
    kernel, asked = Kernel(), environment.without_broker()
    code, said = 0, []
    for root in _roots(default, _remembered(environment, kernel), kernel):
        if kernel.file_id(root) is None:
            continue
        status, its_code = ask_status(Paths(root), asked)
        is_absent = "why" in status and status["holder"] is None  # nobody serves, and nobody should
        code = max(code, 0 if is_absent else its_code)
        said.append(status)
    if as_json:
        say(json.dumps(said))
    elif said:
        say("\n\n".join(f"== {one_line(s['palace'])}\n{text_of(s)}" for s in said))
    else:
        say("There is no palace that a broker of this user has served.")
    return code


def known_palaces(default: Paths, environment: ShimEnvironment) -> list[KnownPalace]:
    """Return every palace that is remembered, and the default one if it exists; by path."""
    kernel = Kernel()
    remembered = _remembered(environment, kernel)
    # $MEMPALACE_BROKER names one broker, and would be asked for all of them.
    asked = environment.without_broker()

    def look(root: str) -> KnownPalace:
        return _known(root, remembered.get(root), asked, kernel, is_default=root == default.root)

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(look, _roots(default, remembered, kernel)))


def _remembered(environment: ShimEnvironment, kernel: Kernel) -> dict[str, Served]:
    return {served.path: served for served in all_served(environment.all, kernel)}


def _roots(default: Paths, remembered: Iterable[str], kernel: Kernel) -> list[str]:
    roots = set(remembered)
    if kernel.file_id(default.root) is not None:
        roots.add(default.root)
    return sorted(roots)


def _known(
    root: str,
    served: Served | None,
    environment: ShimEnvironment,
    kernel: Kernel,
    *,
    is_default: bool,
) -> KnownPalace:
    paths = Paths(root)
    noted_s = _changed_s(entry_path(root, environment.all)) if served is not None else None
    palace_id = served.palace_id if served is not None else ""
    if kernel.file_id(root) is None:
        to = served.moved_to if served is not None else ""
        return KnownPalace(
            path=root,
            palace_id=palace_id,
            state=MOVED if to else GONE,
            owner=f"to {to}" if to else "",
            used_s=noted_s,
            is_default=is_default,
        )
    there = identity_of(kernel.read_hint(paths.palace_id, 200)) or ""
    state, owner = _owner(paths, environment, kernel)
    if state == UNSERVED and palace_id and there != palace_id:
        state, owner = REPLACED, f"was palace {palace_id[:8]}: palace doctor says what became of it"
    return KnownPalace(
        path=root,
        palace_id=there,
        state=state,
        owner=owner,
        bytes=_bytes_of(root),
        used_s=wall_s() if state == SERVED else noted_s,
        is_default=is_default,
    )


def _owner(paths: Paths, environment: ShimEnvironment, kernel: Kernel) -> tuple[str, str]:
    """Return the state of a palace that is there, and who has it."""
    try:
        with control.Control(paths, environment, answer_s=control.STATUS_S) as asking:
            status = asking.status()
    except BrokerUnreachable as error:
        known = control.known_without_answer(paths, kernel, error)
        holder = known["holder"]
        if holder is not None:
            return SILENT, f"pid {holder['pid']} of {holder['user']}, {holder['command']}"
        if not error.details.get("absent"):
            return SILENT, error.message
        return (HOLD, "until palace start") if known["on_hold"] else (UNSERVED, "")
    except (PalaceError, OSError, ValueError) as error:  # of this palace: others go on
        return SILENT, str(error)
    count = sum(1 for session in status["sessions"] if session["connected"])
    clients = "1 client" if count == 1 else f"{count} clients"
    return SERVED, f"pid {status['pid']} of {status['user']}, {clients}"


def _bytes_of(root: str) -> int:
    """Return what a directory takes on the disk, links not followed; what can't be read is left."""
    total = 0
    for number, entry in enumerate(_entries(root)):
        if number >= ENTRIES_MAX:
            break
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # it went meanwhile
    return total


def _entries(directory: str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(entry.path)
    except OSError:
        return


def _changed_s(path: str) -> float | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_mtime if stat.S_ISREG(found.st_mode) else None


def _table(found: list[KnownPalace], environment: ShimEnvironment) -> Iterator[str]:
    home = environment.all.get("HOME", "").rstrip("/")
    now_s = wall_s()
    rows = [("PALACE", "STATE", "SIZE", "LAST USE", "OWNER")]
    for one in found:
        path = one.path
        if home and path.startswith(f"{home}/"):
            path = "~" + path[len(home) :]
        size = f"{one.bytes / (1 << 20):,.1f} MiB" if one.state not in (GONE, MOVED) else ""
        path += " *" if one.is_default else ""
        rows.append((path, one.state, size, _ago(one.used_s, now_s), one.owner))
    rows = [tuple(one_line(cell) for cell in row) for row in rows]  # type: ignore[misc]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip()
    if any(one.is_default for one in found):
        yield ""
        yield "* is the one that commands here mean, unless --palace names another."


def _ago(used_s: float | None, now_s: float) -> str:
    if used_s is None:
        return "never"
    return "now" if now_s - used_s < 1 else f"{span(max(0.0, now_s - used_s))} ago"
