"""Logging of a broker: lines of one form, bounded files, and nothing that a memory says.

The arguments of calls reach our code, and that of libraries, in the texts of exceptions and of log
messages.  So an exception is logged by its kind and place, a message of a library by its template,
and whatever a library prints is only counted.
"""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from palace.broker.telemetry.log_file import LOG_BYTES_MAX, open_log
from palace.broker.telemetry.redaction import origin, redacted
from palace.kernel.kernel import Kernel
from palace.kernel.logline import log_line
from palace.kernel.output import STDERR, write_at_once

TEXT_CHARS_MAX = 2000
REPEATS_MAX = 20  # lines of one warning in REPEATS_S
REPEATS_S = 60.0
OURS = "palace"
WITHHELD = "a message that may quote a memory"

Raised = tuple[type[BaseException], BaseException, TracebackType | None]


def set_up_logging(level: str, kernel: Kernel, *, path: str = "") -> None:
    """Log to standard error from `level` on; where that is the file at `path`, keep it bounded.

    What is printed to sys.stdout and sys.stderr from here on is counted, and goes nowhere.
    """
    handler = BoundedHandler(kernel, path)
    handler.setFormatter(LineFormatter(os.getpid()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.stdout, sys.stderr = Printed("stdout"), Printed("stderr")
    logger = logging.getLogger("palace.broker")
    sys.excepthook = lambda *raised: logger.critical("the broker failed", exc_info=raised)
    threading.excepthook = lambda ended: logger.error(
        "a thread failed", exc_info=ended.exc_value or True
    )


class LineFormatter(logging.Formatter):
    """Makes the lines of palace/kernel/logline.py, with `error` and `at` for what was raised."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = str(pid)

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": self._pid,
            "text": _text(record),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields["error"] = redacted(error)
            fields["at"] = origin(error).removeprefix("at ")
        return log_line({name: value[:TEXT_CHARS_MAX] for name, value in fields.items()})


def _text(record: logging.LogRecord) -> str:
    if record.name != OURS and not record.name.startswith(f"{OURS}."):
        return str(record.msg) if record.args else f"{WITHHELD} ({record.module}:{record.lineno})"
    if isinstance(record.args, tuple):
        record.args = tuple(
            redacted(arg) if isinstance(arg, BaseException) else arg for arg in record.args
        )
    return record.getMessage()


def _plain(text: str) -> dict[str, object]:
    return {"msg": "%s", "args": (text,), "exc_info": None, "name": OURS}


class Repeats:
    """How often each place in the code warns: strangers must not roll everything else over.

    The threads of a process share one; a number that two of them count at once may be one too low.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._windows: dict[tuple[str, int], list[float]] = {}  # place -> [since_s, lines]

    def left_out(self, record: logging.LogRecord) -> int | None:
        """Return how many were left out before this one, None where it is to be left out, too."""
        if record.levelno < logging.WARNING or record.levelno >= logging.CRITICAL:
            return 0
        place, now_s = (record.pathname, record.lineno), self._monotonic()
        window = self._windows.setdefault(place, [now_s, 0])
        missed = 0
        if now_s - window[0] >= REPEATS_S:
            missed = max(0, int(window[1]) - REPEATS_MAX)
            window[:] = [now_s, 0]
        window[1] += 1
        return missed if window[1] <= REPEATS_MAX else None


class BoundedHandler(logging.Handler):
    """Writes to standard error, and rolls over to a new file once the old one is too large."""

    def __init__(self, kernel: Kernel, path: str, bytes_max: int = LOG_BYTES_MAX) -> None:
        super().__init__()
        self._kernel = kernel
        self._repeats = Repeats(kernel.monotonic)
        self._path = path
        self._bytes_max = bytes_max

    def emit(self, record: logging.LogRecord) -> None:
        left_out = self._repeats.left_out(record)
        if left_out is None:
            return
        try:
            self._write(record)
            if left_out:
                text = f"{left_out} more of these were left out since the last one"
                self._write(logging.makeLogRecord(record.__dict__ | _plain(text)))
        except Exception:  # a line that can't be made or written must not end what wrote it
            return

    def _write(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
            if self._path:
                os.write(STDERR, line)
            else:  # whoever started this broker may not read it
                write_at_once(STDERR, line)
            # Behind the write: a line is never torn between two files.  The limit may be exceeded
            # by that one line, and by what native code and faulthandler write past this handler.
            if self._path and os.fstat(2).st_size > self._bytes_max:
                self._rotate()
        except OSError:  # a full disk under the log must not end a broker
            return

    def _rotate(self) -> None:
        # The path is asked for again each time: after the palace was moved it names nothing, and
        # while this broker drains the next owner may have rolled over already, so that it names
        # that owner's log, which must not be renamed away under it.
        if self._kernel.same_file(2, self._path):
            open_log(self._path, self._bytes_max)


class Printed(io.TextIOBase):
    """Stands for sys.stdout and sys.stderr: says how much was printed, and not what."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        logging.getLogger("palace.printed").debug("%d characters to %s", len(text), self._name)
        return len(text)
