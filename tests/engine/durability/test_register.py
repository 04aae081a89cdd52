"""The register as a projection: rolled back, put back, and never believed against its journal.

The journal lies on a disk in memory, at any call of which its owner may die; the register's file is
a real one.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.register import AUDIT, TOKEN, WORKSPACE
from palace.kernel.kernel import Kernel
from palace.ownership import format as palace_format
from palace.protocol import wire
from palace.protocol.errors import JournalFailed, VersionMismatch
from palace.settings.paths import Paths
from tests.support.disks.memory import Disk, Stopped, all_kept, all_lost
from tests.support.faults.damages import BESIDE
from tests.support.faults.killing import is_deep
from tests.support.stores.memory import JOURNAL
from tests.support.stores.registers import (
    NEW,
    OLD,
    SHA,
    Life,
    after,
    awake,
    keeps_older_away,
    opened_whole,
    token,
    workspace,
)

STRIDE = 1 if is_deep() else 4  # of the kernel's calls at which an owner dies


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Return an owner with one workspace and one token."""
    life = awake(Disk(), tmp_path / "palace")
    life.call("s:0", (WORKSPACE, OLD, workspace(OLD)), (TOKEN, SHA, token()))
    life.check()
    return life


STEPS = (
    (WORKSPACE, NEW, workspace(NEW, parent="lead")),
    (TOKEN, SHA, token(revoked_at="2026-01-02T00:00:00Z")),
    (
        AUDIT,
        "a1",
        {"id": "a1", "at": "", "workspace": "lead", "namespace": "org:lead"}
        | {"action": "commit", "memory_id": "m", "sha256": SHA, "bytes": 3},
    ),
    (WORKSPACE, OLD, workspace(OLD, status="removed")),
)


def copies(life: Life) -> Iterator[tuple[Disk, Path]]:
    """Yield this palace, as often as it is asked for, each time in a directory of its own."""
    number = 0
    while True:
        number += 1
        root = life.root.with_name(f"copy-{number}")
        shutil.copytree(life.root, root)
        yield life.disk.power_cut(all_kept), root


@pytest.mark.parametrize("lose", [all_kept, all_lost])
def test_a_death_at_any_call_leaves_all_of_it_or_nothing(life: Life, lose: Any) -> None:
    before, found, deaths = life.contents, set(), 0
    again = copies(life)
    while True:
        disk, root = next(again)
        owner = awake(disk, root, 2)
        disk.stop_after(deaths)
        try:
            owner.call("s:1", *STEPS)
            owner.journal.sync(owner.journal.seq)
        except Stopped:
            deaths += STRIDE
        else:
            break
        heir = awake(disk.power_cut(lose), root, 3)
        heir.check()
        has_all = heir.contents == {**before, **{(k, i): row for k, i, row in STEPS}}
        assert has_all or heir.contents == before
        found.add(has_all)

    assert deaths > 10
    assert found == ({False, True} if lose is all_kept else {False})


def test_a_death_in_the_next_owners_opening_takes_nothing_back_twice(life: Life) -> None:
    before = life.contents
    life.disk.failpoint = _dying(life.disk, "outcome")  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        life.call("s:1", *STEPS)
    assert life.contents != before
    again, deaths = copies(life), 0
    while True:
        disk, root = next(again)
        disk.stop_after(deaths)
        try:
            awake(disk, root, 2)
        except Stopped:
            deaths += STRIDE
        else:
            break
        heir = awake(disk.power_cut(all_kept), root, 3)
        heir.check()
        assert heir.contents == before
        assert not heir.journal.tail.open

    assert deaths > 5


def _dying(disk: Disk, point: str) -> Any:
    def failpoint(name: str) -> None:
        if name == point:
            disk.stop_after(0)
            disk.sync_directory(JOURNAL)

    return failpoint


def test_a_call_whose_outcome_can_not_be_written_is_taken_back_in_memory_too(life: Life) -> None:
    before, rows = life.contents, dict(life.register.rows(WORKSPACE))
    steps = STEPS[:2]

    def failpoint(name: str) -> None:
        if name == "outcome":
            raise JournalFailed("the disk is full")

    life.disk.failpoint = failpoint  # type: ignore[method-assign]
    with pytest.raises(JournalFailed):
        life.call("s:1", *steps)

    assert life.contents == before
    assert life.register.rows(WORKSPACE) == rows
    life.check()


# Nobody but palace writes it.


def forge(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / "palace.sqlite3")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


FORGERIES = {
    "a token of one's own": f"INSERT INTO token SELECT '{'cd' * 32}', scope, label, epoch, "
    "created_at, NULL FROM token",
    "another's parent": "UPDATE workspace SET parent = 'me'",
    "no workspace": "DELETE FROM workspace",
    "an older state": "UPDATE token SET revoked_at = NULL, label = ''",
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("unfinished", [False, True])
def test_what_another_program_writes_is_put_back(life: Life, name: str, unfinished: bool) -> None:
    life.call("s:1", (TOKEN, SHA, token(revoked_at="2026-01-02T00:00:00Z", label="x")))
    expected = life.contents
    if unfinished:
        life.disk.failpoint = _dying(life.disk, "outcome")  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            life.call("s:2", STEPS[0], STEPS[3])
    forge(life.root, FORGERIES[name])
    seq = life.journal.seq

    heir = after(life)

    assert heir.contents == expected
    heir.check()
    assert heir.journal.seq >= seq
    assert after(heir).contents == expected


@pytest.mark.parametrize("name", [name for name in BESIDE if name.startswith("register-")])
def test_a_file_that_no_palace_writes_is_put_away_and_written_again(life: Life, name: str) -> None:
    """SQLite finds it whole, but an opening would fail where it reads it, or writes to it."""
    expected = life.contents
    BESIDE[name][1](life.root)

    heir = opened_whole(life.disk.power_cut(all_kept), life.root, epoch=2)

    assert heir.contents == expected
    heir.call("s:1", *STEPS)
    heir.check()
    assert list(heir.register.tree().workspaces) == ["lead", "coder"]


def test_a_file_that_is_gone_is_written_again(life: Life) -> None:
    expected = life.contents
    (life.root / "palace.sqlite3").unlink()

    heir = after(life)

    assert heir.contents == expected
    heir.check()


def test_on_trial_nothing_is_written_to_it_and_nothing_is_forgotten(life: Life) -> None:
    expected = life.contents
    forge(life.root, FORGERIES["another's parent"])
    forged = life.contents

    trial = after(life, dual=True)
    assert trial.contents == forged
    assert trial.recovery.held == {"register"}
    assert after(trial, dual=True).contents == forged
    heir = after(trial)

    assert heir.contents == expected
    heir.check()


# A palace without a workspace, and versions that know of none.


def test_nothing_is_said_of_a_register_that_nobody_uses(tmp_path: Path) -> None:
    life = awake(Disk(), tmp_path / "palace")
    heir = after(life)

    assert not list((tmp_path / "palace").iterdir())
    assert heir.recovery.fingerprints() == {}
    assert heir.journal.tail.baseline is not None
    assert "register" not in heir.journal.tail.baseline
    assert heir.recovery.suspects == []


def test_the_first_workspace_of_a_palace_that_has_a_baseline_without_it(tmp_path: Path) -> None:
    life = awake(Disk(), tmp_path / "palace")
    life.call("s:0", (WORKSPACE, OLD, workspace(OLD)))
    life.check()
    forge(life.root, FORGERIES["no workspace"])

    heir = after(life)

    assert list(heir.register.rows(WORKSPACE)) == [OLD]
    heir.check()


def test_an_older_palace_is_kept_away_before_anything_is_journalled(tmp_path: Path) -> None:
    root = tmp_path / "palace"
    life = awake(Disk(), root)
    seen: list[bool] = []
    life.disk.before_sync = lambda: seen.append(keeps_older_away(root))
    life.call("s:0", (WORKSPACE, OLD, workspace(OLD)))

    assert seen
    assert all(seen)
    paths, kernel = Paths(str(root)), Kernel()
    palace_format.keep_format(paths, kernel)  # this version goes on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palace_format, "NEWEST", 0)
        with pytest.raises(VersionMismatch) as refused:
            palace_format.keep_format(paths, kernel)
    assert refused.value.exit_code == 76
    assert "format 1" in refused.value.message
    assert str(root / "protocol") in refused.value.message


def test_a_format_outlives_a_newer_protocol(tmp_path: Path) -> None:
    paths, kernel = Paths(str(tmp_path)), Kernel()
    palace_format.keep_format(paths, kernel)
    assert Path(paths.protocol).read_text().split()[0] == str(wire.VERSION)
    palace_format.need_register(paths, kernel)
    palace_format.need_register(paths, kernel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "VERSION", wire.VERSION + 1)
        palace_format.keep_format(paths, kernel)
        served = palace_format.decode_served(Path(paths.protocol).read_bytes())

    assert (served.protocol, served.format) == (wire.VERSION + 1, palace_format.WITH_REGISTER)
    with pytest.raises(VersionMismatch, match=f"protocol {wire.VERSION + 1}"):
        palace_format.keep_format(paths, kernel)
