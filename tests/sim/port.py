"""The port to the kernel of a simulated process: palace's own `Kernel` over the simulated `os`.

What asks the kernel who or where one is, is answered here.
"""

import errno
import os
import random
from collections.abc import Mapping, Sequence

from palace.kernel.kernel import Kernel
from palace.kernel.mounts import Mount
from tests.sim.kernel import alive, step, the_machine
from tests.sim.threads import current_fiber, the_world


class Chance:
    """The seed's dice for what palace asks of chance; apart from those of the scheduler."""

    dice = random.Random(0)


class SimKernel(Kernel):
    """One simulated process's port.  Which process asks is known by the running thread."""

    __slots__ = ()

    def monotonic(self) -> float:
        return the_world().now

    def utc_text(self) -> str:
        return "2026-01-01T00:00:00Z"

    def random(self) -> float:
        return Chance.dice.random()

    def token(self, size: int = 16) -> str:
        return Chance.dice.randbytes(size).hex()

    def failpoint(self, name: str) -> None:
        step("point", name)

    def trace(self, act: str, **seen: str | int) -> None:
        """Note it between two steps: an act and its event are one here."""
        pid = alive().pid
        the_world().notes["trace"].append({"act": act, "pid": pid, **seen})

    def lock_holder(self, path: str, *, alone: bool = False) -> int | None:
        step("lock_holder")
        holder = the_machine().holder(path)
        return holder.pid if holder is not None else None

    def descriptor_limit(self) -> int:
        return 4096

    def reserve(self, fd: int, offset: int, size: int) -> bool:
        process = step("reserve")
        machine = the_machine()
        found = os.fstat(fd)
        inode = found.st_dev, found.st_ino
        if machine.full and process.harmed and machine.reserved.get(inode, 0) < offset + size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        machine.reserved[inode] = max(machine.reserved.get(inode, 0), offset + size)
        return True

    def mount_of(self, path: str) -> Mount:
        return Mount(point="/", fs_type="ext4", source="/dev/sim")

    def boot_id(self) -> str:
        return f"boot-{the_world().boot}"

    def host_name(self) -> str:
        return "simulated"

    def pid_namespace(self) -> str:
        return "pid:[1]"

    def start_time(self, pid: int) -> str:
        return str(pid)

    def process_title(self, pid: int) -> str:
        process = the_world().processes.get(pid)
        return "" if process is None or process.dead else process.kind

    def in_container(self) -> bool:
        return False

    def replace_environment(self, environ: Mapping[str, str]) -> None:
        alive().environ = dict(environ)

    def spawn(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        log_fd: int,
        pass_fds: Mapping[int, int],
        detached: bool,
    ) -> int:
        parent = step("spawn", "direct" if not detached else "")
        return parent.world.notes["spawn"](parent, list(argv), dict(environ), dict(pass_fds))

    def parent_pid(self) -> int:
        return 0  # what starts a shim is no process of this world

    def watch_parent(self) -> int:
        return -1

    def leave_parent(self) -> None:
        """The process keeps its pid here, which nobody but its parent could tell."""
        step("leave_parent").left_parent = True

    def reap(self, pid: int) -> int | None:
        parent = step("reap")
        child = the_world().processes.get(pid)
        if child is None or child.parent is not parent or child.reaped:
            return -1
        if not child.dead and not child.left_parent:
            return None
        child.reaped = True
        return 0 if child.left_parent else child.status


def own_pid() -> int:
    return current_fiber().process.pid
