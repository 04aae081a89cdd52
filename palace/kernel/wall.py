"""The wall clock, for what people date: a memory ends at an instant that somebody has written."""

import time


def wall_s() -> float:
    """Return seconds since 1970; it may go back, and then what had just ended is seen again."""
    return time.time()
