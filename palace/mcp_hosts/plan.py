"""What installing and uninstalling do to a configuration: text in, text out, nothing written.

Each change is checked before it is shown: the changed text must mean what the old one meant, except
for our entry.  A text that can't be changed that way is refused, with the line.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from palace.mcp_hosts.splices import Splice, Unreadable, apply, undo, undo_elsewhere

Path = tuple[str, ...]


class Editor(Protocol):
    """What JsonEditor and TomlEditor have in common."""

    def parse(self, text: str) -> Any: ...
    def insert(self, text: str, path: Path, key: str | None, value: Any) -> list[Splice]: ...
    def replace(self, text: str, path: Path, key: str | int, value: Any) -> list[Splice]: ...
    def put_back(self, text: str, path: Path, key: str | int, raw: str) -> list[Splice]: ...
    def raw(self, text: str, path: Path, key: str | int) -> str: ...
    def remove(self, text: str, path: Path, key: str | int) -> list[Splice]: ...


@attrs.frozen(kw_only=True)
class Slot:
    """A place for one entry: a member `key` of the object at `path`, or an element of the array.

    `ours` recognises an entry of ours, `others` an entry of another program for the same purpose.
    """

    path: Path
    key: str | None
    value: Any
    ours: Callable[[Any], bool] = attrs.field(eq=False)
    others: Callable[[Any], bool] = attrs.field(eq=False, default=lambda _: True)


@attrs.frozen(kw_only=True)
class Found:
    """What is in a slot now; `key` finds it again."""

    key: str | int
    value: Any
    ours: bool


@attrs.frozen(kw_only=True)
class Filling:
    """One entry as it was added: the text that it replaced, and the parents created for it.

    `parents` are paths of objects or arrays, the outermost first.
    """

    path: Path
    key: str | None
    value: Any
    replaced: str | None
    parents: tuple[Path, ...]


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


def find(
    values: Any,
    slot: Slot | Filling,
    ours: Callable[[Any], bool],
    others: Callable[[Any], bool],
) -> list[Found]:
    """Return what is in a slot: at most one member, or all elements of the same purpose."""
    inner = _at(values, slot.path)
    if slot.key is not None:
        if not isinstance(inner, dict) or slot.key not in inner:
            return []
        value = inner[slot.key]
        return [Found(key=slot.key, value=value, ours=_same(value, slot.value) or ours(value))]
    elements = inner if isinstance(inner, list) else []
    found = [
        Found(key=index, value=value, ours=_same(value, slot.value) or ours(value))
        for index, value in enumerate(elements)
        if _same(value, slot.value) or ours(value) or others(value)
    ]
    return sorted(found, key=lambda one: not one.ours)


def install(
    editor: Editor, text: str, slots: tuple[Slot, ...], *, replace: bool
) -> tuple[str, Installed]:
    """Return the text with the entries; raises Unreadable, InTheWay (unless `replace`)."""
    splices: list[Splice] = []
    fillings: list[Filling] = []
    for slot in slots:
        values = editor.parse(text)
        found = find(values, slot, slot.ours, slot.others)
        if found and _same(found[0].value, slot.value):
            continue
        if found and found[0].ours and not replace:
            continue
        if found and (not replace or len(found) > 1):
            raise InTheWay(slot)
        expected = copy.deepcopy(values)
        raw = None
        if found:
            key = found[0].key
            raw = editor.raw(text, slot.path, key)
            change = editor.replace(text, slot.path, key, slot.value)
            _at(expected, slot.path)[key] = slot.value
        else:
            change = editor.insert(text, slot.path, slot.key, slot.value)
            _add(expected, slot)
        parents = () if found else _missing(values, slot.path)
        text = _checked(editor, text, change, expected)
        splices += change
        filling = Filling(
            path=slot.path, key=slot.key, value=slot.value, replaced=raw, parents=parents
        )
        fillings.append(filling)
    return text, Installed(splices=tuple(splices), fillings=tuple(fillings))


def uninstall(editor: Editor, text: str, installed: Installed, *, intact: bool, force: bool) -> str:
    """Return the text without the entries; `intact` says that it is exactly what install left.

    Raises Unreadable, and InTheWay if an entry has been edited since, unless `force`.
    """
    if intact:
        return undo(text, installed.splices)
    values = editor.parse(text)
    for filling in installed.fillings:
        found = _filled(values, filling)
        if found is not None and not _same(found.value, filling.value) and not force:
            raise InTheWay(filling)
    before = _taken_back(editor, text, installed)
    return _taken_out(editor, text, installed) if before is None else before


def _taken_back(editor: Editor, text: str, installed: Installed) -> str | None:
    """Undo the splices themselves; None if they aren't found or the result has another meaning."""
    before = undo_elsewhere(text, installed.splices)
    if before is None:
        return None
    values = editor.parse(text)
    try:
        after = editor.parse(before)
    except Unreadable:
        return None
    for filling in reversed(installed.fillings):
        found = _filled(values, filling)
        if found is None:
            return None
        inner = _at(values, filling.path)
        if filling.replaced is None:
            del inner[found.key]
        else:
            old = _at(after, filling.path)
            if not isinstance(old, (dict, list)) or len(old) != len(inner):
                return None
            inner[found.key] = old[found.key]  # type: ignore[index]
        _drop_empty(values, filling.parents)
    return before if _same(after, values) else None


def _taken_out(editor: Editor, text: str, installed: Installed) -> str:
    """Remove the entries one by one, wherever they are now."""
    for filling in reversed(installed.fillings):
        values = editor.parse(text)
        found = _filled(values, filling)
        if found is None:
            continue
        if filling.replaced is not None:
            text = apply(text, editor.put_back(text, filling.path, found.key, filling.replaced))
            editor.parse(text)
            continue
        expected = copy.deepcopy(values)
        del _at(expected, filling.path)[found.key]
        change = editor.remove(text, filling.path, found.key)
        text = _checked(editor, text, change, expected, empty=filling.path)
        for parent in reversed(filling.parents):
            if _at(editor.parse(text), parent) in ({}, []):
                text = apply(text, editor.remove(text, parent[:-1], parent[-1]))
    return text


def _filled(values: Any, filling: Filling) -> Found | None:
    """Return our entry, if it is still there; an element counts only while it is unchanged."""
    found = find(values, filling, lambda _: False, lambda _: False)
    return found[0] if found else None


def _checked(
    editor: Editor, text: str, change: list[Splice], expected: Any, *, empty: Path = ()
) -> str:
    after = apply(text, change)
    got = editor.parse(after)
    if empty and _at(expected, empty) == {}:  # in TOML an empty table may vanish with its member
        _drop_empty(expected, (empty,))
        _drop_empty(got, (empty,))
    if not _same(got, expected):
        at = change[-1].at if change else 0
        raise Unreadable(text, at, "written in a way that a program can't edit")
    return after


def _at(values: Any, path: Path) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _missing(values: Any, path: Path) -> tuple[Path, ...]:
    ways = (path[: depth + 1] for depth in range(len(path)))
    return tuple(way for way in ways if _at(values, way) is None)


def _add(values: Any, slot: Slot) -> None:
    for depth, name in enumerate(slot.path):
        last = depth == len(slot.path) - 1
        values = values.setdefault(name, [] if last and slot.key is None else {})
    if slot.key is None:
        values.append(slot.value)
    else:
        values[slot.key] = slot.value


def _drop_empty(values: Any, parents: tuple[Path, ...]) -> None:
    for parent in reversed(parents):
        outer = _at(values, parent[:-1])
        if isinstance(outer, dict) and outer.get(parent[-1]) in ({}, []):
            del outer[parent[-1]]


def _same(one: Any, other: Any) -> bool:
    """Compare the values of configurations, where not-a-number equals itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)
