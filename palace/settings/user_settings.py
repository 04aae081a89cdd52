"""A palace's settings of this user on this machine, kept where no container can write.

What can run a program, open a port, connect, admit users or name a path outside of the palace
counts from here alone (docs/decisions/0029): palace.toml lies in a directory that containers may
write to.  One file for each path, in the user's state directory; it names the identity of the
palace that it is for, and counts for no other palace at that path.

Standard library only, and light: guests' shims read this.
"""

import os

from palace.kernel.causes import cause_text
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_toml
from palace.protocol.errors import ConfigError
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths, path_key, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS_BYTES_MAX = 1 << 20
_PATH, _ID = "palace", "palace_id"
_HEAD = (
    "# Settings of one palace for this user on this machine.  `palace config` shows and changes\n"
    "# them.  All keys: docs/reference/settings.md\n"
)


class UserSettings:
    """What the file at `path` says of one palace; `values` are not checked yet.

    `palace_id` is the palace's identity, "" while it has none.  `other_id` names the palace that
    the file is for, where that is another one: `values` is empty then.
    """

    __slots__ = ("is_bound", "other_id", "palace_id", "path", "values")

    def __init__(self, path: str, palace_id: str) -> None:
        self.path = path
        self.palace_id = palace_id
        self.values: dict[str, object] = {}
        self.other_id = ""
        self.is_bound = False  # the file names the identity


def read_user_settings(
    found: Paths, environ: "Mapping[str, str]", kernel: Kernel, *, any_palace: bool = False
) -> UserSettings:
    """Return this user's settings of a palace, none where there is no file.

    With `any_palace`, also those that are for another one at this path.  Raises ConfigError for a
    file that can't be understood, or that others could have written.
    """
    path = user_settings_path(found, environ)
    settings = UserSettings(path, identity_of(kernel.read_hint(found.palace_id, 200)) or "")
    values = read_toml(path, kernel)
    if not values:
        return settings
    _check_own(path, found, kernel)
    if values.pop(_PATH, None) != found.root:
        raise ConfigError(f"{path} names another palace than {found.root}. Correct or remove it.")
    bound_to = values.pop(_ID, "")
    if settings.palace_id and bound_to not in ("", settings.palace_id) and not any_palace:
        settings.other_id = str(bound_to)
    else:  # a palace without an identity is a new one, or is being restored, at a path of ours
        settings.values = values
        settings.is_bound = bound_to == settings.palace_id
    return settings


def write_user_settings(
    settings: UserSettings, found: Paths, environ: "Mapping[str, str]", kernel: Kernel
) -> None:
    """Keep `values` for the palace; raises ConfigError where the directory can't be used."""
    directory = os.path.dirname(settings.path)
    try:
        os.makedirs(state_dir(environ), 0o700, exist_ok=True)
        kernel.make_directory(directory)
        _check_own(settings.path, found, kernel)
        head = {_PATH: found.root, _ID: settings.palace_id}
        rows = [
            f"{name} = {toml_text(value)}\n" for name, value in (head | settings.values).items()
        ]
        kernel.write_durable(settings.path, (_HEAD + "".join(rows)).encode())
    except OSError as error:
        raise ConfigError(f"{settings.path} can't be written: {cause_text(error)}.") from None


def read_toml(path: str, kernel: Kernel) -> "dict[str, object]":
    """Return the values of a settings file, none where there is no file; raises ConfigError."""
    data = read_settings(path, kernel)
    try:
        return {} if data is None else decode_toml(data)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Correct or remove it.") from None


def read_settings(
    path: str, kernel: Kernel, remedy: str = "Correct or remove it."
) -> "bytes | None":
    """Return a settings file whole, None where there is none; raises ConfigError for a large one.

    Its beginning may be valid, and say something else than all of it.
    """
    try:
        data = kernel.read_file(path, SETTINGS_BYTES_MAX)
    except OSError as error:
        raise ConfigError(cause_text(error)) from None
    if data is not None and len(data) > SETTINGS_BYTES_MAX:
        raise ConfigError(
            f"{path} has more than {SETTINGS_BYTES_MAX} bytes, which no settings need. {remedy}"
        )
    return data


def toml_text(value: object) -> str:
    """Return a setting's value as TOML."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else _escape(c) for c in escaped) + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_text(item) for item in value)}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(name)} = {toml_text(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return str(value)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else toml_text(name)


def user_settings_path(found: Paths, environ: "Mapping[str, str]") -> str:
    """Return the file of a palace's settings that are this user's."""
    return f"{state_dir(environ)}/settings/{path_key(found.root)}.toml"


def _check_own(path: str, found: Paths, kernel: Kernel) -> None:
    directory = os.path.dirname(path)
    problem = kernel.trust_problem(directory)
    real = os.path.realpath(directory)
    if not problem and (real + "/").startswith(found.root + "/"):
        problem = "it lies in the palace, where others may write. Set XDG_STATE_HOME to another one"
    if problem:
        raise ConfigError(
            f"The directory of this user's settings, {directory}, can't be used: {problem}."
        )
