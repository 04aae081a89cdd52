"""Restoring a backup: its journal first, then new stores built from that.

The journal is copied next to its final place, and moved there by renames that the next holder of
the lock completes if they are interrupted (durability/swap.py).  Once it is in place, the next
broker can complete an interrupted restoration as well: it writes again what the stores lack.

A restored palace must not be mistaken for the original that went on (docs/decisions/0017): its
epoch leaps over every one that the original may have reached, and it has an identity of its own,
unless it replaces the palace with the backup's identity.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import attrs

from palace.commands.backup import SETTINGS, Backup, check_backup
from palace.commands.config import without_keys
from palace.commands.maintenance import leave_request, rebuild_held
from palace.commands.progress import progress_shown
from palace.engine.durability.backends import check_tables
from palace.engine.durability.groups import CallGroups
from palace.engine.durability.offline import drift_of, hold_palace, open_stores, opened_journal
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import moves_away, old_files
from palace.engine.durability.swap import Exchange, Move
from palace.engine.stores.drawers import EXACT as SQLITE
from palace.engine.stores.drawers import PGVECTOR, backend_in
from palace.engine.stores.files import NAMES as FILES
from palace.engine.stores.palace_stores import unopened_stores
from palace.engine.stores.pgvector import PgVector
from palace.engine.stores.pgvector_fence import TABLES_NOTE
from palace.engine.stores.register import TOKEN, WORKSPACE, row_of_token
from palace.journal.copying import Contents, copy_file, file_digest, read_contents
from palace.journal.journal import read_tail
from palace.journal.reseal import reseal
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.data_locks import outside_files
from palace.ownership.epoch import last_epoch
from palace.ownership.keys import known_keys
from palace.ownership.served import note_restored
from palace.protocol import wire
from palace.protocol.decoding import decode_toml
from palace.protocol.errors import BackupBroken, ConfigError, NotEmpty, StoreCorrupt
from palace.protocol.keyring import ANYBODYS, Keyring
from palace.protocol.workspaces import RESTORED
from palace.settings.checks import USER
from palace.settings.config import KNOWN, Config, checked_table, load_config, load_settings
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.recorded import RECORDED, is_agreed
from palace.settings.stock_config import check_journalled
from palace.settings.user_settings import read_settings, toml_text

LEAP = RESTORED  # more owners than a palace has between a backup and its loss
SCRATCH = "restore-"


@attrs.frozen(kw_only=True)
class How:
    """How a backup is restored: in place of a palace, with its broker stopped, tokens included.

    With `backend` the palace is only looked at: its journal goes on telling of the backup's store.
    """

    replace: bool = False
    stop: bool = False
    keep_tokens: bool = False
    backend: str = ""  # that keeps the drawers instead of the backup's, which its journal tells


@attrs.frozen(kw_only=True)
class Restored:
    """The result of a restoration; `kept` is where the old files are, "" if there were none."""

    entities: int
    epoch: int
    same: bool  # it has the identity of the palace that was backed up
    tokens: int  # that its workspaces had, and that don't count
    workspaces: int
    kept: str


def restore_backup(
    paths: Paths,
    environment: ShimEnvironment,
    backup: Backup,
    keys: Keyring,
    how: How,
) -> Restored:
    """Check a backup and create a palace from it; needs the palace to itself.

    `keys` are those with which its records were written; the restored palace's are others.
    With `how.replace`, an existing palace's files are moved to `replaced-EPOCH`.
    Raises BackupBroken and NotEmpty before anything is changed.
    """
    check_backup(backup, Kernel(), keys, progress_shown())
    backend = how.backend or _backend_of(backup, keys)
    prepare = partial(_prepare, environment, backup, backend, replace=how.replace)
    leave = leave_request(paths, environment, stop=how.stop)
    with hold_palace(paths, environment, ask_to_leave=leave, prepare=prepare) as held:
        kept = _put_in_place(held, backup, keys, backend)
        # Nothing is read but the backup, so a palace that a newer engine served here is no matter.
        made = rebuild_held(held, allow_gaps=False, keep=True, downgrade=True, scratch=how.backend)
        if how.keep_tokens:
            _renew_tokens(held, backup.manifest.epoch)
        seq = backup.manifest.contents.seq
        note_restored(paths, environment.all, held.kernel, seq=seq)
        identity = wire.identity_of(held.kernel.read_file(paths.palace_id, 200))
        return Restored(
            entities=made.entities,
            epoch=held.stamp.epoch,
            same=identity == backup.manifest.palace_id,
            tokens=0 if how.keep_tokens else made.kinds.get(TOKEN, 0),
            workspaces=made.kinds.get(WORKSPACE, 0),
            kept=kept,
        )


def _renew_tokens(held: OwnedPalace, epoch: int) -> None:
    """Let the tokens count that counted in the palace that was backed up."""
    with opened_journal(held) as journal, open_stores(held) as stores:
        register, groups = stores.register, CallGroups(journal)
        register.read_fingerprint()
        for token in register.tokens():
            if token.counts(epoch):
                row = row_of_token(attrs.evolve(token, epoch=held.stamp.epoch))
                register.put(groups, TOKEN, token.digest, row)


# What exists already.


def _prepare(
    environment: ShimEnvironment,
    backup: Backup,
    backend: str,
    ownership: lock.Ownership,
    kernel: Kernel,
    *,
    replace: bool,
) -> None:
    """Check the place, then settle settings, identity and epoch; the palace's lock is held."""
    paths = ownership.paths
    config = _config_to_be(paths, environment, backup, kernel)
    check_journalled("", config.config_dir, environment.all)  # what is there makes way
    if not replace:
        _check_place(paths, backup, kernel)
        _check_outside(paths, config, kernel)
    tables = unopened_stores(paths, config, kernel, backend).pgvector
    if tables is not None:
        check_tables(tables, may_go=replace and _are_this_palaces(tables, paths, kernel))
        tables.claim()
    epoch = max(last_epoch(paths, kernel), backup.manifest.epoch) + LEAP
    kernel.write_durable(paths.epoch, f"{epoch}\n".encode())
    identity = wire.identity_of(kernel.read_hint(paths.palace_id, 200))
    if identity != backup.manifest.palace_id:
        kernel.unlink(paths.palace_id)  # the next holder of the lock creates a new one
    text = _settings_text(paths, environment, backup, kernel)
    if text and kernel.file_id(paths.settings) is None:
        kernel.write_durable(paths.settings, text.encode())


def _is_harmless(name: str, paths: Paths) -> bool:
    """Tell whether a file may exist already: settings, and what a killed restoration leaves."""
    ours = (paths.lock, paths.settings, paths.epoch, paths.palace_id, paths.protocol)
    known = {TABLES_NOTE, *map(os.path.basename, ours)}
    return name in known or name.startswith(SCRATCH)


def _check_place(paths: Paths, backup: Backup, kernel: Kernel) -> None:
    there = sorted(n for n in kernel.list_directory(paths.root) if not _is_harmless(n, paths))
    if not there:
        return
    raise NotEmpty(
        f"{paths.root} is not empty ({', '.join(there[:3])}). {_compared(paths, backup, kernel)}"
        "Restore elsewhere (--palace DIR), or in its place: --replace keeps what is there in "
        "replaced-N."
    )


def _compared(paths: Paths, backup: Backup, kernel: Kernel) -> str:
    """Return how a backup compares with an existing palace of the same identity."""
    manifest = backup.manifest
    if wire.identity_of(kernel.read_hint(paths.palace_id, 200)) != manifest.palace_id:
        return "It is a different palace than the one backed up. "
    tail = read_tail(list_segments(paths.journal, kernel), kernel, ANYBODYS)
    if (tail.epoch, tail.seq) <= (manifest.epoch, manifest.contents.seq):
        return ""
    return (
        f"It has gone on since: it is at record {tail.seq} of epoch {tail.epoch}, and the backup "
        f"ends with record {manifest.contents.seq} of epoch {manifest.epoch}. "
    )


def _config_to_be(
    paths: Paths, environment: ShimEnvironment, backup: Backup, kernel: Kernel
) -> Config:
    """Return the settings that the restored palace will have; raises ConfigError."""
    _lent(backup, kernel)  # refused before anything is changed, though they may not count
    if kernel.file_id(paths.settings) is not None:
        return load_config(paths, environment.all, kernel)
    text = _settings_text(paths, environment, backup, kernel)
    lent = checked_table(decode_toml(text.encode()), f"{backup.path}/{SETTINGS}")
    return load_settings(paths, environment.all, kernel, lent=lent).config


def _lent(backup: Backup, kernel: Kernel) -> tuple[str, dict[str, Any]]:
    """Return a backup's palace.toml, and its values; raises ConfigError, which names the file."""
    where = f"{backup.path}/{SETTINGS}"
    data = read_settings(where, kernel, "Take another backup.") or b""
    try:
        return data.decode(), checked_table(decode_toml(data), where)
    except ValueError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}. Take another backup.") from None


def _settings_text(
    paths: Paths, environment: ShimEnvironment, backup: Backup, kernel: Kernel
) -> str:
    """Return the backup's palace.toml without what names other data than the restored palace's.

    Stores and graph are built from the journal, so that they may lie where this machine has them.
    """
    text, lent = _lent(backup, kernel)
    foreign = [
        key
        for key in RECORDED
        if lent.get(key) and not is_agreed(key, lent[key], paths, environment.all)
    ]
    return (without_keys(text, foreign) or "") if foreign else text


def _not_taken(paths: Paths, environment: ShimEnvironment, backup: Backup) -> Iterator[str]:
    """Say which of the backup's settings don't count in the restored palace, and what they are."""
    kernel = Kernel()
    _, lent = _lent(backup, kernel)
    loaded = load_settings(paths, environment.all, kernel, lent=_data_aside(lent))
    for key, value in lent.items():
        if KNOWN[key].counts == USER and _differs(key, value, loaded.config, paths):
            yield f"  {key} = {toml_text(value)[:200]}"


def _data_aside(lent: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in lent.items() if key not in RECORDED}


def _differs(key: str, value: Any, config: Config, paths: Paths) -> bool:
    now = getattr(config, key)
    return bool(value != (now.removeprefix(f"{paths.root}/") if key == "graph" else now))


def _check_outside(paths: Paths, config: Config, kernel: Kernel) -> None:
    for path in outside_files(paths, config):
        if kernel.file_id(path) is not None:
            raise NotEmpty(
                f"{path} exists, and the restored palace would use it. It belongs to another "
                "palace, or was left by one. Restore into a directory with a parent of its own "
                "(and, for a graph, first: palace config set graph=knowledge_graph.sqlite3 "
                f"--palace {paths.root}), or have it moved aside: --replace"
            )


def restored_text(
    paths: Paths, environment: ShimEnvironment, backup: Backup, restored: Restored
) -> str:
    """Return what was restored, and what the user should check."""
    contents = backup.manifest.contents
    first = (
        f"{restored.entities} entities of {backup.path} are in {paths.root}: as of record "
        f"{contents.seq}, {backup.manifest.made}. Its epoch is {restored.epoch}."
    )
    lines = [first]
    if not restored.same:
        lines.append("It has an identity of its own: back it up to a directory of its own.")
    if restored.kept:
        lines.append(f"What was there before is in {restored.kept}.")
    if restored.workspaces:
        lines.append(
            f"Its {restored.workspaces} workspaces are as they were then: one that was removed or "
            "moved since is back in its place. See palace workspace tree."
        )
    if restored.tokens:
        lines.append(
            "The tokens of its workspaces don't count, since any may have been revoked after the "
            "backup. Make new ones: palace token new; or restore with --keep-tokens"
        )
    not_taken = list(_not_taken(paths, environment, backup))
    if not_taken:
        lines.append("Settings of the backup that are yours to decide on, and don't count here:")
        lines += not_taken
        lines.append("Set those that you want: palace config set KEY=VALUE; or palace config trust")
    lines.append("Serve it: palace start")
    return "\n".join(lines)


# Moving it into place.


def _put_in_place(held: OwnedPalace, backup: Backup, keys: Keyring, backend: str) -> str:
    """Rename old files away and the backup's journal in, all or none; return where the old are.

    `backend` will keep the drawers; a server's tables that they take the place of go aside.
    """
    paths, kernel = held.paths, held.kernel
    for name in kernel.list_directory(paths.root):
        if name.startswith(SCRATCH):
            shutil.rmtree(f"{paths.root}/{name}", ignore_errors=True)
    suffix = str(held.stamp.epoch)
    scratch = f"{paths.root}/{SCRATCH}{suffix}"
    kernel.make_directory(scratch)
    try:
        _copy_journal(backup, scratch, kernel)
        if held.stamp.keys.own is not None:
            reseal(scratch, kernel, keys, held.stamp.keys.own)
    except (OSError, BackupBroken):
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    files = [*old_files(paths, held.config, kernel), *(f"{paths.root}/{name}" for name in FILES)]
    away = list(moves_away(paths, [*files, paths.journal], kernel, suffix))
    exchange = Exchange(paths, held.config.graph, kernel)
    exchange.swap([*away, Move(scratch, paths.journal)])
    if held.keys is not None:
        held.keys.settle()
    tables = unopened_stores(paths, held.config, kernel, backend).pgvector
    if tables is not None:
        tables.put_aside(suffix)
    return f"{paths.root}/replaced-{suffix}" if away else ""


def _are_this_palaces(tables: PgVector, paths: Paths, kernel: Kernel) -> bool:
    """Tell whether nobody but the palace that was in this directory can have the tables."""
    there = read_tail(list_segments(paths.journal, kernel), kernel, ANYBODYS)
    return not tables.target.is_shared or tables.is_of(there.baseline)


def _copy_journal(backup: Backup, target: str, kernel: Kernel) -> None:
    for name, expected in backup.manifest.files.items():
        if name == SETTINGS:
            continue
        new = f"{target}/{os.path.basename(name)}"
        copy_file(f"{backup.path}/{name}", new, kernel)
        if file_digest(new, kernel) != expected:
            raise BackupBroken(f"{backup.path}/{name} changed while it was read. Try again.")
    kernel.sync_directory(target)


# Verifying.


def _scratch_backend(backup: Backup, keys: Keyring) -> str:
    """Return the backend that keeps a proof's drawers where the backup's own is a server's.

    A proof must not write to that.  "" for the backup's own.
    """
    return SQLITE if _backend_of(backup, keys) == PGVECTOR else ""


def _backend_of(backup: Backup, keys: Keyring) -> str:
    """Return the store that a backup's journal is of, "" where it doesn't tell."""
    tail = read_tail(list_segments(backup.journal, Kernel()), Kernel(), keys)
    return backend_in(tail.baseline)


def prove_backup(environment: ShimEnvironment, backup: Backup, keys: Keyring) -> Contents:
    """Restore a backup into a scratch directory and compare all of it; return what it holds.

    Raises BackupBroken, and StoreCorrupt if the stores differ from what the journal says.
    """
    with tempfile.TemporaryDirectory(prefix="palace-verify-") as scratch:
        paths = Paths(os.path.realpath(f"{scratch}/store/palace"))
        os.makedirs(paths.root, mode=0o700)
        with open(paths.settings, "w", encoding="utf-8") as file:  # no file of the real palace's
            file.write('graph = "knowledge_graph.sqlite3"\n')
        # Nothing of it is to be remembered as if it had been served.
        backend = _scratch_backend(backup, keys)
        scratched = {"HOME": scratch, "XDG_STATE_HOME": "", "MEMPALACE_BACKEND": backend}
        scratched["MEMPALACE_CONFIG_DIR"] = f"{scratch}/config"
        alone = ShimEnvironment(environment.all | scratched)
        restore_backup(paths, alone, backup, keys, How(backend=backend))
        with hold_palace(paths, alone, ask_to_leave=None) as held:
            drift = drift_of(held, progress_shown(), backend)
        found = read_contents(paths.journal, Kernel(), keys=known_keys(paths, alone.all, Kernel()))
    wanted = backup.manifest.contents
    if drift or (found.kinds, found.digest) != (wanted.kinds, wanted.digest):
        where = ", ".join(sorted({one.kind for one in drift})) or "journal"
        raise StoreCorrupt(
            f"What was restored from {backup.path} differs from it in {where}. The palace was not "
            "touched. Please report this."
        )
    return found
