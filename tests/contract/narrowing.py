"""Whether what is published has become narrower: whether something that was valid no longer is.

    python -m tests.contract.narrowing              says what has, since the last release
    python -m tests.contract.narrowing --publish    lets what is there be what was released last

What can't be compared counts as narrower where it has changed: then a person looks.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.contract.reading import DOCUMENT, FOLDER

PUBLISHED = Path(__file__).with_name("published.json")
PLUGIN = f"{DOCUMENT}.schemas.json"
NO_SHAPE = ("package.json", "tools-own.json", "wire-v1.json", PLUGIN)

# Keywords that are smaller in the narrower one of two schemas, and such that are larger.
MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
EQUAL = (
    *("pattern", "format", "multipleOf", "uniqueItems", "contains", "propertyNames", "not"),
    *("if", "then", "else", "dependencies", "patternProperties", "const", "$ref"),
)
NAMED = ("definitions", "$defs")
CHOICES = ("anyOf", "oneOf")


def narrowed(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Yield where a schema refuses what an older one took."""
    if new is True or new == {} or old is False or old == new:
        return
    if not isinstance(new, dict) or not isinstance(old, dict | bool):
        yield f"{at}: nothing is taken any more"
        return
    old = {} if old is True else old
    yield from _bounds(old, new, at)
    yield from _members(old, new, at)
    yield from _choices(old, new, at)
    for key in ("items", "additionalProperties"):
        yield from _inside(old.get(key, True), new.get(key, True), f"{at}/{key}")
    for key in NAMED:
        for name, schema in old.get(key, {}).items():
            if name not in new.get(key, {}):
                yield f"{at}/{key}/{name} is gone"
            else:
                yield from narrowed(schema, new[key][name], f"{at}/{key}/{name}")


def _inside(old: Any, new: Any, at: str) -> Iterator[str]:
    if isinstance(old, list) or isinstance(new, list):
        if old != new and new is not True:
            yield f"{at} has changed"
    else:
        yield from narrowed(old, new, at)


def _bounds(old: Any, new: Any, at: str) -> Iterator[str]:
    for key in MOST:
        if key in new and (key not in old or new[key] < old[key]):
            yield f"{at}/{key} is {new[key]}"
    for key in LEAST:
        if key in new and (key not in old or new[key] > old[key]):
            yield f"{at}/{key} is {new[key]}"
    for key in EQUAL:
        if key in new and new[key] != old.get(key, False if key == "uniqueItems" else None):
            yield f"{at}/{key} is {json.dumps(new[key])}"
    if old.get("nullable") and not new.get("nullable"):
        yield f"{at} can't be null any more"
    types = _types(new)
    if types and (lost := (_types(old) or {"anything"}) - types):
        yield f"{at}/type is no longer {', '.join(sorted(lost))}"
    if "enum" in new:
        was = old.get("enum", [old["const"]] if "const" in old else None)
        lost_values = (
            ["anything"] if was is None else [one for one in was if one not in new["enum"]]
        )
        if lost_values:
            yield f"{at}/enum lacks {json.dumps(lost_values)}"


def _types(schema: Any) -> set[str]:
    found = schema.get("type", [])
    found = {found} if isinstance(found, str) else set(found)
    return found | {"integer"} if "number" in found else found


def _members(old: Any, new: Any, at: str) -> Iterator[str]:
    for name in new.get("required", []):
        if name not in old.get("required", []):
            yield f"{at}/{name} is required"
    for name, schema in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{at}/{name} is gone"
        else:
            yield from narrowed(schema, new["properties"][name], f"{at}/{name}")


def _choices(old: Any, new: Any, at: str) -> Iterator[str]:
    for key in CHOICES:
        if key in new and key not in old:
            yield f"{at}/{key} is new"
        for number, one in enumerate(old.get(key, []) if key in new else []):
            if all(any(narrowed(one, other)) for other in new[key]):
                yield f"{at}/{key}/{number} is taken by none any more"
    for number, one in enumerate(new.get("allOf", [])):
        if all(any(narrowed(other, one)) for other in old.get("allOf", [])):
            yield f"{at}/allOf/{number} asks for more"


def state(folder: Path = FOLDER) -> dict[str, Any]:
    """Return what a folder publishes, as far as later ones are compared with it."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    read = {name: json.loads(paths[name].read_text()) for name in paths if name.endswith(".json")}
    goldens = {name: told for name, told in read.items() if name.startswith("golden/")}
    return {
        "version": paths["VERSION"].read_text().strip(),
        "files": {name: _digest(path.read_bytes()) for name, path in sorted(paths.items())},
        "schemas": {
            **{f"{DOCUMENT}/{name}": told for name, told in read[PLUGIN].items()},
            **{f"tools-own/{one['name']}": one["inputSchema"] for one in read["tools-own.json"]},
            **{
                name.removesuffix(".schema.json"): told
                for name, told in sorted(read.items())
                if name not in NO_SHAPE and name not in goldens
            },
        },
        "fields": {
            f"{kind}/{field}": ""
            for kind, told in read["wire-v1.json"]["kinds"].items()
            for field in told["fields"]
        },
        "operations": _operations(yaml.safe_load(paths[f"{DOCUMENT}.yaml"].read_text())),
        "valid": {
            name: sorted(_digest(json.dumps(_judged(one)).encode())[:16] for one in told["valid"])
            for name, told in sorted(goldens.items())
        },
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest()


def _judged(one: Any) -> Any:
    """Return what of a golden text is a promise: all but what is said of it."""
    return {name: value for name, value in one.items() if name != "says"}


def _operations(document: Any) -> dict[str, list[str]]:
    found = {}
    for path, item in document["paths"].items():
        for method, told in item.items():
            if method != "parameters":
                body = told.get("requestBody", {}).get("required", False)
                found[f"{method} {path}"] = [*map(str, told["responses"]), f"body {body}"]
    return found


def complaints(old: Any, new: Any) -> list[str]:
    """Return what a release must not do: narrow without a major version, change without any."""
    was, now = (tuple(map(int, told["version"].split("."))) for told in (old, new))
    changed = {name for name in {*old["files"], *new["files"]} if name not in ("LOCK", "VERSION")}
    changed = {name for name in changed if old["files"].get(name) != new["files"].get(name)}
    if now < was or (now == was and changed):
        return [
            f"VERSION is {new['version']}, and changed since then: {', '.join(sorted(changed))}"
        ]
    if now[0] > was[0]:
        return []
    found = [text for name in old["schemas"] for text in _compared(old, new, name)]
    for part in ("fields", "operations"):
        found += [f"{name} is gone" for name in old[part] if name not in new[part]]
    for name, told in old["operations"].items():
        lost = set(told) - set(new["operations"].get(name, told))
        found += [f"{name}: {one} has changed" for one in sorted(lost)]
    for name, digests in old["valid"].items():
        if lost := set(digests) - set(new["valid"].get(name, ())):
            found.append(f"{name}: {len(lost)} texts that were valid are gone")
    return [f"{text}: without a new major VERSION than {new['version']}" for text in found]


def _compared(old: Any, new: Any, name: str) -> Iterator[str]:
    if name not in new["schemas"]:
        yield f"{name} is gone"
    else:
        yield from narrowed(old["schemas"][name], new["schemas"][name], name)


def main(words: list[str]) -> int:
    now = state()
    found = complaints(json.loads(PUBLISHED.read_text()), now) if PUBLISHED.exists() else []
    say: Callable[[str], object] = sys.stderr.write
    for text in found:
        say(f"contract: {text}\n")
    if words == ["--publish"] and not found:
        PUBLISHED.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
