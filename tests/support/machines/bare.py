"""The tests that use parts of the machine, where it has none of them: `just check-bare`.

PATH leads to this environment's own programs and to those of Debian's essential packages, and
nowhere else.  Nothing may fail there, and something must have been skipped for want of a part.
"""

import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.support.machines.needs import need_command, need_root
from tests.support.machines.setup import PACKAGES, STRICT

ROOT = Path(__file__).parents[3]
PROGRAM = re.compile(r"(?:/usr)?/s?bin/[^/]+")


def essential() -> list[str]:
    """Return the paths of all programs without which Debian doesn't run."""
    shown = "-f=${Essential} ${Priority} ${Package}\\n"
    rows = subprocess.check_output(["dpkg-query", "-W", shown], text=True).splitlines()
    names = [row.split()[-1] for row in rows if row.startswith("yes ") or " required " in row]
    paths = subprocess.check_output(["dpkg", "--listfiles", *names], text=True).splitlines()
    return [path for path in paths if PROGRAM.fullmatch(path) and os.access(path, os.X_OK)]


# As a plugin of pytest: keeps the tests that may use a part.


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen: dict[Any, bool] = {need_command: True, need_root: True}
    kept, left_out = [], []
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
        functions = [fixture.func for same in fixtures for fixture in same]
        functions.append(item.function)  # type: ignore[attr-defined]
        uses = any(_uses_part(function, seen) for function in functions)
        (kept if uses else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def _uses_part(thing: Any, seen: dict[Any, bool]) -> bool:
    """Tell whether a function of the tests asks for a part or names one, or calls what does."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if inspect.isclass(thing) and thing.__module__.startswith("tests."):
        methods = [each for each in vars(thing).values() if inspect.isfunction(each)]
        return any(_uses_part(each, seen) for each in methods)
    if not inspect.isfunction(thing) or not thing.__module__.startswith("tests."):
        return False
    if thing not in seen:
        seen[thing] = False
        words = set(_words(thing.__code__))
        used = [thing.__globals__.get(word) for word in words]
        seen[thing] = any(f"'{name}'" in words for name in PACKAGES if not shutil.which(name))
        seen[thing] = seen[thing] or any(_uses_part(each, seen) for each in used)
    return seen[thing]


def _words(code: CodeType) -> Iterator[str]:
    """Yield the names that code uses, and its strings in quotes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)
        else:
            together = constant if isinstance(constant, tuple) else (constant,)
            yield from (repr(each) for each in together)


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code, or 1 where none was skipped for want of a part."""
    # Whoever ends this ends the tests, too: in a shell's background there is no ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bare-") as directory:
        for path in essential():
            link = Path(directory, os.path.basename(path))
            if not link.is_symlink():
                link.symlink_to(path)
        absent = sorted(name for name in PACKAGES if not Path(directory, name).exists())
        print(f"bare: without {', '.join(absent)}", flush=True)
        environ = {name: text for name, text in os.environ.items() if name != STRICT}
        environ["PATH"] = f"{os.path.dirname(sys.executable)}:{directory}"
        environ["PALACE_TEST_SBIN"] = ""
        options = ["-p", "tests.support.machines.bare", "-n", "2", "--dist", "loadfile", *arguments]
        command = [sys.executable, "-m", "pytest", *options]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=False
        )
    print(done.stdout, end="")
    skipped = "skipped for want of " in done.stdout.splitlines()[-1]
    return done.returncode or (0 if skipped else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
