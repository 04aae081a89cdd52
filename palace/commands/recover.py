"""`palace recover`: bringing a palace back to where it was served, or giving that place up."""

import os
import shutil

from palace.commands.maintenance import leave_request
from palace.engine.durability.bring_back import bring_back, find_sources
from palace.engine.durability.offline import hold_palace
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.ownership.served import (
    Served,
    find_missing,
    forget_served,
    gone,
    holds,
    is_empty,
    keep,
    read_served,
    saved_copies,
)
from palace.protocol.errors import LockHeld, PalaceReplaced
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


def recover_palace(paths: Paths, environment: ShimEnvironment, *, stop: bool) -> str:
    """Bring back what was served at a path and is not there; return what was done.

    Raises PalaceReplaced where it is nowhere, and LockHeld where a broker has it elsewhere.
    """
    kernel = Kernel()
    served = _missed(paths, environment, kernel)
    if served is None or is_empty(served):
        return f"Nothing is remembered of a palace at {paths.root}: there is nothing to bring back."
    if kernel.file_id(paths.root) is None:
        if holds(served.moved_to, served.palace_id, kernel):
            return _move_back(served, environment, kernel)
        _check_found(paths, served, environment, kernel)
    elif find_missing(paths, environment.all, kernel) is None:
        return f"{paths.root} holds what was served there. {_rest(served)}"
    done: list[str] = []

    def prepare(ownership: Ownership, held: Kernel) -> None:
        done.append(bring_back(ownership, environment.all, held, asked=True))

    leave = leave_request(paths, environment, stop=stop)
    with hold_palace(paths, environment, ask_to_leave=leave, prepare=prepare):
        pass
    text = done[0]
    return f"{text[:1].upper()}{text[1:]}. Serve it: palace start --palace {paths.root}"


def _missed(paths: Paths, environment: ShimEnvironment, kernel: Kernel) -> Served | None:
    """Return what is remembered of a path, or lies in an archive of which nothing is."""
    served = read_served(paths.root, environment.all, kernel)
    return served or find_missing(paths, environment.all, kernel)


def _move_back(served: Served, environment: ShimEnvironment, kernel: Kernel) -> str:
    pid = kernel.lock_holder(Paths(served.moved_to).lock)
    if pid is not None:
        raise LockHeld(
            f"The palace is served at {served.moved_to} now, by pid {pid}. Use it there, or stop "
            f"that one first: palace stop --palace {served.moved_to}"
        )
    old = served.moved_to
    kernel.rename(old, served.path)
    kernel.sync_directory(os.path.dirname(served.path))
    served.moved_to = ""
    keep(served, environment.all, kernel, durable=True)
    return f"{old} is {served.path} again. Serve it: palace start --palace {served.path}"


def _check_found(
    paths: Paths, served: Served, environment: ShimEnvironment, kernel: Kernel
) -> None:
    """Refuse before a directory is made where nothing could be brought back to it."""
    if not find_sources(paths, environment.all, kernel, served):
        raise PalaceReplaced(
            f"{gone(served, environment.all, kernel).message.partition('. ')[0]}, and neither a "
            "saved journal nor an archive of stock's was found. Restore a backup: palace restore "
            f"DIR --palace {paths.root}. Or begin a new palace there: palace recover --forget "
            f"--palace {paths.root}"
        )


def _rest(served: Served) -> str:
    if not served.lost_to:
        return "There is nothing to bring back."
    return (
        f"Records {served.lost_from} to {served.lost_to} of its journal are in no copy that was "
        "found. If you have a backup with them: palace restore DIR --replace. If you can do "
        f"without: palace recover --forget --palace {served.path}"
    )


def forget_palace(paths: Paths, environment: ShimEnvironment) -> str:
    """Give up what was served at a path and is not there; return what is gone by that."""
    kernel = Kernel()
    served = _missed(paths, environment, kernel)
    if served is None:
        return f"Nothing is remembered of a palace at {paths.root}."
    saved = saved_copies(paths.root, environment.all, kernel)
    for copy in saved:
        shutil.rmtree(copy)
    removed = f" {len(saved)} saved journals were removed." if saved else ""
    if kernel.file_id(paths.root) is None or find_missing(paths, environment.all, kernel):
        forget_served(paths.root, environment.all, kernel)
        if find_missing(paths, environment.all, kernel):  # in an archive that stays
            given_up = Served(paths.root, served.palace_id)  # without a record: it is not missed
            given_up.since = kernel.utc_text()
            keep(given_up, environment.all, kernel, durable=True)
        return f"{served.name} is forgotten: the next broker begins a new one there.{removed}"
    served.lost_from = served.lost_to = 0
    served.former_id = served.saved = ""
    keep(served, environment.all, kernel, durable=True)
    return f"What {paths.root} lacks of what was served there is forgotten.{removed}"
