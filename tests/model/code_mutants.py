"""Mutants of the product's own code: each patch must turn its one test red.

    python -m tests.model.code_mutants [NAME ...]

A patch is applied to a copy of the package, and the named test runs there, against the copy.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent.parent
PATCHES = Path(__file__).parent / "mutants"
TIMEOUT_S = 300.0


@attrs.frozen
class Patch:
    """`red` are the arguments of the pytest command that must fail."""

    name: str
    what: str
    breaks: str
    red: str
    path: Path


@attrs.frozen
class Outcome:
    patch: Patch
    killed: bool
    seconds: float
    words: str


def read_patch(path: Path) -> Patch:
    """Read the three lines of comment above a diff."""
    head = [line[2:] for line in path.read_text().splitlines()[:3]]
    name, _, what = head[0].partition(": ")
    assert name == path.stem, f"{path.name} calls itself {name}"
    assert head[1].startswith("breaks: "), path
    assert head[2].startswith("red: "), path
    return Patch(name, what, head[1].removeprefix("breaks: "), head[2].removeprefix("red: "), path)


def all_patches() -> list[Patch]:
    return [read_patch(path) for path in sorted(PATCHES.glob("*.patch"))]


def applies(patch: Patch) -> str:
    """Return why a patch no longer fits the code, "" if it does."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        shutil.copytree(ROOT / "palace", copy / "palace", ignore=_JUNK)
        done = _patch(patch, copy)
        if done.returncode:
            return done.stdout
        return _broken_syntax(patch, copy)


def _broken_syntax(patch: Patch, copy: Path) -> str:
    """Return what is no Python any more, since a patch fell into the wrong place."""
    for name in re.findall(r"^\+\+\+ b/(.*)$", patch.path.read_text(), re.MULTILINE):
        try:
            compile((copy / name).read_bytes(), name, "exec")
        except SyntaxError as error:
            return f"{name}: {error}"
    return ""


_JUNK = shutil.ignore_patterns("__pycache__", "*.pyc")


def _patch(patch: Patch, directory: Path) -> "subprocess.CompletedProcess[str]":
    with patch.path.open() as diff:
        return subprocess.run(
            ["patch", "-p1", "--batch"],
            cwd=directory,
            stdin=diff,
            capture_output=True,
            text=True,
            check=False,
        )


def try_patch(patch: Patch | None, red: str = "") -> Outcome:
    """Run a patch's test on a patched copy; without a patch, `red` on a copy as it is."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy = Path(directory)
        for name in ("palace", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=_JUNK)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy / name)
        if patch is not None:
            done = _patch(patch, copy)
            if done.returncode:
                return Outcome(patch, False, time.monotonic() - begun, "does not apply")
        environ = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        where = _python(copy, environ, "-c", "import palace; print(palace.__file__)").stdout
        assert where.startswith(str(copy)), f"the copy is not what is imported: {where}"
        words = shlex.split(patch.red if patch is not None else red)
        ran = _python(copy, environ, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words)
    # 1: a test failed.  Anything else (no such test, an error while collecting) proves nothing.
    last = (ran.stdout.strip().splitlines() or [ran.stderr[-200:]])[-1]
    killed = ran.returncode == 1 and " failed" in ran.stdout
    return Outcome(patch or _NONE, killed, time.monotonic() - begun, last)


_NONE = Patch("none", "the code as it is", "-", "", Path())


def _python(
    copy: Path, environ: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def main(names: list[str]) -> int:
    print("| patch | what is broken | invariant | red | found | s |")
    print("|---|---|---|---|---|---|")
    survived = 0
    for patch in all_patches():
        if names and patch.name not in names:
            continue
        outcome = try_patch(patch)
        survived += not outcome.killed
        print(
            f"| {patch.name} | {patch.what} | {patch.breaks} | {patch.red} | "
            f"{'killed' if outcome.killed else 'SURVIVED: ' + outcome.words} | "
            f"{outcome.seconds:.1f} |",
            flush=True,
        )
    return survived


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
