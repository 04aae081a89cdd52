"""The simulated kernel: the real one, with a step before each call, and a life of one process.

`SimOs`, `SimFcntl`, `SimSocket` and `SimPoll` stand in for `os`, `fcntl`, `socket` and `select` in
palace's modules.  Files, flocks and sockets are real ones; a process that has ended gets `Killed`
from every call, so that nothing which its remains do reaches a file or a peer.
"""

import errno
import fcntl
import os
import select
import socket
import stat
from types import SimpleNamespace
from typing import Any

from tests.sim.disk import Disk
from tests.sim.threads import current_fiber, the_world
from tests.sim.world import Killed, Process, World

Inode = tuple[int, int]


class Machine:
    """What the processes of one world share: disk, locks, and who watches."""

    def __init__(self, world: World, disk: Disk, top: str) -> None:
        self.world = world
        self.disk = disk
        self.top = top
        self.flocks: dict[Inode, tuple[Process, int]] = {}
        self.reserved: dict[Inode, int] = {}
        self.full = False
        self.guarded: set[str] = set()  # only the holder of `lock` may change these names
        self.lock = ""
        world.died.append(self.close_all)

    def close_all(self, process: Process) -> None:
        """The kernel's part of a death."""
        for sock in list(process.socks):
            socket.socket.close(sock)
        process.socks.clear()
        for fd in list(process.fds):
            self.close(process, fd)

    def close(self, process: Process, fd: int) -> None:
        process.fds.pop(fd, None)
        for inode, (holder, held) in list(self.flocks.items()):
            if holder is process and held == fd:
                del self.flocks[inode]
        os.close(fd)

    def holder(self, path: str) -> Process | None:
        """Return who holds the flock on a file."""
        try:
            found = os.lstat(path)
        except OSError:
            return None
        entry = self.flocks.get((found.st_dev, found.st_ino))
        return entry[0] if entry is not None else None

    def changes_name(self, process: Process, path: str) -> None:
        """I5: record and socket are changed by the owner alone."""
        if path in self.guarded and self.holder(self.lock) is not process:
            self.world.violated(f"I5: {process!r} changed {path} without the lock")


class Now:
    machine: Machine | None = None


def the_machine() -> Machine:
    assert Now.machine is not None
    return Now.machine


def alive() -> Process:
    process = current_fiber().process
    if process.dead:
        raise Killed
    return process


def step(what: str, detail: object = "") -> Process:
    """A system call of the running process begins."""
    the_world().step(f"{what} {detail}" if detail else what)
    return alive()


def _short(path: str) -> str:
    return the_world().plain(path)


class SimOs:
    """Stands in for the module `os`; what it doesn't name is the real thing's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _fd(self, fd: int) -> int:
        return current_fiber().process.stdio.get(fd, fd) if fd < 3 else fd

    # Files.

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        process = step("open", _short(path))
        there = os.path.lexists(path)
        fd = os.open(path, flags, mode & ~process.umask)
        process.fds[fd] = None
        disk = the_machine().disk
        if not there and flags & os.O_CREAT:
            disk.made(path)
        if flags & (os.O_CREAT | os.O_APPEND):
            disk.opened(fd)
            if flags & os.O_TRUNC:
                disk.truncated(fd, 0)
        return fd

    def close(self, fd: int) -> None:
        process = current_fiber().process
        # A dead process's files are closed.  What it was reading is let go later, by a collector to
        # which an exception means nothing but a warning.
        if not process.dead:
            the_machine().close(process, fd)

    def read(self, fd: int, size: int) -> bytes:
        step("read")
        return os.read(self._fd(fd), size)

    def write(self, fd: int, data: Any) -> int:
        process = step("write", len(data))
        size = the_machine_may_write(process, fd, len(data))
        return os.write(self._fd(fd), data[:size])

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        step("pread")
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        step("pwrite")
        return os.pwrite(fd, data, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        step("ftruncate", size)
        os.ftruncate(fd, size)
        the_machine().disk.truncated(fd, size)

    def fsync(self, fd: int) -> None:
        disk = the_machine().disk
        try:
            step("fsync")
        except OSError:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                disk.sync_failed(fd, self.getpid())
            raise
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            disk.directory_synced(os.readlink(f"/proc/self/fd/{fd}"))
        else:
            disk.synced(fd, self.getpid())

    def rename(self, old: str, new: str) -> None:
        process = step("rename", _short(new))
        machine = the_machine()
        machine.changes_name(process, new)
        machine.changes_name(process, old)
        saved = machine.disk.keep(new)
        os.rename(old, new)
        machine.disk.renamed(old, new, saved)

    def unlink(self, path: str) -> None:
        process = step("unlink", _short(path))
        machine = the_machine()
        if os.path.lexists(path):
            machine.changes_name(process, path)
        saved = machine.disk.keep(path)
        os.unlink(path)
        machine.disk.removed(path, saved)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        process = step("mkdir", _short(path))
        os.mkdir(path, mode & ~process.umask)
        the_machine().disk.made(path)

    def makedirs(self, path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        step("makedirs", _short(path))
        os.makedirs(path, mode, exist_ok=exist_ok)

    def listdir(self, path: str) -> list[str]:
        process = step("listdir", _short(path))
        if path == "/dev/fd":
            return [str(fd) for fd in process.fds]
        return sorted(os.listdir(path))

    def stat(self, path: str) -> os.stat_result:
        step("stat", _short(path))
        return os.stat(path)

    def lstat(self, path: str) -> os.stat_result:
        step("lstat", _short(path))
        return os.lstat(path)

    def fstat(self, fd: int) -> os.stat_result:
        alive()
        return os.fstat(fd)

    def statvfs(self, path: str) -> Any:
        step("statvfs")
        found = os.statvfs(path)
        if the_machine().full and alive().harmed:
            return SimpleNamespace(f_bavail=0, f_frsize=found.f_frsize)
        return found

    # Descriptors.

    def pipe(self) -> tuple[int, int]:
        process = step("pipe")
        ends = os.pipe()
        process.fds.update(dict.fromkeys(ends))
        return ends

    def dup2(self, fd: int, target: int) -> int:
        process = step("dup2")
        assert target < 3, "only standard streams are replaced"
        process.stdio[target] = fd
        return target

    # The process.

    def getpid(self) -> int:
        return current_fiber().process.pid

    def getsid(self, _pid: int) -> int:
        return current_fiber().process.pid

    def chdir(self, _path: str) -> None:
        return

    def umask(self, mask: int) -> int:
        process = alive()
        process.umask, old = mask, process.umask
        return old

    def _exit(self, status: int) -> None:
        world = the_world()
        world.end(alive(), status)
        raise Killed


def the_machine_may_write(process: Process, fd: int, size: int) -> int:
    """Return how much of a write a full disk takes; raises ENOSPC for nothing at all."""
    machine = the_machine()
    if not machine.full or fd not in process.fds or process.spared or not process.harmed:
        return size
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return size
    room = machine.reserved.get((found.st_dev, found.st_ino), 0) - found.st_size
    room = max(room, -found.st_size % 4096)  # the last block is there already
    if room <= 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return min(size, room)


class SimFcntl:
    """Stands in for the module `fcntl`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, fd: int, operation: int) -> None:
        process = step("flock")
        fcntl.flock(fd, operation)
        found = os.fstat(fd)
        inode = found.st_dev, found.st_ino
        if operation & fcntl.LOCK_UN:
            the_machine().flocks.pop(inode, None)
            return
        if operation & fcntl.LOCK_SH:
            the_world().note(f"shares {_short(os.readlink(f'/proc/self/fd/{fd}'))}")
            return
        other = the_machine().flocks.get(inode)
        assert other is None or other[0] is process, "the kernel gave a lock twice"
        the_machine().flocks[inode] = process, fd
        the_world().note(f"locked {_short(os.readlink(f'/proc/self/fd/{fd}'))}")


class SimSocket(socket.socket):
    """A real socket that belongs to a simulated process."""

    def __init__(
        self,
        family: int = -1,
        type: int = -1,  # noqa: A002
        proto: int = -1,
        fileno: int | None = None,
    ) -> None:
        process = alive() if fileno is not None else step("socket")
        super().__init__(family, type, proto, fileno)
        process.fds.pop(self.fileno(), None)
        self.process = process
        process.socks[self] = None

    def accept(self) -> tuple[socket.socket, Any]:
        process = step("accept")
        fd, address = self._accept()  # type: ignore[attr-defined]
        process.fds[fd] = None
        return SimSocket(self.family, self.type, self.proto, fileno=fd), address

    def connect(self, address: Any) -> None:
        step("connect")
        super().connect(address)

    def bind(self, address: Any) -> None:
        process = step("bind", _short(str(address)))
        the_machine().changes_name(process, address)
        umask = os.umask(process.umask)
        try:
            super().bind(address)
        finally:
            os.umask(umask)

    def listen(self, backlog: int = 16) -> None:
        step("listen")
        super().listen(backlog)

    def send(self, data: Any, flags: int = 0) -> int:
        step("send", len(data))
        return super().send(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        step("recv")
        return super().recv(size, flags)

    def shutdown(self, how: int) -> None:
        step("shutdown")
        super().shutdown(how)

    def close(self) -> None:
        if self.process.dead:
            raise Killed
        self.process.socks.pop(self, None)
        super().close()

    def detach(self) -> int:
        process = alive()
        process.socks.pop(self, None)
        fd = super().detach()
        process.fds[fd] = None
        return fd


def sim_socketpair() -> tuple[SimSocket, SimSocket]:
    process = step("socketpair")
    ours, theirs = REAL_SOCKETPAIR()
    fds = ours.detach(), theirs.detach()
    process.fds.update(dict.fromkeys(fds))
    return SimSocket(fileno=fds[0]), SimSocket(fileno=fds[1])


REAL_SOCKETPAIR = socket.socketpair
SOCKET = SimpleNamespace(
    **{name: getattr(socket, name) for name in dir(socket) if not name.startswith("__")}
    | {"socket": SimSocket, "socketpair": sim_socketpair, "gethostname": lambda: "simulated"}
)


class SimPoll:
    """Stands in for `select.poll()`."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}

    def register(self, fd: int, events: int = select.POLLIN | select.POLLOUT) -> None:
        self._wanted[fd] = events

    def _real(self) -> dict[int, tuple[int, int]]:
        """Return the events wanted of each real descriptor, and by which name it goes here."""
        stdio = current_fiber().process.stdio
        return {stdio.get(fd, fd): (fd, events) for fd, events in self._wanted.items()}

    def poll(self, timeout_ms: float | None = None) -> list[tuple[int, int]]:
        step("poll")
        world = the_world()
        deadline = float("inf")
        if timeout_ms is not None and timeout_ms >= 0:
            deadline = world.now + timeout_ms / 1000
        wanted = self._real()
        poll = select.poll()
        for fd, (_, events) in wanted.items():
            poll.register(fd, events)
        while not (ready := poll.poll(0)) and world.now < deadline:
            world.block(fds=[(fd, w[1]) for fd, w in wanted.items()], deadline=deadline)
        return [(wanted[fd][0], events) for fd, events in ready]


SELECT = SimpleNamespace(
    **{name: getattr(select, name) for name in dir(select) if name.startswith("POLL")}
    | {"poll": SimPoll}
)
