"""`palace config`: the settings that count for a palace, and this user's own on this machine.

What palace.toml says and may not decide is shown, and moved into the user's settings once the user
has agreed: nothing that can run a program or name a path comes out of a directory that may be lent.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import tomlkit
from tomlkit.exceptions import TOMLKitError

from palace.kernel.kernel import Kernel
from palace.kernel.output import say
from palace.mcp_hosts.confirm import confirm
from palace.protocol.decoding import decode_toml
from palace.protocol.errors import ConfigError
from palace.settings.checks import USER, Setting, checked
from palace.settings.config import KNOWN, SETTINGS, checked_table, ignored_text, load_settings
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.recorded import RECORDED
from palace.settings.user_settings import (
    UserSettings,
    read_settings,
    read_toml,
    read_user_settings,
    toml_text,
    write_user_settings,
)

_LOOK = "Look at it: palace config"
_RESTART = "A running broker keeps the settings that it started with: palace stop"


def show_config(paths: Paths, environment: ShimEnvironment) -> str:
    """Return the settings that differ from their defaults, with their files; raises ConfigError."""
    kernel = Kernel()
    loaded = load_settings(paths, environment.all, kernel)
    lent = read_toml(paths.settings, kernel)
    rows = [f"yours on this machine: {loaded.user.path}", f"of the palace: {paths.settings}"]
    for setting in SETTINGS:
        value = getattr(loaded.config, setting.key)
        if setting.key in loaded.user.values:
            rows.append(f"  {setting.key} = {toml_text(value)}  (yours)")
        elif setting.key in lent and setting.key not in loaded.ignored:
            rows.append(f"  {setting.key} = {toml_text(value)}  (palace.toml)")
    if loaded.user.other_id:
        rows.append(_bound_elsewhere(paths, loaded.user))
    if loaded.ignored:
        rows.append(ignored_text(loaded.ignored, paths))
    return "\n".join(rows)


def set_config(paths: Paths, environment: ShimEnvironment, given: list[str]) -> str:
    """Set KEY=VALUE in the user's settings; return what to tell; raises ConfigError."""
    return _changed(paths, environment, dict(map(_parse, given)))


def unset_config(paths: Paths, environment: ShimEnvironment, keys: list[str]) -> str:
    """Remove keys from the user's settings; return what to tell; raises ConfigError."""
    for key in keys:
        _known(key)
    return _changed(paths, environment, dict.fromkeys(keys))


def _changed(paths: Paths, environment: ShimEnvironment, changes: Mapping[str, Any]) -> str:
    kernel = Kernel()
    user = change_settings(paths, environment, changes, kernel)
    load_settings(paths, environment.all, kernel)  # says what is wrong with them together
    rows = [f"{key} = {toml_text(user.values[key])}" for key in changes if key in user.values]
    rows += [f"{key} is not set any more" for key in changes if key not in user.values]
    return "\n".join([f"{user.path}:", *(f"  {row}" for row in rows), _RESTART])


def change_settings(
    paths: Paths, environment: ShimEnvironment, changes: Mapping[str, Any], kernel: Kernel
) -> UserSettings:
    """Set the user's settings of a palace, those with the value None to nothing; return them."""
    user = read_user_settings(paths, environment.all, kernel)
    if user.other_id:
        raise ConfigError(_bound_elsewhere(paths, user))
    values = user.values | dict(changes)
    user.values = {key: value for key, value in values.items() if value is not None}
    write_user_settings(user, paths, environment.all, kernel)
    return user


def _bound_elsewhere(paths: Paths, user: UserSettings) -> str:
    return (
        f"{user.path} is for palace {user.other_id}, which was at {paths.root} before, and counts "
        f"for nothing now. Use it for the one that is there: palace config trust --palace "
        f"{paths.root}; or remove it"
    )


# Values as they are given on a command line.


def _parse(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is no KEY=VALUE. {_LOOK}")
    setting = _known(key)
    return key, checked(setting, _value(setting, value), "palace config set")


def _known(key: str) -> Setting:
    if key not in KNOWN:
        raise ConfigError(
            f"There is no setting {key!r}. The settings are {', '.join(sorted(KNOWN))}."
        )
    return KNOWN[key]


def _value(setting: Setting, text: str) -> Any:
    """Return a value: text as it stands, lists and tables also without TOML's brackets."""
    default = setting.default
    if isinstance(default, str) and not text.startswith('"'):
        return text
    if isinstance(default, tuple) and not text.startswith("["):
        items = [item.strip() for item in text.split(",") if item.strip()]
        if not all(item.isdigit() for item in items):
            return items
        text = f"[{', '.join(items)}]"
    if isinstance(default, dict) and not text.startswith("{"):
        return dict(entry.partition("=")[::2] for entry in text.split(",") if entry)
    try:
        return decode_toml(f"value = {text}".encode())["value"]
    except ValueError as error:
        raise ConfigError(f"{setting.key}={text!r} is no value of TOML: {error}.") from None


# What palace.toml says, once it is agreed to.


@attrs.frozen(kw_only=True)
class Offer:
    """A setting that palace.toml, or another palace's file, offers; `now` counts until then."""

    setting: Setting
    now: Any
    offered: Any

    @property
    def text(self) -> str:
        now = "not settled" if self.now is None else toml_text(self.now)
        return (
            f"- {self.setting.key} = {now}\n+ {self.setting.key} = {toml_text(self.offered)}\n"
            f"    {self.setting.text}"
        )


def trust_settings(paths: Paths, environment: ShimEnvironment, *, yes: bool) -> str:
    """Move what palace.toml says of the user's settings there; raises ConfigError, Unconfirmed."""
    kernel = Kernel()
    user = read_user_settings(paths, environment.all, kernel)
    lent = checked_table(read_toml(paths.settings, kernel), paths.settings)
    before = _former(user, kernel)
    offers = list(_offers(lent, user, before, paths, environment, kernel))
    if not offers and not user.other_id:
        return f"{paths.settings} says nothing that isn't in your settings ({user.path})."
    say(f"From {paths.settings} into your settings on this machine, {user.path}:")
    for offer in offers:
        say(offer.text)
    if user.other_id:
        say(f"The file was for palace {user.other_id}; it will be for {user.palace_id}.")
    confirm(yes=yes)
    user.values = before | user.values | {offer.setting.key: offer.offered for offer in offers}
    write_user_settings(user, paths, environment.all, kernel)
    _remove(paths, [o.setting.key for o in offers if o.setting.key not in RECORDED], kernel)
    return f"{user.path} has them now. {_RESTART}"


def _former(user: UserSettings, kernel: Kernel) -> dict[str, Any]:
    """Return what the file says for another palace that was at this path."""
    if not user.other_id:
        return {}
    values = read_toml(user.path, kernel)
    return checked_table({k: v for k, v in values.items() if k in KNOWN}, user.path)


def _offers(
    lent: Mapping[str, Any],
    user: UserSettings,
    before: Mapping[str, Any],
    paths: Paths,
    environment: ShimEnvironment,
    kernel: Kernel,
) -> Iterator[Offer]:
    try:
        config = load_settings(paths, environment.all, kernel).config
    except ConfigError:
        config = None  # what is recorded there was not agreed to
    for key, setting in KNOWN.items():
        offered = lent.get(key) if setting.counts == USER else None
        offered = before.get(key) if offered is None else offered
        if config is not None:
            now = getattr(config, key)
        else:
            now = user.values.get(key, None if key in RECORDED else setting.default)
        shown = now.removeprefix(f"{paths.root}/") if key == "graph" and now else now
        if offered is not None and offered != shown:
            yield Offer(setting=setting, now=now, offered=offered)


def _remove(paths: Paths, keys: list[str], kernel: Kernel) -> None:
    """Take settings out of palace.toml, comments and the rest left as they are.

    One that can't be edited stays as it is: it is named as ignored once its values differ.
    """
    data = read_settings(paths.settings, kernel)
    if not keys or data is None or not kernel.writable(paths.root):
        return
    text = without_keys(data.decode(), keys)
    if text is not None:
        kernel.write_durable(paths.settings, text.encode())


def without_keys(text: str, keys: list[str]) -> str | None:
    """Return a palace.toml without some keys, None where a program can't take them out."""
    try:
        before = decode_toml(text.encode())
        document = tomlkit.parse(text)
        for key in keys:
            document.remove(key)
        changed = tomlkit.dumps(document)
        after = decode_toml(changed.encode())
    except (ValueError, RecursionError, TOMLKitError):
        return None
    return changed if after == {k: v for k, v in before.items() if k not in keys} else None
