"""Installing and uninstalling leave every byte as it was, in files of any kind."""

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from palace.mcp_hosts.commands import is_save_hook, starts_palace
from palace.mcp_hosts.jsontext import JsonEditor
from palace.mcp_hosts.plan import Editor, Filling, Installed, InTheWay, Slot, install, uninstall
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import HOSTS
from palace.mcp_hosts.tomltext import TomlEditor
from tests.mcp_hosts.documents import comments_of, json_documents, toml_documents

ENTRY = {"command": "palace", "args": ["shim"]}
HOOK = {"hooks": [{"type": "command", "command": "mempalace hook run", "timeout": 30}]}


def server_slot(*path: str) -> Slot:
    return Slot(path=path, key="mempalace", value=ENTRY, ours=starts_palace)


def hook_slots() -> tuple[Slot, ...]:
    return tuple(
        Slot(
            path=("hooks", event),
            key=None,
            value=HOOK,
            ours=lambda _: False,
            others=is_save_hook,
        )
        for event in ("Stop", "PreCompact")
    )


strict, lenient = JsonEditor(lenient=False), JsonEditor(lenient=True)


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
        else:
            inner[slot.key] = slot.value
    return values


def put_in(case: Case) -> tuple[str, Installed]:
    """Install; documents that hold something else in that place are of no interest here."""
    editor, text, slots = case
    try:
        return install(editor, text, slots, replace=True)
    except Unreadable as error:
        assume("continues here" not in error.reason)
        raise


@given(cases)
def test_an_entry_is_added_and_nothing_else_changes(case: Case) -> None:
    editor, text, slots = case

    changed, installed = put_in(case)

    assert repr(_ordered(editor.parse(changed))) == repr(
        _ordered(filled(editor.parse(text), slots))
    )
    toml = isinstance(editor, TomlEditor)
    if all(filling.replaced is None for filling in installed.fillings):
        assert comments_of(changed, toml=toml) == comments_of(text, toml=toml)
    assert changed.count("\r\n") == (changed.count("\n") if "\r\n" in text else 0)
    assert install(editor, changed, slots, replace=True)[0] == changed
    assert install(editor, changed, slots, replace=False)[0] == changed


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


@given(cases)
def test_what_was_put_in_is_taken_out_to_the_byte(case: Case) -> None:
    editor, text, _ = case
    changed, installed = put_in(case)

    assert uninstall(editor, changed, installed, intact=True, force=False) == text


@given(cases)
def test_a_file_that_changed_around_it_comes_back_with_those_changes(case: Case) -> None:
    editor, text, _ = case
    changed, installed = put_in(case)
    toml = isinstance(editor, TomlEditor)
    newline = "\r\n" if "\r\n" in text else "\n"
    before = f"zz = 0{newline}" if toml else newline
    after = f"{newline}[zzz]{newline}" if toml else newline
    found = uninstall(editor, before + changed + after, installed, intact=False, force=False)

    assert found == before + text + after


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

    found = uninstall(editor, with_entry, unknown, intact=False, force=False)

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
        install(editor, text, slots, replace=False)


@given(cases, st.data())
def test_what_is_cut_off_is_refused_or_still_whole(case: Case, data: st.DataObject) -> None:
    editor, text, slots = case
    torn = text[: data.draw(st.integers(0, len(text)))]
    try:
        changed, installed = install(editor, torn, slots, replace=True)
    except (Unreadable, InTheWay):
        return
    editor.parse(torn)  # what was changed could be read before
    assert uninstall(editor, changed, installed, intact=False, force=False) == torn


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
@pytest.mark.parametrize("text", ["", "\n", "{}", "{}\n", "{ }", "{\n}\n", '{"a":1}', '{"a":1}\n'])
def test_small_files_keep_their_bytes(host: Any, text: str) -> None:
    editor = TomlEditor() if host.toml else JsonEditor(lenient=host.lenient)
    if host.toml:
        text = text.replace("{", "").replace("}", "").replace('"a":', "a = ")
    slots = (server_slot(*host.path),)

    changed, installed = install(editor, text, slots, replace=False)

    assert uninstall(editor, changed, installed, intact=False, force=False) == text
