"""The step that fetches a source: whatever name a commit has, and with a network that fails."""

import os
import subprocess
from pathlib import Path

import pytest

from images.__main__ import ROOT
from images.references import Resolved, resolve_commit
from tests.images.test_references import commit, git, repository

__all__ = ["repository"]  # a fixture
STEP = ROOT / "images" / "steps" / "source"


def fetch(
    url: str, ref: str, to: Path, local: str = "/nonexistent", **environ: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [STEP, url, ref, local, to],
        env={**os.environ, "PAUSES": "0 0", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "ref", ["main", "topic/one", "light", "heavy", "both", "refs/heads/both", "HEAD", "{first}"]
)
def test_what_is_fetched_is_what_the_tag_says(ref: str, repository: Path, tmp_path: Path) -> None:
    ref = ref.format(first=git(repository, "rev-parse", "HEAD~1"))
    resolved = resolve_commit(str(repository), ref)
    done = fetch(f"file://{repository}", ref, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert isinstance(resolved, Resolved)
    wanted = git(repository, "show", f"{resolved.value}:file")
    assert (tmp_path / "out" / "file").read_text() == wanted
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_an_old_commit_is_found_by_its_first_digits(repository: Path, tmp_path: Path) -> None:
    commit(repository, "third")
    first = git(repository, "rev-parse", "--short=8", "HEAD~2")
    done = fetch(f"file://{repository}", first, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "file").read_text() == "first"


@pytest.mark.parametrize("ref", ["absent", "0123456789", "0" * 40])
def test_what_is_not_there_is_an_error(ref: str, repository: Path, tmp_path: Path) -> None:
    done = fetch(f"file://{repository}", ref, tmp_path / "out")

    assert done.returncode != 0
    assert ref in done.stderr


def test_a_reference_without_a_repository_is_an_error(tmp_path: Path) -> None:
    done = fetch("", "main", tmp_path / "out")

    assert done.returncode == 2
    assert "Add the _GIT argument" in done.stderr


def test_without_a_reference_it_is_the_build_s_own_directory(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("here")
    done = fetch("", "", tmp_path / "out", str(tmp_path / "here"))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "file").read_text() == "here"


@pytest.mark.parametrize(("failures", "code"), [(2, 0), (3, 1)])
def test_a_fetch_is_tried_again(failures: int, code: int, repository: Path, tmp_path: Path) -> None:
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True)
    (tmp_path / "bin").mkdir()
    flaky = tmp_path / "bin" / "git"
    flaky.write_text(
        f"""#!/bin/sh
if [ "$1" = ls-remote ]; then
  echo tried >> {tmp_path}/tries
  [ "$(wc -l < {tmp_path}/tries)" -gt {failures} ] || exit 1
fi
exec {real.stdout.strip()} "$@"
"""
    )
    flaky.chmod(0o755)
    path = f"{flaky.parent}:{os.environ['PATH']}"
    done = fetch(f"file://{repository}", "main", tmp_path / "out", PATH=path)

    assert done.returncode == code
    assert done.stderr.count("again in 0 s") == 2
    assert (tmp_path / "tries").read_text().count("tried") == 3
