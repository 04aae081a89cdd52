"""Installing and uninstalling leave every byte as it was, in files of any kind."""

import copy
import re
from typing import Any

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from palace.mcp_hosts.jsontext import JsonEditor
from palace.mcp_hosts.kinds import SaveHooks, Servers
from palace.mcp_hosts.plan import (
    Editor,
    Filling,
    Installed,
    InTheWay,
    Kind,
    Slot,
    combined,
    install,
    uninstall,
)
from palace.mcp_hosts.splices import Unreadable, apply
from palace.mcp_hosts.table import HOSTS
from palace.mcp_hosts.takeover import CannotKeep
from palace.mcp_hosts.tomltext import TomlEditor
from palace.mcp_hosts.values import ABSENT, value_at
from palace.mcp_hosts.yamltext import YamlEditor
from tests.mcp_hosts.documents import comments_of, json_documents, toml_documents, yaml_documents

ENTRY = {"command": "palace", "args": ["shim"]}
ELSEWHERE = {"command": "/opt/old/palace", "args": ["shim"]}
HOOK = {"hooks": [{"type": "command", "command": "mempalace hook run --hook stop", "timeout": 30}]}


def server_slot(*path: str) -> Slot:
    return Slot(path=path, key="mempalace", value=ENTRY)


def hook_slots() -> tuple[Slot, ...]:
    return tuple(
        Slot(path=("hooks", event), key=None, value=HOOK) for event in ("Stop", "PreCompact")
    )


json5 = JsonEditor(lenient=True, json5=True)
strict, lenient = JsonEditor(lenient=False), JsonEditor(lenient=True)


def unquoted(text: str) -> str:
    """Write names without quotes and plain texts in single ones, as JSON5 allows.

    A quote within a text is not where another one begins: there it has a backslash in front.
    """
    text = re.sub(r'(?<!\\)"([a-g_]+)"(?=\s*:)', r"\1", text)
    return re.sub(r'(?<!\\)"([a-z-]+)"(?=\s*[,\]}])', r"'\1'", text)


def documents(*, stock: bool = False) -> st.SearchStrategy[Any]:
    """Cases of every format; with `stock` something of stock's is in the way of the servers."""
    servers = ("mcp", "servers")
    kinds: list[st.SearchStrategy[Any]] = [
        json_documents(("mcpServers",), lenient=False, stock=stock).map(
            lambda text: (strict, text, (server_slot("mcpServers"),))
        ),
        json_documents(servers, lenient=True, stock=stock).map(
            lambda text: (lenient, text, (server_slot(*servers),))
        ),
        yaml_documents(stock=stock).map(
            lambda text: (YamlEditor(), text, (server_slot("mcp_servers"),))
        ),
        json_documents(servers, lenient=True, stock=stock).map(
            lambda text: (
                JsonEditor(lenient=True, json5=True),
                unquoted(text),
                (server_slot(*servers),),
            )
        ),
        toml_documents(stock=stock).map(
            lambda text: (TomlEditor(), text, (server_slot("mcp_servers"),))
        ),
    ]
    if not stock:
        kinds.append(
            json_documents(("hooks",), lenient=True).map(lambda text: (lenient, text, hook_slots()))
        )
    return st.one_of(kinds)


cases = documents()
Case = tuple[Editor, str, tuple[Slot, ...]]


def filled(values: Any, slots: tuple[Slot, ...]) -> Any:
    """Return what a configuration must mean once it is installed."""
    values = copy.deepcopy(values)
    for slot in slots:
        inner = values
        for depth, name in enumerate(slot.path):
            last = depth == len(slot.path) - 1
            inner = inner.setdefault(name, [] if last and slot.key is None else {})
        if slot.key is None:
            inner.append(slot.value)
        elif slot.key in inner:
            inner[slot.key] |= taken_over(inner[slot.key])
        else:
            inner[slot.key] = slot.value
    return values


def taken_over(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what an entry of tests/mcp_hosts/documents.py must say of its command."""
    if isinstance(entry["command"], list):
        return {"command": ["palace", "shim", "--palace", "/p"]}
    words = [entry["command"], *entry.get("args", [])]
    named = ["--palace", "/p"] if {"/p", "--palace=/p"} & set(words) else []
    kept = ["env", "A=b"] if words[0] == "env" else []
    first, *rest = *kept, "palace", "shim", *named
    return {"command": first, "args": rest}


def kind_of(slots: tuple[Slot, ...]) -> Kind:
    return Servers() if slots[0].key else SaveHooks()


def put_in(case: Case) -> tuple[str, Installed]:
    """Install; documents whose entry says what ours can't are of no interest here."""
    editor, text, slots = case
    try:
        return install(editor, text, slots, kind_of(slots), replace=True)
    except CannotKeep:
        assume(False)
        raise


def taken_out(case: Case, changed: str, installed: Installed, *, intact: bool = False) -> str:
    editor, _, slots = case
    return uninstall(editor, changed, installed, kind_of(slots), intact=intact, force=False)


@given(cases)
def test_an_entry_is_added_and_nothing_else_changes(case: Case) -> None:
    editor, text, slots = case

    changed, installed = put_in(case)

    assert repr(_ordered(editor.parse(changed))) == repr(
        _ordered(filled(editor.parse(text), slots))
    )
    toml = isinstance(editor, TomlEditor | YamlEditor)
    assert comments_of(changed, toml=toml) == comments_of(without_arguments(case), toml=toml)
    for path, raw in others_of(case, text).items():
        assert others_of(case, changed)[path] == raw
    assert changed.count("\r\n") == (changed.count("\n") if "\r\n" in text else 0)
    for replace in (True, False):
        again, nothing = install(editor, changed, slots, kind_of(slots), replace=replace)
        assert again == changed
        assert combined(installed, nothing, intact=True) == installed


def without_arguments(case: Case) -> str:
    """Return a text without the list of our entry's arguments, which is written again whole."""
    editor, text, slots = case
    for slot in slots if not isinstance(editor, YamlEditor) else ():
        place = (*slot.path, str(slot.key))
        for name in ("args", "command"):
            if isinstance(value_at(editor.parse(text), (*place, name)), list):
                text = apply(text, editor.put_back(text, place, name, "[]"))
    return text


def others_of(case: Case, text: str) -> dict[str, str]:
    """Return the text of each entry beside ours, as far as it is in one place."""
    editor, _, slots = case
    found = {}
    for slot in slots:
        around = value_at(editor.parse(text), slot.path)
        for name in around if isinstance(around, dict) else ():
            if name != slot.key:
                raw = editor.raw(text, slot.path, name)
                found[name] = raw.rstrip("\r\n")  # what follows a last line needs its end
    return found


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


@given(cases)
def test_what_was_put_in_is_taken_out_to_the_byte(case: Case) -> None:
    changed, installed = put_in(case)

    assert taken_out(case, changed, installed, intact=True) == case[1]


@given(cases)
def test_what_was_put_in_twice_is_taken_out_to_the_byte(case: Case) -> None:
    """An entry that was written for another place of palace's is written again for this one."""
    editor, text, slots = case
    assume(slots[0].key)
    slots = tuple(attrs.evolve(slot, value=ELSEWHERE) for slot in slots)
    first, earlier = put_in((editor, text, slots))
    second, later = put_in((editor, first, case[2]))
    both = combined(earlier, later, intact=True)

    assert repr(_ordered(editor.parse(second))) == repr(
        _ordered(filled(editor.parse(text), case[2]))
    )
    assert taken_out(case, second, both, intact=True) == text
    unordered = combined(earlier, later, intact=False)
    found = taken_out(case, second, unordered)
    assert repr(_pruned(editor.parse(found), slots)) == repr(_pruned(editor.parse(text), slots))


@given(cases)
def test_what_was_added_to_an_entry_since_goes_with_it_or_stays_with_its_users(case: Case) -> None:
    editor, text, slots = case
    assume(slots[0].key)
    changed, installed = put_in(case)
    (slot,) = slots
    place = (*slot.path, "mempalace")
    mine = value_at(editor.parse(text), place) is ABSENT
    assume(value_at(editor.parse(changed), (*place, "zz_timeout")) is ABSENT)
    enriched = apply(changed, editor.insert(changed, place, "zz_timeout", 600))

    found = editor.parse(taken_out(case, enriched, installed))

    expected = editor.parse(text)
    if not mine:
        value_at(expected, place)["zz_timeout"] = 600
    assert repr(_pruned(found, slots)) == repr(_pruned(expected, slots))


@given(cases)
def test_another_entry_in_its_place_is_not_touched(case: Case) -> None:
    editor, _, slots = case
    assume(slots[0].key)
    changed, installed = put_in(case)
    (slot,) = slots
    stock = {"command": "mempalace-mcp", "args": ["--palace", "/theirs"]}
    try:
        theirs = apply(changed, editor.replace(changed, slot.path, "mempalace", stock))
    except Unreadable:
        assume(False)
        raise

    assert taken_out(case, theirs, installed) == theirs


@given(cases)
def test_a_file_that_changed_around_it_comes_back_with_those_changes(case: Case) -> None:
    editor, text, _ = case
    changed, installed = put_in(case)
    toml = isinstance(editor, TomlEditor | YamlEditor)
    newline = "\r\n" if "\r\n" in text else "\n"
    before = f"zz = 0{newline}" if toml else newline
    after = f"{newline}[zzz]{newline}" if toml else newline
    if isinstance(editor, YamlEditor):
        assume(not text.startswith("{"))
        before, after = f"zz: 0{newline}", f"{newline}zzz: 0{newline}"

    assert taken_out(case, before + changed + after, installed) == before + text + after


@given(cases)
def test_without_a_note_the_entry_is_taken_out_and_no_more(case: Case) -> None:
    editor, text, slots = case
    assume(text.strip())
    with_entry, _ = put_in(case)
    kept = tuple(
        Filling(path=slot.path, key=slot.key, value=slot.value, replaced=None, parents=())
        for slot in slots
    )
    unknown = Installed(splices=(), fillings=kept)

    found = uninstall(editor, with_entry, unknown, kind_of(slots), intact=False, force=True)

    before = editor.parse(text)
    for slot in slots:  # what the entry replaced is not known any more
        inner = _inner(before, slot.path)
        if isinstance(inner, dict):
            inner.pop(slot.key, None)
    assert repr(_pruned(editor.parse(found), slots)) == repr(_pruned(before, slots))


def _inner(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _pruned(values: Any, slots: tuple[Slot, ...]) -> Any:
    """Leave out the empty parents of an entry, which may have been there before or not."""
    for slot in slots:
        for depth in range(len(slot.path), 0, -1):
            outer = _inner(values, slot.path[: depth - 1])
            if isinstance(outer, dict) and outer.get(slot.path[depth - 1]) in ({}, []):
                del outer[slot.path[depth - 1]]
    return _ordered(values)


@given(documents(stock=True))
def test_another_entry_is_replaced_only_when_asked(case: Case) -> None:
    editor, text, slots = case

    with pytest.raises(InTheWay):
        install(editor, text, slots, kind_of(slots), replace=False)


@given(cases, st.data())
def test_what_is_cut_off_is_refused_or_still_whole(case: Case, data: st.DataObject) -> None:
    editor, text, slots = case
    torn = text[: data.draw(st.integers(0, len(text)))]
    try:
        changed, installed = install(editor, torn, slots, kind_of(slots), replace=True)
    except (Unreadable, InTheWay, CannotKeep):
        return
    editor.parse(torn)  # what was changed could be read before
    assert taken_out(case, changed, installed) == torn


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
@pytest.mark.parametrize("text", ["", "\n", "{}", "{}\n", "{ }", "{\n}\n", '{"a":1}', '{"a":1}\n'])
def test_small_files_keep_their_bytes(host: Any, text: str) -> None:
    editor = TomlEditor() if host.toml else JsonEditor(lenient=host.lenient)
    if host.toml:
        text = text.replace("{", "").replace("}", "").replace('"a":', "a = ")
    slots = (server_slot(*host.path),)

    changed, installed = install(editor, text, slots, Servers(), replace=False)

    assert taken_out((editor, text, slots), changed, installed) == text
