"""The collector of cycles, which searches in vain while a process imports what it will keep.

Imports make some 300,000 objects, nearly all of which live as long as the process.  The collector
goes over them again and again while they come (a sixth of the time of a broker's start), and once
they are there each of its full rounds, which stops all threads, goes over them all.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports_uncollected() -> Iterator[None]:
    """Collect nothing meanwhile, and leave out what is there afterwards from all later rounds.

    Not for what may take long, or makes garbage: that stays for ever.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
