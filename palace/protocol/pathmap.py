"""Names of files in a client's words, and in the broker's.

`mine` and `sync` read files where the broker runs.  A client in a container, or on another machine,
means its own: the owner's setting `path_map` says what its directories are called here.  What has
no name here is refused: the wrong tree must not be mined.  Elsewhere a path is a label
(`source_file`): it is translated where the map knows it, so that the same file has one label, and
else stays.

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


@attrs.frozen(kw_only=True)
class Whereabouts:
    """Where a session's client is: its working directory, and whether its files are ours.

    `resolve` returns a path without symbolic links, as os.path.realpath does.
    """

    cwd: str = ""
    same_files: bool = True
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
        return message
    here = _read_here(given, where, path_map) if reads else _label_here(given, where, path_map)
    if here == given:
        return message
    return {**message, "params": {**params, "arguments": {**arguments, key: here}}}


def _read_here(given: str, where: Whereabouts, path_map: Mapping[str, str]) -> str:
    path = given
    if not path.startswith(("/", "~")) and where.cwd:  # the broker's own directory means nothing
        path = posixpath.join(where.cwd, path)
    if where.same_files:
        return path
    there = _normal(path)
    root = _root_of(there, path_map)
    here = _mapped(there, path_map)
    if here is not None and _inside(where.resolve(here), where.resolve(path_map[root])):
        return here
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
