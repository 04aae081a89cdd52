"""Fuzzing for as long as one likes: `python -m tests.security.fuzz [TARGET ...] --seconds N`.

With atheris (the extra `fuzz`) libFuzzer looks for inputs that reach new branches of palace; where
there is none for this machine Hypothesis changes the corpus at random.  Each target runs in a
process of its own.  What is found lies in .fuzz/TARGET: `corpus` is gone on with the next time,
`failures` holds the inputs that broke an invariant.

    --replay FILE ...    run a target on these inputs, and show how each ends
    --coverage           say how much of the modules that a target drives its inputs reach
    --keep               write the smallest set of inputs that reaches as much into the tree
"""

import argparse
import hashlib
import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.security import targets

FOUND = Path(".fuzz")
INPUT_BYTES_MAX = 4096
KEPT_MAX = 60  # inputs of one target in the tree
UNIT_S = 60  # for one input: only what hangs takes so long

Arc = tuple[str, int, int]


def main() -> int:
    """Run what is asked for; 1 where an invariant was broken."""
    asked = _arguments()
    logging.disable()  # of each input
    if asked.replay:
        return _replay(asked.targets[0], asked.replay)
    if asked.run:
        _fuzz(asked.targets[0], asked.seconds)
        return 0
    names = asked.targets or targets.NAMES
    if asked.coverage:
        return max(_measure(name) for name in names)
    if asked.keep:
        return max(_keep(name) for name in names)
    failed = 0
    for name in names:
        again = [*("-m", "tests.security.fuzz", name, "--run", "--seconds", str(asked.seconds))]
        code = subprocess.run([sys.executable, *again], check=False).returncode
        left = sorted(_directory(name, "failures").iterdir())
        print(f"{name}: exit code {code}; failures: {', '.join(map(str, left)) or 'none'}")
        failed |= bool(code or left)
    return failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*targets.NAMES, []], metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=3600, help="of each target")
    parser.add_argument("--replay", nargs="+", type=Path)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _directory(name: str, kind: str) -> Path:
    path = FOUND / name / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def _fuzz(name: str, seconds: int) -> None:
    try:
        import atheris
    except ImportError:
        _fuzz_at_random(name, seconds)
        return
    with atheris.instrument_imports(include=["palace"], enable_loader_override=False):
        target = targets.load(name)
    options = [
        *(f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={UNIT_S}"),
        *("-print_final_stats=1", "-rss_limit_mb=4096"),
        f"-artifact_prefix={_directory(name, 'failures')}/",
    ]
    where = [str(_directory(name, "corpus")), str(targets.CORPUS / name)]
    atheris.Setup(["fuzz", *options, *where], target.one)
    atheris.Fuzz()


def _fuzz_at_random(name: str, seconds: int) -> None:
    """Change inputs at random until the time is up; keep the first one that fails."""
    import hypothesis

    from tests.security.mutating import mutated

    target = targets.load(name)
    deadline_s, executions = time.monotonic() + seconds, 0

    @hypothesis.settings(max_examples=1000, deadline=None, database=None, print_blob=False)
    @hypothesis.given(mutated(targets.corpus(name)))
    def run(data: bytes) -> None:
        nonlocal executions
        executions += 1
        try:
            target.one(data)
        except Exception:
            failed.append(data)
            raise

    while time.monotonic() < deadline_s:
        failed: list[bytes] = []
        try:
            run()
        except Exception:
            traceback.print_exc()
            data = min(failed, key=len)
            path = _directory(name, "failures") / f"crash-{hashlib.sha1(data).hexdigest()}"
            path.write_bytes(data)
            print(f"{name}: {executions} executions; see {path}")
            sys.exit(1)
    print(f"{name}: {executions} executions, chosen at random (without atheris)")


def _replay(name: str, paths: Iterable[Path]) -> int:
    target, failed = targets.load(name), 0
    for path in paths:
        try:
            target.one(path.read_bytes())
            print(f"{path}: holds")
        except Exception:
            failed = 1
            print(f"{path}:")
            traceback.print_exc()
    return failed


def _inputs(name: str) -> list[bytes]:
    found = [path.read_bytes() for path in sorted(_directory(name, "corpus").iterdir())]
    return sorted({*targets.corpus(name), *found}, key=lambda data: (len(data), data))


def _measure(name: str) -> int:
    """Print the coverage of the modules that a target drives, by all inputs that there are."""
    import coverage

    inputs = _inputs(name)
    measured = coverage.Coverage(branch=True, data_file=None, source_pkgs=["palace"])
    measured.start()
    target = targets.load(name)
    broken = sum(_is_broken(target.one, data) for data in inputs)
    measured.stop()
    files = [f"*/{module.replace('.', '/')}.py" for module in target.DRIVES]
    print(f"{name}: {len(inputs)} inputs, {broken} of which break an invariant")
    measured.report(include=files, show_missing=True, skip_empty=True)
    return bool(broken)


def _is_broken(one: Any, data: bytes) -> bool:
    try:
        one(data)
    except Exception:
        traceback.print_exc()
        return True
    return False


def _keep(name: str) -> int:
    """Choose inputs, each of which reaches what those before it don't, and write them down."""
    target = targets.load(name)
    inputs = [data for data in _inputs(name) if len(data) <= INPUT_BYTES_MAX]
    reached = [(data, _arcs(target, data)) for data in inputs]
    kept: list[bytes] = []
    known: set[Arc] = set()
    while len(kept) < KEPT_MAX:
        data, arcs = max(reached, key=lambda one: len(one[1] - known))
        if not arcs - known:
            break
        kept.append(data)
        known |= arcs
    directory = targets.CORPUS / name
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if not path.name.startswith("found-"):  # by people: a regression is not given up
            path.unlink()
    for data in kept:
        (directory / hashlib.sha1(data).hexdigest()[:12]).write_bytes(data)
    size = sum(map(len, kept))
    print(f"{name}: {len(kept)} of {len(inputs)} inputs kept, {size} bytes, {len(known)} arcs")
    return 0


def _arcs(target: Any, data: bytes) -> set[Arc]:
    """Return the steps from line to line that an input makes in palace, in any thread."""
    found: set[Arc] = set()
    driven = tuple(module.replace(".", "/") + ".py" for module in target.DRIVES)

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(driven):
            return None
        last = [frame.f_lineno]

        def step(inner: FrameType, event: str, _argument: object) -> Any:
            if event == "line":
                found.add((inner.f_code.co_filename, last[0], inner.f_lineno))
                last[0] = inner.f_lineno
            return step

        return step

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        target.one(data)
    except Exception:
        return set()  # what breaks an invariant is mended first
    finally:
        sys.settrace(None)
        threading.settrace(None)
    return found


if __name__ == "__main__":
    sys.exit(main())
