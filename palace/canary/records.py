"""<palace>/deaths: a file for each death, and a mark for each owner that may still die.

    EPOCH-INCARNATION.txt      one death; made with O_EXCL, so that of several processes that notice
                               it one records it.  Its first line says what is known, in the form of
                               the log; what follows is what the machine looked like.
    EPOCH-INCARNATION.armed    an owner that has not come to its own end: made before it serves,
                               removed as one of its last acts.  Under the palace's lock, every mark
                               but one's own is that of a dead owner, or has come with a copy.

The directory is held open, so that it is this palace's wherever that has been moved.

Standard library only: the canary loads this.
"""

import errno
import os

from palace.kernel.kernel import FILE_FLAGS
from palace.kernel.logline import fields_of, log_line
from palace.kernel.odd_files import regular
from palace.protocol.wire import whole_number

NAME = "deaths"
RECORD, MARK = ".txt", ".armed"
KEPT_MAX = 100
RECORD_BYTES_MAX = 65_536
INCARNATION_DIGITS = 32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from palace.kernel.kernel import Kernel


class Owner:
    """Which owner: its epoch and its incarnation."""

    __slots__ = ("epoch", "incarnation")

    def __init__(self, epoch: int, incarnation: str) -> None:
        self.epoch = epoch
        self.incarnation = incarnation

    def named(self, suffix: str) -> str:
        return f"{self.epoch}-{self.incarnation}{suffix}"


def owner_of(name: str, suffix: str) -> "Owner | None":
    """Return whose file a name is, None where it is none of ours."""
    epoch, dash, incarnation = name.removesuffix(suffix).partition("-")
    if not name.endswith(suffix) or not dash or len(incarnation) != INCARNATION_DIGITS:
        return None
    if incarnation.strip("0123456789abcdef"):
        return None
    try:
        return Owner(whole_number(epoch), incarnation)
    except ValueError:
        return None


class Directory:
    """The open directory; `close` it.  Methods raise OSError as the kernel does."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def close(self) -> None:
        os.close(self.fd)

    @property
    def inode(self) -> int:
        return os.fstat(self.fd).st_ino

    @property
    def is_linked(self) -> bool:
        """Tell whether it still has a name."""
        return os.fstat(self.fd).st_nlink > 0

    def names(self) -> "list[str]":
        return os.listdir(self.fd)

    def owners(self, suffix: str) -> "list[Owner]":
        """Return those that have a file with this suffix, the earliest epoch first."""
        found = [owner_of(name, suffix) for name in self.names()]
        return sorted((one for one in found if one), key=lambda one: one.epoch)

    def read(self, name: str) -> bytes:
        """Return a file's beginning; raises OSError for what is no plain file."""
        fd = regular(os.open(name, FILE_FLAGS, dir_fd=self.fd), name)
        try:
            return os.read(fd, RECORD_BYTES_MAX)
        finally:
            os.close(fd)

    def fields(self, name: str) -> "dict[str, str]":
        """Return the fields of a file's first line, {} where it can't be read."""
        try:
            text = self.read(name).decode(errors="replace")
        except OSError:
            return {}
        return fields_of(text.partition("\n")[0])

    def has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def mark(self, owner: Owner, fields: "Mapping[str, str]") -> None:
        """Write an owner's mark, in the place of an older one of its own."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(owner.named(MARK), flags | os.O_NONBLOCK, 0o600, dir_fd=self.fd)
        try:
            os.write(regular(fd, owner.named(MARK)), log_line(fields).encode() + b"\n")
            os.fsync(fd)  # a power cut is an end, too, and leaves nothing else
        finally:
            os.close(fd)

    def unmark(self, owner: Owner) -> None:
        self._unlink(owner.named(MARK))

    def create(self, owner: Owner) -> "int | None":
        """Make the record of a death: a descriptor, or None where there is one already."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(owner.named(RECORD), flags, 0o600, dir_fd=self.fd)
        except FileExistsError:
            return None

    def append(self, name: str, line: str) -> None:
        """Append a line to a record that is there."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = regular(os.open(name, flags, dir_fd=self.fd), name)
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)

    def last_recorded_s(self) -> float:
        """Return when the latest owner's death was recorded, by the disk's clock; 0.0 for none."""
        recorded = self.owners(RECORD)
        if not recorded:
            return 0.0
        name = recorded[-1].named(RECORD)
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return 0.0

    def count(self) -> int:
        """Return how many deaths were recorded here, the forgotten ones included."""
        recorded = self.owners(RECORD)
        if not recorded:
            return 0
        last = self.fields(recorded[-1].named(RECORD)).get("number", "")
        try:
            return max(whole_number(last), len(recorded))
        except ValueError:
            return len(recorded)

    def prune(self, kept: int = KEPT_MAX) -> None:
        """Remove the earliest records beyond so many."""
        recorded = self.owners(RECORD)
        for owner in recorded[: max(0, len(recorded) - kept)]:
            self._unlink(owner.named(RECORD))

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return


def open_directory(root: str, kernel: "Kernel", *, make: bool = False) -> Directory:
    """Open the directory of the palace at `root`.

    Raises OSError where there is none, unless it is to be made, and where it isn't this user's
    alone: what others may write to is no record.
    """
    path = f"{root}/{NAME}"
    if make:
        kernel.make_directory(path)
    problem = kernel.trust_problem(path)
    if problem:
        raise OSError(errno.EPERM, problem, path)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    return Directory(os.open(path, flags), path)


_INTERNAL = ("ev", "epoch", "number")


class Death:
    """One recorded death as it is shown; `file` is where its record lies."""

    __slots__ = ("fields", "file", "owner")

    def __init__(self, owner: Owner, fields: "dict[str, str]", file: str) -> None:
        self.owner = owner
        self.fields = fields
        self.file = file

    @property
    def time(self) -> str:
        return self.fields.get("time", "")

    @property
    def cause(self) -> str:
        return self.fields.get("cause", "unknown")

    @property
    def about(self) -> "dict[str, str]":
        """Return what is known of it, for people and programs."""
        return {key: value for key, value in self.fields.items() if key not in _INTERNAL}


def deaths_in(directory: Directory) -> "tuple[int, int, Death | None]":
    """Return how many deaths were ever recorded, how many records are kept, and the last one."""
    recorded = directory.owners(RECORD)
    if not recorded:
        return 0, 0, None
    name = recorded[-1].named(RECORD)
    last = Death(recorded[-1], directory.fields(name), f"{directory.path}/{name}")
    return directory.count(), len(recorded), last


def deaths_of(root: str, kernel: "Kernel") -> "Iterator[Death]":
    """Yield the recorded deaths, the earliest first; raises OSError for an unsafe directory."""
    try:
        directory = open_directory(root, kernel)
    except FileNotFoundError:
        return
    try:
        for owner in directory.owners(RECORD):
            name = owner.named(RECORD)
            yield Death(owner, directory.fields(name), f"{directory.path}/{name}")
    finally:
        directory.close()
