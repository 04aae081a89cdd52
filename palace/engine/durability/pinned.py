"""Which versions of the engine have served a palace: an older one may not read what they wrote.

Anybody may have another mempalace or chromadb installed: a container, a shim in direct mode, an
environment that was forgotten.  The file `engine` in the palace names the newest version of each
that has opened its stores; whoever has an older one opens nothing.
"""

import re
from collections.abc import Mapping

from palace import __version__
from palace.engine.versions import SUPPORTED, installed_version, is_older
from palace.kernel.kernel import Kernel
from palace.protocol.errors import EngineOlder
from palace.settings.installation import OURS, command_for
from palace.settings.paths import Paths

WATCHED = ("mempalace", "chromadb")
_VERSION = re.compile(r"\d[\w.+!-]{0,60}", re.ASCII)
_SIZE_MAX = 1000


def installed_versions() -> dict[str, str]:
    """Return the versions of what opens a palace's stores, by package."""
    return {name: installed_version(name) for name in WATCHED}


def served_by(paths: Paths, kernel: Kernel) -> dict[str, str]:
    """Return the versions that a palace was served with, by package; a hint, like all that it says
    of itself: what is no version counts as absent.
    """
    data = kernel.read_hint(paths.engine, _SIZE_MAX) or b""
    pairs = (line.split() for line in data.decode(errors="replace").splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and _VERSION.fullmatch(pair[1])}


def older_packages(paths: Paths, kernel: Kernel, installed: Mapping[str, str]) -> dict[str, str]:
    """Return which installed packages are older than those that served the palace, and its versions
    of them.
    """
    served = served_by(paths, kernel)
    return {
        name: served[name]
        for name, version in installed.items()
        if version and name in served and is_older(version, served[name])
    }


def older_than_served(paths: Paths, kernel: Kernel, installed: Mapping[str, str]) -> str:
    """Say which installed package is older than the one that served the palace, "" for none."""
    return ", ".join(
        f"{name} {installed[name]} is installed here, and the palace was served with {version}"
        for name, version in older_packages(paths, kernel, installed).items()
    )


def way_up(paths: Paths, kernel: Kernel, installed: Mapping[str, str]) -> str:
    """Return the commands that install what the palace was served with."""
    older = older_packages(paths, kernel, installed)
    if not older.get("mempalace", SUPPORTED).startswith(SUPPORTED):
        return command_for()  # a newer palace is needed for it, which brings the rest
    return "; ".join(command_for(f"{name}>={version}") for name, version in older.items())


def way_back(
    paths: Paths, kernel: Kernel, installed: Mapping[str, str], start: str = "palace start"
) -> str:
    """Return the commands that make the palace one of what is installed, whoever wrote to it.

    What another program has written since the last broker is in no journal, and none but the newer
    version may read it: so that one is started first (`start`).
    """
    up = way_up(paths, kernel, installed)
    older = {name: installed[name] for name in older_packages(paths, kernel, installed)}
    if up == command_for():  # that one would not work with what is installed
        older = {OURS: __version__, **older}
    down = (command_for(f"{name}=={version}") for name, version in older.items())
    return "; ".join((up, start, "palace stop", *down, "palace rebuild --stop --downgrade"))


def way_on(
    paths: Paths, kernel: Kernel, installed: Mapping[str, str], start: str = "palace start"
) -> str:
    return (
        f"Upgrade it: {way_up(paths, kernel, installed)}. To go back for good, let the newer "
        "version take over what other programs have written, and make stores for the older one "
        f"from the journal then: {way_back(paths, kernel, installed, start)}"
    )


def check_not_older(paths: Paths, kernel: Kernel, installed: Mapping[str, str]) -> None:
    """Raise EngineOlder where what is installed may not understand the palace's stores."""
    found = older_than_served(paths, kernel, installed)
    if found:
        raise EngineOlder(
            f"{found}: an older version may not read what a newer one wrote, and nothing was "
            f"opened. {way_on(paths, kernel, installed)}"
        )


def note_served(paths: Paths, kernel: Kernel, installed: Mapping[str, str]) -> None:
    """Write down what is about to open the stores; call it under the lock, before they are."""
    served = served_by(paths, kernel)
    newest = {**served, **{name: version for name, version in installed.items() if version}}
    if newest != served:
        note_made_by(paths, kernel, newest)


def note_made_by(paths: Paths, kernel: Kernel, versions: Mapping[str, str]) -> None:
    """Write down what has made all of the stores anew, whatever served the palace before."""
    pairs = sorted((name, version) for name, version in versions.items() if version)
    text = "".join(f"{name} {version}\n" for name, version in pairs)
    kernel.write_durable(paths.engine, text.encode())
