"""Case scripts: small inputs that went wrong once; each exits with 0 where all is right.

They are shell and Python scripts in directories beside the checkout, and no part of it:
$PALACE_CASES names the directory, which is otherwise looked for as `../shared/cases`.  A script
gets the program (PALACE_BIN) and a home with the model (MODEL_HOME); 1 means wrong, any other code
that it could not be tried here.  The full profile runs them all, in twenty minutes.  One that can't
exit with 0 any more is run a second time in today's words, where known_cases.py has them.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.known_cases import HARNESS, KNOWN, Words
from tests.support.faults.killing import is_full
from tests.support.machines.needs import CASES, want

pytestmark = [
    pytest.mark.process,
    pytest.mark.engine,
    pytest.mark.skipif(not is_full(), reason="takes minutes: PALACE_TEST_PROFILE=full"),
]

ROOM = Path(os.environ.get("PALACE_CASES") or Path(__file__).parents[3] / "shared" / "cases")
RUNNERS = {".sh": ["bash"], ".py": [sys.executable, "-B"]}  # it may import what is not ours
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


def in_other_words(text: str, words: Words) -> str:
    """Return a script that says the same of this palace."""
    for old, new in words:
        assert old in text, f"the script doesn't say {old!r} any more"
        text = text.replace(old, new)
    return text


def say_today(name: str, directory: Path) -> Path:
    """Write a script, and the harness that it calls, in today's words."""
    words = KNOWN[name].today
    assert words is not None
    path = ROOM / name
    for each in path.parent.iterdir():
        if each == path or (each.is_file() and not each.name[:1].isdigit()):
            said = words if each == path else HARNESS.get(each.name, ())
            (directory / each.name).write_text(in_other_words(each.read_text(), said))
    return directory / path.name


@pytest.mark.parametrize("script", parameters())
def test_a_case_script_exits_with_0(
    script: Path | None, model_home: Path, tmp_path: Path, scratch: Path
) -> None:
    if script is None:
        want(CASES, f"no scripts in {ROOM}")
    assert script is not None
    run_script(script, named(script), model_home, tmp_path, scratch)


@pytest.mark.parametrize("name", [name for name in KNOWN if KNOWN[name].today is not None])
def test_a_case_script_in_todays_words_exits_with_0(
    name: str, model_home: Path, tmp_path: Path, scratch: Path
) -> None:
    if not (ROOM / name).exists():
        want(CASES, f"no scripts in {ROOM}")
    directory = tmp_path / "script"
    directory.mkdir()
    run_script(say_today(name, directory), name, model_home, tmp_path, scratch)


def run_script(script: Path, name: str, model_home: Path, tmp_path: Path, scratch: Path) -> None:
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
            [*RUNNERS[script.suffix], str(script)],
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
        want(CASES, f"{name} could not be tried here ({code}): {words.strip()[-200:]}")
    assert code == 0, words
