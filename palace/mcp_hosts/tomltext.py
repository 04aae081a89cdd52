"""TOML as people keep it: changed in one place, and left alone everywhere else.

`tomllib` decides what is valid and what it means.  The scanner here only finds out where in a
valid document each statement and each member of an inline table stands.
"""

import json
import re
import tomllib
from typing import Any

import attrs

from palace.mcp_hosts.splices import Splice, Unreadable, in_order, newline_of
from palace.mcp_hosts.values import Place

Keys = tuple[str, ...]

_SPACE = re.compile(r"[ \t]*")
_TRIVIA = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})|' + r"'''.*?'''(?:'{0,2})|"
    r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9:.+\-Zz]*|[^\s,\]}#]+")
_LINE = re.compile(r"line (\d+)")


@attrs.frozen(kw_only=True)
class Statement:
    """A line of its own, end included: a table's header, or a key with its value.

    `keys` is the full path of what it sets, `table` the header that it is under.
    """

    start: int
    end: int
    table: Keys
    keys: Keys
    value: tuple[int, int] | None  # where the value is; a header has none


@attrs.frozen(kw_only=True)
class Member:
    """A member of an inline table; `comma` is the offset of the comma after it, -1 if none."""

    keys: Keys
    start: int
    value: tuple[int, int]
    comma: int


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text

    def match(self, pattern: re.Pattern[str], at: int) -> re.Match[str]:
        found = pattern.match(self.text, at)
        if found is None:
            raise Unreadable(self.text, at, "written in a way that a program can't edit")
        return found

    def keys(self, at: int) -> tuple[Keys, int]:
        names = []
        while True:
            found = self.match(_KEY, self.match(_SPACE, at).end())
            names.append(_key_name(found[0]))
            at = self.match(_SPACE, found.end()).end()
            if self.text[at : at + 1] != ".":
                return tuple(names), at
            at += 1

    def value_end(self, at: int) -> int:
        first = self.text[at : at + 1]
        if first == "{":
            return self.members(at)[1]
        if first == "[":
            here = self.match(_TRIVIA, at + 1).end()
            while self.text[here : here + 1] != "]":
                here = self.match(_TRIVIA, self.value_end(here)).end()
                if self.text[here : here + 1] == ",":
                    here = self.match(_TRIVIA, here + 1).end()
            return here + 1
        return self.match(_STRING if first in ("'", '"') else _SCALAR, at).end()

    def members(self, at: int) -> tuple[list[Member], int]:
        """Return the members of an inline table, and where it ends."""
        found = []
        here = self.match(_TRIVIA, at + 1).end()
        while self.text[here : here + 1] != "}":
            start = here
            keys, here = self.keys(here)
            begin = self.match(_SPACE, here + 1).end()
            end = self.value_end(begin)
            here = self.match(_TRIVIA, end).end()
            comma = here if self.text[here : here + 1] == "," else -1
            found.append(Member(keys=keys, start=start, value=(begin, end), comma=comma))
            if comma >= 0:
                here = self.match(_TRIVIA, here + 1).end()
        return found, here + 1

    def statements(self) -> list[Statement]:
        found = []
        table: Keys = ()
        at = self.match(_TRIVIA, 0).end()
        while at < len(self.text):
            start, value = at, None
            if self.text[at] == "[":
                table, at = self.keys(at + (2 if self.text.startswith("[[", at) else 1))
                at = self.text.index("]", at) + 1
                at += self.text[at : at + 1] == "]"
                keys = table
            else:
                names, at = self.keys(at)
                begin = self.match(_SPACE, at + 1).end()
                at = self.value_end(begin)
                keys, value = table + names, (begin, at)
            start = self.text.rfind("\n", 0, start) + 1
            end = self.text.find("\n", at) + 1 or len(self.text)
            found.append(Statement(start=start, end=end, table=table, keys=keys, value=value))
            at = self.match(_TRIVIA, end).end()
        return found


def _key_name(raw: str) -> str:
    if raw[0] not in "'\"":
        return raw
    (name,) = tomllib.loads(f"{raw} = 0")
    return name


@attrs.frozen(kw_only=True)
class TomlEditor:
    """Changes to TOML texts, as splices, with the methods of JsonEditor; raises Unreadable."""

    def parse(self, text: str) -> Any:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = _LINE.search(str(error))
            at = _offset_of_line(text, int(line[1])) if line else len(text)
            raise Unreadable(text, at, str(error)) from None
        except RecursionError:
            raise Unreadable(text, 0, "nested too deeply") from None

    def insert(self, text: str, path: Place, key: str | None, value: Any) -> list[Splice]:
        """Add a table at the end, or a member where the table stands that it belongs to."""
        assert key is not None
        scanner = _Scanner(text)
        within = self._span(text, _names(path)) if path else None
        if within is not None:
            return _add_member(scanner, within[0], key, value)
        if not isinstance(value, dict):
            return [_add_statement(text, _names(path), key, value)]
        for statement in scanner.statements():
            if statement.keys == path and text.startswith("[[", statement.start):
                raise Unreadable(text, statement.start, f"{'.'.join(_names(path))} is not a table")
        newline = newline_of(text)
        body = _table((*_names(path), key), value, newline)
        if not text.strip():
            return [Splice(at=len(text), inserted=body)]
        if not text.endswith("\n"):
            return [Splice(at=len(text), inserted=newline * 2 + body.removesuffix(newline))]
        return [Splice(at=len(text), inserted=newline + body)]

    def replace(self, text: str, path: Place, key: str | int, value: Any) -> list[Splice]:
        """Replace an existing table, however it is written."""
        target = _names((*path, key))
        span = self._span(text, target)
        if span is not None:
            return [_exchange(text, span, _inline_value(value))]
        run = self._only_run(text, target)
        newline = newline_of(text)
        if run[0].value is None:
            return [_exchange_lines(text, run, _table(target, value, newline))]
        names = ".".join(_bare(name) for name in target[len(run[0].table) :])
        return [_exchange_lines(text, run, f"{names} = {_inline_value(value)}{newline}")]

    def put_back(self, text: str, path: Place, key: str | int, raw: str) -> list[Splice]:
        """Replace an existing table with a text."""
        target = _names((*path, key))
        span = self._span(text, target)
        if span is not None:
            return [_exchange(text, span, raw)]
        return [_exchange_lines(text, self._only_run(text, target), raw)]

    def raw(self, text: str, path: Place, key: str | int) -> str:
        """Return the text of an existing table, its lines together."""
        target = _names((*path, key))
        span = self._span(text, target)
        if span is not None:
            return text[slice(*span)]
        run = self._only_run(text, target)
        return text[run[0].start : run[-1].end]

    def remove(self, text: str, path: Place, key: str | int) -> list[Splice]:
        """Remove a table, with one empty line before it."""
        target = _names((*path, key))
        found = self._inline(text, target)
        if found is not None:
            return _drop_member(_Scanner(text), self._holder(text, target), found)
        newline = newline_of(text)
        cuts = []
        for run in self._runs(text, target):
            start, end = run[0].start, run[-1].end
            if run[0].value is None and (
                text[:start].endswith(newline * 2) or text[:start] == newline
            ):
                start -= len(newline)
            if end == len(text) and not text.endswith("\n") and text[:start].endswith(newline):
                start -= len(newline)
            cuts.append(Splice(at=start, removed=text[start:end]))
        return in_order(cuts)

    def _only_run(self, text: str, target: Keys) -> list[Statement]:
        runs = self._runs(text, target)
        if len(runs) > 1:
            reason = f"{'.'.join(target)} continues here: put its tables next to each other first"
            raise Unreadable(text, runs[1][0].start, reason)
        return runs[0]

    def _runs(self, text: str, target: Keys) -> list[list[Statement]]:
        """Return the statements that make up a table, grouped into adjacent runs."""
        runs: list[list[Statement]] = []
        inside = False
        for statement in _Scanner(text).statements():
            ours = statement.keys[: len(target)] == target
            if ours and inside:
                runs[-1].append(statement)
            elif ours:
                runs.append([statement])
            inside = ours
        if not runs:
            raise Unreadable(text, 0, f"{'.'.join(target)} is written in an unusual way")
        return runs

    def _span(self, text: str, target: Keys) -> tuple[int, int] | None:
        """Return where a table is that is written as one value, None if it has lines of its own."""
        member = self._inline(text, target)
        if member is not None:
            return member.value
        for statement in _Scanner(text).statements():
            if statement.keys == target:
                return statement.value
        return None

    def _holder(self, text: str, target: Keys) -> int:
        """Return where the inline table that contains the target begins, -1 if there is none."""
        around = self._span(text, target[:-1]) if len(target) > 1 else None
        return around[0] if around is not None else -1

    def _inline(self, text: str, target: Keys) -> Member | None:
        start = self._holder(text, target)
        if start < 0 or text[start] != "{":
            return None
        found = [m for m in _Scanner(text).members(start)[0] if m.keys[:1] == target[-1:]]
        if len(found) > 1 or (found and len(found[0].keys) > 1):
            raise Unreadable(text, found[0].start, "dotted keys in an inline table")
        return found[0] if found else None


def _offset_of_line(text: str, line: int) -> int:
    at = 0
    for _ in range(line - 1):
        at = text.find("\n", at) + 1
    return at


def _exchange(text: str, span: tuple[int, int], inserted: str) -> Splice:
    return Splice(at=span[0], removed=text[span[0] : span[1]], inserted=inserted)


def _exchange_lines(text: str, run: list[Statement], inserted: str) -> Splice:
    """Replace statements with other lines; a last line without a line end stays so."""
    newline = newline_of(text)
    removed = text[run[0].start : run[-1].end]
    ended = inserted.removesuffix(newline) + (newline if removed.endswith("\n") else "")
    return Splice(at=run[0].start, removed=removed, inserted=ended)


def _names(path: Place) -> Keys:
    return tuple(map(str, path))


def _add_statement(text: str, table: Keys, key: str, value: Any) -> Splice:
    """Add a key after the last one that a table has of its own, however those are written."""
    own = [
        statement
        for statement in _Scanner(text).statements()
        if statement.keys == table or (statement.value is not None and statement.keys[:-1] == table)
    ]
    if not own:
        raise Unreadable(text, 0, f"{'.'.join(table)} has no line of its own")
    last = own[-1]
    names = ".".join(_bare(name) for name in (*table, key)[len(last.table) :])
    newline = newline_of(text)
    row = f"{names} = {_inline_value(value)}"
    ended = text[: last.end].endswith("\n")
    return Splice(at=last.end, inserted=f"{row}{newline}" if ended else f"{newline}{row}")


def _add_member(scanner: _Scanner, at: int, key: str, value: Any) -> list[Splice]:
    text = scanner.text
    if text[at] != "{":
        raise Unreadable(text, at, "this should be a table")
    members, end = scanner.members(at)
    body = f"{_bare(key)} = {_inline_value(value)}"
    if not members:
        return [Splice(at=at + 1, removed=text[at + 1 : end - 1], inserted=f" {body} ")]
    last = members[-1]
    if last.comma >= 0:
        return [Splice(at=last.comma + 1, inserted=f" {body},")]
    return [Splice(at=last.value[1], inserted=f", {body}")]


def _drop_member(scanner: _Scanner, at: int, member: Member) -> list[Splice]:
    text = scanner.text
    members, end = scanner.members(at)
    index = [other.start for other in members].index(member.start)
    if len(members) == 1:
        return [Splice(at=at + 1, removed=text[at + 1 : end - 1])]
    if index == len(members) - 1 and member.comma < 0:
        start, stop = members[index - 1].value[1], member.value[1]
    else:
        start, stop = member.start, member.comma + 1
        while text[start - 1] in " \t":
            start -= 1
    return [Splice(at=start, removed=text[start:stop])]


def _bare(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _inline_value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_bare(key)} = {_inline_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_inline_value(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)


def _table(keys: Keys, value: dict[str, Any], newline: str) -> str:
    rows = [f"[{'.'.join(_bare(key) for key in keys)}]"]
    rows += [f"{_bare(key)} = {_inline_value(item)}" for key, item in value.items()]
    return newline.join([*rows, ""])
