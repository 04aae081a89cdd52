"""Exclusive use of a palace for maintenance: everything that a broker holds, without serving.

The locks are taken as a broker takes them.  A broker that runs is asked to leave first, if the
caller wants that, and the lock is taken the moment it is free, before a shim could have started
another broker.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.data_locks import take_other_locks
from palace.ownership.lookout import Lookout
from palace.ownership.place import take_place
from palace.protocol.errors import LockHeld
from palace.settings.config import Config, adopt, load_settings
from palace.settings.environment import ShimEnvironment, read_environment
from palace.settings.inherited import broker_environment
from palace.settings.paths import Paths

LOCK_S = 120.0
POLL_S = 0.002


@contextmanager
def exclusive_use(
    paths: Paths,
    environment: ShimEnvironment,
    *,
    ask_to_leave: Callable[[], None] | None,
    prepare: Callable[[lock.Ownership, Kernel], None],
) -> Iterator[tuple[lock.Ownership, Config, Kernel]]:
    """Own the palace until the block ends, and work in an owner's environment meanwhile.

    `ask_to_leave` is called where another process owns it; None: a running broker is left alone.
    `prepare` is called with the lock held, before settings, identity and epoch are read.
    Raises LockHeld, naming the holder, where it must not be asked or takes too long.
    A process whose locks are taken away within the block ends at once (lookout.py).
    """
    kernel, environ = Kernel(), dict(environment.all)
    lock.check_directory(paths, kernel, environ)
    ownership = _take_lock(paths, kernel, ask_to_leave)
    lookout = Lookout(ownership, kernel)
    try:
        prepare(ownership, kernel)
        loaded = load_settings(paths, environ, kernel)
        config = loaded.config
        with _working_as_owner(config, environ, kernel):
            take_other_locks(ownership, config, environ, kernel)
            lookout.start()
            ownership.memory = take_place(ownership, environ, kernel, serves=False)
            adopt(paths, loaded, environ, kernel)
            yield ownership, config, kernel
    finally:
        lookout.end()
        # broker.lock last: the next owner must find the others free.  A data file's lock that is
        # still held would be taken for another palace's, and is not waited for.
        for fd in (*ownership.other_fds, ownership.lock_fd):
            kernel.close(fd)


@contextmanager
def _working_as_owner(config: Config, environ: Mapping[str, str], kernel: Kernel) -> Iterator[None]:
    """Let libraries see what they see in a broker: no session's environment, and no directory's.

    They read files of the current directory (.env), too.
    """
    before, here = dict(read_environment().all), ""
    with suppress(OSError):  # it was removed
        here = os.getcwd()
    kernel.replace_environment(broker_environment(environ, config.environment))
    os.chdir("/")
    try:
        yield
    finally:
        kernel.replace_environment(before)
        if here:
            with suppress(OSError):
                os.chdir(here)


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
