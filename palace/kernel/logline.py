"""A line of a log: `key=value` pairs, the same form from every writer, and how it is read again.

    time=2026-01-31T12:00:00.123Z level=info logger=palace.broker pid=7 text="ready: mempalace 3.11"

A value is bare where it is printable ASCII without blank, quote, backslash or `=`, and a JSON
string otherwise.

Standard library only, and light: losers of an election load this, and so does the canary.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def log_line(fields: "Mapping[str, str]") -> str:
    """Return a line without its newline; empty values are left out."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if value)


def fields_of(line: str) -> "dict[str, str]":
    """Return the fields of a line; what is no field is passed over."""
    import re

    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)
    return {name: _unquoted(value) for name, value in found}


def _quoted(value: str) -> str:
    if value.isascii() and value.isprintable() and not any(c in ' "=\\' for c in value):
        return value
    import json

    return json.dumps(value, ensure_ascii=not value.isprintable())


def _unquoted(value: str) -> str:
    import json

    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value
