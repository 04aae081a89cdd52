"""Configurations as people and editors leave them: any order, comments, indents and line ends."""

import json
import re
from typing import Any

import attrs
import yaml
from hypothesis import assume
from hypothesis import strategies as st

# A small alphabet: all of Unicode takes Hypothesis seconds to list, where it has no cache.
ALPHABET = "abc/#*{}[]\"'\\,:= \t\u00e9\u4e2d\U0001f600"
names = st.text("abcdefg-_. \u00e9", min_size=1, max_size=5)
texts = st.text(ALPHABET, max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
COMMANDS: tuple[dict[str, Any], ...] = (
    {"command": "mempalace-mcp"},
    {"command": "mempalace-mcp", "args": ["--palace", "/p"]},
    {"command": "python3", "args": ["-m", "mempalace.mcp_server", "--palace=/p"]},
    {"command": "uvx", "args": ["--from", "mempalace", "mempalace-mcp", "--transport", "stdio"]},
    {"command": "env", "args": ["A=b", "mempalace-mcp"]},
    {"command": ["mempalace-mcp", "--palace", "/p"], "type": "local"},
)
kept_keys = st.dictionaries(
    names.filter(lambda name: name not in ("command", "args")), values, max_size=3
)
comment_texts = st.text("abc \t#='\"[]{},:/\u00e9", max_size=8)


@attrs.frozen(kw_only=True)
class Style:
    """How a JSON document is written."""

    unit: str
    newline: str
    lenient: bool


class JsonWriter:
    """Writes a value with comments, commas and white space as they come."""

    def __init__(self, draw: st.DrawFn, style: Style) -> None:
        self._draw = draw
        self._style = style

    def write(self, value: Any, depth: int) -> str:
        if not isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=self._draw(st.booleans()))
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        rows = [self._row(value, key, depth + 1) for key in self._keys(value)]
        if not rows:
            return f"{opening}{self._trivia(depth)}{closing}"
        inline = self._draw(st.integers(0, 3)) == 0
        before = " " * self._draw(st.integers(0, 1)) if inline else self._line(depth + 1)
        text = ""
        for index, row in enumerate(rows):
            last = index == len(rows) - 1
            comma = "," if not last or (self._style.lenient and self._draw(st.booleans())) else ""
            text += before + row + self._comment(block=True) + comma
            text += "" if inline else self._comment(block=False)
        return f"{opening}{text}{'' if inline else self._line(depth)}{closing}"

    @staticmethod
    def _keys(value: dict[str, Any] | list[Any]) -> list[Any]:
        return list(value) if isinstance(value, dict) else list(range(len(value)))

    def _row(self, value: Any, key: Any, depth: int) -> str:
        body = self.write(value[key], depth)
        if isinstance(key, int):
            return body
        colon = self._draw(st.sampled_from([":", ": ", " : "]))
        return f"{json.dumps(key, ensure_ascii=False)}{colon}{body}"

    def _line(self, depth: int) -> str:
        empty = self._draw(st.integers(0, 6)) == 0
        start = self._style.newline * (1 + empty) + self._style.unit * depth
        if self._style.lenient and self._draw(st.integers(0, 5)) == 0:
            start += f"// {self._draw(comment_texts)}{self._style.newline}"
            start += self._style.unit * depth
        return start

    def _comment(self, *, block: bool) -> str:
        if not self._style.lenient or self._draw(st.integers(0, 5)):
            return ""
        text = self._draw(comment_texts)
        return f" /*{text.replace('*/', '')} */" if block else f" //{text}"

    def _trivia(self, depth: int) -> str:
        kind = self._draw(st.integers(0, 4 if self._style.lenient else 2))
        if kind <= 1:
            return " " * kind
        if kind == 2:
            return self._line(depth)
        return self._comment(block=True) if kind == 3 else f" // x{self._style.newline}"


@st.composite
def json_documents(
    draw: st.DrawFn, path: tuple[str, ...], *, lenient: bool, stock: bool = False
) -> str:
    """A JSON text in which `path` and a stock entry below it may be there; or is, with `stock`."""
    style = Style(
        unit=draw(st.sampled_from(["  ", "    ", "\t", " "])),
        newline=draw(st.sampled_from(["\n", "\r\n"])),
        lenient=lenient,
    )
    document = draw(st.dictionaries(names, values, max_size=4))
    if stock or draw(st.booleans()):
        inner = draw(st.dictionaries(names, values, max_size=3))
        if stock or draw(st.booleans()):
            entry = draw(st.sampled_from(COMMANDS)) | draw(kept_keys)
            inner["mempalace"] = {key: entry[key] for key in draw(st.permutations(list(entry)))}
            inner = {key: inner[key] for key in draw(st.permutations(list(inner)))}
        for name in reversed(path[1:]):
            inner = {name: inner}
        document[path[0]] = inner
        document = {key: document[key] for key in draw(st.permutations(list(document)))}
    text = JsonWriter(draw, style).write(document, 0)
    before = f"// {draw(comment_texts)}{style.newline}" if lenient and draw(st.booleans()) else ""
    return before + text + draw(st.sampled_from(["", style.newline, style.newline * 2]))


keys = st.text("abcdefg_", min_size=1, max_size=5).filter(lambda key: key not in ("f", "mcp"))
toml_scalars = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text("abc #\\[]={}", max_size=8).map(lambda text: f"'{text}'"),
    texts.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        [
            *("1979-05-27 07:32:00Z", "1979-05-27", "07:32:00", "nan", "-inf", "0x1F", "1e3"),
            *('"""\n[mcp_servers.mempalace]\n"quoted" \\"""\n"""', "'''\n[x]\n'it''s'''"),
            *("[\n  1, # one\n  2,\n]", "{ a = 1, b.c = [ '}' ] }", "[{ a = '#' }, {}]"),
        ]
    ),
)
entries = st.sampled_from(
    [
        "",
        '[mcp_servers.mempalace]\ncommand = "mempalace-mcp"\n',
        '[mcp_servers.mempalace] # mine\ncommand = "mempalace-mcp"\n\n# why\nargs = []\n'
        '\n[mcp_servers.mempalace.env]\nKEY = "secret"\n',
        '[mcp_servers]\nmempalace = { command = "mempalace-mcp" } # inline\n',
        '[mcp_servers]\nmempalace.command = "mempalace-mcp"\nmempalace.enabled = false # why\n',
        '[mcp_servers]\nmempalace = { enabled = false, command = "mempalace-mcp", '
        'args = ["--palace", "/p"], tools = { x = { approval_mode = "approve" } } }\n',
        '[mcp_servers.mempalace]\n# mine\ndisabled_tools = ["a"]\nargs = [\n  "--palace",\n'
        "  '/p',\n]\ncommand = 'mempalace-mcp' # so\ntool_timeout_sec = 600\n# last\n"
        '[mcp_servers.mempalace.tools.search]\napproval_mode = "approve"\n',
        '[mcp_servers.mempalace.env]\nKEY = "secret"\n[mcp_servers.z]\ncommand = "z"\n'
        '[mcp_servers.mempalace]\ncommand = "mempalace-mcp"\n',
    ]
)
others = st.sampled_from(
    [
        "",
        '[mcp_servers.other]\ncommand = "other" # theirs\n',
        '[mcp_servers."other.one"]\ncommand = "other"\n[mcp_servers."other.one".env]\nA = "1"\n',
    ]
)
inline_roots = st.sampled_from(
    [
        'mcp_servers = { other = { command = "o" } } # inline\n',
        "mcp_servers = {}\n",
        'mcp_servers = { mempalace = { command = "mempalace-mcp" }, other = { command = "o" } }\n',
        'mcp_servers.other.command = "o"\n',
        'mcp_servers.mempalace.command = "mempalace-mcp"\nmcp_servers.other.command = "o"\n',
    ]
)


@st.composite
def toml_documents(draw: st.DrawFn, *, stock: bool = False) -> str:
    """A TOML text as people write it, with servers in any of the ways that TOML has.

    With `stock` there is an entry of stock's.
    """
    rows = _statements(draw, draw(st.integers(0, 3)))
    servers = stock or draw(st.booleans())
    if servers and draw(st.booleans()):
        rows.insert(0, draw(inline_roots.filter(lambda row: "mempalace" in row or not stock)))
        servers = False
    for name in draw(st.lists(keys, max_size=3, unique=True)):
        array = draw(st.booleans())
        rows.append(f"[[t.{name}]]\n" if array else f"[t_{name}] # {draw(comment_texts)}\n")
        rows += _statements(draw, draw(st.integers(0, 2)))
    if servers:
        rows += draw(
            st.permutations(
                [draw(entries.filter(lambda row: bool(row) or not stock)), draw(others)]
            )
        )
        rows += [f"[last]\n{''.join(_statements(draw, 1))}"] if draw(st.booleans()) else []
    text = "".join(rows)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    return re.sub("\n", "\r\n", text) if draw(st.booleans()) else text


def _statements(draw: st.DrawFn, count: int) -> list[str]:
    rows = []
    for name in draw(st.lists(keys, min_size=count, max_size=count, unique=True)):
        tail = draw(st.sampled_from(["", " # so", "\n", f"\n# {draw(comment_texts)}"]))
        rows.append(f"{name} = {draw(toml_scalars)}{tail}\n")
    return rows


def comments_of(text: str, *, toml: bool) -> list[str]:
    """Return the lines that are comments and nothing else."""
    sign = "#" if toml else "//"
    return [row.strip() for row in text.splitlines() if row.strip().startswith(sign)]


class YamlDumper(yaml.SafeDumper):
    """Writes lists within mappings as people do, indented or not."""

    indented = False

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless and not self.indented)


class IndentedYamlDumper(YamlDumper):
    indented = True


yaml_values = values.filter(lambda value: value == yaml.safe_load(yaml.safe_dump(value)))


@st.composite
def yaml_documents(draw: st.DrawFn, *, stock: bool = False) -> str:
    """A YAML text with comments between its lines; with `stock` there is an entry of stock's."""
    entries = st.dictionaries(keys, yaml_values, max_size=3)
    document: dict[str, Any] = draw(entries)
    if stock or draw(st.booleans()):
        servers: dict[str, Any] = draw(entries)
        if stock or draw(st.booleans()):
            entry = draw(st.sampled_from(COMMANDS)) | draw(
                st.dictionaries(keys, yaml_values, max_size=3)
            )
            servers["mempalace"] = {key: entry[key] for key in draw(st.permutations(list(entry)))}
        document["mcp_servers"] = {
            key: servers[key] for key in draw(st.permutations(list(servers)))
        }
    order = draw(st.permutations(list(document)))
    text: str = yaml.dump(
        {key: document[key] for key in order},
        Dumper=draw(st.sampled_from([YamlDumper, IndentedYamlDumper])),
        default_flow_style=draw(st.sampled_from([None, False, False, True])),
        sort_keys=False,
        allow_unicode=True,
        width=draw(st.sampled_from([30, 1000])),
        indent=draw(st.sampled_from([2, 4])),
    )
    text = "" if not document else text
    rows = []
    for row in text.splitlines(keepends=True):
        if draw(st.integers(0, 6)) == 0 and re.match(r" *[a-z_]+:", row):
            rows.append(f"# {draw(st.text('abc :#-', max_size=6)).strip()}\n")
        rows.append(row)
    text = "".join(rows)
    try:  # a comment within a text of several lines belongs to that text
        assume(yaml.safe_load(text) == (document or None))
    except yaml.YAMLError:
        assume(False)
    return text.removesuffix("\n") if draw(st.booleans()) else text
