"""The command lines with which hosts start `palace`, and stock's hooks.

They say `palace` if the host can find that, which stays right when palace moves.  They have the
absolute path if it can't: outside PATH, in a virtual environment that only this shell has
activated, and for hosts started from a desktop, unless every desktop's PATH has the directory.
"""

import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Mapping

from palace.protocol.errors import ConfigError
from palace.settings.installation import WITH_ENGINE, command_for
from palace.settings.paths import python_command

_EVERYWHERE = ("/usr/local/bin", "/usr/bin", "/bin")
_EVERYWHERE_MAC = ("/usr/bin", "/bin")


def palace_command(environ: Mapping[str, str], *, desktop: bool) -> list[str]:
    """Return the words that start palace from a host."""
    found = find_program("palace", environ)
    if not found:
        return python_command()
    return ["palace"] if _host_finds("palace", found, environ, desktop=desktop) else [found]


def mempalace_command(environ: Mapping[str, str]) -> str:
    """Return the words with which a host's shell starts stock's command; raises ConfigError."""
    found = find_program("mempalace", environ)
    if not found:
        raise ConfigError(
            "There is no `mempalace` command here, which stock's save hooks run. Install it in "
            f"palace's environment: {command_for(WITH_ENGINE)}"
        )
    known = _host_finds("mempalace", found, environ, desktop=False)
    return "mempalace" if known else shlex.quote(found)


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """Return the absolute path of a program of this installation, "" if there is none.

    A link on PATH that leads to it is preferred: it outlives the environment that it points to.
    """
    beside = os.path.join(sysconfig.get_path("scripts"), name)
    started = os.path.realpath(sys.argv[0]) if os.path.basename(sys.argv[0]) == name else ""
    ours = [path for path in (beside, started) if path and os.access(path, os.X_OK)]
    on_path = shutil.which(name, path=environ.get("PATH", "")) or ""
    if not os.path.isabs(on_path):
        on_path = ""
    if on_path and (not ours or os.path.realpath(on_path) == os.path.realpath(ours[0])):
        return on_path
    return ours[0] if ours else ""


def _host_finds(name: str, found: str, environ: Mapping[str, str], *, desktop: bool) -> bool:
    if desktop:
        everywhere = _EVERYWHERE_MAC if sys.platform == "darwin" else _EVERYWHERE
        return os.path.dirname(found) in everywhere
    activated = environ.get("VIRTUAL_ENV", "")
    if activated and found.startswith(activated.rstrip("/") + "/"):
        return False
    return shutil.which(name, path=environ.get("PATH", "")) == found
