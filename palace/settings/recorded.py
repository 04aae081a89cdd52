"""What palace.toml records of where a palace's data are, and which of it is taken at its word.

The first owner of a palace finds its graph, its configuration and the embedder's variables, and
later owners have to agree.  What they agree on stands in the user's settings; palace.toml has a
copy, which tells an owner of another home that there is something to agree on.  The copy may be
somebody else's writing, so that it counts only where it says what stock's own rules could say.
Anything else is neither believed nor passed over, since the wrong graph would be another palace's.
"""

from collections.abc import Mapping
from typing import Any

from palace.protocol.errors import ConfigError
from palace.settings import paths
from palace.settings.inherited import FIXED
from palace.settings.user_settings import toml_text

RECORDED = ("graph", "config_dir", "environment")
# Groups of `FIXED` whose variables only tune: they name no file, no model and no address.
_TUNING = (
    "how embedding uses the machine",
    "what is made of a text",
    "how the store is kept",
)
_WORD_CHARS_MAX = 100
_EMBEDDER = "MEMPALACE_EMBEDDING_MODEL"
_LOCAL_EMBEDDERS = ("minilm", "embeddinggemma", "embeddinggemma2")


def is_agreed(key: str, value: Any, found: paths.Paths, environ: Mapping[str, str]) -> bool:
    """Tell whether one of `RECORDED` can be taken at its word."""
    if key == "graph":
        return _is_stocks_graph(value, found, environ)
    if key == "config_dir":
        return _is_stocks_directory(value, environ)
    return _is_plain_environment(value, environ)


def _is_stocks_graph(graph: str, found: paths.Paths, environ: Mapping[str, str]) -> bool:
    """Tell whether a graph is in the palace, or the one that stock keeps beside this palace."""
    if "/" not in graph.removeprefix(f"{found.root}/"):
        return True
    unflagged = {name: value for name, value in environ.items() if name != "MEMPALACE_PATH"}
    if paths.find_palace("", unflagged).root != found.root:
        return graph == paths.stock_graph(found, environ)
    return graph == paths.stock_graph(paths.Paths(found.root, found_by="default"), environ)


def _is_stocks_directory(config_dir: str, environ: Mapping[str, str]) -> bool:
    """Tell whether a configuration directory is one where stock looks in this home."""
    home = paths.home_dir(environ)
    plain = {"HOME": home, "XDG_CONFIG_HOME": environ.get("XDG_CONFIG_HOME", "")}
    known = {paths.config_dir(environ), paths.config_dir(plain)}
    return config_dir in known | {f"{home}/.mempalace", f"{home}/.config/mempalace"}


def _is_plain_environment(values: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    """Tell whether variables only tune, or are this session's own."""
    return all(
        _only_tunes(name, value) or (_is_fixed(name) and environ.get(name) == value)
        for name, value in values.items()
    )


def _is_fixed(name: str) -> bool:
    return any(name in names for names in FIXED.values())


def _only_tunes(name: str, value: str) -> bool:
    if name == _EMBEDDER:
        return value.strip().lower() in _LOCAL_EMBEDDERS
    is_word = len(value) <= _WORD_CHARS_MAX and value.isprintable() and "/" not in value
    return is_word and any(name in FIXED[group] for group in _TUNING)


def not_agreed(key: str, value: Any, found: paths.Paths) -> ConfigError:
    """Return the error for a recorded value that this user has not agreed to on this machine."""
    given = f"--palace {found.root}"
    return ConfigError(
        f"{found.settings} says {key} = {toml_text(value)[:200]}. The directory may have been "
        "lent, so what names a file, a directory or a variable there counts only once you have "
        "agreed to it on this machine, and a palace is not served with another one in its place. "
        f"Look at it and agree: palace config trust {given}; or choose another: palace config set "
        f"{key}=VALUE {given}"
    )
