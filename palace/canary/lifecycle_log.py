"""<palace>/lifecycle.log: what became of owners and of what belongs to them, one line an event.

    time=2026-01-31T12:00:00Z ev=owner pid=7 state=left epoch=12 reason=idle

Brokers, canaries and commands append to it, each line by one write, so that lines of several
processes don't mix; only an owner puts it aside, under the palace's lock, once it has grown too
large.  It says nothing that a memory holds; what other programs have said comes in as a bounded
value of one line.

Standard library only: the canary loads this.
"""

import os

from palace.kernel.logline import fields_of, log_line
from palace.kernel.odd_files import open_regular, regular
from palace.kernel.output import one_line

NAME = "lifecycle.log"
LOG_BYTES_MAX = 5 << 20
LINE_BYTES_MAX = 4096  # what one write appends whole, whoever else is writing
TAIL_BYTES = 65_536
VALUE_CHARS_MAX = 400

OWNER = "owner"
CANARY = "canary"
SERVER_EXIT = "server-exit"
MEMORY_SERVER = "memory-server"
SWEEP = "sweep"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from palace.kernel.kernel import Kernel


class LifecycleLog:
    """The log of the palace at `root`, or of the one whose `directory` is open.

    `directory` is the descriptor of a directory in the palace: it leads to the palace wherever that
    has been moved.  A line that can't be written is given up: nothing may fail for want of a log.
    """

    __slots__ = ("_directory", "_kernel", "_path")

    def __init__(self, root: str, kernel: "Kernel", *, directory: "int | None" = None) -> None:
        self._directory = directory
        self._kernel = kernel
        self._path = f"{root}/{NAME}" if directory is None else f"../{NAME}"

    def note(self, event: str, fields: "Mapping[str, str]") -> bool:
        """Append one line; empty values are left out.  False where it could not be written."""
        begin = {"time": self._kernel.utc_text(), "ev": event, "pid": str(os.getpid())}
        line = _bounded(begin | dict(fields))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600, dir_fd=self._directory)
            try:
                return os.write(regular(fd, self._path), line) == len(line)
            finally:
                os.close(fd)
        except OSError:
            return False

    def put_aside(self, bytes_max: int = LOG_BYTES_MAX) -> None:
        """Make it `.1` where it has grown too large; for an owner alone."""
        try:
            if os.lstat(self._path).st_size > bytes_max:
                os.rename(self._path, f"{self._path}.1")
        except OSError:
            return  # there is none, or it stays large

    def latest(self) -> "Iterator[dict[str, str]]":
        """Yield the fields of the last lines, the oldest first; nothing where it can't be read."""
        try:
            with open_regular(self._path) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - TAIL_BYTES))
                text = file.read(TAIL_BYTES).decode(errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            yield fields_of(line)


def _bounded(fields: "Mapping[str, str]") -> bytes:
    most = VALUE_CHARS_MAX
    while True:
        short = {key: one_line(value, most) for key, value in fields.items()}
        line = log_line(short).encode(errors="backslashreplace") + b"\n"
        if len(line) <= LINE_BYTES_MAX or not most:
            return line[: LINE_BYTES_MAX - 1].rstrip(b"\n") + b"\n"
        most //= 2
