"""`palace logs`: the broker's log, from some time on, and what comes, across its rotation.

What has no time of its own (the last words of a process that the watchdog ends) belongs to the
line before it.
"""

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, NoReturn

from palace.protocol.errors import ConfigError
from palace.settings.paths import Paths

FOLLOW_S = 0.25
NO_LOG = 66  # EX_NOINPUT of sysexits.h
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def since_text(given: str, now: datetime | None = None) -> str:
    """Return where a log begins that was asked for since "10m", or since a time, in UTC.

    Raises ConfigError for anything else.
    """
    span = re.fullmatch(r"(\d{1,6})([smhd])", given)
    if span:
        begin = (now or datetime.now(UTC)) - timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        return begin.strftime("%Y-%m-%dT%H:%M:%S")
    try:
        begin = datetime.fromisoformat(given)
    except ValueError:
        raise ConfigError(
            f"--since {given!r} is neither a span (90s, 10m, 2h, 3d) nor a time "
            "(2026-01-31T12:00, UTC). Give one of them."
        ) from None
    begin = begin.astimezone(UTC) if begin.tzinfo else begin
    return begin.strftime("%Y-%m-%dT%H:%M:%S")


def print_logs(paths: Paths, *, since: str, last: int, follow: bool) -> int:
    """Print the lines since a time, "" for any, and of them the `last`, 0 for all.

    With `follow` it goes on until ctrl-C.  Returns 66 where there is no log.
    """
    begin = since_text(since) if since else ""
    current = _open(paths.log)
    if current is None and not follow:
        print(f"{paths.log} is not there: no broker has run in the background.", file=sys.stderr)
        return NO_LOG
    try:
        lines = _since(_old_lines(paths.log, current), begin)
        for line in deque(lines, maxlen=last or None):
            _print(line)
        if follow:
            _follow(paths.log, current)
        elif current is not None:
            current.close()
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it flushes
    return 0


def _open(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _old_lines(path: str, current: BinaryIO | None) -> Iterator[bytes]:
    """Yield what was written so far; `current` was opened first, so that no line is missed."""
    before = _open(f"{path}.1")
    if before is not None and (current is None or not _same(before, current)):
        with before:
            yield from before
    if current is not None:
        yield from current


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _since(lines: Iterable[bytes], begin: str) -> Iterator[bytes]:
    wanted = not begin
    for line in lines:
        if begin and line.startswith(b"time="):
            wanted = line[5:].decode(errors="replace") >= begin
        if wanted:
            yield line


def _follow(path: str, current: BinaryIO | None) -> NoReturn:
    """Print what is appended; where the name stands for another file, that one from its start."""
    while True:
        newer = _open(path)  # before the old one is read to its end: nothing comes behind that
        if current is not None:
            for line in current:
                _print(line)
        if newer is not None and (current is None or not _same(newer, current)):
            current, newer = newer, current
        if newer is not None:
            newer.close()
        sys.stdout.flush()
        time.sleep(FOLLOW_S)


def _print(line: bytes) -> None:
    text = line.decode(errors="replace").rstrip("\n")
    print(text if text.isprintable() else ascii(text)[1:-1])
