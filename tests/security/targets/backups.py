"""Backups, which may be anybody's: the manifest, the files that it names, its settings."""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from palace.commands.backup import (
    MANIFEST,
    Backup,
    check_backup,
    find_backup,
    keys_of,
    make_backup,
    read_manifest,
)
from palace.commands.restore import _copy_journal, _not_taken, _settings_text
from palace.journal.copying import file_digest, read_contents
from palace.journal.journal import Journal
from palace.journal.record import OUTCOME, PUT, Draft, Stamp, fields_of, seal
from palace.journal.replay import replay
from palace.journal.reseal import reseal
from palace.kernel.kernel import Kernel
from palace.ownership.keys import accept_keys, ring_of
from palace.protocol.errors import BackupBroken, ConfigError, PalaceError
from palace.protocol.keyring import ANYBODYS, Key, Keyring
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.security.source import Source, steps_at_most
from tests.security.targets.records import ID, scratch

DRIVES = (
    "palace.commands.backup",
    "palace.commands.restore",
    "palace.journal.copying",
    "palace.journal.reseal",
)
STEPS = 600_000
KEY = Key(b"k" * 32)
NAMES = (
    *("palace.toml", "journal/../../canary", "../canary", "/etc/passwd", "journal/x", "", "\0"),
    *(
        "journal/" + "0" * 19 + "1.jsonl",
        "journal/checkpoint-" + "0" * 20 + ".jsonl",
        "backup.lock",
    ),
    *("journal/" + "0" * 18 + "12.jsonl", "journal/" + "\u0661" * 20 + ".jsonl", "journal", "."),
)
VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 10**18, 10**18 - 1, 2**63, True, None, "", ID, "a\nb", [], {}, [1, "x"], "\ud800"),
    *({"k": 1}, {"k": -1}, {"seq": 1}, "0" * 16, "\x1b[2J"),
)


def one(data: bytes) -> None:
    source = Source(data)
    with scratch() as base:
        environ = _environ(base)
        into = f"{base}/backups"
        for name, content in _made().items():
            path = Path(base, name)
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
        where = next(path for path in Path(into).iterdir() if path.is_dir())
        Path(base, "canary").write_bytes(b"canary")
        for _ in range(source.below(5)):
            source.pick((_manifest, _manifest, _file, _odd))(where, source)
        before = _seen(base)
        with steps_at_most(STEPS):
            backup = _find(source.pick((str(where), into)))
            if backup is not None:
                _use(backup, base, environ, trust=source.byte() % 2 == 0)
        after = {name: seen for name, seen in _seen(base).items() if not name.startswith("new/")}
        assert after == before, "nothing outside of the new directory is touched"


def _environ(base: str) -> dict[str, str]:
    return {"HOME": f"{base}/home", "XDG_STATE_HOME": f"{base}/state"}


@cache
def _made() -> dict[str, bytes]:
    """Return the files of a backup, and of the state directory that has its keys."""
    with scratch() as base:
        paths, kernel, environ = Paths(f"{base}/palace"), Kernel(), _environ(base)
        for path in (paths.root, environ["HOME"], environ["XDG_STATE_HOME"]):
            os.makedirs(path, 0o700)
        Path(paths.palace_id).write_text(ID)
        Path(paths.settings).write_text('graph = "knowledge_graph.sqlite3"\nreaders = 2\n')
        accept_keys(ID, [KEY], environ, kernel)
        stamp = Stamp(epoch=2, writer="w", keys=ring_of(ID, environ, kernel))
        journal = Journal.open(paths.journal, kernel, stamp)
        for number in range(3):
            name = f"i{number}"
            journal.append([Draft(action=PUT, key="s:1", kind="k", id=name, payload=number)])
            journal.roll()
        journal.close_key("s:1", OUTCOME, reply="r")
        journal.close()
        make_backup(paths, environ, f"{base}/backups")
        shutil.rmtree(paths.root)
        found = [path for path in Path(base).rglob("*") if path.is_file()]
        return {str(path.relative_to(base)): path.read_bytes() for path in found}


def _seen(base: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(Path(base).rglob("*")):
        stat = path.lstat()
        found[str(path.relative_to(base))] = (
            stat.st_mode,
            stat.st_size,
            stat.st_mtime_ns if path.is_file() else 0,
        )
    return {name: seen for name, seen in found.items() if name != "new"}


# What its maker does.


def _manifest(where: Path, source: Source) -> None:
    path = where / MANIFEST
    if not path.is_file() or path.is_symlink():
        return
    try:
        fields = fields_of(path.read_bytes().rstrip(b"\n"))
    except ValueError:
        return
    kind = source.below(4)
    if kind == 0:
        raw = path.read_bytes()
        at = source.below(len(raw))
        path.write_bytes(raw[:at] + source.raw() + raw[at + source.byte() :])
        return
    if kind == 1 and isinstance(fields.get("files"), dict):
        fields["files"][source.pick(NAMES)] = source.pick(
            ([0, "x"], [6, _sha(b"canary")], source.json(2))
        )
    elif kind == 2 and isinstance(fields.get("contents"), dict):
        fields["contents"][source.pick([*fields["contents"], "x"])] = _value(source)
    else:
        fields[source.pick([*fields, "x"])] = _value(source)
    _keep(path, fields)


def _keep(path: Path, fields: dict[str, Any]) -> None:
    with suppress(RecursionError):
        text = json.dumps(fields, separators=(",", ":")).encode("utf-8", "surrogatepass")
        path.write_bytes(seal(text).lstrip(b"\n"))


def _value(source: Source) -> Any:
    return source.json(2) if source.byte() % 4 == 0 else source.pick(VALUES)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file(where: Path, source: Source) -> None:
    """Change a file, and say in the manifest that it is so."""
    found = sorted(path for path in where.rglob("*") if path.is_file() and not path.is_symlink())
    if not found:
        return
    path = source.pick(found)
    data = path.read_bytes()
    at = source.below(len(data) + 1)
    data = data[:at] + source.raw() + data[at + source.pick((0, 1, 60)) :]
    path.write_bytes(data)
    manifest = where / MANIFEST
    if source.byte() % 2 and path != manifest:
        with suppress(ValueError, OSError, TypeError):
            fields = fields_of(manifest.read_bytes().rstrip(b"\n"))
            fields["files"][str(path.relative_to(where))] = [len(data), _sha(data)]
            _keep(manifest, fields)


def _odd(where: Path, source: Source) -> None:
    """Put a link, a directory or a pipe in a file's place, or a file that nobody named."""
    path = where / source.pick(
        (MANIFEST, "palace.toml", "journal/" + "0" * 19 + "1.jsonl", "journal")
    )
    kind = source.below(5)
    if kind == 4:
        with suppress(OSError):
            (where / "journal" / "more").write_bytes(b"x")
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        if kind == 0:
            path.symlink_to(where.parent.parent / "canary")
        elif kind == 1:
            path.mkdir()
        elif kind == 2:
            os.mkfifo(path)
        else:
            path.symlink_to(where.parent.parent)


# What is made of it.


def _find(directory: str) -> Backup | None:
    try:
        return find_backup(directory, Kernel())
    except BackupBroken:
        return None


def _use(backup: Backup, base: str, environ: dict[str, str], *, trust: bool) -> None:
    """Check it, and lay it out as restoring does."""
    kernel = Kernel()
    manifest = read_manifest(backup.path, kernel)
    assert manifest == backup.manifest
    assert json.dumps(json.loads(manifest.encode()))
    assert manifest.epoch < 10**18
    try:
        keys = keys_of(backup, environ, kernel, trust=trust)
        check_backup(backup, kernel, keys)
    except BackupBroken:
        return
    if not trust:
        told = {(draft, payload) for draft, payload in _entities(backup, keys)}
        assert told <= {(f"i{number}", number) for number in range(3)}
    target = f"{base}/new/journal"
    os.makedirs(target)
    with suppress(BackupBroken):
        _copy_journal(backup, target, kernel)
        for name, expected in manifest.files.items():
            if name.startswith("journal/"):
                assert file_digest(f"{base}/new/{name}", kernel) == expected
        reseal(target, kernel, keys, KEY)
        assert read_contents(target, kernel, keys=Keyring([KEY])) == manifest.contents
    paths = Paths(f"{base}/new/palace")
    with suppress(PalaceError):
        _settings_text(paths, ShimEnvironment(environ), backup, kernel)
        list(_not_taken(paths, ShimEnvironment(environ), backup))


def _entities(backup: Backup, keys: Keyring) -> list[tuple[str, Any]]:
    known = replay(backup.journal, Kernel(), keys=keys)
    return list(known.payloads("k"))


assert ANYBODYS.own is None
assert issubclass(ConfigError, PalaceError)
