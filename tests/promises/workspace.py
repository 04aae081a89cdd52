"""A copy of the tree with an interpreter of its own, in which slips are made one at a time.

The interpreter imports palace from the copy, whoever starts it: processes that tests start run the
code with the slip in it, too.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.promises.table import ROOT, Mutant

# What waits in vain may do so for CEILING_S (tests/support/brokers/owner.py), and end for as long.
LIMIT_S = 400.0
MODEL_HOME = ".pytest_cache/d/model-home"  # fetched once for a checkout (tests/conftest.py)
SCRIPT = "import sys\nfrom palace.__main__ import main\nsys.exit(main())\n"


class CopyFailed(Exception):
    """The copy doesn't import its own code: nothing would be tried."""


@attrs.frozen
class Ran:
    """How tests ended: `code` is pytest's, None where the limit ended it; `said` its last lines."""

    code: int | None
    passed: frozenset[str]
    said: str

    @property
    def is_red(self) -> bool:
        """Tell whether a test failed; an error while collecting proves nothing."""
        return self.code == 1


@attrs.define
class Copy:
    root: Path
    _writes: int = 0

    def run(self, tests: Sequence[str], *more: str, limit_s: float = LIMIT_S) -> Ran:
        """Run these tests in the copy, as it is now."""
        # What failed tests leave goes with it; short, since sockets lie in there (conftest.py).
        with tempfile.TemporaryDirectory(
            prefix="p-", dir="/tmp", ignore_cleanup_errors=True
        ) as scratch:
            output, code = self._run([*more, "--basetemp", scratch, *tests], limit_s)
        lines = output.rstrip().splitlines() or ["it said nothing"]
        passed = re.findall(r"(?m)^PASSED (\S+?::[^\[\s]+)", output)
        failed = re.findall(r"(?m)^(?:FAILED|ERROR|SKIPPED) (\S+?::[^\[\s]+)", output)
        return Ran(code, frozenset(passed) - set(failed), "\n".join(lines[-3:]))

    def _run(self, arguments: Sequence[str], limit_s: float) -> tuple[str, int | None]:
        command = [self._python, "-m", "pytest", "-rA", "--tb=no", "-q", "-p", "no:xdist"]
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=self.root,
            env=self._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return process.communicate(timeout=limit_s)[0], process.returncode
        except subprocess.TimeoutExpired:
            return self._end(process), None
        finally:
            if process.poll() is None:  # this run itself is stopped
                self._end(process)

    def _end(self, process: "subprocess.Popen[str]") -> str:
        """Let fixtures end what they have started; then end it all the same."""
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()[0]

    @contextmanager
    def slip(self, mutant: Mutant) -> Iterator[None]:
        """Make a slip in the copy, and take it back."""
        path = self.root / mutant.file
        before = path.read_text()
        self._write(path, mutant.apply(before))
        try:
            yield
        finally:
            self._write(path, before)

    def _write(self, path: Path, text: str) -> None:
        """Write it with a time of its own, by which compiled code is told from what is stale."""
        self._writes += 1
        path.write_text(text)
        os.utime(path, (1e9 + self._writes, 1e9 + self._writes))

    @property
    def _python(self) -> str:
        return str(self.root / ".venv" / "bin" / "python")

    def _environ(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"PATH": f"{self.root / '.venv' / 'bin'}:{kept.get('PATH', '')}"}

    def check(self) -> None:
        """Raise CopyFailed unless it is the copy's code that the copy runs."""
        command = [self._python, "-P", "-c", "import palace; print(palace.__file__)"]
        done = subprocess.run(
            command, cwd="/", env=self._environ(), capture_output=True, text=True, check=False
        )
        if not done.stdout.startswith(str(self.root)):
            raise CopyFailed(f"not the copy's code is imported: {done.stdout}{done.stderr}")


@contextmanager
def copied_tree() -> Iterator[Copy]:
    """Yield a copy of the tree as it is, those files included that are not committed yet."""
    with tempfile.TemporaryDirectory(prefix="promises-", dir="/tmp") as directory:
        root = Path(directory).resolve()
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        for name in names.decode().split("\0"):
            if name and (ROOT / name).exists():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
        if (ROOT / MODEL_HOME).is_dir():
            (root / MODEL_HOME).parent.mkdir(parents=True)
            (root / MODEL_HOME).symlink_to(ROOT / MODEL_HOME)
        _make_interpreter(root)
        copy = Copy(root)
        copy.check()
        yield copy


def _make_interpreter(root: Path) -> None:
    """Make an environment whose palace is the copy's, and whose other packages are this one's."""
    venv.create(root / ".venv", symlinks=True)
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    others = [entry for entry in sys.path if entry.endswith("site-packages")]
    lines = [str(root), *others]
    (root / ".venv" / library / "copy.pth").write_text("\n".join(lines) + "\n")
    script = root / ".venv" / "bin" / "palace"
    script.write_text(f"#!{root}/.venv/bin/python\n{SCRIPT}")
    script.chmod(0o755)
