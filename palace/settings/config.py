"""Settings of an owner: palace.toml, the environment, defaults -> one frozen Config.

palace.toml in the palace fixes what must not depend on which shim wins the election.  It is
written once, at first adoption, under the lock.  Every setting stands in SETTINGS, from which
docs/reference/settings.md is generated.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings import paths

TOML_BYTES_MAX = 1 << 20
ANYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104 - to be refused


@attrs.frozen(kw_only=True)
class Setting:
    """One key of palace.toml; `unit` is in its name, `low` and `high` are inclusive.

    A switch that has them may be a number between them instead.
    """

    key: str
    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    variable: str = ""
    choices: tuple[str, ...] = ()
    form: str = ""  # of text: see FORMS


def _is_path(text: str) -> bool:
    return os.path.isabs(text)


def _is_graph(text: str) -> bool:
    return os.path.isabs(text) or "/" not in text


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit() and 0 < int(port) < 65_536 and " " not in host


def _is_ssh(text: str) -> bool:
    return text.startswith("ssh://") and len(text) > len("ssh://") and text.isprintable()


# What a text setting may be, and how that is said.
FORMS: dict[str, tuple[Callable[[str], bool], str]] = {
    "path": (_is_path, "an absolute path"),
    "graph": (_is_graph, "an absolute path"),
    "address": (_is_address, "HOST:PORT"),
    "ssh": (_is_ssh, "ssh://[USER@]HOST[:PORT][/PALACE]"),
    "text": (str.isprintable, "one line of text"),
}


SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="graph",
        default="",
        form="graph",
        text="The knowledge graph's file, absolute or in the palace; fixed at first adoption.",
    ),
    Setting(
        key="config_dir",
        default="",
        form="path",
        text="mempalace's configuration directory; fixed at first adoption.",
    ),
    Setting(
        key="journal",
        default="on",
        choices=("on", "off"),
        text="Whether changes are journalled before they are made.",
    ),
    Setting(
        key="idle_s",
        default=900.0,
        low=0,
        high=31_536_000,
        variable="PALACE_IDLE_S",
        text="Seconds without a request after which the broker leaves; 0 is never.",
    ),
    Setting(
        key="grace_s",
        default=30.0,
        low=0,
        high=3600,
        text="Seconds that running calls get to end when the broker stops.",
    ),
    Setting(
        key="admission_wait_s",
        default=30.0,
        low=0,
        high=3600,
        text="Seconds a request waits for room in a full queue before it is refused as busy.",
    ),
    Setting(
        key="queue_wait_s",
        default=3600.0,
        low=1,
        high=86_400,
        text="Seconds an admitted request may wait for its turn before it is given up.",
    ),
    Setting(
        key="queue_depth_max",
        default=1024,
        low=1,
        high=100_000,
        text="Requests that may wait, of all sessions together.",
    ),
    Setting(
        key="session_depth_max",
        default=64,
        low=1,
        high=10_000,
        text="Requests of one session that may wait.",
    ),
    Setting(
        key="sessions_max",
        default=256,
        low=1,
        high=10_000,
        text="Sessions at once, those that lost their connection included.",
    ),
    Setting(key="readers", default=4, low=1, high=64, text="Queries that run beside each other."),
    Setting(
        key="batch_max",
        default=16,
        low=1,
        high=64,
        text="Changes of different sessions that are stored together; 1: each alone.",
    ),
    Setting(
        key="polls", default=32, low=1, high=1024, text="Long-polls (event_wait) held at once."
    ),
    Setting(
        key="line_bytes_max",
        default=33_554_432,
        low=65_536,
        high=1 << 30,
        text="Bytes of the longest line a client may send.",
    ),
    Setting(
        key="watchdog_s",
        default=600.0,
        low=1,
        high=86_400,
        text="Seconds a write may make no progress before the broker ends itself.",
    ),
    Setting(
        key="mempalace_lock_wait_s",
        default=15.0,
        low=0,
        high=3600,
        text="Seconds to wait at start for a stock process (a hook) that holds mempalace's lock.",
    ),
    Setting(
        key="listen",
        default="",
        form="address",
        text="HOST:PORT where guests are served over TLS (palace expose); empty: nowhere.",
    ),
    Setting(
        key="listen_anywhere",
        default=False,
        text="Whether `listen` may be a wildcard address, reachable from every network.",
    ),
    Setting(
        key="advertise",
        default=(),
        form="address",
        text="HOST:PORT under which guests reach `listen`, if it has other names for them.",
    ),
    Setting(
        key="certificate",
        default="",
        form="path",
        text="PEM file shown to guests, with its `private_key`; empty: each broker makes one.",
    ),
    Setting(
        key="private_key",
        default="",
        form="path",
        text="PEM file of the certificate's key.",
    ),
    Setting(
        key="bridge",
        default="",
        form="ssh",
        text="ssh://[USER@]HOST[:PORT][/PALACE]: how guests reach this palace's machine.",
    ),
    Setting(
        key="bridge_config",
        default="",
        form="text",
        text="ssh configuration file that guests name with -F.",
    ),
    Setting(
        key="bridge_command",
        default="palace",
        form="text",
        text="How palace is called over ssh, where a shell without a login doesn't find it.",
    ),
    Setting(
        key="http",
        default=True,
        low=1,
        high=65_535,
        text="Whether stock tools and MCP hosts are served over HTTP on 127.0.0.1, or its port.",
    ),
    Setting(
        key="path_map",
        default={},
        text="Directories of guests and what they are called here: a table of absolute paths.",
    ),
    Setting(
        key="log_level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        text="From which level on the broker logs; no level logs what memories say.",
    ),
    Setting(
        key="allow_uids",
        default=(),
        text="Users besides the palace's owner and root who may connect.",
    ),
    Setting(
        key="adjustments_off",
        default=(),
        text="Names of adjustments to the hosted engine that are not made.",
    ),
)


@attrs.frozen(kw_only=True)
class Config:
    """What an owner runs by; see SETTINGS for meanings and units."""

    graph: str
    config_dir: str
    journal: str = "on"
    idle_s: float = 900.0
    grace_s: float = 30.0
    admission_wait_s: float = 30.0
    queue_wait_s: float = 3600.0
    queue_depth_max: int = 1024
    session_depth_max: int = 64
    sessions_max: int = 256
    readers: int = 4
    batch_max: int = 16
    polls: int = 32
    line_bytes_max: int = 33_554_432
    watchdog_s: float = 600.0
    mempalace_lock_wait_s: float = 15.0
    listen: str = ""
    listen_anywhere: bool = False
    advertise: tuple[str, ...] = ()
    certificate: str = ""
    private_key: str = ""
    bridge: str = ""
    bridge_config: str = ""
    bridge_command: str = "palace"
    http: bool | int = True
    path_map: Mapping[str, str] = attrs.field(factory=dict)
    log_level: str = "info"
    allow_uids: tuple[int, ...] = ()
    adjustments_off: tuple[str, ...] = ()


def load_config(found: paths.Paths, environ: Mapping[str, str], kernel: Kernel) -> Config:
    """Read palace.toml (a missing one is empty) and the environment; raises ConfigError."""
    values = _read_toml(found.settings, kernel)
    known = {setting.key: setting for setting in SETTINGS}
    fields: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"{found.settings}: unknown key {key!r}. "
                f"Known keys: {', '.join(sorted(known))}. Remove or correct it."
            )
        fields[key] = _checked(known[key], value, found.settings)
    for setting in SETTINGS:
        text = environ.get(setting.variable, "") if setting.variable else ""
        if text:
            fields[setting.key] = _checked(setting, _number(setting, text), "environment")
    # A graph in the palace is named by its name alone, so that a palace can be moved.
    graph = fields.get("graph") or paths.stock_graph(found, environ)
    fields["graph"] = os.path.join(found.root, graph)
    if not fields.get("config_dir"):
        fields["config_dir"] = paths.config_dir(environ)
    if "store_together" in fields.get("adjustments_off", ()):
        fields["batch_max"] = 1  # the engine would run a batch's calls as it runs any others
    config = Config(**fields)
    _check_wildcard(config, found.settings)
    return config


def _check_wildcard(config: Config, where: str) -> None:
    host = config.listen.rpartition(":")[0].strip("[]")
    if config.listen and host in ANYWHERE and not config.listen_anywhere:
        raise ConfigError(
            f"{where}: listen = {config.listen!r} can be reached from every network. Name one "
            "address, or say listen_anywhere = true, too."
        )


def adopt(found: paths.Paths, config: Config, kernel: Kernel) -> None:
    """Write palace.toml once, so that later owners agree on the graph; call it under the lock."""
    if kernel.read_file(found.settings, TOML_BYTES_MAX) is not None:
        return
    text = (
        "# Settings of this palace, the same for whoever serves it.\n"
        "# All keys: docs/reference/settings.md\n"
        f"graph = {_toml_string(config.graph.removeprefix(found.root + '/'))}\n"
        f"config_dir = {_toml_string(config.config_dir)}\n"
    )
    kernel.write_durable(found.settings, text.encode())


def _read_toml(path: str, kernel: Kernel) -> dict[str, Any]:
    data = kernel.read_file(path, TOML_BYTES_MAX)
    if data is None:
        return {}
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct or remove it.") from None


def _number(setting: Setting, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"${setting.variable}={text!r} is not a number ({setting.text})"
        ) from None


def _checked(setting: Setting, value: Any, where: str) -> Any:
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
        if isinstance(value, str) and (not value or fits(value)):
            return value
        raise _wrong(setting, value, where, wanted)
    if isinstance(default, dict):
        return _checked_map(setting, value, where)
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
    if plain and (fits is None or all(fits(item) for item in value)):
        return tuple(value)
    of = FORMS[setting.form][1] if setting.form else kind.__name__
    raise _wrong(setting, value, where, f"a list of {of}")


def _checked_map(setting: Setting, value: Any, where: str) -> Any:
    if isinstance(value, dict) and all(
        isinstance(there, str) and os.path.isabs(name) and os.path.isabs(there)
        for name, there in value.items()
    ):
        return {os.path.normpath(name): os.path.normpath(there) for name, there in value.items()}
    raise _wrong(setting, value, where, "a table of absolute paths")


def _wrong(setting: Setting, value: Any, where: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"{where}: {setting.key} = {value!r} must be {wanted}. {setting.text} "
        f"The default is {setting.default!r}."
    )


def _toml_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
