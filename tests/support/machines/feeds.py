"""The ways to another palace: each gives its address, and what has to be set to go there."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import NAME, open_sshd

DIRECTORY, SSH = "directory", "ssh"
WAYS = (DIRECTORY, SSH)


@attrs.frozen
class Way:
    """What `palace remote add` is told of a palace, and the environment of whoever pulls."""

    address: tuple[str, ...]
    environ: dict[str, str] = attrs.field(factory=dict)
    cut: Callable[[], int] = lambda: 0  # end connections; return how many there were


@contextmanager
def way_to(there: Path, kind: str, scratch: Path) -> Iterator[Way]:
    """Open a way to the palace in a directory, and close it at the end."""
    if kind == DIRECTORY:
        yield Way((str(there),))
        return
    need_root()  # sshd wants a directory in /run
    need_command("sshd")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    shell = {"PATH": path, "HOME": str(scratch / "home-there")}
    with open_sshd(scratch / "sshd", environ=shell) as sshd:
        yield Way((f"ssh://{NAME}{there}",), {"PALACE_BRIDGE_CONFIG": str(sshd.config)}, sshd.cut)
