"""Configurations of MCP hosts: JSON, JSON5, TOML and YAML as anybody left them."""

import copy
from typing import Any

from palace.mcp_hosts.kinds import SaveHooks, Servers
from palace.mcp_hosts.plan import (
    Editor,
    Installed,
    InTheWay,
    Kind,
    Slot,
    combined,
    find,
    install,
    uninstall,
)
from palace.mcp_hosts.splices import Unreadable
from palace.mcp_hosts.table import HOSTS, NAME
from palace.mcp_hosts.takeover import CannotKeep
from palace.mcp_hosts.target import editor_for
from tests.security.source import NESTED, Source, steps_at_most

DRIVES = (
    "palace.mcp_hosts.plan",
    "palace.mcp_hosts.jsontext",
    "palace.mcp_hosts.tomltext",
    "palace.mcp_hosts.yamltext",
    "palace.mcp_hosts.splices",
    "palace.mcp_hosts.takeover",
    "palace.mcp_hosts.kinds",
    "palace.mcp_hosts.values",
    "palace.mcp_hosts.entries",
)
STEPS = 3_000_000  # YAML is read by a parser in Python
REFUSALS = (Unreadable, InTheWay, CannotKeep)
WORDS = (
    "mempalace",
    "command",
    "args",
    "x",
    "mcpServers",
    "mcp",
    "servers",
    "mcp_servers",
    "hooks",
)
COMMANDS = ("mempalace-mcp", "palace", "uvx", "python3", "env", "sh")
JSON_TOKENS = (
    *("{", "}", "[", "]", ":", ",", "\n", "\r\n", " ", "\t", "1", "-0.0", "1e999", "null", "true"),
    *(
        "// c\n",
        "/* c */",
        "'a'",
        "NaN",
        "0x1F",
        "+1",
        ".5",
        '"\\ud800"',
        '"\\u0000"',
        "a:",
        "\ufeff",
    ),
    *('"mempalace"', '"command"', '"args"', '"mcpServers"', '"x"', '"mempalace-mcp"', '["shim"]'),
    *('"mempalace":{"command":"mempalace-mcp","args":["--palace","/p"]}', '"mcp":{"servers":{'),
)
TOML_TOKENS = (
    *(
        "[",
        "]",
        "=",
        ".",
        "\n",
        "\r\n",
        " ",
        ",",
        "{",
        "}",
        '"',
        "'",
        "#",
        '"""',
        "'''",
        "1",
        "true",
    ),
    *("[mcp_servers]\n", "[mcp_servers.mempalace]\n", 'command = "mempalace-mcp"\n', "[[a]]\n"),
    *(
        "mcp_servers.mempalace.command",
        "mcp_servers = {",
        "x = 1\n",
        "1979-05-27",
        "inf",
        "\\u0000",
    ),
    *('args = ["--palace", "/p"] # c\n', "[mcp_servers.mempalace.env]\n", '"mcp_servers"', "\x00"),
)
YAML_TOKENS = (
    *(
        "\n",
        " ",
        "  ",
        "    ",
        ":",
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        '"',
        "#",
        "|",
        ">",
        "&a ",
    ),
    *(
        "*a",
        "!!python/object ",
        "<<: *a\n",
        "? ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "\t",
        "\r\n",
        "~",
    ),
    *(
        "mcp_servers:\n",
        "  mempalace:\n",
        "    command: mempalace-mcp\n",
        "x: 1\n",
        "    args: [a]\n",
    ),
)


def one(data: bytes) -> None:
    source = Source(data)
    host = source.pick(HOSTS)
    hooks = host.hooks is not None and source.byte() % 4 == 0
    editor = editor_for(host, hooks=hooks)
    text = _text(
        source,
        TOML_TOKENS
        if host.toml and not hooks
        else YAML_TOKENS
        if host.yaml and not hooks
        else JSON_TOKENS,
    )
    with steps_at_most(STEPS):
        try:
            values = editor.parse(text)
        except Unreadable as error:
            if not 1 <= error.line <= text.count("\n") + 1:
                raise
            return
        slots: tuple[Slot, ...]
        if hooks:
            hook = {"hooks": [{"type": "command", "command": "mempalace hook", "timeout": 30}]}
            slots = (Slot(path=("hooks", "Stop"), key=None, value=hook),)
        else:
            slots = (Slot(path=host.place(values), key=NAME, value=host.entry(["palace", "shim"])),)
        _round_trip(editor, text, slots, SaveHooks() if hooks else Servers(), values)


def _text(source: Source, tokens: tuple[str, ...]) -> str:
    pieces = []
    if source.byte() % 2:
        pieces.append(source.pick(STARTS))
    while source:
        kind = source.below(16)
        if kind == 0:
            pieces.append(source.raw().decode("utf-8", "replace"))
        elif kind == 1:
            pieces.append(source.pick(("[", '{"a":', "a = [", "- ", "{a: ")) * source.pick(NESTED))
        elif kind == 2:
            word = source.pick(WORDS)
            pieces.append(
                source.pick(("{}", '"{}"', "'{}'", '"{}": ', "{} = ", "{}: ")).format(word)
            )
        elif kind == 3:
            pieces.append(f'"{source.pick(COMMANDS)}"')
        else:
            pieces.append(source.pick(tokens))
    return "".join(pieces)


STARTS = (
    '{"mcpServers": {',
    '{"mcp": {"servers": {',
    '{"mcpServers": {"mempalace": {"command": ',
    '{"hooks": {"Stop": [',
    "[mcp_servers.mempalace]\n",
    "mcp_servers:\n  mempalace:\n    command: ",
    '{"mcpServers": {"mempalace": {"command": "mempalace-mcp", "args": []}}}',
    "mcp_servers:\n  x:\n    a: 1\n",
)


def _round_trip(
    editor: Editor, text: str, slots: tuple[Slot, ...], kind: Kind, values: Any
) -> None:
    before = repr(values)
    try:
        changed, done = install(editor, text, slots, kind, replace=True)
    except REFUSALS:
        return
    after = editor.parse(changed)
    for slot in slots:
        assert find(after, slot, kind), "it is there"
    assert repr(_without(after, slots)) == repr(_without(values, slots)), "and nothing else is"
    again, nothing = install(editor, changed, slots, kind, replace=True)
    assert again == changed
    assert combined(done, nothing, intact=True) == done
    assert uninstall(editor, changed, done, kind, intact=True, force=False) == text
    _elsewhere(editor, changed, done, kind, (text, slots))
    assert repr(values) == before


def _elsewhere(
    editor: Editor, changed: str, done: Installed, kind: Kind, was: tuple[str, tuple[Slot, ...]]
) -> None:
    """Where the file has changed since, what else is in it stays."""
    text, slots = was
    try:
        found = uninstall(editor, changed, done, kind, intact=False, force=False)
    except REFUSALS:
        return
    values, expected = editor.parse(found), editor.parse(text)
    assert repr(_without(values, slots)) == repr(_without(expected, slots))


def _without(values: Any, slots: tuple[Slot, ...]) -> Any:
    """Return values without our entries and the empty tables that lead to them, in any order."""
    values = copy.deepcopy(values)
    for slot in slots:
        for depth in range(len(slot.path), -1, -1):
            inner = _inner(values, slot.path[:depth])
            name = (*slot.path, slot.key)[depth]
            if depth == len(slot.path):
                if isinstance(inner, dict):
                    inner.pop(name, None)
                elif isinstance(inner, list):
                    inner[:] = [
                        item for item in inner if item != slot.value and "palace" not in repr(item)
                    ]
            elif isinstance(inner, dict) and not inner.get(name, 1):
                del inner[name]
    return _ordered(values)


def _inner(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _ordered(value[key]) for key in sorted(value, key=str)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value
