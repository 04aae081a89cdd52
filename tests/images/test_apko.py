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
from images.tag import image_tag
from palace import __version__
from tests.support.machines.needs import need_command

FOLDER = ROOT / "images" / "apko"
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ "$1" = keygen ] && echo private > "$2" && echo public > "$2.pub"
exit 0
"""
# The fields of each object, as both tools' schemas have them: they refuse all others.
ACCOUNTS = {
    "groups": [{"groupname": str, "gid": int, "members": [str]}],
    "users": [{"username": str, "uid": int, "gid": int, "shell": str, "homedir": str}],
    "run-as": str,
}
CONTENTS = {"repositories": [str], "keyring": [str], "packages": [str]}
ENVIRONMENT = {"contents": CONTENTS, "environment": {"": str}, "accounts": ACCOUNTS}
PIPELINE = [{"name": str, "uses": str, "with": {"": str}, "runs": str, "working-directory": str}]
PATHS = {"path": str, "type": str, "source": str, "uid": int, "gid": int, "permissions": str}
FIELDS: dict[str, Any] = {
    "apko": ENVIRONMENT
    | {
        "entrypoint": {"command": str, "type": str, "shell-fragment": str},
        "cmd": str,
        "work-dir": str,
        "stop-signal": str,
        "archs": [str],
        "paths": [PATHS],
        "annotations": {"": str},
    },
    "melange": {
        "package": {
            "name": str,
            "version": str,
            "epoch": int,
            "description": str,
            "url": str,
            "copyright": [{"license": str, "paths": [str], "attestation": str}],
            "target-architecture": [str],
            "dependencies": {"runtime": [str], "provides": [str], "replaces": [str]},
        },
        "environment": ENVIRONMENT,
        "pipeline": PIPELINE,
        "subpackages": [
            {"name": str, "description": str, "pipeline": PIPELINE, "dependencies": {"": [str]}}
        ],
    },
}


class Strict(yaml.SafeLoader):
    """Takes no key twice: of two, one would be believed in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice"
        return super().construct_mapping(node, deep)


def recipe(name: str, folder: Path = FOLDER) -> Any:
    return yaml.load((folder / f"{name}.yaml").read_text(), Strict)


def unknown(told: Any, known: Any, where: str = "") -> list[str]:
    """Return what is no field, or no value of its kind."""
    if isinstance(known, dict) and isinstance(told, dict):
        parts = [
            [f"{where}.{key}: no such field"]
            if key not in known and "" not in known
            else unknown(value, known.get(key, known.get("")), f"{where}.{key}")
            for key, value in told.items()
        ]
    elif isinstance(known, list) and isinstance(told, list):
        parts = [unknown(one, known[0], f"{where}[]") for one in told]
    else:
        right = isinstance(known, type) and type(told) is known
        parts = [] if right else [[f"{where}: {told!r}"]]
    return [one for part in parts for one in part]


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


@pytest.mark.parametrize("name", FIELDS)
def test_a_recipe_has_no_field_that_its_tool_refuses(name: str) -> None:
    told = recipe(name)
    assert unknown(told, FIELDS[name]) == []
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert not [line for line in lines if line != line.rstrip() or "\t" in line]

    said = {"apko": ("entrypoint", "commands"), "melange": ("package", "dependency")}[name]
    for wrong in ({said[0]: {said[1]: "x"}}, {"archs ": []}, {said[0]: 1}, {said[0]: ["x"]}):
        assert len(unknown(told | wrong, FIELDS[name])) == 1, wrong


def test_a_key_that_is_there_twice_is_no_recipe(tmp_path: Path) -> None:
    text = (FOLDER / "apko.yaml").read_text()
    (tmp_path / "apko.yaml").write_text(f"{text}\ncmd: sh\n")
    with pytest.raises(AssertionError, match="twice"):
        recipe("apko", tmp_path)


def test_the_images_tag_is_of_the_recipe_too(tmp_path: Path) -> None:
    tags = [image_tag(read_files(ROOT), {}, str)]
    for path in read_files(ROOT):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path, follow_symlinks=False)
    assert image_tag(read_files(tmp_path), {}, str) == tags[0]
    for name in ("apko.yaml", "melange.yaml", "build"):
        with (tmp_path / "images" / "apko" / name).open("a") as file:
            file.write("# more\n")
        tags.append(image_tag(read_files(tmp_path), {}, str))
    assert len(set(tags)) == 4


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
