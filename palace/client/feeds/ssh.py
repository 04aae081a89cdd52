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
        output = _Output(target, process.stdout.fileno(), silent_s)
        try:
            yield from lines_of(output.pieces(), line_bytes_max)
        finally:
            process.stdout.close()
            end_ssh(process)
        # What we have read no further ends by our leaving, and that is no fault of its.
        if process.returncode and output.is_over:
            said.seek(0)
            words = said.read(SAID_BYTES_MAX).decode(errors="replace")
            raise problem_of(target, process.returncode, words)


class _Output:
    """What comes from an ssh; `is_over` once all of it has come."""

    def __init__(self, target: Target, fd: int, silent_s: float) -> None:
        self.target = target
        self.fd = fd
        self.silent_s = silent_s
        self.is_over = False

    def pieces(self) -> Iterator[bytes]:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            if not poll.poll(self.silent_s * 1000):
                raise TunnelProblem(
                    "broker_unreachable",
                    f"{self.target.url} said nothing for {self.silent_s:g} s, and is waited for no "
                    "longer",
                )
            piece = os.read(self.fd, READ_BYTES)
            if not piece:
                self.is_over = True
                return
            yield piece
