"""Case scripts: small inputs that went wrong once; each exits with 0 where all is right.

They are shell and Python scripts in directories beside the checkout, and no part of it:
$PALACE_CASES names the directory, which is otherwise looked for as `../shared/cases`.  A script
gets the program (PALACE_BIN) and a home with the model (MODEL_HOME); 1 means wrong, any other code
that it could not be tried here.  The full profile runs them all, in twenty minutes.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.known_cases import KNOWN
from tests.support.faults.killing import is_full
from tests.support.machines.needs import CASES, want

pytestmark = [
    pytest.mark.process,
    pytest.mark.engine,
    pytest.mark.skipif(not is_full(), reason="takes minutes: PALACE_TEST_PROFILE=full"),
]

ROOM = Path(os.environ.get("PALACE_CASES") or Path(__file__).parents[3] / "shared" / "cases")
RUNNERS = {".sh": "bash", ".py": sys.executable}
LIMIT_S = 400


def scripts() -> list[Path]:
    """Return the scripts: those with a number in front of their name."""
    found = [*ROOM.glob("*/*.sh"), *ROOM.glob("*/*.py")]
    return sorted(path for path in found if path.name[:1].isdigit())


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def parameters() -> list[object]:
    if not scripts():
        return [pytest.param(None, id="none")]
    return [
        pytest.param(
            path,
            id=named(path),
            marks=[pytest.mark.xfail(strict=True, reason=KNOWN[named(path)].why)]
            if named(path) in KNOWN
            else [],
        )
        for path in scripts()
    ]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that other users may enter, as some scripts do."""
    with tempfile.TemporaryDirectory(prefix="palace-case-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.mark.parametrize("script", parameters())
def test_a_case_script_exits_with_0(
    script: Path | None, model_home: Path, tmp_path: Path, scratch: Path
) -> None:
    if script is None:
        want(CASES, f"no scripts in {ROOM}")
    assert script is not None
    environ = {
        "PALACE_BIN": str(Path(sys.executable).parent / "palace"),
        "MODEL_HOME": str(model_home),
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        "CASES_SCRATCH": str(scratch),
    }
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [RUNNERS[script.suffix], str(script)],
            env=environ,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # so that it tidies up
            code = process.wait(60)
    words = said.read_text(errors="replace")[-2000:]
    if code not in (0, 1, -signal.SIGTERM):
        want(CASES, f"{named(script)} could not be tried here ({code}): {words.strip()[-200:]}")
    assert code == 0, words
