"""The entry point of the images, as a process: what it says, and what it sets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from images import entry
from images.__main__ import ROOT

SHOW = "import os; print(*map(os.environ.get, ('HOME', 'TMPDIR', 'PALACE_IDLE_S')))"


def enter(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", ROOT / "images" / "entry.py", *words],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_takes_its_place_and_is_told_what_is_missing(tmp_path: Path) -> None:
    given = {"HOME": str(tmp_path), "MEMPALACE_PATH": str(tmp_path / "palace")}
    done = enter(sys.executable, "-c", SHOW, **given)

    assert done.stdout == f"{tmp_path} None None\n"
    assert f"there is no palace at {tmp_path}/palace, and this image can't make one" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("palace", "shim"), 66),
        (("palace", "--version"), 0),
        (("no such program",), 127),
        (("/",), 126),
    ],
)
def test_what_needs_a_palace_is_not_run_without(
    words: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    bin_ = str(Path(sys.executable).parent)
    done = enter(
        *words, PATH=f"{bin_}:/usr/bin:/bin", HOME=str(tmp_path), MEMPALACE_PATH=f"{tmp_path}/p"
    )

    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("palace's image: ")


def test_a_named_broker_is_the_commands_business(tmp_path: Path) -> None:
    given = {
        "HOME": str(tmp_path),
        "MEMPALACE_PATH": f"{tmp_path}/p",
        "MEMPALACE_BROKER": "unix:/x",
    }
    assert enter(sys.executable, "-c", SHOW, **given).stderr == ""


def test_a_path_that_is_none_is_said(tmp_path: Path) -> None:
    done = enter("palace", "status", HOME=str(tmp_path), MEMPALACE_PATH="")
    assert done.returncode in (0, 66, 78), done.stderr
    assert "Traceback" not in done.stderr


FOREIGN = {
    "a link": lambda path: path.symlink_to(path.parent),
    "of a group": lambda path: (path.mkdir(), path.chmod(0o770)),
    "of anybody": lambda path: (path.mkdir(), path.chmod(0o707)),
    "a file": lambda path: path.touch(),
}


@pytest.mark.parametrize("name", ["", *FOREIGN, "another's"])
def test_a_home_in_tmp_is_ours_alone_or_it_is_in_the_volume(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is known to everybody, and whoever has it has what is started."""
    volume, temporary = tmp_path / "volume", tmp_path / "tmp"
    volume.mkdir()
    temporary.mkdir()
    there = temporary / f"home-{os.getuid()}"
    if name in FOREIGN:
        FOREIGN[name](there)
    elif name:
        there.mkdir(0o700)
        uid = os.getuid() + 1
        there.rename(temporary / f"home-{uid}")
        monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    entry.find_home(str(volume), str(temporary))

    home = (temporary if name == "" else volume) / f"home-{os.getuid()}"
    assert os.environ["HOME"] == str(home)
    assert home.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    entry.find_home(str(volume), str(temporary))
    assert os.environ["HOME"] == str(home), "once it is there"
