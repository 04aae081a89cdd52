"""Settings of an owner: palace.toml, the environment, defaults -> one frozen Config.

palace.toml in the palace fixes what must not depend on which shim wins the election.  It is
written once, at first adoption, under the lock.  Every setting is a field of
Config; docs/reference/settings.md is generated from the fields' metadata.
"""

import os
from collections.abc import Mapping
from typing import Any

import attrs

from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_toml
from palace.protocol.errors import ConfigError
from palace.settings import paths
from palace.settings.checks import Setting, checked, number_in
from palace.settings.embedder import configured_embedder, recorded_embedder
from palace.settings.inherited import to_be_fixed
from palace.settings.stock_config import read_stock_config

TOML_BYTES_MAX = 1 << 20
ANYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104 - to be refused


def about(
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    variable: str = "",
    choices: tuple[str, ...] = (),
    form: str = "",
) -> dict[str, Any]:
    """Return a field's metadata: what a `Setting` says beside its key and its default."""
    return {
        "text": text,
        "low": low,
        "high": high,
        "variable": variable,
        "choices": choices,
        "form": form,
    }


@attrs.frozen(kw_only=True)
class Config:
    """What an owner runs by.  Each field is one key of palace.toml, and its metadata says so."""

    graph: str = attrs.field(
        metadata=about(
            "The knowledge graph's file, absolute or in the palace; fixed at first adoption.",
            form="graph",
        ),
    )
    config_dir: str = attrs.field(
        metadata=about(
            "mempalace's configuration directory; fixed at first adoption.", form="path"
        ),
    )
    journal: str = attrs.field(
        default="on",
        metadata=about(
            "Whether changes are journalled before they are made.", choices=("on", "off")
        ),
    )
    idle_s: float = attrs.field(
        default=900.0,
        metadata=about(
            "Seconds without a request after which the broker leaves; 0 is never.",
            low=0,
            high=31_536_000,
            variable="PALACE_IDLE_S",
        ),
    )
    grace_s: float = attrs.field(
        default=30.0,
        metadata=about(
            "Seconds that running calls get to end when the broker stops.", low=0, high=3600
        ),
    )
    admission_wait_s: float = attrs.field(
        default=30.0,
        metadata=about(
            "Seconds a request waits for room in a full queue before it is refused as busy.",
            low=0,
            high=3600,
        ),
    )
    queue_wait_s: float = attrs.field(
        default=3600.0,
        metadata=about(
            "Seconds an admitted request may wait for its turn before it is given up.",
            low=1,
            high=86_400,
        ),
    )
    queue_depth_max: int = attrs.field(
        default=1024,
        metadata=about("Requests that may wait, of all sessions together.", low=1, high=100_000),
    )
    session_depth_max: int = attrs.field(
        default=64,
        metadata=about("Requests of one session that may wait.", low=1, high=10_000),
    )
    sessions_max: int = attrs.field(
        default=256,
        metadata=about(
            "Sessions at once, those that lost their connection included.", low=1, high=10_000
        ),
    )
    readers: int = attrs.field(
        default=4,
        metadata=about("Queries that run beside each other.", low=1, high=64),
    )
    batch_max: int = attrs.field(
        default=16,
        metadata=about(
            "Changes of different sessions that are stored together; 1: each alone.", low=1, high=64
        ),
    )
    polls: int = attrs.field(
        default=32,
        metadata=about("Long-polls (event_wait) held at once.", low=1, high=1024),
    )
    line_bytes_max: int = attrs.field(
        default=33_554_432,
        metadata=about("Bytes of the longest line a client may send.", low=65_536, high=1 << 30),
    )
    watchdog_s: float = attrs.field(
        default=600.0,
        metadata=about(
            "Seconds a write may make no progress before the broker ends itself.",
            low=1,
            high=86_400,
        ),
    )
    mempalace_lock_wait_s: float = attrs.field(
        default=15.0,
        metadata=about(
            "Seconds that all calls together wait for a stock command that holds mempalace's lock.",
            low=0,
            high=3600,
        ),
    )
    listen: str = attrs.field(
        default="",
        metadata=about(
            "HOST:PORT where guests are served over TLS (palace expose); empty: nowhere.",
            form="address",
        ),
    )
    listen_anywhere: bool = attrs.field(
        default=False,
        metadata=about("Whether `listen` may be a wildcard address, reachable from every network."),
    )
    advertise: tuple[str, ...] = attrs.field(
        default=(),
        metadata=about(
            "HOST:PORT under which guests reach `listen`, if it has other names for them.",
            form="address",
        ),
    )
    certificate: str = attrs.field(
        default="",
        metadata=about(
            "PEM file shown to guests, with its `private_key`; empty: each broker makes one.",
            form="path",
        ),
    )
    private_key: str = attrs.field(
        default="",
        metadata=about("PEM file of the certificate's key.", form="path"),
    )
    bridge: str = attrs.field(
        default="",
        metadata=about(
            "ssh://[USER@]HOST[:PORT][/PALACE]: how guests reach this palace's machine.", form="ssh"
        ),
    )
    bridge_config: str = attrs.field(
        default="",
        metadata=about("ssh configuration file that guests name with -F.", form="file"),
    )
    bridge_command: str = attrs.field(
        default="palace",
        metadata=about(
            "How palace is called over ssh, where a shell without a login doesn't find it.",
            form="text",
        ),
    )
    http: bool | int = attrs.field(
        default=True,
        metadata=about(
            "Whether stock tools and MCP hosts are served over HTTP on 127.0.0.1, or its port.",
            low=1,
            high=65_535,
        ),
    )
    path_map: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata=about(
            "Directories of guests and what they are called here: a table of absolute paths."
        ),
    )
    environment: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata=about(
            "Variables of the broker's environment, whoever starts it; fixed at first adoption.",
            form="variables",
        ),
    )
    log_level: str = attrs.field(
        default="info",
        metadata=about(
            "From which level on the broker logs; no level logs what memories say.",
            choices=("debug", "info", "warning", "error"),
        ),
    )
    allow_uids: tuple[int, ...] = attrs.field(
        default=(),
        metadata=about("Users besides the palace's owner and root who may connect."),
    )
    adjustments_off: tuple[str, ...] = attrs.field(
        default=(),
        metadata=about("Names of adjustments to the hosted engine that are not made."),
    )


def _setting_of(field: "attrs.Attribute[Any]") -> Setting:
    factory = getattr(field.default, "factory", None)  # of a default that must not be shared
    default = factory() if factory is not None else field.default
    if default is attrs.NOTHING:
        default = ""  # found as stock does (`load_config`)
    return Setting(key=field.name, default=default, **field.metadata)


SETTINGS: tuple[Setting, ...] = tuple(_setting_of(field) for field in attrs.fields(Config))


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
        fields[key] = checked(known[key], value, found.settings)
    for setting in SETTINGS:
        text = environ.get(setting.variable, "") if setting.variable else ""
        if text:
            fields[setting.key] = checked(setting, number_in(setting, text), "environment")
    # A graph in the palace is named by its name alone, so that a palace can be moved.
    graph = fields.get("graph") or paths.stock_graph(found, environ)
    fields["graph"] = os.path.join(found.root, graph)
    if not fields.get("config_dir"):
        fields["config_dir"] = paths.config_dir(environ)
    read_stock_config(fields["config_dir"])  # the engine would pass over one that is no JSON
    if "environment" not in fields:
        fields["environment"] = _unfixed(found, environ, kernel)
    if "store_together" in fields.get("adjustments_off", ()):
        fields["batch_max"] = 1  # the engine would run a batch's calls as it runs any others
    config = Config(**fields)
    _check_wildcard(config, found.settings)
    return config


def _unfixed(found: paths.Paths, environ: Mapping[str, str], kernel: Kernel) -> Mapping[str, str]:
    """Return what the first owner's environment is about to fix.

    An embedder that is not the one which made the palace's vectors is no part of it.
    """
    wanted = to_be_fixed(environ)
    made_by = recorded_embedder(found.root, kernel)
    named = wanted.get("MEMPALACE_EMBEDDING_MODEL", "").strip().lower()
    if made_by and named and made_by != named:
        return {k: v for k, v in wanted.items() if not k.startswith("MEMPALACE_EMBEDDING")}
    return wanted


def _check_wildcard(config: Config, where: str) -> None:
    host = config.listen.rpartition(":")[0].strip("[]")
    if config.listen and host in ANYWHERE and not config.listen_anywhere:
        raise ConfigError(
            f"{where}: listen = {config.listen!r} can be reached from every network. Name one "
            "address, or say listen_anywhere = true, too."
        )


def adopt(found: paths.Paths, config: Config, kernel: Kernel) -> None:
    """Write palace.toml once, so that later owners agree; call it under the lock.

    To one that a user wrote, only an environment that is to be fixed is added.
    """
    environment = f"environment = {_toml_table(config.environment)}\n"
    if not _can_be_fixed(found, config, kernel):
        environment = ""
    there = kernel.read_file(found.settings, TOML_BYTES_MAX)
    if there is not None:
        unsaid = config.environment and "environment" not in _read_toml(found.settings, kernel)
        if unsaid and environment:
            # At its beginning, since what comes after a table's head belongs to that table.
            kernel.write_durable(found.settings, environment.encode() + there)
        return
    text = (
        "# Settings of this palace, the same for whoever serves it.\n"
        "# All keys: docs/reference/settings.md\n"
        f"graph = {_toml_string(config.graph.removeprefix(found.root + '/'))}\n"
        f"config_dir = {_toml_string(config.config_dir)}\n"
        f"{environment}"
    )
    kernel.write_durable(found.settings, text.encode())


def _read_toml(path: str, kernel: Kernel) -> dict[str, Any]:
    data = kernel.read_file(path, TOML_BYTES_MAX)
    if data is None:
        return {}
    try:
        return decode_toml(data)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct or remove it.") from None


def _can_be_fixed(found: paths.Paths, config: Config, kernel: Kernel) -> bool:
    """Tell whether an environment would leave the palace the embedder that made its vectors.

    One that names none must not shut out the session that does, and comes later.
    """
    made_by = recorded_embedder(found.root, kernel)
    embedder = configured_embedder(config.config_dir, config.environment)
    return made_by in ("", embedder)


def _toml_table(values: Mapping[str, str]) -> str:
    if not values:
        return "{}"
    inside = ", ".join(f"{name} = {_toml_string(value)}" for name, value in values.items())
    return f"{{ {inside} }}"


def _toml_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
