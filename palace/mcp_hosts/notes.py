"""What was done to which configuration, so that exactly that can be undone.

Each configuration has a small file in this user's own state directory.  It holds what an entry
replaced, which may be a secret: the directory is 0700 and the files are 0600.  Without the note the
entry can still be removed, but not what it replaced restored, nor a file that palace created.

A note speaks of the entry that palace left.  Once that is gone, or another one is in its place, the
note says nothing any more (`plan.still_ours` decides that, from what is in the file now).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from palace.kernel.kernel import Kernel
from palace.mcp_hosts.files import Configuration, remove_empty
from palace.mcp_hosts.plan import Changed, Filling, Installed
from palace.mcp_hosts.splices import Splice
from palace.protocol.decoding import decode_json
from palace.settings.paths import state_dir

_SCHEMA = 2
_SCHEMAS_READ = (1, 2)  # 1 replaced entries whole: it has no `changed`
_BYTES_MAX = 1 << 20


@attrs.frozen(kw_only=True)
class Note:
    """What was done to one configuration.

    `left` is the digest of the file afterwards.  `created` says that palace made the file, and
    `directories` are those that it made for it.
    """

    left: str
    installed: Installed
    created: bool
    directories: tuple[str, ...] = ()

    def describes(self, configuration: Configuration) -> bool:
        """Tell whether the file is, to the byte, what was left."""
        return self.left == digest(configuration.data or b"")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class InstallNotes:
    """The notes of one user; one that can't be read counts as absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._directory = f"{state_dir(environ)}/hosts"
        self._kernel = Kernel()

    def find(self, configuration: Configuration) -> Note | None:
        """Return the note about a configuration, None if there is none."""
        return self._note_about(configuration.real)

    def keep(self, configuration: Configuration, note: Note) -> None:
        """Write the note about a configuration, in place of an earlier one."""
        self._write(configuration.real, note)

    def drop(self, configuration: Configuration, left_directories: Iterable[str] = ()) -> None:
        """Remove the note about a configuration.

        Directories that palace made and could not remove, since other configurations lie in them,
        pass on to the notes about those.
        """
        if not self._kernel.unlink(self._note_file(configuration.real)):
            return
        left = list(left_directories)
        for name in self._kernel.list_directory(self._directory):
            file = _subject(self._kernel.read_hint(f"{self._directory}/{name}", _BYTES_MAX))
            note = self._note_about(file) if file else None
            inherited = [path for path in left if file.startswith(f"{path}/")]
            if note is not None and inherited:
                both = (*note.directories, *inherited)
                self._write(file, attrs.evolve(note, directories=both))
                left = [path for path in left if path not in inherited]
        remove_empty([self._directory, os.path.dirname(self._directory)])

    def _note_about(self, file: str) -> Note | None:
        text = self._kernel.read_hint(self._note_file(file), _BYTES_MAX)
        try:
            return None if text is None else _decoded(decode_json(text))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def _write(self, file: str, note: Note) -> None:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        body = {"v": _SCHEMA, "file": file, **attrs.asdict(note)}
        self._kernel.write_durable(
            self._note_file(file), json.dumps(body, indent=1).encode() + b"\n"
        )

    def _note_file(self, file: str) -> str:
        return f"{self._directory}/{digest(os.fsencode(file))[:16]}.json"


def _subject(text: bytes | None) -> str:
    """Return the configuration that a note is about, "" if it can't be told."""
    try:
        return str(decode_json(text or b"{}").get("file", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _decoded(body: dict[str, Any]) -> Note:
    if body["v"] not in _SCHEMAS_READ:
        raise ValueError("a note of another version")
    done = body["installed"]
    return Note(
        left=str(body["left"]),
        created=bool(body["created"]),
        directories=tuple(map(str, body["directories"])),
        installed=Installed(
            splices=tuple(Splice(**splice) for splice in done["splices"]),
            fillings=tuple(map(_decoded_filling, done["fillings"])),
        ),
    )


def _decoded_filling(body: dict[str, Any]) -> Filling:
    return Filling(
        path=tuple(body["path"]),
        key=body["key"],
        value=body["value"],
        replaced=body["replaced"],
        parents=tuple(map(tuple, body["parents"])),
        changed=tuple(
            Changed(place=tuple(one["place"]), before=one["before"])
            for one in body.get("changed", ())
        ),
    )
