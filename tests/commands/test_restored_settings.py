"""A backup's palace.toml is taken whole or not at all, and refused before anything is changed."""

from pathlib import Path

import attrs
import pytest

from palace.commands.backup import (
    MANIFEST,
    SETTINGS,
    Backup,
    make_backup,
    read_manifest,
)
from palace.commands.restore import How, restore_backup
from palace.journal.copying import file_digest
from palace.journal.journal import Journal
from palace.journal.record import OUTCOME, PUT, Draft, Stamp
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.protocol.keyring import ANYBODYS
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.user_settings import SETTINGS_BYTES_MAX

KERNEL = Kernel()
LARGE = b"readers = 2\n" + b"# more\n" * (SETTINGS_BYTES_MAX // 7) + b"readers = 3\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A palace with a journal."""
    paths = Paths(str(tmp_path / "store" / "palace"))
    Path(paths.root).mkdir(mode=0o700, parents=True)
    Path(paths.palace_id).write_text("0" * 32)
    journal = Journal.open(paths.journal, KERNEL, Stamp(epoch=1, writer="w"))
    journal.append([Draft(action=PUT, key="s:1", kind="k", id="i", payload=1)])
    journal.close_key("s:1", OUTCOME, reply="r")
    journal.close()
    return paths


def with_settings(backup: Backup, data: bytes) -> Backup:
    """Let a backup hold other settings, as its manifest says, too: anybody can write that."""
    Path(backup.path, SETTINGS).write_bytes(data)
    digest = file_digest(f"{backup.path}/{SETTINGS}", KERNEL)
    manifest = attrs.evolve(backup.manifest, files={**backup.manifest.files, SETTINGS: digest})
    Path(backup.path, MANIFEST).write_bytes(manifest.encode())
    return Backup(path=backup.path, manifest=read_manifest(backup.path, KERNEL))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (LARGE, f"has more than {SETTINGS_BYTES_MAX} bytes, which no settings need"),
        (b"# caf\xe9\nreaders = 2\n", "is not valid TOML"),
    ],
)
@pytest.mark.parametrize("has_its_own", [False, True])
def test_settings_that_cant_be_taken_whole_are_refused(
    paths: Paths, environ: dict[str, str], tmp_path: Path, data: bytes, why: str, has_its_own: bool
) -> None:
    backup = with_settings(make_backup(paths, environ, str(tmp_path / "backups")), data)
    target = Paths(str(tmp_path / "other" / "palace"))
    Path(target.root).mkdir(mode=0o700, parents=True)
    if has_its_own:
        Path(target.settings).write_text("readers = 4\n")

    with pytest.raises(ConfigError, match=why) as told:
        restore_backup(target, ShimEnvironment(environ), backup, ANYBODYS, How())

    assert f"{backup.path}/{SETTINGS}" in told.value.message
    assert told.value.message.endswith("Take another backup.")
    assert not Path(target.journal).exists()
    assert Path(target.settings).exists() == has_its_own


def test_a_backup_of_settings_that_are_too_large_is_refused(
    paths: Paths, environ: dict[str, str], tmp_path: Path
) -> None:
    Path(paths.settings).write_bytes(LARGE)

    with pytest.raises(ConfigError, match="which no settings need"):
        make_backup(paths, environ, str(tmp_path / "backups"))

    assert not list((tmp_path / "backups").glob("[!.]*"))
