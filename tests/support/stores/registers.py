"""A register in a real directory, under a journal on a disk in memory, and its owners' lives."""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from palace.engine.durability.groups import CallGroups
from palace.engine.durability.recovery import Recovery
from palace.engine.stores.health import AT_OPENING, WHOLE_AT_OPENING, Depth, find_damage
from palace.engine.stores.palace_stores import unopened_stores
from palace.engine.stores.register import IN_MEMORY, TABLES, Register, open_register
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import no_progress, replay
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.errors import JournalFailed
from palace.settings.config import Config
from palace.settings.paths import Paths
from tests.support.disks.memory import Disk, all_kept
from tests.support.stores.memory import JOURNAL, KEYS

OLD, NEW = "workspace:lead", "workspace:coder"
SHA = "ab" * 32


def workspace(ident: str, **more: Any) -> dict[str, Any]:
    row = {"id": ident, "parent": "", "cwd": "", "runtimes": "[]", "uid": None, "confined": 0}
    return row | {"status": "active", "created_at": "2026-01-01T00:00:00Z"} | more


def token(**more: Any) -> dict[str, Any]:
    row = {"sha256": SHA, "scope": "workspace:lead", "label": "", "epoch": 1}
    return row | {"created_at": "2026-01-01T00:00:00Z", "revoked_at": None} | more


@attrs.define(eq=False)
class Life:
    """One owner's life over a register in a real directory."""

    disk: Disk
    root: Path
    journal: Journal
    durable: CallGroups
    register: Register
    recovery: Recovery

    def call(self, key: str, *steps: tuple[str, str, Any]) -> int:
        with self.durable.group(key, non_atomic=False) as group, suppress(JournalFailed):
            for kind, ident, row in steps:
                self.register.put(self.durable, kind, ident, row)
        return self.durable.commit(group, "done")

    @property
    def contents(self) -> dict[tuple[str, str], Any]:
        """Return what the file holds."""
        found = ((table.kind, list(self.register.scan(table.kind))) for table in TABLES)
        return {(kind, ident): row["row"] for kind, rows in found for ident, row in rows}

    def check(self) -> None:
        """Assert that file, memory and journal say the same, and that older palaces keep away."""
        known = replay(JOURNAL, self.disk)
        told: dict[tuple[str, str], Any] = {e: known.payload(e) for e in known.live}
        assert {entity: payload["row"] for entity, payload in told.items()} == self.contents
        memory = {
            (kind, i): row for kind in IN_MEMORY for i, row in self.register.rows(kind).items()
        }
        assert memory == {e: row for e, row in self.contents.items() if e[0] in IN_MEMORY}
        sums = self.register.sums()
        self.register.read_fingerprint()
        assert self.register.sums() == sums
        if told:
            assert keeps_older_away(self.root)


def keeps_older_away(root: Path) -> bool:
    """Tell whether a version that knows of protocols alone would refuse."""
    file = root / "protocol"
    return file.exists() and int(file.read_text().split()[0]) > wire.VERSION


def born(disk: Disk, root: Path, epoch: int = 1, *, dual: bool = False) -> Life:
    root.mkdir(exist_ok=True)
    journal = Journal.open(JOURNAL, disk, Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS))
    register = open_register(Paths(str(root)), Kernel())
    recovery = Recovery(
        journal=journal,
        projections=[register],
        progress=no_progress,
        dual=dual,
        own=frozenset({register.name}),
    )
    return Life(disk, root, journal, CallGroups(journal), register, recovery)


def awake(disk: Disk, root: Path, epoch: int = 1, *, dual: bool = False) -> Life:
    life = born(disk, root, epoch, dual=dual)
    life.recovery.scan()
    life.journal.fingerprints = life.recovery.fingerprints
    life.recovery.run()
    return life


def after(life: Life, **more: Any) -> Life:
    return awake(life.disk.power_cut(all_kept), life.root, life.journal.stamp.epoch + 1, **more)


def opened_whole(disk: Disk, root: Path, *, epoch: int) -> Life:
    """Open it as a broker does: a damaged file is put away first, and written again."""
    life = born(disk, root, epoch)
    _put_away(life, AT_OPENING)
    try:
        life.recovery.scan()
    except sqlite3.DatabaseError:
        _put_away(life, WHOLE_AT_OPENING)
        life.recovery.scan()
    life.journal.fingerprints = life.recovery.fingerprints
    life.recovery.run()
    return life


def _put_away(life: Life, depth: Depth) -> None:
    root = str(life.root)
    config = Config(config_dir=root, graph=f"{root}/graph")
    stores = unopened_stores(Paths(root), config, Kernel())
    found = find_damage(stores, life.journal.tail.baseline, depth)
    if any(damage.store == life.register.name and not damage.lost for damage in found):
        for path in stores.register.files:
            with suppress(FileNotFoundError):
                os.unlink(path)
