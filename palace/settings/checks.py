"""What a setting may be, and what is said of one that it may not be; raises ConfigError."""

import os
from collections.abc import Callable
from typing import Any

import attrs

from palace.protocol.decoding import TEXT_MAX, is_number
from palace.protocol.errors import ConfigError
from palace.protocol.wire import whole_number
from palace.settings.given_path import GivenPath
from palace.settings.inherited import SETTLED, matches

UID_MAX = (1 << 32) - 2
ITEMS_MAX = 1000  # of a list or a table
USER, PALACE = "user", "palace"  # where a setting counts: see `Setting`


@attrs.frozen(kw_only=True)
class Setting:
    """One setting; `unit` is in its name, `low` and `high` are inclusive.

    It `counts` in palace.toml ("palace") only if the worst that it can do there is to slow or to
    stop the palace.  What can run a program, open a port, connect, admit users or name a path
    outside counts in the user's settings alone ("user").

    A switch that has `low` and `high` may be a number between them instead.
    """

    key: str
    default: Any
    text: str
    counts: str
    low: float | None = None
    high: float | None = None
    variable: str = ""
    choices: tuple[str, ...] = ()
    form: str = ""  # of text: see FORMS


def about(text: str, *, counts: str, **more: object) -> dict[str, Any]:
    """Return a field's metadata: what a `Setting` says beside its key and its default.

    Where it counts has no default: a new setting is to be classified.
    """
    return {"text": text, "counts": counts, **more}


def _is_path(text: str) -> bool:
    return os.path.isabs(text) and _is_plain(text)


def _is_graph(text: str) -> bool:
    return (os.path.isabs(text) or "/" not in text) and _is_plain(text)


def _is_plain(text: str) -> bool:
    return text.isprintable() and len(text) <= TEXT_MAX and text not in (".", "..")


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    try:
        is_port = whole_number(port, most=65_535) > 0
    except ValueError:
        return False
    return bool(host) and is_port and " " not in host and _is_plain(text)


def is_anywhere(host: str) -> bool:
    """Tell whether a host is a wildcard address, in whichever spelling the resolver takes.

    A name that stands for one shows only when it is bound (palace/broker/guests.py).
    """
    import ipaddress
    import socket

    if host in ("", "*"):
        return True
    try:
        return socket.inet_aton(host) == bytes(4)  # "0", "0x0", "0.0", "00.0.0.0"
    except OSError:
        pass
    try:
        found = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped
    return found.is_unspecified or (mapped is not None and mapped.is_unspecified)


def check_no_wildcard(listen: str, where: str, name: str = "listen") -> None:
    """Raise ConfigError for an address that can be reached from every network."""
    if listen and is_anywhere(listen.rpartition(":")[0].strip("[]")):
        raise ConfigError(
            f"{where}: {name} = {listen!r} can be reached from every network. Name one "
            "address, or say listen_anywhere = true, too."
        )


def _is_ssh(text: str) -> bool:
    return text.startswith("ssh://") and len(text) > len("ssh://") and _is_plain(text)


# What a text setting may be, and how that is said.
FORMS: dict[str, tuple[Callable[[str], bool], str]] = {
    "path": (_is_path, "an absolute path"),
    "graph": (_is_graph, "an absolute path"),
    "address": (_is_address, "HOST:PORT"),
    "file": (str.isprintable, "a path"),
    "ssh": (_is_ssh, "ssh://[USER@]HOST[:PORT][/PALACE]"),
    "text": (_is_plain, "one line of text"),
    "namespace kind": (
        lambda text: text in ("team", "org", "workspace", "custom"),
        "team, org, workspace and custom",
    ),
}
PATHS = ("path", "graph", "file")  # the forms that are paths


def number_in(setting: Setting, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"${setting.variable}={text!r} is not a number ({setting.text})"
        ) from None


def checked(setting: Setting, value: Any, where: str) -> Any:
    default = setting.default
    if setting.choices:
        if value in setting.choices:
            return value
        raise _wrong(setting, value, where, f"one of {', '.join(setting.choices)}")
    if isinstance(default, bool):
        return _checked_switch(setting, value, where)
    if isinstance(default, tuple):
        return _checked_list(setting, value, where)
    if isinstance(default, str):
        fits, wanted = FORMS[setting.form]
        if value and isinstance(value, str) and setting.form in PATHS:
            GivenPath(value, f"{setting.key} in {where}")
        if isinstance(value, str) and (not value or fits(value)):
            return value
        raise _wrong(setting, value, where, wanted)
    if isinstance(default, dict):
        check = _checked_variables if setting.form == "variables" else _checked_map
        return check(setting, value, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(setting, value, where, "a number")
    low, high = setting.low, setting.high
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise _wrong(setting, value, where, f"between {low:g} and {high:g}")
    if isinstance(default, int) and value != int(value):
        raise _wrong(setting, value, where, "a whole number")
    return type(default)(value)


def _checked_switch(setting: Setting, value: Any, where: str) -> Any:
    if isinstance(value, bool):
        return value
    low, high = setting.low, setting.high
    if low is None or high is None:
        raise _wrong(setting, value, where, "true or false")
    if isinstance(value, int) and low <= value <= high:
        return value
    raise _wrong(setting, value, where, f"true, false or a number from {low:g} to {high:g}")


def _checked_list(setting: Setting, value: Any, where: str) -> Any:
    kind = int if setting.key == "allow_uids" else str
    fits = FORMS[setting.form][0] if setting.form else None
    plain = isinstance(value, list) and all(type(item) is kind for item in value)
    if plain and kind is int:
        plain = all(is_number(item, UID_MAX) for item in value)
    if plain and len(value) <= ITEMS_MAX and (fits is None or all(fits(item) for item in value)):
        return tuple(value)
    of = FORMS[setting.form][1] if setting.form else kind.__name__
    raise _wrong(setting, value, where, f"a list of {of}")


def _checked_map(setting: Setting, value: Any, where: str) -> Any:
    for path in [*value, *value.values()] if isinstance(value, dict) else ():
        if isinstance(path, str):
            GivenPath(path, f"{setting.key} in {where}")
    if (
        isinstance(value, dict)
        and len(value) <= ITEMS_MAX
        and all(
            isinstance(there, str) and _is_path(name) and _is_path(there)
            for name, there in value.items()
        )
    ):
        return {os.path.normpath(name): os.path.normpath(there) for name, there in value.items()}
    raise _wrong(setting, value, where, "a table of absolute paths")


def _checked_variables(setting: Setting, value: Any, where: str) -> Any:
    if not isinstance(value, dict) or not all(
        isinstance(text, str) and "\0" not in text for text in value.values()
    ):
        raise _wrong(setting, value, where, 'a table of texts, { NAME = "value" }')
    for name in value:
        if matches(name, SETTLED) or not name or "=" in name or "\0" in name:
            raise _wrong(setting, name, where, f"variables other than {', '.join(SETTLED)}")
    return dict(value)


def _wrong(setting: Setting, value: Any, where: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"{where}: {setting.key} = {repr(value)[:200]} must be {wanted}. {setting.text} "
        f"The default is {setting.default!r}."
    )
