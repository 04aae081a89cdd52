"""Backups: `DIR/TIME-SEQ/`, each a full copy of the journal with a manifest, taken while it grows.

    palace-backup.json      which palace, up to which record, and the SHA-256 of every file
    palace.toml             the settings, if there are any
    journal/                the newest checkpoint and all segments after it

Nothing of the stores is copied: restoring rebuilds them (restore.py).  A backup is written under
another name, and renamed once it is complete and on the disk.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from palace import __version__
from palace.client.control import Control
from palace.doctor.finding import ERROR
from palace.doctor.journal import inspect_journal
from palace.journal.copying import (
    Contents,
    Missing,
    check_whole,
    copy_journal,
    file_digest,
    read_contents,
)
from palace.journal.journal import PAUSE
from palace.journal.record import BrokenRecord, JsonObject, seal, unseal
from palace.journal.replay import no_progress
from palace.kernel.kernel import Kernel
from palace.ownership.claim import check_kernel
from palace.ownership.keys import key_path, ring_of
from palace.protocol import wire
from palace.protocol.decoding import decode_json, is_number, is_text, is_word
from palace.protocol.errors import (
    BackupBroken,
    BrokerUnreachable,
    ConfigError,
    JournalBroken,
    LockHeld,
    NotEmpty,
    WireError,
)
from palace.protocol.keyring import ANYBODYS, Keyring
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.installation import command_for
from palace.settings.paths import Paths
from palace.settings.stock_config import check_journalled
from palace.settings.user_settings import read_settings

MANIFEST = "palace-backup.json"
SETTINGS = "palace.toml"
LOCK = "backup.lock"
MAKING = "making-"
SCHEMA = 1
ADOPT_S = 60.0  # a journal of a million records is read in less
MANIFEST_BYTES_MAX = 1 << 24
EPOCH_MAX = 10**18 - 1  # a restored palace's epoch leaps above it, and must still be one
_NAME = re.compile(r"palace\.toml|journal/(?:checkpoint-)?\d{20}\.jsonl")

Progress = Callable[[str, float], None]


@attrs.frozen(kw_only=True)
class Manifest:
    """The description of a backup; `files` maps names to (bytes, SHA-256)."""

    palace_id: str
    epoch: int
    contents: Contents
    made: str
    made_by: str
    files: Mapping[str, tuple[int, str]]

    @property
    def age(self) -> tuple[int, int, str]:
        """Order backups of one palace, the newest last."""
        return self.epoch, self.contents.seq, self.made

    def encode(self) -> bytes:
        fields = {"v": SCHEMA} | attrs.asdict(self)
        return seal(json.dumps(fields, separators=(",", ":")).encode()).lstrip(b"\n")


@attrs.frozen(kw_only=True)
class Backup:
    """A backup at a path."""

    path: str
    manifest: Manifest

    @property
    def journal(self) -> str:
        return f"{self.path}/journal"

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.manifest.files.values())


# Creating.


def make_backup(
    paths: Paths, environ: Mapping[str, str], into: str, progress: Progress = no_progress
) -> Backup:
    """Copy a palace's journal, as it is now, into a new directory below `into`.

    A running broker doesn't matter, and doesn't notice.  Raises JournalBroken if the journal is
    missing, off or damaged, NotEmpty if `into` is used for something else, and LockHeld while
    another backup is being written there.
    """
    kernel = Kernel()
    check_kernel(paths, kernel, environ)
    identity = _check_source(paths, environ, kernel)
    into = os.path.realpath(into)
    if f"{into}/".startswith(f"{paths.root}/"):
        raise NotEmpty(
            f"{into} is inside the palace, and would be lost with it. Name a directory elsewhere, "
            "preferably on another disk."
        )
    os.makedirs(into, mode=0o700, exist_ok=True)
    with _locked(into, kernel):
        _sweep(into, kernel)
        _check_others(into, identity, kernel)
        making = f"{into}/{MAKING}{os.getpid()}"
        kernel.make_directory(making)
        try:
            keys = ring_of(identity, environ, kernel)
            return _fill(paths, identity, making, keys, progress)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def adopt_first(paths: Paths, environment: ShimEnvironment) -> str:
    """Have a running broker journal what other programs wrote beside it; return a note for people.

    The note is "" where nothing can be missing from a backup that is made now.
    """
    try:
        with Control(paths, environment, answer_s=ADOPT_S) as control:
            if control.ask("adopt").get("adopted"):
                return ""
    except WireError:
        pass  # a broker of another version
    except (BrokerUnreachable, ConfigError) as error:
        if error.details.get("absent"):
            return ""  # `backup_text` says so
    return (
        "\nThe broker could not look for what stock mempalace has written beside it (tasks, "
        "events, artifacts, tunnels): that may be missing here. Make another backup later."
    )


def _check_source(paths: Paths, environ: Mapping[str, str], kernel: Kernel) -> str:
    """Return the palace's identity; raises JournalBroken if its journal is incomplete."""
    config = load_config(paths, environ, kernel)
    check_journalled(paths.root, config.config_dir, environ)
    identity = wire.identity_of(kernel.read_file(paths.palace_id, 200))
    if not identity or not kernel.list_directory(paths.journal):
        raise JournalBroken(
            f"{paths.root} has no journal, which is what a backup copies. A broker creates it when "
            "it first starts (palace start), unless it is off: palace config set journal=on"
        )
    if config.journal == "off" or kernel.file_id(f"{paths.journal}/{PAUSE}") is not None:
        raise JournalBroken(
            f"The journal of {paths.root} lacks what a broker has written without it. Let a broker "
            "take that over: palace config set journal=on; palace stop; palace start"
        )
    check_whole(paths.journal, kernel, ring_of(identity, environ, kernel))
    return identity


@contextmanager
def _locked(into: str, kernel: Kernel) -> Iterator[None]:
    fd = kernel.open_lock(f"{into}/{LOCK}")
    try:
        if not kernel.try_lock(fd):
            pid = kernel.lock_holder(f"{into}/{LOCK}")
            who = f"pid {pid}" if pid is not None else "another process"
            raise LockHeld(f"{who} is writing a backup to {into}. Wait for it, and try again.")
        yield
    finally:
        kernel.close(fd)


def _sweep(into: str, kernel: Kernel) -> None:
    """Remove what killed backups have left; the caller holds the lock."""
    for name in kernel.list_directory(into):
        if name.startswith(MAKING) and name.removeprefix(MAKING).isdigit():
            shutil.rmtree(f"{into}/{name}", ignore_errors=True)


def _check_others(into: str, identity: str, kernel: Kernel) -> None:
    if kernel.file_id(f"{into}/{MANIFEST}") is not None:
        raise NotEmpty(f"{into} is a backup itself. Name its parent directory: palace backup DIR")
    for path in _paths_in(into, kernel):
        try:
            other = read_manifest(path, kernel).palace_id
        except BackupBroken:
            continue  # a damaged backup is no reason to refuse a new one
        if other != identity:
            raise NotEmpty(
                f"{path} is a backup of palace {other}, not of {identity}; a restored copy counts "
                "as a different palace, too. Use a separate directory for each."
            )


def _fill(paths: Paths, identity: str, making: str, keys: Keyring, progress: Progress) -> Backup:
    kernel = Kernel()
    contents = copy_journal(paths.journal, f"{making}/journal", kernel, progress, keys)
    check_whole(f"{making}/journal", kernel, keys)  # another broker may have come meanwhile
    settings = read_settings(paths.settings, kernel)
    if settings is not None:
        kernel.write_durable(f"{making}/{SETTINGS}", settings)
    made = kernel.utc_text()
    manifest = Manifest(
        palace_id=identity,
        epoch=contents.epoch,
        contents=contents,
        made=made,
        made_by=f"palace {__version__}",
        files={name: file_digest(f"{making}/{name}", kernel) for name in _names(making, kernel)},
    )
    kernel.write_durable(f"{making}/{MANIFEST}", manifest.encode())
    into = os.path.dirname(making)
    path = _free_name(f"{into}/{made.replace(':', '-')}-{contents.seq}", kernel)
    kernel.rename(making, path)
    kernel.sync_directory(into)
    progress("copying the journal", 1.0)
    return Backup(path=path, manifest=manifest)


def _names(root: str, kernel: Kernel) -> list[str]:
    names = [f"journal/{name}" for name in kernel.list_directory(f"{root}/journal")]
    settings = [SETTINGS] if kernel.file_id(f"{root}/{SETTINGS}") is not None else []
    return sorted(names) + settings


def _free_name(wanted: str, kernel: Kernel) -> str:
    number, name = 1, wanted
    while kernel.file_id(name) is not None:
        number += 1
        name = f"{wanted}-{number}"
    return name


def backup_text(paths: Paths, backup: Backup, kernel: Kernel) -> str:
    """Return what was backed up, and what may be missing from it."""
    contents = backup.manifest.contents
    text = (
        f"{backup.path}: {contents.entities} entities, up to record {contents.seq} of epoch "
        f"{contents.epoch}, {backup.size / 1000:,.0f} kB."
    )
    if kernel.lock_holder(paths.lock) is None:
        text += (
            "\nNo broker is running. What stock mempalace has written since the last one left is "
            "in no journal yet; palace start takes it over."
        )
    return text


# Finding and checking.


def find_backup(directory: str, kernel: Kernel) -> Backup:
    """Return the backup that a directory is, or the newest one in it.

    Raises BackupBroken if there is none, or if the age of one can't be read.
    """
    directory = os.path.realpath(directory)
    if kernel.file_id(f"{directory}/{MANIFEST}") is not None:
        return Backup(path=directory, manifest=read_manifest(directory, kernel))
    found = []
    for path in _paths_in(directory, kernel):
        try:
            found.append(Backup(path=path, manifest=read_manifest(path, kernel)))
        except BackupBroken as error:
            raise BackupBroken(
                f"{error.message} It may be the newest. Name the backup that you want, or move "
                "this one away."
            ) from None
    if not found:
        raise BackupBroken(
            f"{directory} holds no backup (no {MANIFEST}). Name the directory that was given to "
            "palace backup, or one of those in it."
        )
    return max(found, key=lambda backup: backup.manifest.age)


def _paths_in(directory: str, kernel: Kernel) -> list[str]:
    names = sorted(kernel.list_directory(directory))
    paths = [f"{directory}/{name}" for name in names if not name.startswith(MAKING)]
    return [path for path in paths if kernel.file_id(f"{path}/{MANIFEST}") is not None]


def read_manifest(path: str, kernel: Kernel) -> Manifest:
    """Read the description of a backup; raises BackupBroken, which names the file."""
    where = f"{path}/{MANIFEST}"
    try:
        data = kernel.read_file(where, MANIFEST_BYTES_MAX) or b""
        fields: JsonObject = decode_json(unseal(data.rstrip(b"\n")))
        if fields.pop("v") != SCHEMA:
            raise BackupBroken(
                f"{where} is by {str(fields.get('made_by'))[:80]!r}, and this is palace "
                f"{__version__}. Upgrade: {command_for()}"
            )
        fields["contents"] = Contents(**fields["contents"])
        fields["files"] = {name: (size, sha) for name, (size, sha) in fields["files"].items()}
        manifest = Manifest(**fields)
    except (BrokenRecord, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise BackupBroken(f"{where} is damaged ({error}). Use another backup.") from None
    if problem := _problem_of(manifest):
        raise BackupBroken(f"{where} {problem}. Use another backup.")
    return manifest


def _problem_of(manifest: Manifest) -> str:
    """Return what a manifest says that none of ours does, "" for nothing: it may be anybody's."""
    contents = manifest.contents
    for name in manifest.files:
        if not _NAME.fullmatch(name):
            return f"names {name[:80]!r}, which is not part of a backup"
    if not wire.identity_of(str(manifest.palace_id).encode("utf-8", "replace")):
        return "names no palace"
    epochs = (manifest.epoch, contents.epoch)
    if not all(is_number(epoch, EPOCH_MAX) for epoch in epochs) or not is_number(contents.seq):
        return f"has an epoch or a record that is no number from 0 to {EPOCH_MAX}"
    if not all(map(is_word, (manifest.made, manifest.made_by, contents.digest))):
        return "has a text that is none, or too long"
    kinds = contents.kinds
    if not isinstance(kinds, dict) or not all(is_number(count) for count in kinds.values()):
        return "counts no entities"
    if not all(is_number(size) and is_text(sha) for size, sha in manifest.files.values()):
        return "has a file without a size or a SHA-256"
    return ""


def keys_of(backup: Backup, environ: Mapping[str, str], kernel: Kernel, *, trust: bool) -> Keyring:
    """Return the keys with which a backup's records were written; `trust`: by anybody.

    Raises BackupBroken where this user has no keys of the palace that was backed up.
    """
    if trust:
        return ANYBODYS
    identity = backup.manifest.palace_id
    keys = ring_of(identity, environ, kernel)
    if keys.own is None:
        raise BackupBroken(
            f"{backup.path} is a backup of palace {identity}, whose keys this user doesn't have "
            f"({key_path(identity, environ)}): who wrote its records can't be told. If it is from "
            "somebody that you trust, or from before records were authenticated, say so: --trust"
        )
    return keys


def check_backup(
    backup: Backup, kernel: Kernel, keys: Keyring, progress: Progress = no_progress
) -> None:
    """Read all of a backup; raises BackupBroken, which names the damaged file."""
    manifest = backup.manifest
    there, told = set(_names(backup.path, kernel)), set(manifest.files)
    for name in sorted(there ^ told):
        why = "missing" if name in told else "no part of this backup"
        raise _broken(f"{backup.path}/{name} is {why}")
    for number, (name, expected) in enumerate(manifest.files.items()):
        progress("reading the backup", number / len(manifest.files))
        try:
            kernel.id_beneath(backup.path, name)  # refuses a link on the way to it
            found = file_digest(f"{backup.path}/{name}", kernel)
        except OSError as error:
            raise _broken(f"{backup.path}/{name} can't be read: {error.strerror}") from None
        if found != expected:
            raise _broken(f"{backup.path}/{name} is not what was written: its SHA-256 differs")
    for finding in inspect_journal(backup.journal, kernel, keys):
        if finding.code == "foreign_record":
            raise BackupBroken(
                f"{finding.text} Nothing was changed. Use another backup, or, if you trust whoever "
                "wrote that: --trust"
            )
        if finding.level == ERROR and finding.code != "network_file_system":
            raise _broken(finding.text.rstrip("."))
    try:
        contents = read_contents(backup.journal, kernel, progress, keys)
    except Missing as error:
        raise _broken(f"{backup.journal}: {error}") from None
    if contents != manifest.contents:
        raise _broken(f"{backup.journal} does not contain what {MANIFEST} says")
    progress("reading the backup", 1.0)


def _broken(text: str) -> BackupBroken:
    return BackupBroken(f"{text}. Nothing was changed; use another backup.")
