"""Decoding what somebody else may have written: one way to fail, whatever is wrong with it.

The palace's directory may be lent to containers, and a home holds files of other programs.  JSON
that nests too deeply raises RecursionError in `json`, a number of too many digits ValueError, and
TOML has errors of its own; callers that name only some of these die of the others.

Rule for this file: no other module hands the contents of a file to json or tomllib
(tests/test_hostile_data.py holds the list of exceptions).  Both are imported late: the shim, which
imports this, mostly needs neither.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TEXT_MAX = 4096  # characters of a name or a path in a control file


def decode_json(data: "bytes | str") -> "Any":
    """Return a JSON value; raises ValueError, whatever is wrong."""
    import json

    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode_json_once(data: "bytes | str") -> "Any":
    """Return a JSON value in which no object has a name twice; raises ValueError.

    Of two, each reader takes the one that it likes, so that one shows what another carries out.
    """
    import json

    try:
        return json.loads(data, object_pairs_hook=_object_of)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode_json_exact(data: bytes, depth_max: int = 64) -> "Any":
    """Return what is JSON to the letter, in UTF-8; raises ValueError, whatever is wrong.

    Readers differ in what they make of the rest: a name that is there twice, numbers that are none
    or too large, half a surrogate pair, what is nested deeper than some can follow.
    """
    import json

    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object_of,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _is_deeper(value, depth_max):
        raise ValueError(f"it is nested more than {depth_max} deep")
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    found = float(text)
    if found - found:  # infinite, or not a number
        raise ValueError("a number is too large")
    return found


def _is_deeper(value: "Any", most: int) -> bool:
    level = [value]  # at the end what stands within `most` others
    for _ in range(most):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, dict | list) for one in level)


def _object_of(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is there twice")
    return made


def decode_toml(data: bytes) -> "dict[str, Any]":
    """Return the table of a TOML document; raises ValueError, whatever is wrong."""
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_number(value: object, most: int = (1 << 63) - 1) -> bool:
    """Tell whether a decoded value is a whole number from 0 to `most`."""
    return type(value) is int and 0 <= value <= most


def is_text(value: object, most: int = TEXT_MAX) -> bool:
    """Tell whether a decoded value is a text of at most so many characters."""
    return isinstance(value, str) and len(value) <= most


def is_word(value: object, most: int = TEXT_MAX) -> bool:
    """Tell whether a decoded value is such a text, of one line, that a terminal can show."""
    return isinstance(value, str) and len(value) <= most and value.isprintable()


def number_in(fields: "Mapping[str, object] | object", name: str) -> int:
    """Return a number of a decoded object, 0 where there is none that could be one."""
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if type(value) is int and is_number(value) else 0
