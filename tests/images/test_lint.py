"""The files that other programs read, held to those programs' own rules: nothing runs here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from images.inputs import arguments

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
SCRIPTS = sorted(
    [*(ROOT / ".ci").iterdir(), *(ROOT / "images").glob("steps/*"), ROOT / "images/apko/build"]
    + [path for path in (ROOT / "images").iterdir() if path.is_file() and not path.suffix]
)
WORKFLOWS = sorted(ROOT.glob(".git*/workflows/*.yml"))
COMPOSE = sorted(ROOT.glob("examples/*/compose.yaml"))
DEVCONTAINERS = sorted(ROOT.glob("examples/*/.devcontainer/devcontainer.json"))

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the linters are installed on Linux alone (pyproject.toml)"
)


def lint(tool: str, *words: str | Path) -> None:
    done = subprocess.run(
        [BIN / tool, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert not done.stderr


def test_hadolint_has_nothing_to_say() -> None:
    lint("hadolint", "--failure-threshold=style", "Dockerfile.base")


def test_shellcheck_has_nothing_to_say() -> None:
    assert len(SCRIPTS) >= 9
    lint("shellcheck", *SCRIPTS)


def test_workflows_are_of_their_schema() -> None:
    assert len(WORKFLOWS) == 3
    lint("check-jsonschema", "--builtin-schema=vendor.github-workflows", *WORKFLOWS)


def test_compose_files_are_of_their_schema() -> None:
    assert len(COMPOSE) == 3
    lint("check-jsonschema", "--builtin-schema=vendor.compose-spec", *COMPOSE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_actions_are_pinned_to_a_commit_and_say_which_version_it_is(path: Path) -> None:
    uses = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]

    assert uses
    for line in uses:
        assert re.fullmatch(r"(?:- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_workflows_run_is_shell_and_there(path: Path, tmp_path: Path) -> None:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            if "run" not in step:
                continue
            script = tmp_path / "script"
            script.write_text(step["run"])
            lint("shellcheck", "--shell=bash", script)
            command = step["run"].split()[0]
            assert "/" not in command or (ROOT / command).stat().st_mode & 0o111


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_jobs_read_only_what_the_jobs_before_them_say(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    for name, job in jobs.items():
        needs = job.get("needs", [])
        before = {needs} if isinstance(needs, str) else set(needs)
        text = json.dumps(job)
        for other in jobs:
            if f"needs.{other}." in text:
                assert other in before, f"{name} reads {other}"
            for output in jobs[other].get("outputs", {}):
                assert (
                    f"{output}=" in (ROOT / "images" / "ci").read_text()
                    or f"{output}<<" in (ROOT / "images" / "ci").read_text()
                )


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_examples_build_what_there_is(path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile.base").read_text()
    services = yaml.safe_load(path.read_text())["services"]
    for service in services.values():
        build = service["build"]
        assert (path.parent / build["context"] / build["dockerfile"]).samefile(
            ROOT / "Dockerfile.base"
        )
        assert f" AS {build['target']}\n" in dockerfile
        assert service["image"] == f"palace-{build['target']}"
        assert set(build.get("args", {})) <= set(arguments(dockerfile))


@pytest.mark.parametrize("path", DEVCONTAINERS, ids=lambda path: path.parent.parent.name)
def test_devcontainers_use_the_compose_file_beside_them(path: Path) -> None:
    said = json.loads(path.read_text())
    compose = yaml.safe_load((path.parent / said["dockerComposeFile"]).read_text())
    service = compose["services"][said["service"]]

    assert len(DEVCONTAINERS) == len(COMPOSE)
    assert f"..:{said['workspaceFolder']}" in service["volumes"]
    assert service["command"] == ["sleep", "infinity"]
    assert set(said) <= {"name", "dockerComposeFile", "service", "workspaceFolder", "remoteUser"}


def test_locks_name_no_index_and_one_file_each_by_its_digest() -> None:
    for path in [*sorted((ROOT / "images" / "locks").iterdir()), ROOT / "requirements-dev.lock"]:
        lines = path.read_text().splitlines()
        pins = [line for line in lines if not line.startswith("    --hash=sha256:")]
        assert "//" not in path.read_text()
        assert pins
        assert all("==" in pin and pin.endswith(" \\") for pin in pins), path.name
