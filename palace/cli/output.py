"""How a command's failure is said, and what remains to be done where no one reads on (`| head`).

Standard library only, and light: the fast commands end here, too.
"""

import os
import select

from palace.kernel.output import complain
from palace.protocol.errors import PalaceError

IO_ERROR = 74  # EX_IOERR of sysexits.h


def end_failed(name: str, error: "PalaceError | OSError") -> int:
    """Say in one line why a command failed, if anybody listens; return its exit code."""
    if isinstance(error, BrokenPipeError) and leave_readers():
        return 0
    if isinstance(error, PalaceError):
        text, code = error.message, error.exit_code
    else:
        from palace.kernel.causes import cause_text

        text, code = cause_text(error), IO_ERROR
    complain(f"palace {name}: {text}")
    leave_readers()
    return code


def leave_readers() -> bool:
    """Send what is still to be said to readers that have left nowhere; tell whether any has.

    They had enough, as `head` has, which is no fault of the command.
    """
    poll = select.poll()
    for fd in (1, 2):
        poll.register(fd, 0)
    gone = [fd for fd, events in poll.poll(0) if events & (select.POLLERR | select.POLLHUP)]
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd in gone:
            os.dup2(nowhere, fd)
        os.close(nowhere)
    return bool(gone)
