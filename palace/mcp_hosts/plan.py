"""What installing and uninstalling do to a configuration: text in, text out, nothing written.

Each change is checked before it is shown: the changed text must mean what the old one meant, except
for our entry.  A text that can't be changed that way is refused, with the line.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import attrs

from palace.mcp_hosts.splices import Splice, Unreadable, apply, undo, undo_elsewhere
from palace.mcp_hosts.takeover import Edit
from palace.mcp_hosts.values import (
    ABSENT,
    Path,
    Place,
    drop_empty,
    remove_at,
    same,
    set_at,
    value_at,
)


class Editor(Protocol):
    """What JsonEditor and TomlEditor have in common; a path may lead through array elements."""

    def parse(self, text: str) -> Any: ...
    def insert(self, text: str, path: Place, key: str | None, value: Any) -> list[Splice]: ...
    def replace(self, text: str, path: Place, key: str | int, value: Any) -> list[Splice]: ...
    def put_back(self, text: str, path: Place, key: str | int, raw: str) -> list[Splice]: ...
    def raw(self, text: str, path: Place, key: str | int) -> str: ...
    def remove(self, text: str, path: Place, key: str | int) -> list[Splice]: ...


class Kind(Protocol):
    """What one kind of entries means: servers, or save hooks."""

    def is_ours(self, entry: Any) -> bool:
        """Tell whether an entry does what ours does, however it is written."""

    def is_rival(self, entry: Any) -> bool:
        """Tell whether an entry stands where ours belongs, or serves the same purpose."""

    def identity(self, entry: Any) -> Any:
        """Return the part of an entry that makes it ours; the rest is its user's."""

    def edits(self, entry: Any, wanted: Any) -> list[Edit]:
        """Return what to change in an entry of whatever kind; raises CannotKeep."""

    def own_part(self, entry: Any) -> Place:
        """Return where in an entry the part is that goes when ours goes, () for all of it."""


@attrs.frozen(kw_only=True)
class Slot:
    """A place for one entry: a member `key` of the object at `path`, or an element of the array."""

    path: Path
    key: str | None
    value: Any


@attrs.frozen(kw_only=True)
class Found:
    """What is in a slot now; `key` finds it again."""

    key: str | int
    value: Any


@attrs.frozen(kw_only=True)
class Changed:
    """One value that was changed within an entry of its user's, and the text that it had."""

    place: Place
    before: str | None  # None if it was added


@attrs.frozen(kw_only=True)
class Filling:
    """One entry as it was left: added, or changed within (`changed`), or put in place of a text.

    `parents` are paths of objects or arrays that were created for it, the outermost first.
    """

    path: Path
    key: str | None
    value: Any
    replaced: str | None = None
    parents: tuple[Path, ...] = ()
    changed: tuple[Changed, ...] = ()

    @property
    def added(self) -> bool:
        return self.replaced is None and not self.changed


@attrs.frozen(kw_only=True)
class Installed:
    """What was done to a text: enough to undo it, even if the text has changed since."""

    splices: tuple[Splice, ...]
    fillings: tuple[Filling, ...]


class InTheWay(Exception):
    """Another entry is where ours belongs, or ours has been edited."""

    def __init__(self, slot: Slot | Filling) -> None:
        self.name = ".".join((*slot.path, *([slot.key] if slot.key else [])))
        super().__init__(self.name)


def find(values: Any, slot: Slot | Filling, kind: Kind) -> list[Found]:
    """Return what is in a slot, the most like ours first.

    That is at most one member, or all elements of an array that are ours or rivals.
    """
    inner = value_at(values, slot.path)
    if slot.key is not None:
        is_there = isinstance(inner, dict) and slot.key in inner
        return [Found(key=slot.key, value=inner[slot.key])] if is_there else []
    found = [
        Found(key=index, value=value)
        for index, value in enumerate(inner if isinstance(inner, list) else [])
        if same(value, slot.value) or kind.is_ours(value) or kind.is_rival(value)
    ]

    def likeness(one: Found) -> int:
        if same(one.value, slot.value):
            return 0
        if same(kind.identity(one.value), kind.identity(slot.value)):
            return 1
        return 2 if kind.is_ours(one.value) else 3

    return sorted(found, key=likeness)


def still_ours(values: Any, filling: Filling, kind: Kind) -> Found | None:
    """Return what a filling left behind, None if its slot is empty or holds something else."""
    for found in find(values, filling, kind):
        unchanged = same(kind.identity(found.value), kind.identity(filling.value))
        if unchanged or (filling.key is not None and kind.is_ours(found.value)):
            return found
    return None


def install(
    editor: Editor, text: str, slots: tuple[Slot, ...], kind: Kind, *, replace: bool
) -> tuple[str, Installed]:
    """Return the text with the entries.

    An entry of ours stays as it is, unless `replace` says to write it as it would be written now.
    Raises Unreadable, InTheWay (another's entry, and not `replace`), CannotKeep.
    """
    splices: list[Splice] = []
    fillings: list[Filling] = []
    for slot in slots:
        values = editor.parse(text)
        found = find(values, slot, kind)
        if found and kind.is_ours(found[0].value) and not replace:
            continue
        if found and (not replace or (len(found) > 1 and not kind.is_ours(found[0].value))):
            raise InTheWay(slot)
        if not found:
            parents = _missing(values, slot.path)
            change = editor.insert(text, slot.path, slot.key, slot.value)
            text = _checked(editor, text, change, _with_added(values, slot))
            splices += change
            fillings.append(
                Filling(path=slot.path, key=slot.key, value=slot.value, parents=parents)
            )
            continue
        text, changes, changed = _edited(
            editor, text, (*slot.path, found[0].key), kind.edits(found[0].value, slot.value)
        )
        if changed:
            value = value_at(editor.parse(text), (*slot.path, found[0].key))
            splices += changes
            fillings.append(
                Filling(path=slot.path, key=slot.key, value=value, changed=tuple(changed))
            )
    return text, Installed(splices=tuple(splices), fillings=tuple(fillings))


def _edited(
    editor: Editor, text: str, entry: Place, edits: Sequence[Edit]
) -> tuple[str, list[Splice], list[Changed]]:
    """Change values within an entry; return the text, the splices and what was there before."""
    splices: list[Splice] = []
    changed: list[Changed] = []
    for edit in edits:
        *outer, name = *entry, *edit.place
        values = editor.parse(text)
        before = None
        if value_at(values, (*outer, name)) is ABSENT:
            assert isinstance(name, str)
            change = editor.insert(text, tuple(outer), name, edit.value)
        else:
            before = editor.raw(text, tuple(outer), name)
            change = editor.replace(text, tuple(outer), name, edit.value)
        expected = copy.deepcopy(values)
        set_at(expected, (*outer, name), edit.value)
        text = _checked(editor, text, change, expected)
        splices += change
        changed.append(Changed(place=edit.place, before=before))
    return text, splices, changed


def combined(old: Installed, new: Installed, *, intact: bool) -> Installed:
    """Return what was done by two installs one after the other.

    `old` has only fillings that still stand.  Unless the file was `intact` between the two, the
    splices of both don't fit together, and only the fillings count.
    """
    if not old.fillings:
        return new
    fillings = {(filling.path, filling.key): filling for filling in old.fillings}
    for filling in new.fillings:
        before = fillings.get((filling.path, filling.key))
        if before is not None:
            known = {one.place for one in before.changed}
            more = tuple(one for one in filling.changed if one.place not in known)
            whole = before.added or before.replaced is not None
            changed = () if whole else (*before.changed, *more)
            filling = attrs.evolve(before, value=filling.value, changed=changed)  # noqa: PLW2901
        fillings[filling.path, filling.key] = filling
    splices = (*old.splices, *new.splices) if intact else ()
    return Installed(splices=splices, fillings=tuple(fillings.values()))


def uninstall(
    editor: Editor, text: str, installed: Installed, kind: Kind, *, intact: bool, force: bool
) -> str:
    """Return the text without the entries; `intact` says that it is exactly what install left.

    A slot that holds something else by now is not touched.  Raises Unreadable, and InTheWay if what
    makes an entry ours has been edited since, unless `force`.
    """
    if intact and installed.splices:
        return undo(text, installed.splices)
    values = editor.parse(text)
    standing = []
    for filling in installed.fillings:
        found = still_ours(values, filling, kind)
        if found is None:
            continue
        if not same(kind.identity(found.value), kind.identity(filling.value)) and not force:
            raise InTheWay(filling)
        standing.append(filling)
    before = None
    if len(standing) == len(installed.fillings):
        before = _taken_back(editor, text, installed, kind)
    return _taken_out(editor, text, standing, kind) if before is None else before


def _taken_back(editor: Editor, text: str, installed: Installed, kind: Kind) -> str | None:
    """Undo the splices themselves; None if they aren't found or the result has another meaning."""
    before = undo_elsewhere(text, installed.splices) if installed.splices else None
    if before is None:
        return None
    values = editor.parse(text)
    try:
        after = editor.parse(before)
    except Unreadable:
        return None
    for filling in reversed(installed.fillings):
        found = still_ours(values, filling, kind)
        if found is None or kind.own_part(found.value):
            return None
        entry = (*filling.path, found.key)
        old = value_at(after, entry)
        if filling.added:
            remove_at(values, entry)
        elif old is ABSENT:
            return None
        elif filling.replaced is not None:
            set_at(values, entry, old)
        for one in filling.changed:
            place = (*entry, *one.place)
            if one.before is None:
                remove_at(values, place)
            elif value_at(after, place) is ABSENT or one.before != editor.raw(
                before, place[:-1], place[-1]
            ):
                return None
            else:
                set_at(values, place, value_at(after, place))
        drop_empty(values, filling.parents)
    return before if same(after, values) else None


def _taken_out(editor: Editor, text: str, fillings: Sequence[Filling], kind: Kind) -> str:
    """Remove the entries one by one, wherever they are now."""
    for filling in reversed(fillings):
        found = still_ours(editor.parse(text), filling, kind)
        assert found is not None
        entry: Place = (*filling.path, found.key)
        if filling.replaced is not None:
            text = apply(text, editor.put_back(text, filling.path, found.key, filling.replaced))
            editor.parse(text)
        elif filling.changed:
            text = _restored(editor, text, entry, filling.changed)
        else:
            text = _without(editor, text, (*entry, *kind.own_part(found.value)))
            for parent in reversed(filling.parents):
                if value_at(editor.parse(text), parent) in ({}, []):
                    text = apply(text, editor.remove(text, parent[:-1], parent[-1]))
    return text


def _restored(editor: Editor, text: str, entry: Place, changed: Sequence[Changed]) -> str:
    """Give an entry of its user's the values back that it had; the others stay as they are now."""
    for one in reversed(changed):
        place = (*entry, *one.place)
        if value_at(editor.parse(text), place) is ABSENT:
            continue
        if one.before is None:
            text = _without(editor, text, place)
        else:
            text = apply(text, editor.put_back(text, place[:-1], place[-1], one.before))
            editor.parse(text)
    return text


def _without(editor: Editor, text: str, place: Place) -> str:
    expected = copy.deepcopy(editor.parse(text))
    remove_at(expected, place)
    return _checked(
        editor, text, editor.remove(text, place[:-1], place[-1]), expected, empty=place[:-1]
    )


def _checked(
    editor: Editor, text: str, change: list[Splice], expected: Any, *, empty: Place = ()
) -> str:
    after = apply(text, change)
    got = editor.parse(after)
    if empty and value_at(expected, empty) == {}:  # in TOML it may vanish with its only member
        drop_empty(expected, (empty,))
        drop_empty(got, (empty,))
    if not same(got, expected):
        at = change[-1].at if change else 0
        raise Unreadable(text, at, "written in a way that a program can't edit")
    return after


def _missing(values: Any, path: Path) -> tuple[Path, ...]:
    ways = (path[: depth + 1] for depth in range(len(path)))
    return tuple(way for way in ways if value_at(values, way) in (ABSENT, None))


def _with_added(values: Any, slot: Slot) -> Any:
    values = inner = copy.deepcopy(values)
    for depth, name in enumerate(slot.path):
        last = depth == len(slot.path) - 1
        inner = inner.setdefault(name, [] if last and slot.key is None else {})
    if slot.key is None:
        inner.append(slot.value)
    else:
        inner[slot.key] = slot.value
    return values
