"""Settings of an owner: the user's, palace.toml, the environment, defaults -> one frozen Config.

Every setting is a field of Config, whose metadata says where it counts (docs/decisions/0029):
in the user's settings alone, or also in palace.toml, which may be somebody else's writing.
docs/reference/settings.md is generated from the fields' metadata.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings import paths, recorded
from palace.settings.checks import (
    PALACE,
    USER,
    Setting,
    about,
    check_no_wildcard,
    checked,
    number_in,
)
from palace.settings.embedder import configured_embedder, recorded_embedder
from palace.settings.first_owner import to_fix
from palace.settings.of_memories import MemorySettings
from palace.settings.stock_config import read_stock_config
from palace.settings.user_settings import (
    UserSettings,
    read_settings,
    read_toml,
    read_user_settings,
    toml_text,
    write_user_settings,
)

DUAL = "dual"  # a value of `journal`: it is written, and decides nothing about the stores
NEVER = "never"  # a value of `journal_fsync`


@attrs.frozen(kw_only=True)
class Config(MemorySettings):
    """What an owner runs by.  Each field is one key of palace.toml, and its metadata says so."""

    graph: str = attrs.field(
        metadata=about(
            "The knowledge graph's file, absolute or in the palace; fixed at first adoption.",
            counts=USER,
            form="graph",
        ),
    )
    config_dir: str = attrs.field(
        metadata=about(
            "mempalace's configuration directory; fixed at first adoption.",
            counts=USER,
            form="path",
        ),
    )
    journal: str = attrs.field(
        default="on",
        metadata=about(
            "Whether changes are journalled before they are made; `dual`: they are, and no opening "
            "writes to the stores what the journal says.",
            counts=PALACE,
            choices=("on", DUAL, "off"),
        ),
    )
    journal_fsync: str = attrs.field(
        default="mutation",
        metadata=about(
            "When the journal is made to survive a power cut: before each reply to a change, or "
            "`never` but for whole segments, for machines whose palace may be lost.",
            counts=PALACE,
            choices=("mutation", NEVER),
        ),
    )
    idle_s: float = attrs.field(
        default=900.0,
        metadata=about(
            "Seconds without a request after which the broker leaves; 0 is never.",
            counts=PALACE,
            low=0,
            high=31_536_000,
            variable="PALACE_IDLE_S",
        ),
    )
    grace_s: float = attrs.field(
        default=30.0,
        metadata=about(
            "Seconds that running calls get to end when the broker stops.",
            counts=PALACE,
            low=0,
            high=3600,
        ),
    )
    admission_wait_s: float = attrs.field(
        default=30.0,
        metadata=about(
            "Seconds a request waits for room in a full queue before it is refused as busy.",
            counts=PALACE,
            low=0,
            high=3600,
        ),
    )
    queue_wait_s: float = attrs.field(
        default=3600.0,
        metadata=about(
            "Seconds an admitted request may wait for its turn before it is given up.",
            counts=PALACE,
            low=1,
            high=86_400,
        ),
    )
    queue_depth_max: int = attrs.field(
        default=1024,
        metadata=about(
            "Requests that may wait, of all sessions together.", counts=PALACE, low=1, high=100_000
        ),
    )
    session_depth_max: int = attrs.field(
        default=64,
        metadata=about("Requests of one session that may wait.", counts=PALACE, low=1, high=10_000),
    )
    sessions_max: int = attrs.field(
        default=256,
        metadata=about(
            "Sessions at once, those that lost their connection included.",
            counts=PALACE,
            low=1,
            high=10_000,
        ),
    )
    readers: int = attrs.field(
        default=4,
        metadata=about("Queries that run beside each other.", counts=PALACE, low=1, high=64),
    )
    batch_max: int = attrs.field(
        default=16,
        metadata=about(
            "Changes of different sessions that are stored together; 1: each alone.",
            counts=PALACE,
            low=1,
            high=64,
        ),
    )
    polls: int = attrs.field(
        default=32,
        metadata=about("Long-polls (event_wait) held at once.", counts=PALACE, low=1, high=1024),
    )
    line_bytes_max: int = attrs.field(
        default=33_554_432,
        metadata=about(
            "Bytes of the longest line a client may send.", counts=PALACE, low=65_536, high=1 << 30
        ),
    )
    watchdog_s: float = attrs.field(
        default=600.0,
        metadata=about(
            "Seconds a write may make no progress before the broker ends itself.",
            counts=PALACE,
            low=1,
            high=86_400,
        ),
    )
    canary: bool = attrs.field(
        default=True,
        metadata=about(
            "Whether a small process notices how the broker ends, and records deaths.",
            counts=PALACE,
        ),
    )
    mempalace_lock_wait_s: float = attrs.field(
        default=15.0,
        metadata=about(
            "Seconds that all calls together wait for a stock command that holds mempalace's lock.",
            counts=PALACE,
            low=0,
            high=3600,
        ),
    )
    listen: str = attrs.field(
        default="",
        metadata=about(
            "HOST:PORT where guests are served over TLS (palace expose); empty: nowhere.",
            counts=USER,
            form="address",
        ),
    )
    listen_anywhere: bool = attrs.field(
        default=False,
        metadata=about(
            "Whether `listen` and `serve_http` may be wildcard addresses, reachable from every "
            "network.",
            counts=USER,
        ),
    )
    advertise: tuple[str, ...] = attrs.field(
        default=(),
        metadata=about(
            "HOST:PORT under which guests reach `listen`, if it has other names for them.",
            counts=USER,
            form="address",
        ),
    )
    certificate: str = attrs.field(
        default="",
        metadata=about(
            "PEM file shown to guests, with its `private_key`; empty: each broker makes one.",
            counts=USER,
            form="path",
        ),
    )
    private_key: str = attrs.field(
        default="",
        metadata=about("PEM file of the certificate's key.", counts=USER, form="path"),
    )
    bridge: str = attrs.field(
        default="",
        metadata=about(
            "ssh://[USER@]HOST[:PORT][/PALACE]: how guests reach this palace's machine.",
            counts=USER,
            form="ssh",
        ),
    )
    bridge_config: str = attrs.field(
        default="",
        metadata=about(
            "ssh configuration file that guests name with -F.", counts=USER, form="file"
        ),
    )
    bridge_command: str = attrs.field(
        default="palace",
        metadata=about(
            "How palace is called over ssh, where a shell without a login doesn't find it.",
            counts=USER,
            form="text",
        ),
    )
    http: bool | int = attrs.field(
        default=True,
        metadata=about(
            "Whether stock tools and MCP hosts are served over HTTP on 127.0.0.1, or its port; "
            "without it there is no http.sock either.",
            counts=USER,
            low=1,
            high=65_535,
        ),
    )
    path_map: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata=about(
            "Directories of guests, and of users in allow_uids, and what they are called here: a "
            "table of absolute paths. Nothing else is read for them.",
            counts=USER,
        ),
    )
    environment: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata=about(
            "Variables of the broker's environment, whoever starts it; fixed at first adoption.",
            counts=USER,
            form="variables",
        ),
    )
    log_level: str = attrs.field(
        default="info",
        metadata=about(
            "From which level on the broker logs; no level logs what memories say.",
            counts=PALACE,
            choices=("debug", "info", "warning", "error"),
        ),
    )
    allow_uids: tuple[int, ...] = attrs.field(
        default=(),
        metadata=about(
            "Users besides the palace's owner and root who may read and write memories.",
            counts=USER,
        ),
    )
    mesh: str = attrs.field(
        default="auto",
        metadata=about(
            "Whether stock's mesh is served and peers.json followed; `on`: to any address in it.",
            counts=USER,
            choices=("auto", "on", "off"),
        ),
    )
    mcp_extras: bool = attrs.field(
        default=False,
        metadata=about("Whether MCP clients have resources and prompts, too.", counts=PALACE),
    )
    adjustments_off: tuple[str, ...] = attrs.field(
        default=(),
        metadata=about("Names of adjustments to the hosted engine that are not made.", counts=USER),
    )


def _setting_of(field: "attrs.Attribute[Any]") -> Setting:
    factory = getattr(field.default, "factory", None)  # of a default that must not be shared
    default = factory() if factory is not None else field.default
    if default is attrs.NOTHING:
        default = ""  # found as stock does (`load_config`)
    return Setting(key=field.name, default=default, **field.metadata)


SETTINGS: tuple[Setting, ...] = tuple(_setting_of(field) for field in attrs.fields(Config))
KNOWN = {setting.key: setting for setting in SETTINGS}


@attrs.frozen(kw_only=True)
class Loaded:
    """The settings that count, and `ignored`: what palace.toml says and may not decide.

    `user` is what the user's settings say; its `values` are checked.
    """

    config: Config
    ignored: Mapping[str, Any]
    user: UserSettings


def load_config(found: paths.Paths, environ: Mapping[str, str], kernel: Kernel) -> Config:
    """Return the settings that count for an owner; raises ConfigError."""
    return load_settings(found, environ, kernel).config


def load_settings(
    found: paths.Paths,
    environ: Mapping[str, str],
    kernel: Kernel,
    *,
    lent: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read the user's settings, palace.toml (missing ones are empty) and the environment.

    `lent` is what palace.toml will say, where it isn't in its place yet.  Raises ConfigError.
    """
    if lent is None:
        lent = checked_table(read_toml(found.settings, kernel), found.settings)
    user = read_user_settings(found, environ, kernel)
    user.values = checked_table(user.values, user.path)
    fields = {key: value for key, value in lent.items() if KNOWN[key].counts == PALACE}
    fields |= user.values
    for setting in SETTINGS:
        text = environ.get(setting.variable, "") if setting.variable else ""
        if text:
            fields[setting.key] = checked(setting, number_in(setting, text), "environment")
    _find_data(fields, lent, found, environ)
    read_stock_config(fields["config_dir"])  # the engine would pass over one that is no JSON
    if "environment" not in fields:
        fields["environment"] = to_fix(found.root, fields["config_dir"], environ, kernel)
    # The engine would run a batch's calls as it runs any others; or two of them, told apart by the
    # texts that came, would file the same drawer once the secrets are out.
    if "store_together" in fields.get("adjustments_off", ()) or fields.get("redact") == "all":
        fields["batch_max"] = 1
    config = Config(**fields)
    if config.memory_plugin:
        from palace.protocol.plugin_address import address_in

        address_in(config.memory_plugin, where=user.path)
    if not config.listen_anywhere:
        check_no_wildcard(config.listen, user.path)
        check_no_wildcard(config.serve_http, user.path, "serve_http")
    return Loaded(config=config, ignored=_ignored(lent, config, found), user=user)


def checked_table(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings with their values checked; raises ConfigError."""
    for key in values:
        if key not in KNOWN:
            raise ConfigError(
                f"{where}: unknown key {key!r}. "
                f"Known keys: {', '.join(sorted(KNOWN))}. Remove or correct it."
            )
    return {key: checked(KNOWN[key], value, where) for key, value in values.items()}


def _find_data(
    fields: dict[str, Any], lent: Mapping[str, Any], found: paths.Paths, environ: Mapping[str, str]
) -> None:
    """Settle where the data are: as the user says, else as palace.toml records, else as stock."""
    # A graph in the palace is named by its name alone, so that a palace can be moved.
    graph = fields.get("graph") or _agreed("graph", lent, found, environ)
    fields["graph"] = os.path.join(found.root, graph or paths.stock_graph(found, environ))
    if not fields.get("config_dir"):
        directory = _agreed("config_dir", lent, found, environ)
        fields["config_dir"] = directory or paths.config_dir(environ)
    if "environment" in lent and "environment" not in fields:
        fields["environment"] = _agreed("environment", lent, found, environ)


def _agreed(
    key: str, lent: Mapping[str, Any], found: paths.Paths, environ: Mapping[str, str]
) -> Any:
    """Return what palace.toml records, where that can be taken at its word; raises ConfigError."""
    value = lent.get(key)
    if value and not recorded.is_agreed(key, value, found, environ):
        raise recorded.not_agreed(key, value, found)
    return value


def _ignored(lent: Mapping[str, Any], config: Config, found: paths.Paths) -> dict[str, Any]:
    """Return what palace.toml says of the user's settings, and what doesn't count otherwise."""
    return {
        key: value
        for key, value in lent.items()
        if KNOWN[key].counts == USER and value != _as_lent(key, config, found)
    }


def _as_lent(key: str, config: Config, found: paths.Paths) -> Any:
    value = getattr(config, key)
    return value.removeprefix(f"{found.root}/") if key == "graph" else value


def ignored_text(names: Iterable[str], found: paths.Paths) -> str:
    """Say that settings in palace.toml don't count, and what to do."""
    return (
        f"{', '.join(names)} in {found.settings} count for nothing there, since others may write "
        "to a directory that is lent. To use them as your settings on this machine: palace config "
        f"trust --palace {found.root}"
    )


def adopt(found: paths.Paths, loaded: Loaded, environ: Mapping[str, str], kernel: Kernel) -> None:
    """Write down where the data are, so that later owners agree; call it under the lock.

    In the user's settings, and in palace.toml for other homes; in one that a user wrote, only an
    environment that is to be fixed is added.  A state directory that can't be used is no reason
    not to serve: what palace.toml records is compared at each start, then.
    """
    config = loaded.config
    fixed = {"graph": _as_lent("graph", config, found), "config_dir": config.config_dir}
    if _can_be_fixed(found, config, kernel):
        fixed["environment"] = config.environment
    if not loaded.user.other_id:  # else whose they are is for the user to say
        _adopt_by_user(found, fixed, environ, kernel)
    there = read_settings(found.settings, kernel)
    if there is not None:
        unsaid = config.environment and "environment" not in read_toml(found.settings, kernel)
        if unsaid and "environment" in fixed:
            # At its beginning, since what comes after a table's head belongs to that table.
            text = f"environment = {toml_text(config.environment)}\n"
            kernel.write_durable(found.settings, text.encode() + there)
        return
    head = (
        "# Settings of this palace that only tune it, the same for whoever serves it, and where\n"
        "# its data are.  All keys, and where each counts: docs/reference/settings.md\n"
    )
    rows = [f"{key} = {toml_text(value)}\n" for key, value in fixed.items()]
    kernel.write_durable(found.settings, (head + "".join(rows)).encode())


def _adopt_by_user(
    found: paths.Paths, fixed: Mapping[str, Any], environ: Mapping[str, str], kernel: Kernel
) -> None:
    """Add it to the user's settings, which are the palace's from now on.

    Its identity may have changed since they were read: a copy gets one of its own, as does what
    is restored.
    """
    try:
        user = read_user_settings(found, environ, kernel, any_palace=True)
        values = dict(fixed) | user.values
        if values == user.values and user.is_bound:
            return
        user.values = values
        write_user_settings(user, found, environ, kernel)
    except ConfigError:
        return


def _can_be_fixed(found: paths.Paths, config: Config, kernel: Kernel) -> bool:
    """Tell whether an environment would leave the palace the embedder that made its vectors.

    One that names none must not shut out the session that does, and comes later.
    """
    made_by = recorded_embedder(found.root, kernel)
    embedder = configured_embedder(config.config_dir, config.environment)
    return made_by in ("", embedder)
