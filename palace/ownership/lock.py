"""Becoming the owner: steps B1 to B4 of the protocol, before anything heavy is imported.

The exclusive flock on broker.lock IS the right to open the palace.  A broker takes it once and
holds it until its process ends; a maintenance command closes it when it is done.  It is never
unlocked otherwise, never stolen, and the lock file is never removed.  Lock order: broker.lock,
mempalace's own writer lock, locks on data files outside of the palace.

Standard library only: forty-nine losers of an election run this and nothing else.
"""

import errno
import os

from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line
from palace.ownership.claim import check_kernel, make_local_directory
from palace.ownership.directory import prepare_palace
from palace.ownership.holders import how_to_avoid, how_to_end, stays
from palace.protocol.errors import ForeignWriter, LockFailed, LockHeld, OnHold
from palace.settings.paths import Paths, home_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from palace.ownership.served import Memory
    from palace.settings.config import Config

VERIFY_TRIES_MAX = 10
TAKEN_AGAIN_MAX = 16  # each time costs a descriptor, and something goes on removing the file
POLL_S = 0.1
FENCE = "mempalace's lock"
WAIT_S = 15.0  # as settings have it, where they don't say otherwise
NOTE_BYTES_MAX = 400


class HeldLock:
    """A lock besides broker.lock; `fd` is of the file that the name stood for when it was taken.

    `older_fds` are of files that were removed since.  They stay locked: a process that opened one
    of them before it was removed may still be waiting for it.
    """

    __slots__ = ("_note", "_note_at", "fd", "name", "older_fds", "path")

    def __init__(self, name: str, path: str, fd: int, *, note: bytes, note_at: int = 0) -> None:
        self.name = name
        self.path = path
        self.fd = fd
        self.older_fds: list[int] = []
        self._note = note
        self._note_at = note_at

    def leave_note(self, kernel: Kernel) -> None:
        """Write into the file, for people, who holds it."""
        kernel.write_note(self.fd, self._note_at, self._note)

    def take_again(self, kernel: Kernel) -> None:
        """Lock a new file in the place of one that was removed.

        Raises OSError where none can be made, and ForeignWriter where there is one already: the
        process that made it may have written under its lock, whether or not it still holds it.
        """
        if len(self.older_fds) >= TAKEN_AGAIN_MAX:
            raise ForeignWriter(
                f"{self.path} was removed {TAKEN_AGAIN_MAX} times under its holder. Find out what "
                "removes lock files there, and end that."
            )
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        try:
            fd = kernel.create_lock(self.path)
        except FileExistsError:
            raise ForeignWriter(
                f"{self.path} was removed under its holder, and made again by another process. "
                "Don't remove lock files while a broker runs: palace stop"
            ) from None
        if not kernel.try_lock(fd) or not kernel.same_file(fd, self.path):
            kernel.close(fd)
            raise ForeignWriter(f"{self.path} was removed, and another process has locked it since")
        self.older_fds.append(self.fd)
        self.fd = fd
        self.leave_note(kernel)


class Ownership:
    """The right to open a palace, for as long as `lock_fd` is open.

    A broker keeps it and those of `others` open for life: closing them is the kernel's business.
    `memory` is what is remembered outside of the palace (palace/ownership/served.py).
    """

    __slots__ = ("epoch", "incarnation", "lock_fd", "memory", "others", "palace_id", "paths")

    def __init__(self, paths: Paths, lock_fd: int, incarnation: str = "") -> None:
        self.paths = paths
        self.lock_fd = lock_fd
        self.others: list[HeldLock] = []
        self.epoch = 0
        self.palace_id = ""
        self.memory: Memory | None = None
        self.incarnation = incarnation or os.urandom(16).hex()

    @property
    def other_fds(self) -> "list[int]":
        """Return the descriptors of all locks besides broker.lock."""
        return [fd for held in self.others for fd in (held.fd, *held.older_fds)]

    def add(self, held: HeldLock, kernel: Kernel) -> None:
        """Hold one more lock, with its note in it."""
        held.leave_note(kernel)
        self.others.append(held)


def check_directory(paths: Paths, kernel: Kernel, environ: "Mapping[str, str]") -> None:
    """Create the palace's directory where that is sane, and refuse one that can't be served."""
    prepare_palace(paths, kernel)
    check_kernel(paths, kernel, environ)
    if paths.local:
        make_local_directory(paths, kernel, environ)


def take_lock(paths: Paths, kernel: Kernel) -> Ownership:
    """B1 to B3: open, lock, and verify that the name still stands for what was locked."""
    # Verified last: the file may have been removed or replaced after it was opened here.  The next
    # process would then lock another file of that name, and both would be owners.
    for _ in range(VERIFY_TRIES_MAX):
        fd = open_lock(paths.lock, kernel)
        try:
            taken = kernel.try_lock(fd)
        except OSError as error:
            kernel.close(fd)
            raise LockFailed(
                f"The kernel won't lock {paths.lock}: {error.strerror} "
                f"({errno.errorcode.get(error.errno or 0, '?')}). The palace must lie on a file "
                "system that supports flock."
            ) from None
        if not taken:
            kernel.close(fd)
            raise LockHeld(held_text(paths.lock, kernel))
        if kernel.same_file(fd, paths.lock):
            kernel.trace("B2.lock")  # after it: the line before it may be another owner's last
            return Ownership(paths, fd, kernel.token())
        kernel.close(fd)
    raise LockFailed(f"{paths.lock} keeps being replaced: something removes lock files in there.")


class LockReplaced(LockHeld):
    """The directory was replaced between its lock and what came next: an election that is lost."""


def check_in_place(ownership: Ownership, kernel: Kernel) -> None:
    """Refuse where broker.lock is not the file that was locked: its directory was replaced.

    What is there instead may be owned by another process, and is nothing that was looked at.
    """
    if not kernel.same_file(ownership.lock_fd, ownership.paths.lock):
        raise replaced_meanwhile(ownership.paths)


def replaced_meanwhile(paths: Paths) -> LockReplaced:
    """Return the error that sends whoever wanted a broker to ask again."""
    return LockReplaced(
        f"{paths.root} was replaced by another program while its lock was taken. Ask again: the "
        "next owner brings back what was served there."
    )


def open_lock(path: str, kernel: Kernel) -> int:
    try:
        return kernel.open_lock(path)
    except OSError as error:
        from palace.kernel.causes import cause_text

        raise LockFailed(f"The lock can't be opened: {cause_text(error)}") from None


def held_text(path: str, kernel: Kernel) -> str:
    """Say who holds a lock, as far as the kernel tells, and how to see more."""
    pid = kernel.lock_holder(path)
    if pid is None:
        return f"{path} is held by another process. See who: palace status"
    title = kernel.process_title(pid)
    return f"{path} is held by pid {pid} ({title or 'title unknown'}). See more: palace status"


def check_hold(paths: Paths, kernel: Kernel) -> None:
    """Refuse while `palace stop --hold` is in force."""
    note = kernel.read_file(paths.hold)
    if note is not None:
        since = one_line(note.decode(errors="replace").strip(), 200)
        raise OnHold(
            f"The palace {paths.root} was stopped on hold ({since}). Let brokers start again: "
            f"palace start --palace {paths.root}"
        )


def mempalace_lock_path(paths: Paths, environ: "Mapping[str, str]") -> str:
    """Return stock's writer lock for this palace (mempalace 3.11: palace/palace_lock.py)."""
    import hashlib  # late: shims that look for a hold load this module

    key = hashlib.sha256(os.path.normcase(paths.root).encode()).hexdigest()[:16]
    return f"{home_dir(environ)}/.mempalace/locks/mine_palace_{key}.lock"


def take_fence(
    ownership: Ownership, config: "Config", environ: "Mapping[str, str]", kernel: Kernel
) -> None:
    """B4: mempalace's own lock, waited for a while."""
    fence = Fence(ownership, config, environ, kernel)
    for is_last in attempts(kernel, config.mempalace_lock_wait_s, POLL_S):
        if fence.take():
            break
        if is_last:
            raise fence.problem()


class Fence:
    """mempalace's own writer lock, which keeps stock processes of this home out.

    A broker that finds it taken goes on without it, and opens the store only once it has it.
    """

    __slots__ = ("_kernel", "_ownership", "_path", "taken")

    def __init__(
        self,
        ownership: Ownership,
        config: "Config",
        environ: "Mapping[str, str]",
        kernel: Kernel,
    ) -> None:
        self._ownership = ownership
        self._kernel = kernel
        self._path = mempalace_lock_path(ownership.paths, environ)
        self.taken = "held_lock" in config.adjustments_off  # the engine takes it by itself

    def take(self) -> bool:
        """Take it without waiting; False while another process has it."""
        if self.taken:
            return True
        kernel, root = self._kernel, self._ownership.paths.root
        _make_fence_directory(os.path.dirname(self._path))
        # Each time: `rm -rf ~/.mempalace` makes room for another file.
        fd = open_lock(self._path, kernel)
        try:
            is_ours = kernel.try_lock(fd) and kernel.same_file(fd, self._path)
        except OSError as error:  # ENOLCK
            kernel.close(fd)
            raise LockFailed(f"mempalace's lock {self._path}: {error.strerror}") from None
        if not is_ours:
            kernel.close(fd)
            return False
        note = f"{os.getpid()} palace serve {root}".encode()
        self._ownership.add(HeldLock(FENCE, self._path, fd, note=note, note_at=1), kernel)
        self.taken = True
        kernel.trace("B4.fence")
        return True

    def holder_stays(self) -> bool:
        """Tell whether its holder is one that has it for as long as an agent runs."""
        pid = self._kernel.lock_holder(self._path)
        return stays(self._kernel.process_title(pid)) if pid else False

    def problem(self) -> ForeignWriter:
        """Return the error that names its holder."""
        note = (self._kernel.read_hint(self._path, NOTE_BYTES_MAX) or b"")[1:]
        name = note.decode(errors="replace").strip()
        return _foreign_writer(self._path, name, self._ownership.paths, self._kernel)


def _make_fence_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        from palace.kernel.causes import remedy_for

        raise LockFailed(
            f"mempalace's locks are in {path}, which can't be made: {error.strerror}. Every "
            "writer of the palace needs them, stock as well as palace, so that no two write at "
            f"once. {remedy_for(error)}, or give palace and stock another home: HOME=DIR."
        ) from None


def attempts(kernel: Kernel, wait_s: float, pause_s: float) -> "Iterator[bool]":
    """Yield before each attempt at a lock whether it is the last; pauses in between.

    A blocking flock could not be given up in time, and a signal that ends one is a race.
    """
    import time

    deadline_s = kernel.monotonic() + wait_s
    while kernel.monotonic() < deadline_s:
        yield False
        time.sleep(pause_s)
    yield True


def wait_for_mempalace(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel) -> int:
    """Take mempalace's own lock before settings are known, for as long as its descriptor is open.

    Raises ForeignWriter where stock, or an owner of the same path, has it for too long.
    """
    path = mempalace_lock_path(paths, environ)
    _make_fence_directory(os.path.dirname(path))
    fd = open_lock(path, kernel)
    for _ in attempts(kernel, WAIT_S, POLL_S):
        if kernel.try_lock(fd):
            return fd
    note = kernel.read_at(fd, 1, NOTE_BYTES_MAX).decode(errors="replace").strip()
    kernel.close(fd)
    raise _foreign_writer(path, note, paths, kernel)


def _foreign_writer(path: str, note: str, paths: Paths, kernel: Kernel) -> ForeignWriter:
    """Return the error that names who holds stock's lock, and how that is ended."""
    pid = kernel.lock_holder(path)
    who = _stock_holder(path, note, pid, kernel)
    title = kernel.process_title(pid) if pid else ""
    end = f"{how_to_end(title, pid, paths)}.{how_to_avoid(title)}"
    return ForeignWriter(
        f"A stock mempalace process writes to this palace: {who}. {end}", holder=note
    )


def _stock_holder(path: str, note: str, pid: "int | None", kernel: Kernel) -> str:
    """Say who holds stock's lock, by its own note and by the kernel."""
    title = kernel.process_title(pid) if pid else ""
    who = f"pid {pid} ({title or 'title unknown'})" if pid else "another process"
    return f"{who} holds {path}, and wrote {note or 'no name'!r} into it"
