"""The next epoch stands above all that any of the palace's files still knows."""

import json
import os
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.epoch import EPOCH_DIGITS_MAX, EPOCH_MAX, last_epoch, take_epoch
from palace.ownership.record import publish
from palace.protocol.errors import LockFailed
from palace.settings.paths import Paths
from tests.support.machines.needs import need_root

KERNEL = Kernel()
LARGEST = 10 ** (EPOCH_DIGITS_MAX - 1)  # of a hint; a later owner's must fit, too


@pytest.fixture
def palace(tmp_path: Path) -> Paths:
    (tmp_path / "palace" / "journal").mkdir(0o700, parents=True)
    (tmp_path / "palace").chmod(0o700)
    return Paths(str(tmp_path / "palace"))


def say(palace: Paths, head: str) -> None:
    Path(palace.journal_head).write_text(head)


def published(palace: Paths, epoch: int) -> None:
    """Leave the record of an owner of that epoch, which can't be asked for its own any more."""
    owner = lock.take_lock(palace, KERNEL)
    try:
        owner.palace_id, owner.epoch = "a" * 32, epoch
        publish(owner, "", KERNEL, mode="broker")
    finally:
        os.close(owner.lock_fd)


def test_a_new_palace_has_none(palace: Paths) -> None:
    assert last_epoch(palace, KERNEL) == 0


@pytest.mark.parametrize(("file", "record", "head"), [(9, 4, 5), (4, 9, 5), (4, 5, 9), (0, 0, 9)])
def test_the_largest_counts(palace: Paths, file: int, record: int, head: int) -> None:
    if file:
        Path(palace.epoch).write_text(f"{file}\n")
    if record:
        published(palace, record)
    say(palace, json.dumps({"epoch": head}))

    assert last_epoch(palace, KERNEL) == 9


@pytest.mark.parametrize("head", ["", "{", "[]", "{}", "7", '{"epoch": "9"}', '{"epoch": -1}'])
def test_a_head_that_says_nothing_counts_as_absent(palace: Paths, head: str) -> None:
    Path(palace.epoch).write_text("3\n")
    say(palace, head)

    assert last_epoch(palace, KERNEL) == 3


def test_a_hint_near_the_limit_counts_as_absent(palace: Paths) -> None:
    Path(palace.epoch).write_text("3\n")
    for epoch in (LARGEST, 10**30):
        say(palace, json.dumps({"epoch": epoch}))
        assert last_epoch(palace, KERNEL) == 3
    say(palace, json.dumps({"epoch": LARGEST - 1}))
    assert last_epoch(palace, KERNEL) == LARGEST - 1
    published(palace, LARGEST)
    say(palace, "{}")
    assert last_epoch(palace, KERNEL) == 3
    published(palace, LARGEST - 1)
    assert last_epoch(palace, KERNEL) == LARGEST - 1


def test_a_record_of_another_user_says_nothing(palace: Paths) -> None:
    need_root()
    published(palace, 9)
    os.chown(palace.record, 65534, 65534)

    assert last_epoch(palace, KERNEL) == 0


def test_an_epoch_at_the_limit_is_taken_and_beyond_it_refused(palace: Paths) -> None:
    Path(palace.epoch).write_text(f"{EPOCH_MAX}\n")
    assert last_epoch(palace, KERNEL) == EPOCH_MAX
    Path(palace.epoch).write_text(f"{EPOCH_MAX + 1}\n")
    with pytest.raises(LockFailed, match=str(EPOCH_MAX)):
        last_epoch(palace, KERNEL)


def test_what_killed_owners_left_half_written_goes_and_nothing_else(palace: Paths) -> None:
    root = Path(palace.root)
    torn = [
        *("broker.json.7.tmp", "epoch.7.tmp", "palace_id.12345.tmp", "protocol.7.tmp"),
        *(f"{Path(path).name}.7.tmp" for path in (palace.catalogue, palace.register)),
        f"{Path(palace.candidates).name}.7.tmp",
    ]
    others = ["notes.7.tmp", "epoch.x.tmp", "epoch.7.tmp.bak", "epoch.tmp", "7.tmp"]
    for name in torn + others:
        (root / name).write_text("")
    owner = lock.take_lock(palace, KERNEL)
    try:
        take_epoch(owner, KERNEL)
    finally:
        os.close(owner.lock_fd)

    assert [name for name in torn if (root / name).exists()] == []
    assert [name for name in others if not (root / name).exists()] == []
