"""Which directory is the palace, and where its control files lie.

A palace is the directory that holds chroma.sqlite3.  It is found as stock mempalace 3.11 finds it
(docs/reference/settings.md), with `--palace` and `$MEMPALACE_PATH` before that; `$MEMPALACE_PATH`
may name the palace or its parent.  Standard library only: the shim imports this.
"""

import os
import sys

from palace.protocol.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STORE = "chroma.sqlite3"
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
        return self._in_root(STORE)

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
    def catalogue(self) -> str:
        return self._in_root("broker.tools.json")

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
        import hashlib  # only for long paths: it costs 3 ms

        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return f"{runtime_dir}/palace-{digest}/broker.sock"


def runtime_dir(environ: "Mapping[str, str]") -> str:
    """Return the user's directory for sockets: `$XDG_RUNTIME_DIR`, else /tmp/palace-run-UID."""
    given = environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        return given.rstrip("/")
    return f"/tmp/palace-run-{os.geteuid()}"  # noqa: S108 - made 0700 and its owner is checked


def state_dir(environ: "Mapping[str, str]") -> str:
    """Return where palace keeps what belongs to this user on this machine alone."""
    given = environ.get("XDG_STATE_HOME", "")
    base = given.rstrip("/") if given.startswith("/") else f"{home_dir(environ)}/.local/state"
    return f"{base}/palace"


def home_dir(environ: "Mapping[str, str]") -> str:
    home = environ.get("HOME", "")
    if home:
        return home
    import pwd

    return pwd.getpwuid(os.getuid()).pw_dir


def find_palace(given: str, environ: "Mapping[str, str]") -> Paths:
    """Return the palace that `--palace` (`given`, may be ""), the environment or stock names."""
    if given:
        return Paths(_resolve(given, environ), found_by="--palace")
    ours = environ.get("MEMPALACE_PATH", "")
    if ours:
        return Paths(_palace_or_parent(_resolve(ours, environ)), found_by="MEMPALACE_PATH")
    for name in _STOCK_VARIABLES:
        value = environ.get(name, "")
        if value:
            return Paths(_resolve(value, environ), found_by=name)
    return Paths(_resolve(stock_default(environ), environ), found_by="default")


def _expand(path: str, environ: "Mapping[str, str]") -> str:
    if path == "~" or path.startswith("~/"):
        return home_dir(environ) + path[1:]
    return os.path.expanduser(path)


def _resolve(path: str, environ: "Mapping[str, str]") -> str:
    resolved = os.path.realpath(_expand(path, environ))
    if not resolved.isprintable():  # control characters, or bytes that are no UTF-8
        raise ConfigError(
            f"The palace's path {resolved!a} is not plain text, which settings and logs can't "
            "hold. Rename the directory."
        )
    return resolved


def _palace_or_parent(path: str) -> str:
    inner = f"{path}/palace"
    here = os.path.exists(f"{path}/{STORE}")
    there = os.path.exists(f"{inner}/{STORE}")
    if here and there:
        raise ConfigError(
            f"$MEMPALACE_PATH is ambiguous: both {path} and {inner} hold a {STORE}. "
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
    given = environ.get("MEMPALACE_CONFIG_DIR", "").strip()
    if given:
        return _expand(given, environ)
    home = home_dir(environ)
    legacy = f"{home}/.mempalace"
    marks = ("config.json", "people_map.json", f"palace/{STORE}")
    if any(os.path.isfile(f"{legacy}/{mark}") for mark in marks):
        return legacy
    xdg = environ.get("XDG_CONFIG_HOME", "").strip()
    if xdg and _expand(xdg, environ).startswith("/"):
        return f"{_expand(xdg, environ)}/mempalace"
    return f"{home}/.config/mempalace"


def stock_default(environ: "Mapping[str, str]") -> str:
    """Return the palace that stock uses when nothing names one."""
    directory = config_dir(environ)
    try:
        with open(f"{directory}/config.json", encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return f"{directory}/palace"
    import json

    try:
        settings = json.loads(text)
    except ValueError:
        return f"{directory}/palace"  # stock, too, goes on with its defaults
    path = settings.get("palace_path") if isinstance(settings, dict) else None
    return path if isinstance(path, str) and path else f"{directory}/palace"


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
