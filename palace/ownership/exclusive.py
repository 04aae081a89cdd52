"""Exclusive use of a palace for maintenance: everything that a broker holds, without serving.

The locks are taken as a broker takes them.  A broker that runs is asked to leave first, if the
caller wants that, and the lock is taken the moment it is free, before a shim could have started
another broker.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.place import take_place
from palace.protocol.errors import LockHeld
from palace.settings.config import Config, adopt, load_settings
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

LOCK_S = 120.0
POLL_S = 0.002


@attrs.frozen(kw_only=True)
class Exclusive:
    """A palace that is this process's alone; `epoch` and `incarnation` are those of its hold."""

    paths: Paths
    config: Config
    kernel: Kernel
    epoch: int
    incarnation: str


def _prepare_nothing(_kernel: Kernel) -> None:
    return


@contextmanager
def exclusive_use(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    ask_to_leave: Callable[[], None] | None,
    prepare: Callable[[Kernel], None] = _prepare_nothing,
) -> Iterator[Exclusive]:
    """Own the palace until the block ends.

    `ask_to_leave` is called where another process owns it; None: a running broker is left alone.
    `prepare` is called with the lock held, before settings, identity and epoch are read.
    Raises LockHeld, naming the holder, where it must not be asked or takes too long.
    """
    kernel = Kernel()
    lock.check_directory(paths, kernel, environment.all)
    ownership = _take_lock(paths, kernel, ask_to_leave)
    try:
        prepare(kernel)
        loaded = load_settings(paths, environment.all, kernel)
        config = loaded.config
        lock.take_other_locks(ownership, config, environment.all, kernel)
        ownership.memory = take_place(ownership, environment.all, kernel, serves=False)
        adopt(paths, loaded, environment.all, kernel)
        yield Exclusive(
            paths=paths,
            config=config,
            kernel=kernel,
            epoch=ownership.epoch,
            incarnation=ownership.incarnation,
        )
    finally:
        # broker.lock last: the next owner must find the others free.  A data file's lock that is
        # still held would be taken for another palace's, and is not waited for.
        for fd in (*ownership.other_fds, ownership.lock_fd):
            kernel.close(fd)


def _take_lock(
    paths: Paths, kernel: Kernel, ask_to_leave: Callable[[], None] | None
) -> lock.Ownership:
    try:
        return lock.take_lock(paths, kernel)
    except LockHeld as error:
        if ask_to_leave is None:
            raise LockHeld(
                f"{error.message} This needs the palace for itself: palace stop --hold, and "
                "palace start afterwards; or let it be stopped now: --stop"
            ) from None
    ask_to_leave()
    for is_last in lock.attempts(kernel, LOCK_S, POLL_S):
        try:
            return lock.take_lock(paths, kernel)
        except LockHeld:
            if is_last:
                raise
    raise AssertionError("the last attempt returns or raises")
