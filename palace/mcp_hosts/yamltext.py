"""YAML as people keep it: changed in one place, and left alone everywhere else.

PyYAML decides what is valid, what it means and where each value stands; what is written is block
style with JSON's strings and lists.  PyYAML comes with the engine: without it, a host whose
configuration is YAML is refused.
"""

import json
from typing import Any

import attrs

from palace.mcp_hosts.splices import Splice, Unreadable, in_order, newline_of
from palace.mcp_hosts.values import ABSENT, Place, value_at
from palace.settings.installation import command_for

_UNIT = "  "


class NoYaml(Unreadable):
    """There is no PyYAML in palace's environment."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 0, f"PyYAML is needed ({command_for('pyyaml')})")

    @property
    def summary(self) -> str:
        return "can't be read without PyYAML"


@attrs.frozen(kw_only=True)
class YamlEditor:
    """Changes to YAML texts, as splices, with the methods of JsonEditor; raises Unreadable."""

    def parse(self, text: str) -> Any:
        yaml = _yaml(text)
        try:
            values = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            at = error.problem_mark.index if error.problem_mark else len(text)
            raise Unreadable(text, at, str(error.problem)) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise Unreadable(text, 0, f"{error}".partition("\n")[0]) from None
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise Unreadable(text, 0, "the document is not a mapping")
        return values

    def insert(self, text: str, path: Place, key: str | None, value: Any) -> list[Splice]:
        """Add an item to a mapping; missing parts of `path` are created."""
        assert key is not None
        values = self.parse(text)
        depth = 0
        while depth < len(path) and isinstance(value_at(values, path[: depth + 1]), dict):
            depth += 1
        if depth < len(path) and value_at(values, path[: depth + 1]) not in (ABSENT, None):
            raise Unreadable(text, 0, f"{path[depth]} is not a mapping")
        missing = [*path[depth:], key]
        nested: Any = value
        for name in reversed(missing[1:]):
            nested = {name: nested}
        if depth < len(path) and value_at(values, path[: depth + 1]) is None:
            raise Unreadable(text, 0, f"{path[depth]} is empty: write {path[depth]}: {{}} there")
        node = _node(text, path[:depth])
        if node is not None and not isinstance(node.value, list):  # `---` alone, ~ or null
            raise Unreadable(text, node.start_mark.index, "the document is null: write {} there")
        return [_added(text, node, str(missing[0]), nested)]

    def replace(self, text: str, path: Place, key: str | int, value: Any) -> list[Splice]:
        """Replace an existing value with another."""
        node = _node(text, (*path, key))
        return self.put_back(text, path, key, _written(text, node, value))

    def put_back(self, text: str, path: Place, key: str | int, raw: str) -> list[Splice]:
        """Replace an existing value with a text."""
        start, end = _span(text, _node(text, (*path, key)))
        return [Splice(at=start, removed=text[start:end], inserted=raw)]

    def raw(self, text: str, path: Place, key: str | int) -> str:
        """Return the text of an existing value."""
        start, end = _span(text, _node(text, (*path, key)))
        return text[start:end]

    def remove(self, text: str, path: Place, key: str | int) -> list[Splice]:
        """Remove an item with its line."""
        parent = _node(text, path)
        index = next(i for i, (name, _) in enumerate(parent.value) if name.value == str(key))
        name, value = parent.value[index]
        start, end = name.start_mark.index, _span(text, value)[1]
        if parent.flow_style:
            return _removed_from_flow(text, parent, index)
        if len(parent.value) == 1 and path:
            return [Splice(at=start, removed=text[start:end], inserted="{}")]
        start = text.rfind("\n", 0, start) + 1
        end = text.find("\n", end) + 1 or len(text)
        if end == len(text) and not text.endswith("\n") and start:
            start -= len(newline_of(text))
        return in_order([Splice(at=start, removed=text[start:end])])


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise NoYaml(text) from None
    return yaml


def _node(text: str, place: Place) -> Any:
    """Return the node at a place that exists."""
    yaml = _yaml(text)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in place:
        if isinstance(node, yaml.MappingNode):
            found = [value for key, value in node.value if key.value == str(name)]
            if len(found) != 1:  # a second one, or one that comes from an anchor (`<<`)
                at = (found[1] if found else node).start_mark.index
                raise Unreadable(text, at, f"{name} is not written in one place")
            node = found[0]
        elif isinstance(node, yaml.SequenceNode):
            node = node.value[int(name)]
    if node is not None and text[node.start_mark.index : node.start_mark.index + 1] in ("&", "*"):
        raise Unreadable(text, node.start_mark.index, "an anchor, which a program can't edit")
    return node


def _span(text: str, node: Any) -> tuple[int, int]:
    """Return where a value stands, without the comments and empty lines after it."""
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node.value, list) and not node.flow_style and node.value:
        last = node.value[-1]
        inner = last[1] if isinstance(last, tuple) else last
        end = max(start, _span(text, inner)[1])
    elif isinstance(node.value, str) and node.style in ("|", ">"):
        end = start + len(text[start:end].rstrip("\r\n"))
    return start, end


def _added(text: str, node: Any, key: str, value: Any) -> Splice:
    newline = newline_of(text)
    if node is None:
        gap = "" if not text or text.endswith("\n") else newline
        return Splice(at=len(text), inserted=gap + _block(key, value, "", newline) + newline)
    if node.flow_style:
        item = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        at = node.end_mark.index - 1
        if node.value:
            return Splice(at=_span(text, node.value[-1][1])[1], inserted=f", {item}")
        return Splice(at=at, inserted=item)
    first, last = node.value[0][0], node.value[-1][1]
    indent = " " * first.start_mark.column
    end = _span(text, last)[1]
    line_end = text.find("\n", end)
    body = _block(key, value, indent, newline)
    if line_end < 0:
        return Splice(at=len(text), inserted=newline + body)
    return Splice(at=line_end + 1, inserted=body + newline)


def _block(key: str, value: Any, indent: str, newline: str) -> str:
    """Return an item in block style, its mappings on lines of their own."""
    name = key if key.replace("_", "").replace("-", "").isalnum() and not key[0].isdigit() else ""
    name = name or json.dumps(key, ensure_ascii=False)
    if isinstance(value, dict) and value:
        inner = (_block(each, value[each], indent + _UNIT, newline) for each in value)
        return newline.join([f"{indent}{name}:", *inner])
    return f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}"


def _written(text: str, node: Any, value: Any) -> str:
    if isinstance(node.value, list) and not node.flow_style and isinstance(value, list):
        between = newline_of(text) + " " * int(node.start_mark.column)
        return between.join(f"- {json.dumps(item, ensure_ascii=False)}" for item in value)
    return json.dumps(value, ensure_ascii=False)


def _removed_from_flow(text: str, parent: Any, index: int) -> list[Splice]:
    spans = [(key.start_mark.index, _span(text, value)[1]) for key, value in parent.value]
    start, end = spans[index]
    if index + 1 < len(spans):
        end = spans[index + 1][0]
    elif index:
        start = spans[index - 1][1]
    return [Splice(at=start, removed=text[start:end])]
