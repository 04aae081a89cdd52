"""What a session's environment and directory may not decide: which modules palace imports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.clients import Site

ROOT = Path(__file__).parents[2]
SHOW = "import json, os, sys; from palace.settings.process import prepare_process as p; p(); "
SHOW += "print(json.dumps([sys.path, os.environ.get('PYTHONPATH')]))"
BROKEN = 'raise ImportError("built for another Python")\n'


def search_path(*options: str, cwd: Path = ROOT, **environ: str) -> tuple[list[str], str | None]:
    done = subprocess.run(
        [sys.executable, *options, "-c", SHOW],
        env={"PATH": os.environ["PATH"]} | environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    path, variable = json.loads(done.stdout)
    return path, variable


def test_a_leaked_pythonpath_is_dropped(tmp_path: Path) -> None:
    clean, _ = search_path("-P")
    path, variable = search_path("-P", PYTHONPATH=f"{tmp_path}:/other")

    assert path == clean
    assert variable is None


def test_the_current_directory_is_no_place_for_modules(tmp_path: Path) -> None:
    path, variable = search_path(cwd=tmp_path)

    assert not {"", str(tmp_path)} & set(path)
    assert variable is None


def test_palaces_own_directory_stays_and_comes_last(tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "palace", installed / "palace")
    path, variable = search_path("-S", "-P", PYTHONPATH=f"{tmp_path}:{installed}")

    assert path[-1] == variable == str(installed)
    assert str(tmp_path) not in path


def test_what_is_installed_stays_though_a_session_names_it_too() -> None:
    clean, _ = search_path("-P")
    packages = next(entry for entry in clean if entry.endswith("site-packages"))
    path, _ = search_path("-P", PYTHONPATH=packages)

    assert set(path) == set(clean)


@pytest.mark.parametrize("module", ["attr", "attrs", "trio", "typer", "queue", "json", "logging"])
def test_no_command_meets_another_interpreters_packages(
    tmp_path: Path, site: Site, module: str
) -> None:
    (tmp_path / "leaked").mkdir()
    (tmp_path / "leaked" / f"{module}.py").write_text(BROKEN)
    done = site.run("status", PYTHONPATH=str(tmp_path / "leaked"))

    assert done.returncode == 69, done.stderr
    assert "no broker" in done.stdout.lower()


@pytest.mark.engine
def test_the_libraries_of_any_process_are_told_to_report_to_nobody() -> None:
    """As the libraries themselves understand it, whatever the starter's environment says."""
    script = (
        "from palace.settings.process import prepare_process; prepare_process(); "
        "from chromadb.config import Settings; from huggingface_hub import constants; "
        "print(Settings().anonymized_telemetry, constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    others = {"ANONYMIZED_TELEMETRY": "True", "HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PATH": os.environ["PATH"]} | others,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]
