"""`palace install` and `palace uninstall`: our entry in the configuration of an MCP host.

A change is shown before it is written.  It is written in one step, and a note of it is kept, so
that uninstalling restores the exact bytes that were there before.
"""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs

from palace.kernel.output import say
from palace.mcp_hosts.commands import is_save_hook, mempalace_command, palace_command, starts_palace
from palace.mcp_hosts.files import (
    Configuration,
    read_configuration,
    remove_configuration,
    write_configuration,
)
from palace.mcp_hosts.jsontext import JsonEditor
from palace.mcp_hosts.notes import Note, Notes, digest
from palace.mcp_hosts.plan import (
    Editor,
    Filling,
    Installed,
    InTheWay,
    Slot,
    find,
    install,
    uninstall,
)
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import HOSTS, NAME, NAMES, McpHost
from palace.mcp_hosts.tomltext import TomlEditor
from palace.protocol.errors import ConfigError, HostEntry, HostFile, PalaceError, Unconfirmed

_OCCUPIED = "is there already. Replace it: --replace (`palace uninstall` restores it)"
_CHANGED = "has been edited since palace added it. Remove it anyway: --force"
_CONTEXT_LINES = 1  # of a diff: the lines around may contain tokens of other servers


@attrs.frozen(kw_only=True)
class Target:
    """One file of one host: its servers, or with `hooks` its hooks."""

    host: McpHost
    path: str
    hooks: bool
    project: bool
    environ: Mapping[str, str]

    @property
    def hint(self) -> str:
        """Return what else the user should know."""
        if self.hooks and self.host.hooks is not None:
            return self.host.hooks.note
        return self.host.project_note if self.project else self.host.note

    @property
    def editor(self) -> Editor:
        if self.host.toml and not self.hooks:
            return TomlEditor()
        return JsonEditor(lenient=self.host.lenient)

    def slots(self, values: Any) -> tuple[Slot, ...]:
        """Return the entries for a file with these values; raises ConfigError."""
        if self.hooks:
            return tuple(self._hook_slots())
        command = palace_command(self.environ, desktop=self.host.desktop)
        entry = self.host.entry([*command, "shim"])
        return (Slot(path=self.host.place(values), key=NAME, value=entry, ours=starts_palace),)

    def _hook_slots(self) -> list[Slot]:
        assert self.host.hooks is not None
        command = mempalace_command(self.environ)
        slots = []
        for event, hook, timeout_s in self.host.hooks.events:
            words = f"{command} hook run --hook {hook} --harness {self.host.name}"
            inner = {"type": "command", "command": words, "timeout": timeout_s}
            slot = Slot(
                path=("hooks", event),
                key=None,
                value={"hooks": [inner]},
                ours=lambda _: False,
                others=is_save_hook,
            )
            slots.append(slot)
        return slots


def find_target(
    name: str, environ: Mapping[str, str], *, project: str = "", hooks: bool = False
) -> Target:
    """Return the file that a host reads; raises ConfigError."""
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
    paths = [f"{base}/{name}" for name in names]
    path = next((path for path in paths if os.path.lexists(path)), paths[0])
    return Target(host=host, path=path, hooks=hooks, project=bool(project), environ=environ)


def install_host(target: Target, *, replace: bool, yes: bool) -> str:
    """Add our entry; return what to tell the user.  Raises HostFile, HostEntry, Unconfirmed."""
    notes = Notes(target.environ)
    before = read_configuration(target.path)
    note = notes.read(before.real)
    # A file has one note for all of our entries: those of an earlier install are removed first.
    kept = note if replace or target.hooks else None
    base = before.text
    with _located(target, _OCCUPIED):
        if kept is not None:
            base = _without(target, before, kept, force=True)
        slots = target.slots(target.editor.parse(base))
        text, done = install(target.editor, base, slots, replace=replace)
    if text == before.text:
        return _already(target, slots, before)
    data = before.encoded(text)
    _show(before, data)
    _confirm(yes=yes)
    made = write_configuration(before, data)
    note = Note(
        left=digest(data),
        installed=done,
        created=before.data is None or (kept is not None and kept.created),
        directories=(*(kept.directories if kept else ()), *made),
    )
    notes.write(before.real, note)
    rows = [f"Written: {before.path}", f"{target.host.title} reads it when it next starts."]
    return "\n".join(row for row in (*rows, target.hint) if row)


def uninstall_host(target: Target, *, force: bool, yes: bool) -> str:
    """Remove our entry; return what to tell the user.  Raises as `install_host` does."""
    notes = Notes(target.environ)
    before = read_configuration(target.path)
    if before.data is None:
        notes.forget(before.real)
        return f"{before.path} does not exist: nothing to remove."
    note = notes.read(before.real)
    with _located(target, _CHANGED):
        text = _without(target, before, note, force=force)
    created = note is not None and note.created and text.strip() in ("", "{}")
    if text == before.text and not created:
        notes.forget(before.real)
        return f"{before.path} has no entry of palace: nothing was changed."
    data = None if created else before.encoded(text)
    _show(before, data)
    _confirm(yes=yes)
    kept: list[str] = []
    if data is None:
        kept = remove_configuration(before, list(note.directories) if note else [])
    else:
        write_configuration(before, data)
    notes.forget(before.real, kept)
    return f"{'Removed' if data is None else 'Written'}: {before.path}"


def _without(target: Target, before: Configuration, note: Note | None, *, force: bool) -> str:
    """Return the text without our entries, and with those that they replaced."""
    editor = target.editor
    if note is not None:
        intact = note.left == digest(before.data or b"")
        return uninstall(editor, before.text, note.installed, intact=intact, force=force)
    fillings = []
    values = editor.parse(before.text)
    for slot in target.slots(values):
        for found in find(values, slot, slot.ours, lambda _: False)[:1]:
            if found.ours:
                value = found.value if force or target.hooks else slot.value
                fillings.append(
                    Filling(path=slot.path, key=slot.key, value=value, replaced=None, parents=())
                )
    found_only = Installed(splices=(), fillings=tuple(fillings))
    return uninstall(editor, before.text, found_only, intact=False, force=force)


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


def _already(target: Target, slots: tuple[Slot, ...], before: Configuration) -> str:
    values = target.editor.parse(before.text)
    current = [find(values, slot, slot.ours, slot.others)[0].value for slot in slots]
    if current == [slot.value for slot in slots]:
        return f"{before.path} has the entry already: nothing was changed."
    return (
        f"{before.path} has an entry that starts palace in another way: nothing was changed. "
        "Replace it: --replace"
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


def _confirm(*, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Unconfirmed("Nothing was written, since there is no terminal to ask. Write it: --yes")
    if input("Write this? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Unconfirmed("Nothing was written.")


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
        found = [find(values, s, s.ours, s.others) for s in target.slots(values)]
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
    if any(not slot or not slot[0].ours for slot in found):
        return "stock entry" if any(found) else "absent"
    return "installed"
