"""The ways to another palace: each gives its address, and what has to be set to go there."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership.book import digest_of
from palace.ownership.share_book import Share, write_shares
from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import NAME, open_sshd
from tests.support.stores.exporter import IDENTITY

DIRECTORY, SSH, HTTPS = "directory", "ssh", "https"
WAYS = (DIRECTORY, SSH, HTTPS)
TOKEN = "5e" * 32
HOST = "127.0.0.1"


@attrs.frozen
class Way:
    """What `palace remote add` is told of a palace, and the environment of whoever pulls."""

    kind: str
    address: tuple[str, ...]
    environ: dict[str, str] = attrs.field(factory=dict)
    cut: Callable[[], int] = lambda: 0  # end connections; return how many there were


@contextmanager
def way_to(there: Path, kind: str, scratch: Path) -> Iterator[Way]:
    """Open a way to the palace in a directory, and close it at the end."""
    if kind == DIRECTORY:
        yield Way(kind, (str(there),))
        return
    if kind == HTTPS:
        with _served(there, scratch) as way:
            yield way
        return
    need_root()  # sshd wants a directory in /run
    need_command("sshd")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    shell = {"PATH": path, "HOME": str(scratch / "home-there")}
    with open_sshd(scratch / "sshd", environ=shell) as sshd:
        yield Way(
            kind, (f"ssh://{NAME}{there}",), {"PALACE_BRIDGE_CONFIG": str(sshd.config)}, sshd.cut
        )


def _killed(server: "subprocess.Popen[str]") -> int:
    server.kill()
    return 1


@contextmanager
def _served(there: Path, scratch: Path) -> Iterator[Way]:
    """Serve a share of all that the palace has, as its broker does, without one."""
    book, token = scratch / "shares", scratch / "share.token"
    book.mkdir()
    share = Share(
        name="all", digest=digest_of(TOKEN), wings=(), kinds=("drawer", "fact"), since="2026"
    )
    write_shares(str(book), IDENTITY, {share.name: share}, Kernel())
    token.touch(0o600)
    token.write_text(TOKEN)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.machines.feed_server", str(there), str(book)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port, fingerprint = server.stdout.readline().split()
        address = (f"https://{HOST}:{port}#{fingerprint}", "--token-file", str(token))
        yield Way(HTTPS, address, cut=partial(_killed, server))
    finally:
        server.kill()
        server.communicate()
