"""The recipe for melange and apko beside Dockerfile.base; neither of them has been run here."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.__main__ import ROOT
from images.inputs import instructions, read_files
from palace import __version__
from tests.support.machines.needs import need_command

FOLDER = ROOT / "images" / "apko"
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ "$1" = keygen ] && echo private > "$2" && echo public > "$2.pub"
exit 0
"""


def recipe(name: str, folder: Path = FOLDER) -> Any:
    return yaml.safe_load((folder / f"{name}.yaml").read_text())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "images" / "apko")
    (tmp_path / "palace").mkdir()
    shutil.copy(ROOT / "palace" / "__init__.py", tmp_path / "palace")
    (tmp_path / "bin").mkdir()
    for name in ("melange", "apko"):
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def build(tree: Path, *steps: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    path = f"{tree / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [tree / "images" / "apko" / "build", *steps],
        env={"PATH": path, "CALLS": str(tree / "calls"), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def calls(tree: Path) -> list[list[str]]:
    path = tree / "calls"
    return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []


def of_dockerfile(stages: set[str], name: str) -> list[str]:
    found, stage = [], ""
    for one in instructions((ROOT / "Dockerfile.base").read_text()):
        if one.name == "FROM":
            stage = one.text.partition(" AS ")[2]
        if one.name == name and stage in stages:
            found.append(one.text)
    return found


def test_the_image_is_run_as_the_distroless_one() -> None:
    told, stages = recipe("apko"), {"distroless-runtime", "distroless"}
    [entry], [command] = (of_dockerfile(stages, name) for name in ("ENTRYPOINT", "CMD"))
    [environ], [directory] = (of_dockerfile(stages, name) for name in ("ENV", "WORKDIR"))

    assert told["entrypoint"] == {"command": shlex.join(yaml.safe_load(entry))}
    assert told["cmd"] == shlex.join(yaml.safe_load(command))
    assert told["environment"] == dict(word.split("=", 1) for word in environ.split())
    assert told["work-dir"] == directory
    [user] = told["accounts"]["users"]
    assert (told["accounts"]["run-as"], user["uid"]) == (user["username"], 1000)
    assert {path["path"]: path.get("permissions") for path in told["paths"]}[
        "/mempalace"
    ] == "0o700"
    assert not {"busybox", "bash", "apk-tools"} & set(told["contents"]["packages"])


def test_the_packages_are_those_of_the_locks_and_made_by_the_same_steps() -> None:
    told = recipe("melange")
    lines = "\n".join(
        step["runs"] for part in (told, *told["subpackages"]) for step in part["pipeline"]
    )
    dockerfile = (ROOT / "Dockerfile.base").read_text()
    for step in (
        "/steps/packages /locks/engine.txt /wheels/*.whl",
        "/steps/model /locks/model.txt",
    ):
        assert step in lines
        assert step in dockerfile
    assert re.findall(r"/locks/[\w.]+", lines) == [
        f"/locks/{name}.txt" for name in ("build", "engine", "model")
    ]
    assert "pip3.13 install --require-hashes --only-binary :all: --requirement" in lines
    assert set(re.findall(r"pip3?[\d.]* install [^\n]*", lines)) == {
        "pip3.13 install --require-hashes --only-binary :all: --requirement /locks/build.txt"
    }, "and nothing else is fetched"
    known = read_files(ROOT)
    taken = re.findall(r"images/[\w./]+", lines)
    assert taken
    assert all(any(path == one or path.startswith(f"{one}/") for path in known) for one in taken)
    python = {name for name in told["package"]["dependencies"]["runtime"] if "python" in name}
    assert python == {"python-3.13"}
    assert "--python-version 3.13" in (ROOT / "images" / "lock").read_text()


def test_both_are_for_the_same_two_architectures() -> None:
    archs = ["x86_64", "aarch64"]
    assert recipe("melange")["package"]["target-architecture"] == archs
    assert recipe("apko")["archs"] == archs
    assert f"archs={','.join(archs)}" in (FOLDER / "build").read_text()
    for lock in ("engine", "model", "build"):
        assert (ROOT / "images" / "locks" / f"{lock}.txt").exists()


def test_an_image_is_of_all_that_was_made_before(tree: Path) -> None:
    done = build(tree, PALACE_UID="4321")
    assert done.returncode == 0, done.stderr
    out = tree / "dist" / "apko"
    assert recipe("melange", out)["package"]["version"] == __version__
    told = recipe("apko", out)
    numbers = {one.get("uid") for one in (*told["accounts"]["users"], *told["paths"])} - {None}
    assert numbers == {4321}
    assert told["accounts"]["groups"][0]["gid"] == 4321

    keygen, packages, image = calls(tree)
    assert keygen == ["melange", "keygen", "dist/apko/melange.rsa"]
    assert packages[:3] == ["melange", "build", "dist/apko/melange.yaml"]
    assert packages[packages.index("--signing-key") + 1] == keygen[2]
    assert image[:5] == [
        "apko",
        "build",
        "dist/apko/apko.yaml",
        "palace:apko",
        "dist/apko/palace.tar",
    ]
    where = packages[packages.index("--out-dir") + 1]
    assert f"@local {where}" in told["contents"]["repositories"]
    assert f"{keygen[2]}.pub" in told["contents"]["keyring"]


@pytest.mark.parametrize("there", [(), ("rsa",), ("rsa.pub",), ("rsa", "rsa.pub")], ids=str)
def test_a_pair_is_made_unless_both_halves_are_there(there: tuple[str, ...], tree: Path) -> None:
    out = tree / "dist" / "apko"
    out.mkdir(parents=True)
    for half in there:
        (out / f"melange.{half}").write_text("former")
    assert build(tree, "keys").returncode == 0

    found = [(out / f"melange.{half}").read_text() for half in ("rsa", "rsa.pub")]
    assert found == (["former"] * 2 if len(there) == 2 else ["private\n", "public\n"])
    assert len(calls(tree)) == (0 if len(there) == 2 else 1)


def test_what_can_not_be_built_is_said(tree: Path) -> None:
    assert "don't run as root" in build(tree, "files", PALACE_UID="0").stderr
    assert "is no step" in build(tree, "pack").stderr
    (tree / "bin" / "melange").unlink()
    done = build(tree, "keys")
    assert (done.returncode, "melange is not installed" in done.stderr) == (1, True)


def test_git_keeps_none_of_what_is_built() -> None:
    need_command("git")
    for name in ("melange.rsa", "packages/x86_64/a.apk", "palace.tar", "sbom-x86_64.spdx.json"):
        for place in (name, f"dist/apko/{name}"):
            done = subprocess.run(["git", "check-ignore", "--quiet", place], cwd=ROOT, check=False)
            assert done.returncode == 0, place
