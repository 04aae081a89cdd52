"""What CI does with a registry that fails for a moment."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from images.__main__ import ROOT
from images.pushed import differences

DOCKER = """#!/bin/sh
echo "$*" >> "$CALLS"
[ "$1" = tag ] && exit 0
[ "$1" = image ] && [ -z "$TRIED" ] && exit 1
[ "$1" = image ] || [ "$(grep -cxF -- "$*" "$CALLS")" -gt "$FAILS" ] || exit 1
case "$*" in
  "image inspect"*) echo "$TRIED" ;;
  *"imagetools inspect"*) echo "$PUSHED" ;;
esac
"""
ENTRY = ["python", "entry.py"]
TRIED = {
    "Id": "sha256:1",
    "RootFS": {"Type": "layers", "Layers": ["sha256:a", "sha256:b"]},
    "Config": {"Entrypoint": ENTRY, "Cmd": None, "Env": ["A=1"], "User": "", "Hostname": ""},
}
PUSHED = {
    "os": "linux",
    "config": {"Entrypoint": ENTRY, "Env": ["A=1"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]},
}


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
            "TRIED": json.dumps(TRIED),
            "PUSHED": json.dumps(PUSHED, indent=2),
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
    built = [call for call in calls if call.startswith("buildx build")]
    for target, call in zip(("shim", "full", "distroless"), built, strict=True):
        words = call.split()
        assert f"--target {target}" in call
        assert {"--sbom=true", "--provenance=mode=max"} <= set(words)
        assert {"--build-arg=A=1", "--build-arg=B=2"} <= set(words)
        assert f"example.org/palace-{target}:t-amd64" in words


@pytest.mark.parametrize("shape", [PUSHED, {"linux/amd64": PUSHED, "unknown/unknown": {}}])
@pytest.mark.parametrize(
    "changed",
    [
        {"rootfs": {"diff_ids": ["sha256:a", "sha256:c"]}},
        {"rootfs": {"diff_ids": ["sha256:a"]}},
        {"config": {"Entrypoint": ["sh"], "Env": ["A=1"]}},
        {"config": {"Entrypoint": ENTRY, "Env": ["A=2"]}},
        {"config": {"Entrypoint": ENTRY, "Env": ["A=1"], "User": "root"}},
    ],
)
def test_a_push_of_something_else_than_was_tried_fails(
    tmp_path: Path, shape: dict[str, object], changed: dict[str, object]
) -> None:
    assert differences("linux/amd64", TRIED, shape) == []
    other = PUSHED | changed
    assert differences("linux/amd64", TRIED, {"linux/amd64": other})
    code, calls = run(tmp_path, "push", 0, PUSHED=json.dumps(other))
    assert code == 1
    assert sum("type=registry" in call for call in calls) == 1


def test_images_without_layers_are_not_the_same() -> None:
    none = {"RootFS": {"Layers": []}, "Config": {}}
    assert differences("linux/amd64", none, {"rootfs": {"diff_ids": []}, "config": {}})


def test_what_is_compared_is_what_was_tried_and_what_was_pushed(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "push", 0)
    assert code == 0
    names = [call.split()[-1] for call in calls if " inspect " in call]
    assert names == [
        name
        for target in ("shim", "full", "distroless")
        for name in (f"palace-{target}:smoke", f"example.org/palace-{target}:t-amd64")
    ]


def test_what_was_never_tried_is_not_pushed_for_good(tmp_path: Path) -> None:
    assert run(tmp_path, "push", 0, TRIED="")[0] == 1


def test_joining_is_tried_three_times(tmp_path: Path) -> None:
    found, calls = run(tmp_path, "join", 1, ALIAS="latest")
    assert found == 0
    assert sum("imagetools" in call for call in calls) == 12
