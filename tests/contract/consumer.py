"""Takes what is published as a program in Python would: from the wheel, with jsonschema alone.

Prints which files are not those of LOCK, and which golden texts it judges otherwise than they say.
Nothing of palace may be imported here.
"""

import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft7Validator, ValidationError
from jsonschema.validators import extend

WHEEL = files("palace_contract")
DEPTH_MAX = 64
WIRE = re.compile(r"palace/(\d{1,15}) (\S+)((?: [^ =]+=[^ ]*)*)")


def pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    """As ECMAScript's: its `$` is the end of a text, not also what is before a last newline."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield ValidationError(f"{value!r} is no {pattern}")


Strict = extend(Draft7Validator, {"pattern": pattern})


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def check(value: Any, depth: int = 0) -> None:
    if depth > DEPTH_MAX or (isinstance(value, float) and value in (float("inf"), -float("inf"))):
        raise ValueError("too deep, or too large")
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is an error
    inner = value.items() if isinstance(value, dict) else ()
    for one in value if isinstance(value, list) else (part for pair in inner for part in pair):
        check(one, depth + 1)


def is_whole(text: str) -> bool:
    begin, _, end = text.rpartition(',"crc":"')
    return end == f'{zlib.crc32((begin + "}").encode()):08x}"}}'


def judge(one: Any, validators: dict[str, Any]) -> bool:
    text = one["text"]
    try:
        if one["schema"] == "Journal" and not is_whole(text):
            return False
        value = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
        check(value)
        if isinstance(value, dict) and isinstance(value.get("expires_at"), str):
            datetime.fromisoformat(value["expires_at"].upper()).astimezone(UTC)
    except (ValueError, OverflowError, RecursionError):
        return False
    return validators[one["schema"]].is_valid(value)


def reads(line: str) -> Any:
    found = WIRE.fullmatch(line)
    if (
        found is None
        or re.search("%(?![0-9A-Fa-f]{2})", line)
        or len(line) > 65536
        or not line.isascii()
        or not line.isprintable()
    ):
        return None
    pairs = (pair.partition("=") for pair in found[3].split())
    try:
        fields = {name: unquote(value, errors="strict") for name, _, value in pairs}
    except UnicodeDecodeError:
        return None
    return [int(found[1]), found[2], fields]


def main() -> None:
    broken = [
        name
        for told, name in (line.split("  ") for line in (WHEEL / "LOCK").read_text().splitlines())
        if (WHEEL / name).is_file()
        and hashlib.sha256((WHEEL / name).read_bytes()).hexdigest() != told
    ]
    schemas = json.loads((WHEEL / "memory-plugin-v1.schemas.json").read_text())
    goldens = {each.name: json.loads(each.read_text()) for each in (WHEEL / "golden").iterdir()}
    wire = goldens.pop("wire-v1.json")
    for told in goldens.values():
        if told["document"].endswith(".schema.json"):
            schemas[told["valid"][0]["schema"]] = json.loads((WHEEL / told["document"]).read_text())
    validators = {name: Strict(schema) for name, schema in schemas.items()}
    wrong = [
        one
        for told in goldens.values()
        for kind in ("valid", "invalid")
        for one in told[kind]
        if judge(one, validators) is (kind == "invalid")
    ]
    wrong += [
        one
        for one in wire["valid"]
        if reads(one["line"]) != [one["version"], one["kind"], one["fields"]]
    ]
    wrong += [one for one in wire["invalid"] if reads(one["line"]) is not None]
    read = sum(
        len(told[kind]) for told in (*goldens.values(), wire) for kind in ("valid", "invalid")
    )
    print(json.dumps({"broken": broken, "read": read, "wrong": wrong}))
    assert "palace" not in sys.modules


if __name__ == "__main__":
    main()
