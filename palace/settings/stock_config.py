"""mempalace's config.json, read as stock 3.11 reads it, but never passed over.

Stock goes on with its defaults where the file can't be understood.  For a palace that would mean
another directory, another store and another graph than the file names, so here it is an error.

Standard library only, and light: the shim imports this where nothing else names the palace.
"""

import os

from palace.protocol.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CHROMA = "chroma"
DEFAULT = "default"
EXACT = ("sqlite_exact", "rust_exact")  # one format
PGVECTOR = "pgvector"
MILVUS = "milvus"
# What has drawers of milvus elsewhere than in the file of milvus-lite in the palace.
_MILVUS_ELSEWHERE = ("uri", "namespace", "db_name")
# By which files stock knows what a palace was made by (mempalace 3.11: backends/*.py, detect).
_ARTIFACTS = {
    "chroma.sqlite3": CHROMA,
    "sqlite_exact.sqlite3": "sqlite_exact",
    "milvus_backend.json": MILVUS,
    "milvus.db": MILVUS,
    "pgvector_backend.json": PGVECTOR,
    "qdrant_backend.json": "qdrant",
}


def config_file(directory: str) -> str:
    """Return where stock's settings stand in its configuration directory."""
    return f"{directory}/config.json"


def read_stock_config(directory: str) -> "dict[str, Any]":
    """Return what config.json says, {} where there is none; raises ConfigError."""
    path = config_file(directory)
    if os.path.lexists(path) and not os.path.isfile(path):  # stock would take it for absent
        is_link = os.path.islink(path) and not os.path.exists(path)
        raise _unreadable(path, "it is a link to nothing" if is_link else "it is not a file")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    from palace.protocol.decoding import decode_json

    try:
        # With the byte order mark that editors on Windows write.
        settings = decode_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _unreadable(path, "it is nested too deeply") from None
    except ValueError as error:
        raise _unreadable(path, f"it is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise _unreadable(path, f"it holds no JSON object, but {type(settings).__name__}")
    return settings


def server_directory(home: str, palace: str) -> str:
    """Return where stock looks for the server of a palace, which is a resolved path."""
    import hashlib

    key = hashlib.sha256(os.path.normcase(palace).encode()).hexdigest()[:24]
    return f"{home}/.mempalace/server/{key}"


class Backend:
    """Which backend stock keeps a palace's drawers in, and what says so."""

    __slots__ = ("is_elsewhere", "name", "said_by")

    def __init__(self, name: str, said_by: str, *, is_elsewhere: bool = False) -> None:
        self.name = name
        self.said_by = said_by
        self.is_elsewhere = is_elsewhere  # of milvus: on a server, or in another place of its own

    @property
    def is_journalled(self) -> bool:
        return self.is_file or self.is_pgvector or self.is_milvus_lite

    @property
    def is_file(self) -> bool:
        """Tell whether the drawers are in files of the palace's directory that palace knows."""
        return self.name == CHROMA or self.is_exact

    @property
    def is_default(self) -> bool:
        """Tell whether nothing says which one it is, neither a setting nor a file."""
        return self.said_by == DEFAULT

    @property
    def is_exact(self) -> bool:
        return self.name in EXACT

    @property
    def is_pgvector(self) -> bool:
        return self.name == PGVECTOR

    @property
    def is_milvus_lite(self) -> bool:
        """Tell whether the drawers are in milvus-lite's database in the palace's directory."""
        return self.name == MILVUS and not self.is_elsewhere

    @property
    def can_be_asked(self) -> bool:
        """Tell whether what reads a database's tables is installed: shims do without."""
        from importlib.util import find_spec

        return self.is_pgvector and all(map(find_spec, ("mempalace", "psycopg")))

    @property
    def is_given_vectors(self) -> bool:
        """Tell whether it is one of those, journalled, whose collections embed nothing."""
        return self.is_exact or self.is_pgvector or self.is_milvus_lite


def backend_of(root: str, config_dir: str, environ: "Mapping[str, str]") -> Backend:
    """Return what stock would resolve: its settings, the environment, what is there, Chroma."""
    settings = read_stock_config(config_dir)
    name, said_by = _named(root, config_dir, settings, environ)
    is_elsewhere = name == MILVUS and is_milvus_elsewhere(settings, environ)
    return Backend(name, said_by, is_elsewhere=is_elsewhere)


def is_milvus_elsewhere(settings: "Mapping[str, Any]", environ: "Mapping[str, str]") -> bool:
    """Tell whether milvus would keep drawers elsewhere than in milvus-lite's own file there."""
    return any(
        environ.get(f"MEMPALACE_MILVUS_{key.upper()}") or settings.get(f"milvus_{key}")
        for key in _MILVUS_ELSEWHERE
    )


def _named(
    root: str, config_dir: str, settings: "dict[str, Any]", environ: "Mapping[str, str]"
) -> "tuple[str, str]":
    if named := settings.get("backend"):
        return str(named).strip().lower(), config_file(config_dir)
    given = environ.get("MEMPALACE_BACKEND", "").strip().lower()
    if given:
        return given, "$MEMPALACE_BACKEND"
    for name, backend in _ARTIFACTS.items():
        if root and os.path.exists(f"{root}/{name}"):
            return backend, f"{root}/{name}"
    return CHROMA, DEFAULT


def backend_mismatch(
    root: str, config_dir: str, environ: "Mapping[str, str]"
) -> "tuple[str, str] | None":
    """Return why stock opens nothing there, another backend's files, and the remedy; else None."""
    named = backend_of(root, config_dir, environ)
    there = backend_of(root, os.devnull, {})  # by the files alone
    if there.is_default or there.name == named.name:
        return None
    if there.is_exact and named.is_exact:
        return None
    if there.name == CHROMA and not os.path.getsize(there.said_by):
        return None
    text = (
        f"{named.said_by} says that the backend is {named.name}, and {there.said_by} is "
        f"{there.name}'s: mempalace opens no palace that holds another backend's files."
    )
    remedy = (
        f'Name the backend that is there ("backend": "{there.name}" in {config_dir}/config.json), '
        "or give the other one a directory of its own (--palace)."
    )
    return text, remedy


def check_backend_fits(root: str, config_dir: str, environ: "Mapping[str, str]") -> None:
    """Refuse a palace that holds another backend's files than the one that is set: ConfigError."""
    if mismatch := backend_mismatch(root, config_dir, environ):
        raise ConfigError(" ".join(mismatch))


def check_journalled(root: str, config_dir: str, environ: "Mapping[str, str]") -> None:
    """Refuse what needs a journal of today's memories where the backend has none: ConfigError."""
    backend = backend_of(root, config_dir, environ)
    if not backend.is_journalled:
        raise ConfigError(f"{no_journal_text(root, backend)} Nothing was changed. {COPY_INSTEAD}")


def no_journal_text(root: str, backend: Backend) -> str:
    """Say that a palace has no journal because of its backend."""
    where = ", in another place than the palace's own directory" if backend.is_elsewhere else ""
    return (
        f"{root} keeps its memories in the backend {backend.name} (says {backend.said_by}){where}, "
        "and palace journals those of chroma, sqlite_exact, rust_exact, pgvector and milvus-lite "
        "alone: a journal that lies there is of an earlier time."
    )


COPY_INSTEAD = (
    "To back this palace up, copy its directory while it is on hold (palace stop --hold), or with "
    "the backend's own tools."
)


def _unreadable(path: str, why: str) -> ConfigError:
    return ConfigError(
        f"mempalace's settings {path} can't be understood: {why}. They may name another palace "
        "than the default, so none is opened. Correct the file; or remove it, if nothing in it "
        "is needed."
    )
