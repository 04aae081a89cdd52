"""What was added to which file, so that exactly that can be removed again.

Each configuration has a small file in this user's own state directory.  It holds what an entry
replaced, which may be a secret: the directory is 0700 and the files are 0600.  Without the note the
entry can still be removed, but not what it replaced restored, nor a file that palace created.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from palace.kernel.kernel import Kernel
from palace.mcp_hosts.files import remove_empty
from palace.mcp_hosts.plan import Filling, Installed
from palace.mcp_hosts.splices import Splice
from palace.protocol.decoding import decode_json
from palace.settings.paths import state_dir

_SCHEMA = 1
_BYTES_MAX = 1 << 20


@attrs.frozen(kw_only=True)
class Note:
    """What was done to one file; `left` is the digest of the file afterwards."""

    left: str
    installed: Installed
    created: bool
    directories: tuple[str, ...] = ()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Notes:
    """The notes of one user; a note that can't be read counts as absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._directory = f"{state_dir(environ)}/hosts"
        self._kernel = Kernel()

    def read(self, real: str) -> Note | None:
        data = self._kernel.read_hint(self._path(real), _BYTES_MAX)
        try:
            return None if data is None else _decoded(decode_json(data))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, real: str, note: Note) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        body = {"v": _SCHEMA, "file": real, **attrs.asdict(note)}
        self._kernel.write_durable(self._path(real), json.dumps(body, indent=1).encode() + b"\n")

    def forget(self, real: str, directories: Iterable[str] = ()) -> None:
        """Drop a file's note.

        Directories that palace created and that hold files of other notes pass on to those.
        """
        if not self._kernel.unlink(self._path(real)):
            return
        for name in self._kernel.list_directory(self._directory):
            other = self._kernel.read_hint(f"{self._directory}/{name}", _BYTES_MAX)
            file = _file_of(other)
            note = self.read(file) if file else None
            inherited = [path for path in directories if file.startswith(f"{path}/")]
            if note is not None and inherited:
                both = (*note.directories, *inherited)
                self.write(file, attrs.evolve(note, directories=both))
                directories = [path for path in directories if path not in inherited]
        remove_empty([self._directory, os.path.dirname(self._directory)])

    def _path(self, real: str) -> str:
        return f"{self._directory}/{digest(os.fsencode(real))[:16]}.json"


def _file_of(data: bytes | None) -> str:
    try:
        return str(decode_json(data or b"{}").get("file", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _decoded(body: dict[str, Any]) -> Note:
    if body["v"] != _SCHEMA:
        raise ValueError("a note of another version")
    done = body["installed"]
    return Note(
        left=str(body["left"]),
        created=bool(body["created"]),
        directories=tuple(map(str, body["directories"])),
        installed=Installed(
            splices=tuple(Splice(**splice) for splice in done["splices"]),
            fillings=tuple(
                Filling(
                    path=tuple(filling["path"]),
                    key=filling["key"],
                    value=filling["value"],
                    replaced=filling["replaced"],
                    parents=tuple(map(tuple, filling["parents"])),
                )
                for filling in done["fillings"]
            ),
        ),
    )
