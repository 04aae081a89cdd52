"""palace in a slot: taken where it is free, left alone where it is somebody else's."""

import os
from pathlib import Path

import pytest

from palace.protocol.errors import ConfigError, SlotTaken
from palace.provider.claim import claim_slot, release_slot
from palace.provider.declaration import read_slot
from tests.provider.scripts import declared


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(0o700)
    return home / "slot.json"


def claim(slot: Path, *, replace: bool = False) -> str:
    return claim_slot(str(slot), "", dict(os.environ), heartbeat="", replace=replace)


def provider_in(slot: Path) -> str:
    found = read_slot(str(slot)).declaration
    return found.provider if found is not None else ""


def test_a_free_slot_is_taken_again_and_given_back(slot: Path) -> None:
    for _ in range(2):
        assert "palace is the provider" in claim(slot)
        assert provider_in(slot) == "palace"
    assert "is removed" in release_slot(str(slot))
    assert not slot.exists()
    assert "nothing was changed" in release_slot(str(slot))


@pytest.mark.parametrize("kind", ["another's", "nonsense", "writable"])
def test_a_slot_that_is_taken_stays_unless_it_is_to_be_replaced(slot: Path, kind: str) -> None:
    declared(slot)
    if kind == "nonsense":
        slot.write_text("{")
    if kind == "writable":
        slot.chmod(0o666)
    before = slot.read_bytes()

    for refused in (lambda: claim(slot), lambda: release_slot(str(slot))):
        with pytest.raises(SlotTaken):
            refused()
        assert slot.read_bytes() == before
    claim(slot, replace=True)
    assert provider_in(slot) == "palace"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "fifo"])
def test_what_is_no_file_is_never_replaced(slot: Path, kind: str, replace: bool) -> None:
    target = slot.with_name("target")
    if kind == "link":
        declared(target, provider="palace")
    if kind == "directory":
        slot.mkdir()
    elif kind == "fifo":
        os.mkfifo(slot, 0o600)
    else:
        slot.symlink_to(target)
    before = slot.lstat()

    with pytest.raises(ConfigError):
        claim(slot, replace=replace)

    assert (slot.lstat().st_ino, slot.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert target.exists() == (kind == "link")
