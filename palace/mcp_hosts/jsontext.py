"""JSON as people and editors keep it: changed in one place, and left alone everywhere else.

The reader knows the position of each value.  Lenient means JSON with comments and trailing commas;
if a host reads neither, a file that has them is refused, since the host would refuse it as well.
"""

import json
import re
from typing import Any

import attrs

from palace.mcp_hosts.splices import (
    Splice,
    Unreadable,
    begins_line,
    in_order,
    indent_at,
    newline_of,
)
from palace.mcp_hosts.values import Place

DEPTH_MAX = 200
_UNIT = "  "
_SPACE = re.compile(r"[ \t\r\n]*")
_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_SAME_LINE = re.compile(r"(?:[ \t]+|/\*.*?\*/)*(?://[^\r\n]*)?", re.DOTALL)
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"')
# JSON5's, with JSON's escapes alone; a double quote needs no escape and may not have one
_SINGLE_QUOTED = re.compile(
    r"'[^'\\\x00-\x1f]*(?:\\(?:['\\/bfnrt]|u[0-9a-fA-F]{4})[^'\\\x00-\x1f]*)*'"
)
_NAME = re.compile(r"[^\W\d][\w$]*|\$[\w$]*")
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@attrs.define(eq=False)
class Node:
    """A value and its position; `items` are an object's members or an array's elements."""

    start: int
    end: int
    value: Any
    items: "list[Item]" = attrs.Factory(list)


@attrs.frozen(eq=False, kw_only=True)
class Item:
    """A member (`key`) or an element; `comma` is the offset of the comma after it, or -1.

    `start` is where its key stands, or its value in an array.
    """

    key: str | None
    start: int
    node: Node
    comma: int


class _Reader:
    def __init__(self, text: str, *, lenient: bool, json5: bool = False) -> None:
        self.text = text
        self.lenient = lenient or json5
        self.json5 = json5

    def fail(self, at: int, reason: str) -> Unreadable:
        return Unreadable(self.text, at, reason)

    def skip(self, at: int) -> int:
        match = (_TRIVIA if self.lenient else _SPACE).match(self.text, at)
        assert match is not None
        if not self.lenient and self.text.startswith(("//", "/*"), match.end()):
            raise self.fail(match.end(), "a comment, which this host's JSON does not allow")
        return match.end()

    def document(self) -> Node | None:
        at = self.skip(0)
        if at == len(self.text):
            return None
        node = self.value(at, 0)
        end = self.skip(node.end)
        if end != len(self.text):
            raise self.fail(end, "something follows the end of the document")
        return node

    def value(self, at: int, depth: int) -> Node:
        first = self.text[at : at + 1]
        if first in ("{", "["):
            return self.container(at, depth)
        if self.json5 and first == "'":
            text, end = self.single_quoted(at)
            return Node(at, end, text)
        match = (_STRING if first == '"' else _SCALAR).match(self.text, at)
        if match is None:
            raise self.fail(at, "a JSON value was expected here")
        try:
            return Node(at, match.end(), json.loads(match[0]))
        except ValueError as error:  # a number of more digits than Python reads
            raise self.fail(at, f"{error}") from None

    def container(self, at: int, depth: int) -> Node:
        if depth >= DEPTH_MAX:
            raise self.fail(at, f"nested deeper than {DEPTH_MAX} levels")
        is_object = self.text[at] == "{"
        close = "}" if is_object else "]"
        items: list[Item] = []
        here = self.skip(at + 1)
        while self.text[here : here + 1] != close:
            if items and items[-1].comma < 0:
                raise self.fail(here, f"a comma or {close} was expected here")
            item = self.item(here, depth, is_object=is_object)
            items.append(item)
            here = self.skip(item.comma + 1 if item.comma >= 0 else item.node.end)
        if items and items[-1].comma >= 0 and not self.lenient:
            raise self.fail(items[-1].comma, f"a comma before {close}")
        value: Any = [item.node.value for item in items]
        if is_object:
            value = {item.key: item.node.value for item in items}
        return Node(at, here + 1, value, items)

    def item(self, at: int, depth: int, *, is_object: bool) -> Item:
        start, key = at, None
        if is_object:
            key, end = self.name(at)
            at = self.skip(end)
            if self.text[at : at + 1] != ":":
                raise self.fail(at, "a colon was expected here")
            at = self.skip(at + 1)
        node = self.value(at, depth + 1)
        after = self.skip(node.end)
        comma = after if self.text[after : after + 1] == "," else -1
        return Item(key=key, start=start, node=node, comma=comma)

    def name(self, at: int) -> tuple[str, int]:
        """Return a member's name and where it ends."""
        match = _STRING.match(self.text, at)
        if match is not None:
            return str(json.loads(match[0])), match.end()
        if self.json5 and self.text[at : at + 1] == "'":
            return self.single_quoted(at)
        match = _NAME.match(self.text, at) if self.json5 else None
        if match is None:
            raise self.fail(at, "a name in double quotes was expected here")
        return match[0], match.end()

    def single_quoted(self, at: int) -> tuple[str, int]:
        match = _SINGLE_QUOTED.match(self.text, at)
        if match is None:
            raise self.fail(at, "this string does not end, or has an escape that is not JSON's")
        inner = match[0][1:-1].replace("\\'", "'").replace('"', '\\"')
        return str(json.loads(f'"{inner}"')), match.end()


def read(text: str, *, lenient: bool, json5: bool = False) -> Node | None:
    """Return the document, None if there is only white space; raises Unreadable."""
    return _Reader(text, lenient=lenient, json5=json5).document()


@attrs.frozen(kw_only=True)
class JsonEditor:
    """Changes to JSON texts, as splices; `path` leads to an object or an array.

    A key is a member's name or an element's index, and so are the parts of a path.  All methods
    raise Unreadable.
    """

    lenient: bool
    json5: bool = False

    def parse(self, text: str) -> Any:
        """Return the document's value, an empty object if there is none."""
        root = read(text, lenient=self.lenient, json5=self.json5)
        if root is None:
            return {}
        if not isinstance(root.value, dict):
            raise Unreadable(text, root.start, "the document is not an object")
        return root.value

    def insert(self, text: str, path: Place, key: str | None, value: Any) -> list[Splice]:
        """Add a member, or an element if there is no key; missing parts of `path` are created."""
        root = read(text, lenient=self.lenient, json5=self.json5)
        newline = newline_of(text)
        if root is None:
            before = newline if text and not text.endswith("\n") else ""
            body = _dump(_nested(path, key, value), _UNIT, "", newline)
            return [Splice(at=len(text), inserted=f"{before}{body}{newline}")]
        node, missing = self._descend(text, root, path, key)
        if missing:
            key, value = str(missing[0]), _nested(missing[1:], key, value)
        if not node.items:
            return [_first_item(text, root, node, key, value)]
        return _next_item(text, root, node, key, value)

    def replace(self, text: str, path: Place, key: str | int, value: Any) -> list[Splice]:
        """Replace an existing value with another."""
        root, _, item = self._find(text, path, key)
        style = None
        on_one_line = item.node.items and "\n" not in text[item.node.start : item.node.end]
        if begins_line(text, item.start) and not on_one_line:
            style = (_unit_of(text, root), indent_at(text, item.start))
        return self.put_back(text, path, key, _written(value, style, newline_of(text)))

    def put_back(self, text: str, path: Place, key: str | int, raw: str) -> list[Splice]:
        """Replace an existing value with a text."""
        node = self._find(text, path, key)[2].node
        return [Splice(at=node.start, removed=text[node.start : node.end], inserted=raw)]

    def raw(self, text: str, path: Place, key: str | int) -> str:
        """Return the text of an existing value."""
        node = self._find(text, path, key)[2].node
        return text[node.start : node.end]

    def remove(self, text: str, path: Place, key: str | int) -> list[Splice]:
        """Remove an item, with one comma and the white space before it."""
        _, parent, item = self._find(text, path, key)
        index = parent.items.index(item)
        start = item.start
        while text[start - 1] in " \t\r\n":
            start -= 1
        end = item.comma + 1 if item.comma >= 0 else item.node.end
        before, after = text[text.rfind("\n", 0, start) + 1 : start], text[end:].lstrip(" \t\r")
        if "//" in before:  # blanks at the end of that line, and the end itself, may be a comment's
            start += len(text[start : item.start]) - len(text[start : item.start].lstrip(" \t"))
            start = start if after.startswith("\n") else item.start
        cuts = [Splice(at=start, removed=text[start:end])]
        if item.comma < 0 and index > 0:
            comma = parent.items[index - 1].comma
            cuts.append(Splice(at=comma, removed=","))
        rest = text[end : parent.end - 1]
        if len(parent.items) == 1 and start == parent.start + 1 and not rest.strip():
            cuts = [Splice(at=start, removed=text[start : parent.end - 1])]  # its own line ends
        return in_order(cuts)

    def _descend(
        self, text: str, root: Node, path: Place, key: str | int | None
    ) -> tuple[Node, Place]:
        """Follow a path as far as it exists; return the last node and the missing rest."""
        node = root
        _must_be(text, node, dict, "the document")
        for depth, name in enumerate(path):
            item = _item(text, node, name)
            if item is None:
                return node, path[depth:]
            node = item.node
            following = path[depth + 1] if depth + 1 < len(path) else key
            _must_be(text, node, dict if isinstance(following, str) else list, str(name))
        return node, ()

    def _find(self, text: str, path: Place, key: str | int) -> tuple[Node, Node, Item]:
        root = read(text, lenient=self.lenient, json5=self.json5)
        assert root is not None
        node, missing = self._descend(text, root, path, key)
        item = _item(text, node, key)
        assert not missing
        assert item is not None
        return root, node, item


def _must_be(text: str, node: Node, kind: type, name: str) -> None:
    if not isinstance(node.value, kind):
        wanted = "object" if kind is dict else "array"
        raise Unreadable(text, node.start, f"{name} is not an {wanted}")


def _item(text: str, node: Node, name: str | int) -> Item | None:
    """Return a member by its name or an element by its index, None if there is none."""
    if isinstance(name, int):
        return node.items[name] if name < len(node.items) else None
    found = [item for item in node.items if item.key == name]
    if len(found) > 1:
        raise Unreadable(text, found[1].start, f"a second {name}")
    return found[0] if found else None


def _nested(path: Place, key: str | None, value: Any) -> Any:
    inner: Any = [value] if key is None else {key: value}
    for name in reversed(path):
        inner = {str(name): inner}
    return inner


def _unit_of(text: str, root: Node) -> str:
    """Return the indentation that one level adds to the one around it."""
    for item in root.items:
        indent = indent_at(text, item.start)
        outer = indent_at(text, root.start)
        if begins_line(text, item.start) and len(indent) > len(outer):
            return indent[len(outer) :]
    return _UNIT


def _dump(value: Any, unit: str, indent: str, newline: str) -> str:
    text = json.dumps(value, indent=unit, ensure_ascii=False)
    return text.replace("\n", newline + indent)


def _written(value: Any, style: tuple[str, str] | None, newline: str) -> str:
    """Return a value on one line, or, given (unit, indent), on several."""
    if style is None:
        return json.dumps(value, ensure_ascii=False)
    return _dump(value, *style, newline)


def _named(key: str | None, text: str) -> str:
    return text if key is None else f"{json.dumps(key, ensure_ascii=False)}: {text}"


def _first_item(text: str, root: Node, node: Node, key: str | None, value: Any) -> Splice:
    inner = text[node.start + 1 : node.end - 1]
    at = node.start + 1 + len(inner.rstrip(" \t\r\n"))
    newline = newline_of(text)
    if "\n" not in text and node is not root:
        return Splice(at=at, inserted=_named(key, _written(value, None, newline)))
    outer = indent_at(text, node.start)
    indent = outer + _unit_of(text, root)
    body = _named(key, _written(value, (_unit_of(text, root), indent), newline))
    tail = "" if "\n" in text[at : node.end - 1] else newline + outer
    return Splice(at=at, inserted=f"{newline}{indent}{body}{tail}")


def _next_item(text: str, root: Node, node: Node, key: str | None, value: Any) -> list[Splice]:
    """Add after the last item, and after a comment that follows it on its line."""
    last = node.items[-1]
    newline = newline_of(text)
    after = last.comma + 1 if last.comma >= 0 else last.node.end
    match = _SAME_LINE.match(text, after)
    assert match is not None
    at = match.end() if "//" in match[0] else after + len(match[0].rstrip(" \t"))
    style = None
    if begins_line(text, last.start) or "//" in match[0]:
        style = (_unit_of(text, root), indent_at(text, last.start))
    body = _named(key, _written(value, style, newline))
    body = f"{newline}{style[1]}{body}" if style else f" {body}"
    if last.comma >= 0:
        return [Splice(at=at, inserted=f"{body},")]
    if at == after:
        return [Splice(at=at, inserted=f",{body}")]
    return [Splice(at=at, inserted=body), Splice(at=after, inserted=",")]
