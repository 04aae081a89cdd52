"""What CI does with a registry that fails for a moment."""

import os
import subprocess
from pathlib import Path

import pytest

from images.__main__ import ROOT

DOCKER = """#!/bin/sh
echo "$*" >> "$CALLS"
[ "$1" = tag ] && exit 0
[ "$(grep -cxF -- "$*" "$CALLS")" -gt "$FAILS" ]
"""


def run(tmp_path: Path, command: str, fails: int, **environ: str) -> tuple[int, list[str]]:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    done = subprocess.run(
        [ROOT / "images" / "ci", command],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "FAILS": str(fails),
            "PUSH_PAUSE_S": "0",
            "REPOSITORY": "example.org/palace",
            "TAG": "t",
            "ARGUMENTS": "A=1\nB=2",
            **environ,
        },
        capture_output=True,
        check=False,
    )
    return done.returncode, calls.read_text().splitlines()


@pytest.mark.parametrize(("fails", "code", "pushes"), [(0, 0, 3), (2, 0, 9), (3, 1, 3)])
def test_a_push_is_tried_three_times(tmp_path: Path, fails: int, code: int, pushes: int) -> None:
    found, calls = run(tmp_path, "push", fails)
    assert found == code
    assert sum("type=registry" in call for call in calls) == pushes


def test_what_is_pushed_says_what_it_is_made_of_and_from_what(tmp_path: Path) -> None:
    _, calls = run(tmp_path, "push", 0)
    for target, call in zip(("shim", "full", "distroless"), calls, strict=True):
        words = call.split()
        assert f"--target {target}" in call
        assert {"--sbom=true", "--provenance=mode=max"} <= set(words)
        assert {"--build-arg=A=1", "--build-arg=B=2"} <= set(words)
        assert f"example.org/palace-{target}:t-amd64" in words


def test_joining_is_tried_three_times(tmp_path: Path) -> None:
    found, calls = run(tmp_path, "join", 1, ALIAS="latest")
    assert found == 0
    assert sum("imagetools" in call for call in calls) == 12
