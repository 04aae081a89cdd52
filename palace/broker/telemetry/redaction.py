"""Exceptions for logs and status: where and what kind, never what they quote.

The text of an exception may hold an argument of a call, and so a memory.  palace's own errors and
the kernel's don't: their texts are shown.
"""

import os
import traceback

from palace.protocol.errors import PalaceError, WireError

FRAMES_MAX = 8


def redacted(error: BaseException) -> str:
    """Return the kind of an error, its text if that quotes nothing, and where it was raised."""
    kind = type(error).__name__
    if isinstance(error, PalaceError) and not isinstance(error, WireError):
        return f"{kind}: {error.message}"
    if isinstance(error, OSError) and error.strerror:
        return f"{kind}: {error.strerror}"
    return f"{kind} {origin(error, 1)}".rstrip()


def origin(error: BaseException, frames_max: int = FRAMES_MAX) -> str:
    """Return the innermost frames as "at file:line function < ...", "" where there are none."""
    frames = traceback.extract_tb(error.__traceback__)[-frames_max:]
    places = [
        f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}"
        for frame in reversed(frames)
    ]
    return f"at {' < '.join(places)}" if places else ""
