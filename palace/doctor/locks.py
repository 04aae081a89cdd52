"""Who holds what a broker needs, and who has the palace open without it."""

import os
from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics, name
from palace.doctor.finding import ERROR, OK, WARNING, Finding
from palace.kernel.processes import Process
from palace.ownership.data_locks import ENDING, outside_files
from palace.ownership.holders import how_to_avoid, how_to_end, how_to_part
from palace.ownership.lock import FENCE, NOTE_BYTES_MAX, mempalace_lock_path
from palace.settings.paths import home_dir

NEVER_LOCKED = "not held"
SHORT_CHARS = 34
# The owner's own processes, which only read.
READERS = ("palace.engine.durability.examiner", "palace.engine.hosting.reader")


def check_locks(found: Diagnostics) -> Iterator[Finding]:
    """Yield each lock with its holder; wrong is one that another process than the owner has."""
    if found.foreign is not None:
        return
    yield from _strangers(found)
    yield from _holdings(found)
    if not found.is_anothers:  # each home has a lock of its own, and this user's stock no way in
        yield from _mempalaces(found)
    yield from _outside(found)
    held = name(found.holder, SHORT_CHARS) if found.holder else NEVER_LOCKED
    yield Finding(level=OK, code="broker.lock", text=held)


def _is_owner(found: Diagnostics, process: Process) -> bool:
    return found.holder is not None and found.holder.pid == process.pid


def _mempalaces(found: Diagnostics) -> Iterator[Finding]:
    path = mempalace_lock_path(found.paths, found.environ)
    holder = found.holder_of(path)
    if holder is None and found.holder is not None:
        yield _unfenced(found, found.holder, path)
        return
    if holder is None or _is_owner(found, holder):
        held = "the broker" if holder else NEVER_LOCKED
        yield Finding(level=OK, code="mempalace's lock", text=f"{held} ({path})")
        return
    yield Finding(
        level=ERROR,
        code="stock_writes",
        text=f"A stock mempalace process has this palace: {name(holder)} holds mempalace's writer "
        f"lock. While it does, {_meanwhile(found)}.",
        remedy=f"{how_to_end(holder.title, holder.pid, found.paths)}."
        f"{how_to_avoid(holder.title)} The lock: {path}",
    )


def _meanwhile(found: Diagnostics) -> str:
    """Say what becomes of calls while stock has its lock."""
    reading = found.status.get("reading") if found.status else None
    copy = f"a copy, made at {reading['of']}," if reading and reading["of"] else "a copy"
    broker = "the broker" if found.holder is not None else "a broker that is started"
    return (
        f"{broker} waits for it: no change can be made through palace, and queries are answered "
        f"from {copy} of the palace"
    )


def _unfenced(found: Diagnostics, owner: Process, path: str) -> Finding:
    """Say that a palace is owned, and that stock is not kept out by the lock that it looks at."""
    holdings = found.status.get("holdings", ()) if found.status else ()
    theirs = [one["path"] for one in holdings if one["name"] == FENCE]
    if theirs and theirs != [path]:
        return Finding(
            level=WARNING,
            code="other_home",
            text=f"The broker has another home than yours ({home_dir(found.environ)}): "
            f"{name(owner)} holds {theirs[0]}. Stock's tools that have your home look at {path}, "
            "which keeps them from nothing.",
            remedy="Use the same HOME for all, or let hosts start palace: palace install --list",
        )
    return Finding(
        level=ERROR,
        code="unfenced",
        text=f"The palace is owned, but mempalace's lock is not held: {path} was removed or "
        "replaced. A stock process may write beside the broker, past the journal.",
        remedy="End stock's processes, then let another broker adopt what they wrote: palace stop",
    )


def _holdings(found: Diagnostics) -> Iterator[Finding]:
    """Look at what the broker says of its locks and files (palace/broker/watch.py)."""
    for one in found.status.get("holdings", ()) if found.status else ():
        if one["problem"]:
            yield Finding(
                level=ERROR,
                code="not_held",
                text=f"The broker has lost {one['name']}, {one['path']}: {one['problem']}",
                remedy="It tries again by itself, and makes room for another broker where it "
                "must. Correct what is named here, or let another one begin: palace stop",
            )
        elif one["renewed"]:
            yield Finding(
                level=WARNING,
                code="renewed",
                text=f"{one['path']} was removed under the broker, {one['renewed']} times; it has "
                f"renewed {one['name']} each time.",
                remedy="Find out what removes files there (a cleaner of old files, `rm -rf "
                "~/.mempalace`), and end that.",
            )


def _outside(found: Diagnostics) -> Iterator[Finding]:
    """Look at the files beside the palace, which another palace may use, too."""
    for data_file in outside_files(found.paths, found.config) if found.config else ():
        holder = found.holder_of(f"{data_file}{ENDING}", alone=True)
        if holder is not None and not _is_owner(found, holder):
            note = found.kernel.read_hint(f"{data_file}{ENDING}", NOTE_BYTES_MAX) or b""
            yield Finding(
                level=ERROR,
                code="shared_file",
                text=f"{data_file} belongs to this palace and to another one: {name(holder)} "
                "has it for itself, and no broker can start here.",
                remedy=how_to_part(data_file, note.decode(errors="replace"), alone=False),
            )
        directory = os.path.dirname(data_file)
        if found.kernel.file_id(directory) is not None and not found.kernel.writable(directory):
            yield Finding(
                level=ERROR,
                code="closed_directory",
                text=f"{data_file} belongs to this palace (fixed when HOME was "
                f"another?), and {directory} is not writable here.",
                remedy=f"Make it writable (chmod u+w {directory}), or give the palace a graph of "
                f"its own: palace config set graph=knowledge_graph.sqlite3",
            )


def _strangers(found: Diagnostics) -> Iterator[Finding]:
    """Look for processes that have the store open, though they have no lock that we could see.

    mempalace's lock lies in its user's home, so that two homes exclude each other nowhere.
    """
    ours = os.getpid()
    lock = found.holder_of(mempalace_lock_path(found.paths, found.environ))
    known = {ours, *(process.pid for process in (found.holder, lock) if process)}
    for pid in found.kernel.openers(found.paths.store):
        process = found.kernel.process_of(pid) if pid not in known else None
        if process is None or any(reader in process.title for reader in READERS):
            continue
        ours_home = home_dir(found.environ)
        home = f" Its HOME is {process.home}, yours {ours_home}:"
        other = bool(process.home) and process.home != ours_home
        yield Finding(
            level=ERROR,
            code="other_home" if other else "open_elsewhere",
            text=f"Another process has this palace open beside its owner: {name(process)}."
            f"{home if other else ''} no lock keeps the two apart, and both may write.",
            remedy=f"End it: kill {pid}. Then give it the same HOME, or let its host start "
            "palace: palace install --list",
        )
