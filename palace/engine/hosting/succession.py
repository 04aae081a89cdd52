"""Whether another owner could serve with what is installed now.

An upgrade of mempalace beyond what this palace works with must not end the broker that still works:
no other could follow it.
"""

import logging
import subprocess
import threading
from collections.abc import Callable, Mapping

import attrs

from palace.settings.paths import Paths, python_command

CHECK_S = 180.0  # it loads all that a broker loads, beside one that may be busy

logger = logging.getLogger("palace.engine")


def ask_successor(paths: Paths, environ: Mapping[str, str]) -> str:
    """Return why a broker that were started now could not serve, "" where it could.  Blocks."""
    try:
        done = subprocess.run(
            [
                *(*python_command(), "serve", "--check"),
                *(f"--palace={paths.root}", f"--found-by={paths.found_by}"),
            ],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"palace serve --check: {error}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1].removeprefix("palace serve: ") if lines else f"exit code {done.returncode}"


@attrs.define(eq=False)
class Succession:
    """Asks once for each state of the installation; any thread may ask.

    `problem` says why the loaded engine goes on although its package was replaced, "" otherwise.
    """

    ask: Callable[[], str]
    problem: str = ""
    _asked_about: object = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def is_possible(self, change: str, installed: object) -> bool:
        """Tell whether another owner could take over after `change`.  May block for seconds.

        It is asked again only once `installed`, which identifies what is there, differs.
        """
        with self._lock:
            about = change, installed
            if about != self._asked_about:
                problem = self.ask()
                self._asked_about = about
                self.problem = f"{change}: {problem}" if problem else ""
                if problem:
                    logger.error("no other broker could serve, so this one goes on. %s", problem)
            return not self.problem

    def nothing_changed(self) -> None:
        """Note that what is installed is again what is loaded."""
        if self.problem:
            with self._lock:
                self.problem, self._asked_about = "", None
