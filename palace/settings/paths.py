"""Which directory is the palace, and where its control files lie.

A palace is the directory that holds chroma.sqlite3, or another backend's database.  It is found as
stock mempalace 3.11 finds it (docs/reference/settings.md), with `--palace` and `$MEMPALACE_PATH`
before that; `$MEMPALACE_PATH` may name the palace or its parent.  Standard library only: the shim
imports this.
"""

import os
import sys

from palace.protocol.errors import ConfigError
from palace.settings.given_path import GivenPath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STORE, EXACT_STORE = "chroma.sqlite3", "sqlite_exact.sqlite3"  # of the backends that are files
MILVUS_STORE, MILVUS_MARK = "milvus.db", "milvus_backend.json"  # a directory, and what tells of it
# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SUN_PATH_BYTES_MAX = 103
_STOCK_VARIABLES = ("MEMPALACE_PALACE_PATH", "MEMPALACE_PALACE", "MEMPAL_PALACE_PATH")
_PARENT_NAMES = (".mempalace", "mempalace")


class Paths:
    """The control files of one palace; `root` is its resolved directory.

    `local` is the directory of lock and socket where they can't lie in the palace: it belongs to
    this kernel, but is reached over a mount without either (palace/ownership/claim.py sets it).
    """

    __slots__ = ("found_by", "local", "root")

    def __init__(self, root: str, *, found_by: str = "--palace") -> None:
        self.root = root
        self.found_by = found_by
        self.local = ""

    def _in_root(self, name: str) -> str:
        return f"{self.root}/{name}"

    @property
    def store(self) -> str:
        """Return the database of drawers, of whichever backend is there; Chroma's by default."""
        return store_in(self.root)

    @property
    def lock(self) -> str:
        return f"{self.local or self.root}/broker.lock"

    @property
    def claim(self) -> str:
        return self._in_root("owner.json")

    @property
    def record(self) -> str:
        return self._in_root("broker.json")

    @property
    def epoch(self) -> str:
        return self._in_root("epoch")

    @property
    def protocol(self) -> str:
        return self._in_root("protocol")

    @property
    def engine(self) -> str:
        return self._in_root("engine")

    @property
    def register(self) -> str:
        return self._in_root("palace.sqlite3")

    @property
    def candidates(self) -> str:
        return self._in_root("candidates.sqlite3")

    @property
    def palace_id(self) -> str:
        return self._in_root("palace_id")

    @property
    def settings(self) -> str:
        return self._in_root("palace.toml")

    @property
    def hold(self) -> str:
        return self._in_root("broker.hold")

    @property
    def log(self) -> str:
        return self._in_root("broker.log")

    @property
    def deaths(self) -> str:
        return self._in_root("deaths")

    @property
    def lifecycle(self) -> str:
        return self._in_root("lifecycle.log")

    @property
    def catalogue(self) -> str:
        return self._in_root("broker.tools.json")

    @property
    def differing_texts(self) -> str:
        return self._in_root("texts.suspect")

    @property
    def suspect_rows(self) -> str:
        return self._in_root("rows.suspect")

    @property
    def journal(self) -> str:
        return self._in_root("journal")

    @property
    def journal_head(self) -> str:
        return self._in_root("journal/HEAD.json")

    def socket(self, runtime_dir: str) -> str:
        """Return where the broker listens: beside its lock, in `runtime_dir` if that is too long.

        `runtime_dir` is the user's own directory (`$XDG_RUNTIME_DIR`, else a private one in /tmp).
        """
        near = f"{self.local or self.root}/broker.sock"
        if len(os.fsencode(near)) <= SUN_PATH_BYTES_MAX:
            return near
        return f"{runtime_dir}/palace-{path_key(self.root)}/broker.sock"


def path_key(root: str) -> str:
    """Return what stands for a palace's path in the names of files that are kept elsewhere."""
    import hashlib  # not for every shim: it costs 3 ms

    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def runtime_dir(environ: "Mapping[str, str]") -> str:
    """Return the user's directory for sockets: `$XDG_RUNTIME_DIR`, else /tmp/palace-run-UID."""
    given = xdg_dir("XDG_RUNTIME_DIR", environ)
    return given or f"/tmp/palace-run-{os.geteuid()}"  # noqa: S108 - made 0700, owner is checked


def state_dir(environ: "Mapping[str, str]") -> str:
    """Return where palace keeps what belongs to this user on this machine alone."""
    base = xdg_dir("XDG_STATE_HOME", environ) or f"{home_dir(environ)}/.local/state"
    return f"{base}/palace"


def provider_dir(environ: "Mapping[str, str]") -> str:
    """Return where palace keeps, as a provider of memory, which agents it has entries for."""
    return f"{state_dir(environ)}/provider"


def embedded_file(root: str, environ: "Mapping[str, str]") -> str:
    """Return where vectors of another embedder are kept until all of a palace has them."""
    return f"{state_dir(environ)}/embedding/{path_key(root)}.sqlite3"


def heartbeat_file(root: str, environ: "Mapping[str, str]") -> str:
    """Return the file that a broker that stays touches, where a slot names it."""
    return f"{provider_dir(environ)}/{path_key(root)}.heartbeat"


def copies_for_readers(palace_id: str, environ: "Mapping[str, str]") -> str:
    """Return where copies of a palace's stores are made: outside of it, on a disk that is ours."""
    return f"{state_dir(environ)}/reading/{palace_id}"


def cache_dir(environ: "Mapping[str, str]") -> str:
    """Return where programs of this user keep what can be fetched again, models among it."""
    return xdg_dir("XDG_CACHE_HOME", environ) or f"{home_dir(environ)}/.cache"


def xdg_dir(name: str, environ: "Mapping[str, str]") -> str:
    """Return one of the XDG base directories, "" where the variable names none.

    A relative one is none: the XDG specification wants that ignored.
    """
    text = environ.get(name, "").rstrip("/")
    if not text.strip():
        return ""
    found = expanded(GivenPath(text, f"${name}"), environ)
    return found if os.path.isabs(found) else ""


def home_dir(environ: "Mapping[str, str]") -> str:
    """Return the user's home; raises ConfigError where neither HOME nor the system tells it."""
    home = environ.get("HOME", "")
    if home:
        return GivenPath(home, "$HOME").absolute
    import pwd

    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise ConfigError(
            f"HOME is not set, and uid {uid} has no entry in this system's user database, so that "
            "there is no home to look in. Set HOME=DIR, a directory that this user may write to."
        ) from None


def find_palace(given: str, environ: "Mapping[str, str]") -> Paths:
    """Return the palace that `--palace` (`given`, may be ""), the environment or stock names."""
    if given:
        return _named(given, "--palace", environ)
    ours = environ.get("MEMPALACE_PATH", "")
    if ours:
        found = _named(ours, "$MEMPALACE_PATH", environ)
        return Paths(_palace_or_parent(found.root), found_by="MEMPALACE_PATH")
    for name in _STOCK_VARIABLES:
        value = environ.get(name, "")
        if value:
            return _named(value, f"${name}", environ)
    return Paths(stock_default(environ), found_by="default")


def _named(text: str, where: str, environ: "Mapping[str, str]") -> Paths:
    given = GivenPath(text, where)
    return Paths(_resolved(given, environ), found_by=where.removeprefix("$"))


def _resolved(given: GivenPath, environ: "Mapping[str, str]") -> str:
    root = os.path.realpath(expanded(given, environ))
    if not root.isprintable():  # by a link, or by the current directory
        raise ConfigError(
            f"The palace's path {root!a} is not plain text, which settings and logs can't "
            "hold. Rename the directory."
        )
    if root == "/":
        raise given.refused("a palace is a directory of its own")
    return root


def expanded(given: GivenPath, environ: "Mapping[str, str]") -> str:
    """Return a path with the home that a leading `~` or `~user` stands for; may be relative."""
    text = given.text
    if text == "~" or text.startswith("~/"):
        return home_dir(environ) + text[1:]
    if not text.startswith("~"):
        return text
    found = os.path.expanduser(text)
    if found == text:
        raise given.refused(f"there is no user {text[1:].partition('/')[0]!r} here")
    return found


def store_in(directory: str) -> str:
    """Return where a palace's database of drawers is, or would be if nothing names a backend."""
    chroma, exact = f"{directory}/{STORE}", f"{directory}/{EXACT_STORE}"
    return exact if os.path.exists(exact) and not os.path.exists(chroma) else chroma


def holds_store(directory: str) -> bool:
    """Tell whether a directory holds the drawers of a palace."""
    return os.path.exists(store_in(directory))


def _palace_or_parent(path: str) -> str:
    inner = f"{path}/palace"
    here, there = holds_store(path), holds_store(inner)
    if here and there:
        name = os.path.basename(store_in(path))
        raise ConfigError(
            f"$MEMPALACE_PATH is ambiguous: both {path} and {inner} hold a {name}. "
            f"Name the one you mean, or give it with --palace."
        )
    if here:
        return path
    if there or os.path.isdir(inner):
        return os.path.realpath(inner)
    # Nothing is there yet: a directory named like stock's own gets stock's layout.
    return inner if os.path.basename(path) in _PARENT_NAMES else path


def config_dir(environ: "Mapping[str, str]") -> str:
    """Return mempalace's configuration directory, as its config.py finds it."""
    given = environ.get("MEMPALACE_CONFIG_DIR", "")
    if given.strip():
        return expanded(GivenPath(given, "$MEMPALACE_CONFIG_DIR"), environ)
    home = home_dir(environ)
    legacy = f"{home}/.mempalace"
    marks = ("config.json", "people_map.json", f"palace/{STORE}")
    if any(os.path.isfile(f"{legacy}/{mark}") for mark in marks):
        return legacy
    if os.path.lexists(f"{legacy}/config.json"):  # which nobody can read: see read_stock_config
        return legacy
    return f"{xdg_dir('XDG_CONFIG_HOME', environ) or f'{home}/.config'}/mempalace"


def stock_default(environ: "Mapping[str, str]") -> str:
    """Return the palace that stock uses when nothing names one; raises ConfigError."""
    from palace.settings.stock_config import config_file, read_stock_config

    directory = config_dir(environ)
    text = read_stock_config(directory).get("palace_path")
    if text is None:
        return os.path.realpath(f"{directory}/palace")
    where = f"palace_path in {config_file(directory)}"
    given = GivenPath(text if isinstance(text, str) else repr(text), where)
    if not os.path.isabs(expanded(given, environ)):
        raise given.refused("it would be another palace in each directory")
    return _resolved(given, environ)


def stock_graph(paths: Paths, environ: "Mapping[str, str]") -> str:
    """Return the knowledge graph that stock would open for this palace (docs/decisions/0003).

    With its `--palace` flag stock keeps the graph in the palace; named by a variable or by
    default it is the fixed one under `~/.mempalace`, whichever palace that is.
    """
    inside = f"{paths.root}/knowledge_graph.sqlite3"
    at_home = f"{home_dir(environ)}/.mempalace/knowledge_graph.sqlite3"
    if paths.found_by == "--palace":
        return inside
    if paths.found_by == "MEMPALACE_PATH":
        unflagged = {name: value for name, value in environ.items() if name != "MEMPALACE_PATH"}
        same = find_palace("", unflagged).root == paths.root
        return at_home if same and not os.path.exists(inside) else inside
    return at_home


def python_command() -> "list[str]":
    """Return how to start ourselves, whatever the current directory holds (-P)."""
    return [sys.executable, "-P", "-m", "palace"]
