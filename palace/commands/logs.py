"""`palace logs`: the broker's log, or the lifecycle log, followed across its rotation.

A line without a time of its own (the stacks of a process that the watchdog ends) belongs to the
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

from palace.kernel.odd_files import open_regular
from palace.kernel.output import complain, one_line, say
from palace.protocol.errors import ConfigError
from palace.settings.paths import Paths

FOLLOW_S = 0.25
NO_LOG = 66  # EX_NOINPUT of sysexits.h
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def since_text(given: str, now: datetime | None = None) -> str:
    """Return the UTC time that a `--since` of "10m", or of a time, stands for, as the log has it.

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
            "(2026-01-31T12:00, in UTC). Give one of these."
        ) from None
    begin = begin.astimezone(UTC) if begin.tzinfo else begin
    return begin.strftime("%Y-%m-%dT%H:%M:%S")


def print_logs(
    paths: Paths, *, since: str, last: int, follow: bool, lifecycle: bool = False
) -> int:
    """Print the lines since a time ("" for all), or only the `last` of them (0 for all).

    With `follow` it continues until ctrl-C.  Returns 66 if there is no log.
    """
    begin = since_text(since) if since else ""
    path, whose = (paths.lifecycle, "") if lifecycle else (paths.log, " in the background")
    current = _open(path)
    if current is None and not follow:
        complain(f"{path} does not exist: no broker has run{whose} yet.")
        return NO_LOG
    try:
        lines = _since(_old_lines(path, current), begin)
        for line in deque(lines, maxlen=last or None):
            _print(line)
        if follow:
            _follow(path, current)
        elif current is not None:
            current.close()
    except KeyboardInterrupt:
        pass
    return 0


def _open(path: str) -> BinaryIO | None:
    try:
        return open_regular(path)
    except FileNotFoundError:
        return None


def _old_lines(path: str, current: BinaryIO | None) -> Iterator[bytes]:
    """Yield what has been written so far.

    `current` was opened before this looks for the older file: a rotation in between would
    otherwise take lines away.
    """
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
    """Print what is appended; after a rotation, go on with the new file from its start."""
    while True:
        newer = _open(path)  # opened before the old file is read to its end, so that end is final
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
    say(one_line(line.decode(errors="replace").rstrip("\n")))
