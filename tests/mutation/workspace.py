"""A copy of the tree for each room, in which mutmut works and keeps its results.

Only files that differ are written, so that results hold until the code or its tests change.
mutmut itself sees which functions changed; a changed test gives the survivors another chance.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutation import results
from tests.mutation.rooms import ROOT, Room

# What tests read beside the code, by top-level name.
COPIED = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile.base", "LICENSE", "SECURITY.md"),
    *("bench", "changelog.d", "docs", "examples", "images", "justfile", "palace"),
    *("requirements-dev.lock", "specs"),
)
STATS = "mutants/mutmut-stats.json"
# A line that only holds words of a message: in other words it would say the same.
WORDS = r'^\s*[rf]?"[^"]* [^"]*"[,)]*$'
CONFIG = """
[tool.mutmut]
source_paths = ["{source}"]
also_copy = [{copied}]
pytest_add_cli_args_test_selection = ["{tests}"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist"]
do_not_mutate_patterns = ['{words}']
timeout_multiplier = 10.0
timeout_constant = 10.0
use_setproctitle = false
"""

# What `mutmut run` begins with, which has no command of its own.
GENERATE = """
from pathlib import Path
from mutmut import __main__ as mutmut
Path("mutants").mkdir(exist_ok=True)
mutmut.set_mutant_under_test("mutant_generation")
mutmut.copy_src_dir()
mutmut.copy_also_copy_files()
mutmut.setup_source_paths()
mutmut.store_lines_covered_by_tests()
mutmut.create_mutants(1)
"""


class MutationFailed(Exception):
    """mutmut didn't get as far as trying mutants: the tests fail without any, for one."""


def prepare(room: Room) -> None:
    """Bring a room's copy of the tree up to date."""
    wanted = set(_tracked())
    changed = [name for name in wanted if _copy(name, room)]
    for name in set(_present(room.workspace)) - wanted:
        (room.workspace / name).unlink()
        changed.append(name)
    config = CONFIG.format(
        source=room.source,
        tests=room.tests,
        copied=", ".join(f'"{name}"' for name in COPIED if (ROOT / name).exists()),
        words=WORDS,
    )
    _write(room.workspace / "pyproject.toml", (ROOT / "pyproject.toml").read_bytes(), config)
    if changed:
        # Which tests reach which function: mutmut keeps that, and misses functions that are new.
        (room.workspace / STATS).unlink(missing_ok=True)
    if any(name.startswith("tests/") for name in changed):
        results.try_survivors_again(room)


def generate(room: Room) -> None:
    """Make a room's mutants, and try none; raises MutationFailed."""
    _mutmut(room, "-c", GENERATE)


def run(room: Room, mutants: Sequence[str], children: int) -> None:
    """Try the mutants that these patterns name, all without any; raises MutationFailed.

    It goes on where an earlier run was stopped.
    """
    _mutmut(room, "-m", "mutmut", "run", "--max-children", str(children), *mutants)


def _mutmut(room: Room, *arguments: str) -> None:
    if importlib.util.find_spec("mutmut") is None:
        raise MutationFailed("mutmut is not installed: pip install --editable '.[mutants]'")
    # From outside of the tree, PYTHONPATH and the like would lead to code that isn't mutated.
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    log = room.workspace / "mutmut.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=room.workspace,
            env=environ,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        last = log.read_text(errors="replace")[-2000:]
        raise MutationFailed(f"mutmut ended with {done.returncode}; {log} ends so:\n{last}")


def _tracked() -> Iterator[str]:
    """Yield the tree's files, those included that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        top = name.split("/", 1)[0]
        if top in (*COPIED, "tests") and (ROOT / name).is_file():
            yield name


def _present(workspace: Path) -> Iterator[str]:
    for top in (*COPIED, "tests"):
        place = workspace / top
        files = place.rglob("*") if place.is_dir() else (place,)
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(workspace))


def _copy(name: str, room: Room) -> bool:
    source, target = ROOT / name, room.workspace / name
    written = _write(target, source.read_bytes())
    if written:
        target.chmod(source.stat().st_mode & 0o777)
    return written


def _write(target: Path, content: bytes, more: str = "") -> bool:
    content += more.encode()
    if target.is_file() and target.read_bytes() == content:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return True
