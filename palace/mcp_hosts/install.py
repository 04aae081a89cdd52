"""`palace install` and `palace uninstall`: our entry in the configuration of an MCP host.

A change is shown before it is written.  It is written in one step, and a note of it is kept, so
that uninstalling restores the exact bytes that were there before.
"""

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from palace.kernel.output import say
from palace.mcp_hosts.confirm import confirm
from palace.mcp_hosts.entries import Program, described, launch_of
from palace.mcp_hosts.files import (
    Configuration,
    missing_directories,
    read_configuration,
    remove_abandoned,
    remove_configuration,
    remove_empty,
    write_configuration,
)
from palace.mcp_hosts.notes import InstallNotes, Note, digest
from palace.mcp_hosts.plan import (
    Filling,
    Installed,
    InTheWay,
    combined,
    find,
    install,
    still_ours,
    uninstall,
)
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.survey import survey, working_directory
from palace.mcp_hosts.table import NAME
from palace.mcp_hosts.takeover import CannotKeep
from palace.mcp_hosts.target import Target
from palace.protocol.errors import HostEntry, HostFile

_OCCUPIED = (
    "is there already. Make it start palace, and keep everything else of it: --replace "
    "(`palace uninstall` restores it)"
)
_CHANGED = (
    "starts palace in another way than palace install wrote: whoever changed it keeps it. Remove "
    "it all the same, and put back what palace had replaced: --force"
)
_CONTEXT_LINES = 1  # of a diff: the lines around may contain tokens of other servers


def install_host(target: Target, *, replace: bool, yes: bool) -> str:
    """Add our entry; return what to tell the user.  Raises HostFile, HostEntry, Unconfirmed."""
    notes = InstallNotes(target.environ)
    before = read_configuration(target.path, beneath=target.project)
    with _located(target, _OCCUPIED):
        values = target.editor.parse(before.text)
        slots = target.slots(values)
        text, done = install(target.editor, before.text, slots, target.kind, replace=replace)
        note = _standing(target, notes.find(before), values, exactly=True)
    if text == before.text:
        return _already(target, before)
    data = before.encoded(text)
    _show(before, data)
    confirm(yes=yes)
    intact = note is not None and note.describes(before)
    earlier = note.installed if note is not None else Installed(splices=(), fillings=())
    after = Note(
        left=digest(data),
        installed=combined(earlier, done, intact=intact),
        created=before.data is None or (note is not None and note.created),
        directories=_directories_made(before, notes.find(before)),
    )
    _write_noted(notes, before, data, after)
    rows = [f"Written: {before.path}", f"{target.host.title} reads it when it next starts."]
    return "\n".join(row for row in (*rows, target.hint, *_reservations(target)) if row)


def _write_noted(notes: InstallNotes, before: Configuration, data: bytes, after: Note) -> None:
    """Write a file, and a note of it first: a death between the two must not lose what was there.

    A note of what was not written says nothing, since no entry of it stands.
    """
    former = notes.find(before)
    notes.keep(before, after)
    try:
        write_configuration(before, data)
    except (OSError, HostFile):
        if former is None:
            notes.drop(before)
        else:
            notes.keep(before, former)
        raise


def _directories_made(before: Configuration, note: Note | None) -> tuple[str, ...]:
    """Return what palace has made for a file by now: what a note says, and what is missing.

    Where there is no file, an installation that was cut off may have made them.
    """
    missing = missing_directories(before)
    earlier = note.directories if note is not None else ()
    return (*(one for one in earlier if one not in missing), *missing)


def _standing(
    target: Target, note: Note | None, values: object, *, exactly: bool = False
) -> Note | None:
    """Return what a note still says: nothing, where an entry was removed or exchanged since.

    `exactly`: also where it starts palace with other words since (by another path will do).
    Whoever wrote those will want them back, and not what was there before them.
    """
    if note is None:
        return None

    def stands(filling: Filling) -> bool:
        found = still_ours(values, filling, target.kind)
        if found is None or not exactly:
            return found is not None
        now, then = launch_of(found.value), launch_of(filling.value)  # of hooks: alike
        return (now.wrapper, now.arguments) == (then.wrapper, then.arguments)

    fillings = tuple(one for one in note.installed.fillings if stands(one))
    if not fillings:
        return None
    return attrs.evolve(note, installed=attrs.evolve(note.installed, fillings=fillings))


def uninstall_host(target: Target, *, force: bool, yes: bool) -> str:
    """Remove our entry; return what to tell the user.  Raises as `install_host` does."""
    notes = InstallNotes(target.environ)
    before = read_configuration(target.path, beneath=target.project)
    remove_abandoned(before)
    if before.data is None:
        note = notes.find(before)  # of what was cut off before the file was there, or after
        notes.drop(before, remove_empty(list(note.directories)) if note is not None else [])
        return f"{before.path} does not exist: nothing to remove."
    with _located(target, _CHANGED):
        note = _standing(target, notes.find(before), target.editor.parse(before.text))
        text = _without(target, before, note, force=force)
    created = note is not None and note.created and text.strip() in ("", "{}")
    if text == before.text and not created:
        notes.drop(before)
        return f"{before.path} has no entry of palace: nothing was changed."
    data = None if created else before.encoded(text)
    _show(before, data)
    confirm(yes=yes)
    kept: list[str] = []
    if data is None:
        kept = remove_configuration(before, list(note.directories) if note else [])
    else:
        write_configuration(before, data)
    notes.drop(before, kept)
    return f"{'Removed' if data is None else 'Written'}: {before.path}"


def _without(target: Target, before: Configuration, note: Note | None, *, force: bool) -> str:
    """Return the text without our entries, and with what they replaced."""
    if note is not None:
        intact = note.describes(before)
        done = note.installed
    else:
        intact = False
        done = Installed(splices=(), fillings=tuple(_unnoted(target, before, force=force)))
    return uninstall(target.editor, before.text, done, target.kind, intact=intact, force=force)


def _unnoted(target: Target, before: Configuration, *, force: bool) -> Iterator[Filling]:
    """Yield the entries that palace must have written, for want of a note."""
    values = target.editor.parse(before.text)
    for slot in target.slots(values):
        for found in find(values, slot, target.kind)[:1]:
            same = target.kind.identity(found.value) == target.kind.identity(slot.value)
            if same or (target.kind.is_ours(found.value) and not target.hooks):
                value = found.value if force else slot.value
                yield Filling(path=slot.path, key=slot.key, value=value)


@contextmanager
def _located(target: Target, remedy: str) -> Iterator[None]:
    """Add the file and a remedy to what went wrong."""
    try:
        yield
    except Unreadable as error:
        raise HostFile(
            f"{target.path}, line {error.line}: {error.reason}. Nothing was changed. Correct that "
            "line, or add the entry by hand: docs/hosts.md"
        ) from None
    except InTheWay as error:
        raise HostEntry(f"{target.path}: {error.name} {remedy}") from None
    except CannotKeep as error:
        raise HostEntry(
            f"{target.path}: {target.entry_name} can't be made to start palace: {error}. Nothing "
            "was changed. Change the entry by hand, or remove it first: "
            f"{target.removal}"
        ) from None


def _already(target: Target, before: Configuration) -> str:
    values = target.editor.parse(before.text)
    rows = []
    for slot in target.slots(values):
        entry = find(values, slot, target.kind)[0].value
        through = launch_of(entry).through
        way = f"through {through}" if through else f"as `{described(entry)}`"
        try:
            differs = bool(target.kind.edits(entry, slot.value))
        except CannotKeep:  # it works as it is, and would not survive a change
            rows.append(f"{before.path} starts palace {way}: nothing was changed.")
            continue
        if differs and not target.hooks:
            rows.append(
                f"{before.path} has an entry that starts palace {way}: nothing was changed. Write "
                "it as palace would: --replace"
            )
    rows = rows or [f"{before.path} has the entry already: nothing was changed."]
    return "\n".join([*rows, *_reservations(target)])


def _reservations(target: Target) -> Iterator[str]:
    """Yield why the host won't start the entry although it is there, and what else it starts."""
    if target.hooks:
        return
    title = target.host.title
    found = survey(target.host, target.environ, target.project or working_directory())
    for entry in found.entries:
        own = entry.name == NAME and entry.source.path == target.path
        if own and entry.source.project in ("", target.project) and entry.switched_off:
            by = f"by {entry.off_by}" if entry.off_by else "as its user left it"
            yield f"The entry is switched off, {by}: {title} does not start it."
        elif own and entry.off_here:
            yield f"{title} does not start it here: {entry.off_by} switches it off."
        elif own and entry.hidden_by and entry.launch.program is Program.PALACE:
            yield f"{title} does not start it here: {entry.hider} takes its place."
    for entry in found.stocks:
        scope = f" {entry.source.scope}" if entry.source.scope else ""
        yield (
            f"{title} starts stock{scope}, too: {entry.name} in {entry.source.path}. {entry.remedy}"
        )


def _show(before: Configuration, data: bytes | None) -> None:
    """Print the change as a unified diff."""
    rows = difflib.unified_diff(
        before.text.splitlines(keepends=True),
        (data or b"").decode().removeprefix(before.bom or "\0").splitlines(keepends=True),
        before.path if before.data is not None else os.devnull,
        before.path if data is not None else os.devnull,
        n=_CONTEXT_LINES,
    )
    for row in rows:
        end = "" if row.endswith("\n") else "\n\\ No newline at end of file\n"
        say(row, end=end)
    sys.stdout.flush()
