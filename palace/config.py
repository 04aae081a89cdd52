"""Settings of an owner: palace.toml, the environment, defaults -> one frozen Config.

palace.toml in the palace fixes what must not depend on which shim wins the election.  It is
written once, at first adoption, under the lock.  Every setting stands in SETTINGS, from which
docs/reference/settings.md is generated.
"""

import os
import tomllib
from collections.abc import Mapping
from typing import Any

import attrs

from palace import paths
from palace.host import Host
from palace.protocol.errors import ConfigError

TOML_BYTES_MAX = 1 << 20


@attrs.frozen(kw_only=True)
class Setting:
    """One key of palace.toml; `unit` is in its name, `low` and `high` are inclusive."""

    key: str
    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    variable: str = ""
    choices: tuple[str, ...] = ()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="graph",
        default="",
        text="The knowledge graph's file, absolute or in the palace; fixed at first adoption.",
    ),
    Setting(
        key="config_dir",
        default="",
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
    polls: int = 32
    line_bytes_max: int = 33_554_432
    watchdog_s: float = 600.0
    mempalace_lock_wait_s: float = 15.0
    allow_uids: tuple[int, ...] = ()
    adjustments_off: tuple[str, ...] = ()


def load_config(found: paths.Paths, environ: Mapping[str, str], host: Host) -> Config:
    """Read palace.toml (a missing one is empty) and the environment; raises ConfigError."""
    values = _read_toml(found.settings, host)
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
    return Config(**fields)


def adopt(found: paths.Paths, config: Config, host: Host) -> None:
    """Write palace.toml once, so that later owners agree on the graph; call it under the lock."""
    if host.read_file(found.settings, TOML_BYTES_MAX) is not None:
        return
    text = (
        "# Settings of this palace, the same for whoever serves it.\n"
        "# All keys: docs/reference/settings.md\n"
        f"graph = {_toml_string(config.graph.removeprefix(found.root + '/'))}\n"
        f"config_dir = {_toml_string(config.config_dir)}\n"
    )
    host.write_durable(found.settings, text.encode())


def _read_toml(path: str, host: Host) -> dict[str, Any]:
    data = host.read_file(path, TOML_BYTES_MAX)
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
    if isinstance(default, tuple):
        kind = int if setting.key == "allow_uids" else str
        if isinstance(value, list) and all(type(item) is kind for item in value):
            return tuple(value)
        raise _wrong(setting, value, where, f"a list of {kind.__name__}")
    if isinstance(default, str):
        plain = setting.key == "graph" and "/" not in str(value)
        if isinstance(value, str) and (not value or os.path.isabs(value) or plain):
            return value
        raise _wrong(setting, value, where, "an absolute path")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(setting, value, where, "a number")
    low, high = setting.low, setting.high
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise _wrong(setting, value, where, f"between {low:g} and {high:g}")
    if isinstance(default, int) and value != int(value):
        raise _wrong(setting, value, where, "a whole number")
    return type(default)(value)


def _wrong(setting: Setting, value: Any, where: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"{where}: {setting.key} = {value!r} must be {wanted}. {setting.text} "
        f"The default is {setting.default!r}."
    )


def _toml_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
