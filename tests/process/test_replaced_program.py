"""A shim whose own program is replaced while it runs: the cause reaches its client."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.clients import Client

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A virtual environment with a palace of its own; the Python of it."""
    environment = tmp_path / "v"
    argv = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(argv, check=True, timeout=120)
    site = next(environment.glob("lib/python3*/site-packages"))
    shutil.copytree(ROOT / "palace", site / "palace", ignore=shutil.ignore_patterns("__pycache__"))
    return environment / "bin" / "python"


@pytest.mark.parametrize("part", ["interpreter", "package"])
def test_what_was_replaced_is_named_and_what_to_do(
    installed: Path, part: str, short_dir: Path
) -> None:
    (short_dir / "palace").mkdir(mode=0o700)
    environ = {
        "HOME": str(short_dir),
        "PATH": "/usr/bin:/bin",
        "MEMPALACE_PATH": str(short_dir / "palace"),
    }
    with Client([str(installed), "-P", "-m", "palace", "shim"], environ) as shim:
        shim.initialize()
        shim.call("mempalace_status")  # without the engine; a broker was started, and failed
        if part == "interpreter":
            gone = installed
            for name in installed.parent.glob("python*"):
                name.unlink()
        else:
            gone = next(installed.parents[1].glob("lib/python3*/site-packages/palace"))
            shutil.rmtree(gone)
        reply = shim.call("mempalace_status")

    text = reply["error"]["message"]
    assert f"{gone}, is gone: palace was upgraded, moved or removed" in text
    assert "Restart the agent" in text
    assert "No such file or directory" not in text
