"""The one writer for terminals: what commands say passes through here, whoever chose the words.

Names of clients, wings and files, titles of processes, notes in control files and texts of errors
are other people's.  An escape sequence in one of them could rewrite the screen, the title or the
clipboard, a carriage return hides what stands before it, a newline forges a line of its own, and a
lone surrogate can't be encoded at all.

Rule for this file: light, since the shim imports it; no other module prints
(tests/test_hostile_data.py).
"""

import errno
import os
import sys

STDERR = 2
AT_ONCE_BYTES = 512  # POSIX: a pipe that says that it can be written takes that much, everywhere
LINE_MAX = 4000  # characters of one line of somebody else's
ENTER_SCREEN = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor
LEAVE_SCREEN = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"
_KEPT = "\n\t"


def printable(text: str) -> str:
    """Return a text whose control characters are written out; newlines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _KEPT else _written_out(c) for c in text)


def one_line(text: str, most: int = LINE_MAX) -> str:
    """Return somebody else's text as part of one line, newlines written out, too, and bounded."""
    if len(text) > most:
        text = text[:most] + " ..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _written_out(c) for c in text)


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def say(text: str = "", *, end: str = "\n", flush: bool = False) -> None:
    """Print to standard output; raises BrokenPipeError where no one reads it any more."""
    _write(sys.stdout, printable(text) + end)
    if flush:
        sys.stdout.flush()


def complain(text: str) -> None:
    """Print to standard error; nothing that goes wrong there ends its caller."""
    try:
        _write(sys.stderr, printable(text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed, full, or there is none
        return


def remark(text: str) -> None:
    """Print to standard error what it takes at once, for a process that others wait for.

    A host that starts a server need not read what that says there: once the pipe is full, a write
    to it would wait for good.  What has no room is left out.
    """
    write_at_once(STDERR, f"{printable(text)}\n".encode(errors="backslashreplace"))


def write_at_once(fd: int, data: bytes) -> None:
    """Write as much of some bytes as a descriptor takes without waiting; raises nothing."""
    import select

    try:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        for start in range(0, len(data), AT_ONCE_BYTES):
            ready = poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return
            os.write(fd, data[start : start + AT_ONCE_BYTES])
    except OSError:  # closed, full, or there is none
        return


def redraw(text: str, *, width: int = 0, end: str = "") -> None:
    """Put one line in the place of the last one on standard error, a terminal."""
    try:
        _write(sys.stderr, f"\r{one_line(text):<{width}}{end}")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def show_screen(text: str, columns: int, lines: int) -> None:
    """Draw a text over the one before, cut to the given size of the terminal."""
    _write(sys.stdout, picture(text, columns, lines))


def switch_screen(sequence: str) -> None:
    """Write ENTER_SCREEN or LEAVE_SCREEN."""
    assert sequence in (ENTER_SCREEN, LEAVE_SCREEN)
    _write(sys.stdout, sequence)


def picture(text: str, columns: int, lines: int) -> str:
    """Return what `show_screen` writes."""
    rows = [one_line(row)[:columns] + _CLEAR_LINE for row in text.split("\n")[: lines - 1]]
    return _HOME + "\n".join(rows) + _CLEAR_BELOW


def _write(stream: "object", text: str) -> None:
    if stream is None:  # Python's word for a descriptor that was closed before it started
        raise OSError(errno.EBADF, "it is closed", "standard output")
    try:
        stream.write(text)  # type: ignore[attr-defined]
    except UnicodeEncodeError:  # a terminal of another encoding
        plain = text.encode("ascii", "backslashreplace").decode("ascii")
        stream.write(plain)  # type: ignore[attr-defined]
