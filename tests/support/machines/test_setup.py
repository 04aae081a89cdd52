"""Setting a machine up for the tests, and what is said where a part of it is absent."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machines.needs import need_command, summary
from tests.support.machines.setup import ALL, PACKAGES, STRICT

ROOT = Path(__file__).parents[3]
APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> "$HOME/apt"
case "$*" in *update*) exit 0 ;; *{broken}*) exit 100 ;; esac
for command in {commands}; do : > "$HOME/bin/$command"; chmod +x "$HOME/bin/$command"; done
"""


def run_setup(
    home: Path, *words: str, apt: str = "", strict: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run setup on a machine that has nothing but what is in `home/bin`; `apt` is its apt-get."""
    place = home / "bin"
    place.mkdir(exist_ok=True)
    for command in ("sh", "env", "chmod", "true"):
        (place / command).symlink_to(shutil.which(command) or "")
    # Whoever runs this, on the imitated machine it is enough to be an administrator.
    for name, text in (("apt-get", apt), ("sudo", '#!/bin/sh\nshift\nexec "$@"\n')):
        if apt:
            (place / name).write_text(text)
            (place / name).chmod(0o755)
    return subprocess.run(
        [sys.executable, "-m", "tests.support.machines.setup", *words],
        cwd=ROOT,
        env={"PATH": str(place), "PALACE_TEST_SBIN": "", "HOME": str(home), STRICT: strict},
        capture_output=True,
        text=True,
        check=False,
    )


def test_packages_are_installed_where_that_is_allowed(tmp_path: Path) -> None:
    apt = APT.format(broken="nothing", commands=" ".join(PACKAGES))
    done = run_setup(tmp_path, apt=apt, strict="1")
    calls = (tmp_path / "apt").read_text().splitlines()

    assert done.returncode == 0, done.stdout
    assert [line.split()[2] for line in calls] == ["update", "install"]
    assert all(line.startswith("noninteractive ") for line in calls)
    assert {name for command in PACKAGES for name in PACKAGES[command]} <= set(calls[1].split())
    assert "no spin" not in done.stdout


def test_nothing_is_installed_where_all_is_there(tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    for command in PACKAGES:
        (place / command).write_text("")
        (place / command).chmod(0o755)
    done = run_setup(tmp_path, apt=APT.format(broken="nothing", commands=""), strict="1")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "apt").exists()


def test_a_package_that_a_release_lacks_keeps_no_other_away(tmp_path: Path) -> None:
    done = run_setup(tmp_path, apt=APT.format(broken="spin", commands="bindfs"))
    calls = (tmp_path / "apt").read_text()

    assert done.returncode == 0, "the tests go on, and count what they skip"
    assert calls.splitlines()[2].endswith(" bindfs")
    assert "no bindfs" not in done.stdout
    assert "no spin; to get it, as root: apt-get install spin\n" in done.stdout


@pytest.mark.parametrize(("strict", "code"), [("", 0), ("1", 1)])
def test_absent_parts_are_named_one_a_line(strict: str, code: int, tmp_path: Path) -> None:
    done = run_setup(tmp_path, "--images", strict=strict)
    lines = done.stdout.splitlines()

    assert done.returncode == code
    assert [line.split()[2].rstrip(";") for line in lines] == list(ALL)
    assert "setup: no cc; to get it, as root: apt-get install gcc libc6-dev" in lines


def test_the_closing_line_counts_what_was_skipped_and_says_how_to_run_it() -> None:
    reasons = ["Skipped: for want of spin: how"] * 3
    reasons += ["Skipped: for want of root: how", "Skipped: left to the full profile"]

    assert summary(["Skipped: left to the full profile"]) == ""
    assert summary(reasons) == (
        "4 tests were skipped for want of spin (3), root (1); "
        "to run them: run as root; `just setup` as root, or apt-get install spin"
    )


@pytest.mark.parametrize("strict", ["", "1"])
def test_an_absent_part_fails_a_test_only_where_it_must_be_there(
    strict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PALACE_TEST_SBIN", "")
    monkeypatch.setenv(STRICT, strict)
    expected = pytest.fail.Exception if strict else pytest.skip.Exception

    with pytest.raises(expected, match="for want of spin: apt-get install spin"):
        need_command("spin")
    monkeypatch.setenv("PATH", os.defpath)
    assert os.path.isabs(need_command("mount"))
