"""Another palace's feed over the user's own ssh: `ssh HOST palace feed`, and nothing else is run.

It reads and changes nothing there, needs no broker, and ends with its output: whoever reads it no
more ends it.
"""

import os
import select
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

from palace.client.feeds.pieces import lines_of
from palace.client.guest.ssh import Target, end_ssh, problem_of
from palace.client.guest.tunnel import READ_BYTES, TunnelProblem

SAID_BYTES_MAX = 4096


def ssh_feed(
    target: Target, options: list[str], *, line_bytes_max: int, silent_s: float
) -> Iterator[bytes]:
    """Yield the lines of a palace's feed; raises TunnelProblem.

    A line that is too long is yielded cut, as the last.
    """
    if shutil.which("ssh") is None:
        raise TunnelProblem("config", f"{target.url} needs an ssh client: install one")
    command = " ".join([target.remote("feed"), *map(shlex.quote, options)])
    argv = target.argv("-oClearAllForwardings=yes", command=command)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        )
        assert process.stdout is not None
        try:
            pieces = _pieces(target, process.stdout.fileno(), silent_s)
            yield from lines_of(pieces, line_bytes_max)
        finally:
            process.stdout.close()
            end_ssh(process)
        if process.returncode:
            said.seek(0)
            words = said.read(SAID_BYTES_MAX).decode(errors="replace")
            raise problem_of(target, process.returncode, words)


def _pieces(target: Target, fd: int, silent_s: float) -> Iterator[bytes]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if not poll.poll(silent_s * 1000):
            raise _silent(target, silent_s)
        piece = os.read(fd, READ_BYTES)
        if not piece:
            return
        yield piece


def _silent(target: Target, silent_s: float) -> TunnelProblem:
    text = f"{target.url} said nothing for {silent_s:g} s, and is waited for no longer"
    return TunnelProblem("broker_unreachable", text)
