"""What is published as a wheel and as an npm package: the folder's files, read by strangers."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.contract.reading import FOLDER
from tests.support.faults.killing import is_deep
from tests.support.machines.needs import need_command
from tests.support.machines.npm import npm_packages

HERE = Path(__file__).parent
AJV = ("ajv@8.17.1",)
TYPES = ("openapi-typescript@7.13.0", "json-schema-to-typescript@15.0.4", "typescript@5.9.3")
MANIFESTS = {"pyproject.toml", "package.json"}
USED = """
import type { components } from "palace-contract/types/memory-plugin-v1";
import type { BrokerJson } from "palace-contract/types/record-v1";
import golden from "palace-contract/golden/record-v1.json" with { type: "json" };
const one: components["schemas"]["ForgetRequest"] = { requested_by_namespace: "team:a" };
export const epoch = (record: BrokerJson): number => record.epoch + golden.valid.length;
export const name: string = one.requested_by_namespace;
"""

pytestmark = pytest.mark.process


def run(*words: str | Path, cwd: Path = FOLDER, given: str = "") -> str:
    environ = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environ,
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def published() -> dict[str, bytes]:
    paths = [path for path in FOLDER.rglob("*") if path.is_file()]
    return {str(path.relative_to(FOLDER)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def npm_package(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A directory with the package in node_modules, as npm has packed and installed it."""
    home = npm_packages(pytestconfig, "contract", *AJV)
    directory = tmp_path_factory.mktemp("npm")
    run("npm", "pack", "--silent", "--pack-destination", directory)
    [archive] = directory.glob("*.tgz")
    run(
        "npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", archive, cwd=directory
    )
    shutil.copytree(home / "node_modules", directory / "node_modules", dirs_exist_ok=True)
    return directory


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", directory, FOLDER)
    [found] = directory.glob("*.whl")
    return found


def test_the_npm_package_is_the_folder(npm_package: Path) -> None:
    [archive] = npm_package.glob("*.tgz")
    with tarfile.open(archive) as packed:
        found = {
            one.name.removeprefix("package/"): packed.extractfile(one).read()  # type: ignore[union-attr]
            for one in packed.getmembers()
        }
    assert found == {name: data for name, data in published().items() if name != "pyproject.toml"}
    told = json.loads(found["package.json"])
    assert told["version"] == (FOLDER / "VERSION").read_text().strip()


def test_the_wheel_is_the_folder_and_has_no_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        found = {name: packed.read(name) for name in packed.namelist()}
    data = {
        name.removeprefix("palace_contract/"): text
        for name, text in found.items()
        if name.startswith("palace_contract/")
    }
    beside = {*MANIFESTS, "README.md", "LICENSE"}
    assert data == {name: text for name, text in published().items() if name not in beside}
    assert not [name for name in found if name.endswith(".py")]
    version = (FOLDER / "VERSION").read_text().strip()
    assert wheel.name == f"palace_contract-{version}-py3-none-any.whl"
    licence = found[f"palace_contract-{version}.dist-info/licenses/LICENSE"]
    assert licence == (FOLDER.parent / "LICENSE").read_bytes()


def test_python_reads_the_wheel_and_sees_a_byte_that_is_another(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
    shutil.copy(HERE / "consumer.py", tmp_path)
    told = json.loads(run(sys.executable, "consumer.py", cwd=tmp_path))
    assert (told["broken"], told["wrong"]) == ([], [])
    assert told["read"] > 250

    broken = [break_one(path) for path in sorted((tmp_path / "palace_contract/golden").iterdir())]
    again = json.loads(run(sys.executable, "consumer.py", cwd=tmp_path))
    assert sorted(again["broken"]) == broken


def test_node_reads_the_package_and_sees_a_byte_that_is_another(npm_package: Path) -> None:
    need_command("node")
    told = json.loads(run("node", HERE / "consumer.mjs", npm_package))
    assert told["broken"] == []
    asked = json.dumps({"schemas": told["schemas"], "cases": told["cases"]})
    texts = json.loads(run("node", HERE / "reader.mjs", npm_package / "node_modules", given=asked))
    lines = json.loads(run("node", HERE / "wire.mjs", given=json.dumps(told["wire"])))
    assert (texts["wrong"], lines["wrong"]) == ([], [])
    assert texts["read"] + lines["read"] > 250

    package = npm_package / "node_modules" / "palace-contract"
    broken = [break_one(path) for path in sorted((package / "golden").iterdir())]
    assert sorted(json.loads(run("node", HERE / "consumer.mjs", npm_package))["broken"]) == broken


def break_one(path: Path) -> str:
    """Change one byte of what a golden file says of a text, so that it can be read all the same."""
    path.write_text(re.sub('"says": "(.)', '"says": "?', path.read_text(), count=1))
    return f"golden/{path.name}"


@pytest.mark.skipif(not is_deep(), reason="fetches compilers: PALACE_TEST_PROFILE=deep")
def test_the_types_are_made_of_the_schemas_and_compile(
    npm_package: Path, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    modules = npm_packages(pytestconfig, "contract-types", *TYPES) / "node_modules"
    openapi = modules / "openapi-typescript" / "bin" / "cli.js"
    other = modules / "json-schema-to-typescript" / "dist" / "src" / "cli.js"
    for path in sorted((FOLDER / "types").iterdir()):
        name = path.name.removesuffix(".d.ts")
        source = f"{name}.yaml" if name == "memory-plugin-v1" else f"{name}.schema.json"
        made = run("node", openapi if source.endswith("yaml") else other, source)
        if os.environ.get("UPDATE_GOLDENS") == "1":
            path.write_text(made)
        assert path.read_text() == made, "UPDATE_GOLDENS=1 makes it again"

    (npm_package / "used.mts").write_text(USED)
    options = ("--noEmit", "--strict", "--module", "nodenext", "--target", "es2022")
    run(
        "node",
        modules / "typescript" / "bin" / "tsc",
        *options,
        "--resolveJsonModule",
        "used.mts",
        cwd=npm_package,
    )
