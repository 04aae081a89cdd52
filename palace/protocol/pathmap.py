"""Names of files in a client's words, and in the broker's.

`mine` and `sync` read files where the broker runs.  A client in a container, or on another machine,
means its own: the owner's setting `path_map` says what its directories are called here.  What has
no name here is refused: the wrong tree must not be mined.  Elsewhere a path is a label
(`source_file`): it is translated where the map knows it, so that the same file has one label, and
else stays.

A client without the right to all paths of the machine (rights.py) is held to the map, too, and the
engine opens what it names beneath the directory that the map lends (`beneath`), and nowhere else.

Pure.
"""

import posixpath
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from palace.protocol.errors import PathUnknown

READS_FILES = {"mempalace_mine": "source", "mempalace_sync": "project_dir"}
LABELS = frozenset(
    {
        "mempalace_add_drawer",
        "mempalace_delete_by_source",
        "mempalace_kg_add",
        "mempalace_search",
    }
)
LABEL = "source_file"
NAMES_PATHS = LABELS.union(READS_FILES)  # what other tools are given holds no path


@attrs.frozen(kw_only=True)
class Whereabouts:
    """Where a session's client is: its working directory, and whether its files are ours.

    `lent_only`: it may name nothing but what `path_map` lends, be its files ours or not; `called`
    says who it is.  `resolve` returns a path without symbolic links, as os.path.realpath does.
    """

    cwd: str = ""
    same_files: bool = True
    lent_only: bool = False
    called: str = "this client"
    resolve: Callable[[str], str] = posixpath.normpath


def translate(message: Any, where: Whereabouts, path_map: Mapping[str, str]) -> Any:
    """Return a `tools/call` message with its paths as they are called here.

    Raises PathUnknown for a path that must be read and has no name here.
    """
    params = message.get("params")
    arguments = params.get("arguments") if isinstance(params, dict) else None
    if not isinstance(arguments, dict):
        return message
    name = params.get("name")
    if not isinstance(name, str):
        return message
    reads = READS_FILES.get(name)
    key = reads or (LABEL if name in LABELS else "")
    given = arguments.get(key)
    if not isinstance(given, str) or not given.strip():
        if reads and _is_held(where) and (given is not None or name == "mempalace_sync"):
            raise PathUnknown(
                f"Without a path in {key}, {name} may look at files anywhere on the broker's "
                "machine: name a directory that path_map lends (palace config). Nothing was read."
            )
        return message
    here = _read_here(given, where, path_map) if reads else _label_here(given, where, path_map)
    if here == given:
        return message
    return {**message, "params": {**params, "arguments": {**arguments, key: here}}}


def _read_here(given: str, where: Whereabouts, path_map: Mapping[str, str]) -> str:
    path = _absolute(given, where)
    if not _is_held(where):
        return path
    there = _normal(path)
    root = _root_of(there, path_map)
    here = _mapped(there, path_map)
    if here is not None and _inside(where.resolve(here), where.resolve(path_map[root])):
        return here
    if here is None and where.same_files:
        raise PathUnknown(
            f"{given} is not lent to {where.called}, which may name only what path_map "
            f"lends. The palace's owner can lend it: palace config set path_map={there}={there}. "
            "Nothing was read."
        )
    if here is None:
        raise PathUnknown(
            f"{given} is a path of the client's own file system, and the palace's broker runs on "
            "another. Say there what the directory is called (path_map in palace.toml counts for "
            f"nothing): palace config set path_map={there}=/path/there. Nothing was read."
        )
    raise PathUnknown(
        f"{given} leads out of {root}, by a symbolic link: path_map lends that "
        "directory only. Nothing was read."
    )


def beneath(message: Any, where: Whereabouts, path_map: Mapping[str, str]) -> str:
    """Return the directory here beneath which a call may open files, "" for anywhere.

    Of a message before it is translated; raises PathUnknown as `translate` does.
    """
    params = message.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    if not _is_held(where) or not isinstance(name, str) or name not in READS_FILES:
        return ""
    arguments = params.get("arguments")
    given = arguments.get(READS_FILES[name]) if isinstance(arguments, dict) else None
    if not isinstance(given, str):
        return ""  # `mine` without a source, which stock refuses
    there = _normal(_absolute(given, where))
    return path_map[_root_of(there, path_map)]


def _is_held(where: Whereabouts) -> bool:
    return where.lent_only or not where.same_files


def _absolute(given: str, where: Whereabouts) -> str:
    """Return a path that is not the broker's own directory's, which means nothing."""
    if given.startswith(("/", "~")) or not where.cwd:
        return given
    return posixpath.join(where.cwd, given)


def _label_here(given: str, where: Whereabouts, path_map: Mapping[str, str]) -> str:
    if where.same_files or not given.startswith("/"):
        return given
    return _mapped(_normal(given), path_map) or given


def _normal(path: str) -> str:
    """Return an absolute path without `.`, `..` and doubled slashes, the first two included."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else path


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _root_of(path: str, path_map: Mapping[str, str]) -> str:
    """Return the longest directory of the map that a path lies in, "" where there is none."""
    return max((name for name in path_map if _inside(path, name)), key=len, default="")


def _mapped(path: str, path_map: Mapping[str, str]) -> str | None:
    root = _root_of(path, path_map)
    return _normal(path_map[root] + "/" + path[len(root) :]) if root else None
