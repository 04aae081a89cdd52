"""The port to the kernel: everything that the protocol asks of files, locks, processes and time.

One object, `Kernel`, is handed to whoever needs the kernel, so that a simulated one can take its
place.  It decides nothing: no policy, no logging, no retry but after EINTR and of a write to
a full pipe.  The platform halves (`linux`, `darwin`) are imported when first asked.

Rule for this file: standard library only, and of that only what starts fast: the shim imports it.
"""

import errno
import fcntl
import os
import select
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from palace.kernel.mounts import Mount
    from palace.kernel.processes import Process

LOCK_MODE = 0o600
FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
DESCRIPTORS = 4096
_UNSAFE_BITS = stat.S_IWGRP | stat.S_IWOTH


def _platform() -> "ModuleType":
    if sys.platform == "darwin":
        from palace.kernel import darwin

        return darwin
    from palace.kernel import linux

    return linux


class Kernel:
    """The real kernel.  Methods raise OSError as the kernel does."""

    __slots__ = ()

    # Time and chance.

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    def utc_text(self) -> str:
        """Return the wall clock for people to read; nothing is decided by it."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def random(self) -> float:
        """Return a float in [0, 1)."""
        return int.from_bytes(os.urandom(7), "big") / (1 << 56)

    def token(self, size: int = 16) -> str:
        """Return `size` random bytes in hexadecimal."""
        return os.urandom(size).hex()

    # Files.

    def read_file(self, path: str, size_max: int = 1 << 20) -> "bytes | None":
        """Return a regular file's bytes, None where there is none; refuses anything else."""
        try:
            fd = os.open(path, FILE_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", path)
            return os.read(fd, size_max + 1)
        finally:
            os.close(fd)

    def read_hint(self, path: str, size_max: int = 1 << 20) -> "bytes | None":
        """Return what `read_file` does, but None also where it can't or may not be read."""
        try:
            return self.read_file(path, size_max)
        except OSError:
            return None

    # Names that come out of files: always beneath a directory, never over a link.

    def read_beneath(self, directory: str, name: str, size_max: int = 1 << 20) -> "bytes | None":
        """Return what `read_file` does; raises OutsideError for a name that leads elsewhere."""
        from palace.kernel.beneath import open_beneath

        try:
            fd = open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", f"{directory}/{name}")
            return os.read(fd, size_max + 1)
        finally:
            os.close(fd)

    def id_beneath(self, directory: str, name: str) -> "tuple[int, int] | None":
        """Return what `file_id` does; raises OutsideError for a name that leads elsewhere."""
        from palace.kernel.beneath import parent_beneath

        try:
            with parent_beneath(directory, name) as (fd, last):
                found = os.stat(last, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def rename_beneath(self, directory: str, old: str, new: str) -> None:
        """Rename within a directory, durably; the new name's own directory is made if need be."""
        from palace.kernel.beneath import parent_beneath, parts_of

        inner = "/".join(parts_of(directory, new)[:-1])
        if inner:
            with parent_beneath(directory, inner) as (fd, name):
                try:
                    os.mkdir(name, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
                os.fsync(fd)  # before it: else a power cut may take the directory, and the file
        with (
            parent_beneath(directory, new) as (new_fd, last),
            parent_beneath(directory, old) as (old_fd, first),
        ):
            os.rename(first, last, src_dir_fd=old_fd, dst_dir_fd=new_fd)
            # The new name first: a power cut between the two leaves the file under both names
            # rather than under none.
            os.fsync(new_fd)
            os.fsync(old_fd)

    def write_durable(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Replace a file whole: temporary file, fsync, rename, fsync of the directory."""
        self._replace(path, data, mode, durable=True)
        self.sync_directory(os.path.dirname(path))

    def replace_file(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Replace a file whole, for whoever reads it now; a power cut may leave it empty."""
        self._replace(path, data, mode, durable=False)

    def _replace(self, path: str, data: bytes, mode: int, *, durable: bool) -> None:
        temporary = f"{path}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(temporary, flags, mode)
            try:
                self.write_all(fd, data)
                if durable:
                    self.sync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except OSError as error:
            self.unlink(temporary)
            raise OSError(error.errno, error.strerror, path) from None  # close(2) names no file

    def sync(self, fd: int) -> None:
        """Make a file's bytes survive a power cut."""
        if sys.platform == "darwin":
            from palace.kernel.darwin import full_sync

            full_sync(fd)
        else:
            os.fsync(fd)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def open_append(self, path: str) -> int:
        """Open a regular file to append to, creating it 0600; the caller owns the descriptor."""
        from palace.kernel.odd_files import regular

        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return regular(os.open(path, flags | os.O_NONBLOCK, 0o600), path)

    def open_read(self, path: str) -> int:
        """Open a regular file to read; a FIFO is refused, and not waited for."""
        from palace.kernel.odd_files import regular  # late: the shim opens no such files

        return regular(os.open(path, FILE_FLAGS), path)

    def open_directory(self, path: str) -> int:
        """Open a directory, so that it can be asked for its name whatever becomes of that."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def path_of(self, fd: int) -> str:
        """Return the name that an open directory has now; "" where it has none any more."""
        path = _platform().path_of(fd)
        found = os.fstat(fd)
        return path if self.file_id(path) == (found.st_dev, found.st_ino) else ""

    def write(self, fd: int, data: "bytes | memoryview") -> int:
        """Write once; return how much of it was taken."""
        return os.write(fd, data)

    def write_all(self, fd: int, data: bytes) -> None:
        """Write all of it, waiting where the descriptor takes no more for now."""
        rest: bytes | memoryview = data
        while rest:
            try:
                sent = self.write(fd, rest)
                if sent == len(rest):
                    return
                rest = memoryview(rest)[sent:]
            except BlockingIOError:
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.poll()

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def reserve(self, fd: int, offset: int, size: int) -> bool:
        """Keep disk space for what will be written there; False where that can't be had."""
        return _platform().reserve(fd, offset, size)  # type: ignore[no-any-return]

    def list_directory(self, path: str) -> "list[str]":
        """Return the names in a directory; none where there is none."""
        try:
            return os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def signature(self, path: str) -> "tuple[int, int, int] | None":
        """Return (inode, size, mtime in ns) of a file, None where there is none."""
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def unlink(self, path: str) -> bool:
        """Remove a name; False where it was not there."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def file_id(self, path: str) -> "tuple[int, int] | None":
        """Return (device, inode) of what a name stands for, None where it is gone."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    def is_link(self, path: str) -> bool:
        """Tell whether a name stands for a symbolic link; False where it is gone."""
        return os.path.islink(path)

    def file_owner(self, path: str) -> "int | None":
        """Return the uid that a name belongs to, None where it is gone."""
        try:
            return os.lstat(path).st_uid
        except (FileNotFoundError, NotADirectoryError):
            return None

    def make_directory(self, path: str, mode: int = 0o700) -> None:
        """Create one directory, if it isn't there."""
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):  # a link would lead anywhere
                raise NotADirectoryError(errno.ENOTDIR, "it is no directory", path) from None

    def trust_problem(self, path: str, *, uid: "int | None" = None) -> str:
        """Return why a directory can't be trusted with control files, "" where it can."""
        found = os.lstat(path)
        owner = os.geteuid() if uid is None else uid
        if not stat.S_ISDIR(found.st_mode):
            return "it is not a directory"
        if found.st_uid != owner:
            return f"it belongs to uid {found.st_uid}, and this process runs as uid {owner}"
        if found.st_mode & _UNSAFE_BITS:
            return f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
        return ""

    def is_own_file(self, path: str) -> bool:
        """Tell whether a name is a plain file of this user's, and no link."""
        try:
            found = os.lstat(path)
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()

    def writable(self, path: str) -> bool:
        return os.access(path, os.W_OK)

    # Locks.

    def open_lock(self, path: str) -> int:
        """Open a lock file, creating it 0600; the caller owns the descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, LOCK_MODE)

    def create_lock(self, path: str) -> int:
        """Create a lock file, 0600, where there is none; raises FileExistsError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, LOCK_MODE)

    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        """Take the flock without waiting; False where another process has it (`shared`: alone).

        Any other answer of the kernel (ENOLCK, EOPNOTSUPP) is raised.
        """
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except InterruptedError:
                continue
            except BlockingIOError:
                return False
            return True

    def same_file(self, fd: int, path: str) -> bool:
        """Tell whether a descriptor still is what the name stands for."""
        found = os.fstat(fd)
        return self.file_id(path) == (found.st_dev, found.st_ino)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read_at(self, fd: int, offset: int, size: int) -> bytes:
        return os.pread(fd, size, offset)

    def write_note(self, fd: int, offset: int, note: bytes) -> None:
        """Leave a note for people in a lock file; nothing is decided by it."""
        os.ftruncate(fd, offset)
        os.pwrite(fd, note, offset)

    def lock_holder(self, path: str, *, alone: bool = False) -> "int | None":
        """Return a pid that holds a flock (`alone`: without others), as far as the kernel tells."""
        return _platform().lock_holder(path, alone)  # type: ignore[no-any-return]

    def free_bytes(self, path: str) -> int:
        """Return how much an unprivileged process may still write to a path's file system."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def descriptor_limit(self) -> int:
        """Raise the soft limit of open files towards the hard one; return what it is then."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        return soft

    def failpoint(self, name: str) -> None:
        """Do nothing: a named place between two steps, where a test may end the process."""

    def trace(self, act: str, **seen: "str | int") -> None:
        """Do nothing: a step of the protocol, which PALACE_TRACE has written down (`kernel_for`).

        Each caller says whether it calls before its act or after it: what others can see of an
        act must stand in the trace before what they do about it.
        """

    # Where am I?

    def mount_of(self, path: str) -> "Mount":
        return _platform().mount_of(path)  # type: ignore[no-any-return]

    def boot_id(self) -> str:
        return _platform().boot_id()  # type: ignore[no-any-return]

    def host_name(self) -> str:
        return os.uname().nodename

    def pid_namespace(self) -> str:
        return _platform().pid_namespace()  # type: ignore[no-any-return]

    def mount_namespace(self) -> str:
        return _platform().mount_namespace()  # type: ignore[no-any-return]

    def start_time(self, pid: int) -> str:
        """Return when a process started, in the kernel's own words; "" where it has ended."""
        return _platform().start_time(pid)  # type: ignore[no-any-return]

    def process_title(self, pid: int) -> str:
        """Return a process's command line, shortened; "" where it can't be read."""
        return _platform().process_title(pid)  # type: ignore[no-any-return]

    def process_of(self, pid: int) -> "Process | None":
        """Return what the kernel tells of a process, None where it has ended."""
        return _platform().process_of(pid)  # type: ignore[no-any-return]

    def openers(self, path: str) -> "list[int]":
        """Return the processes that have a file open, as far as we may look into them."""
        return _platform().openers(path)  # type: ignore[no-any-return]

    def place(self) -> str:
        """Return what processes have in common that see the same files by the same names."""
        inside = f"/{self.mount_namespace()}" if self.in_container() else ""
        return self.boot_id() + inside

    def in_container(self) -> bool:
        return _platform().in_container()  # type: ignore[no-any-return]

    # Processes.

    def replace_environment(self, environ: "Mapping[str, str]") -> None:
        """Let this process, its libraries and its children see this environment alone."""
        for name in set(os.environ) - set(environ):
            del os.environ[name]
        os.environ.update(environ)

    def spawn(
        self,
        argv: "Sequence[str]",
        environ: "Mapping[str, str]",
        *,
        log_fd: int,
        pass_fds: "Mapping[int, int]",
        detached: bool,
    ) -> int:
        """Start a process without forking Python; return its pid.

        Standard input is /dev/null, output and errors go to `log_fd`.  `pass_fds` maps
        descriptors here to numbers there (at least 3); all others are closed on exec.
        `detached` gives it a session of its own, so that it outlives its parent's terminal.
        """
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, null, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, log_fd, target) for target in (1, 2)]
            actions += [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in pass_fds.items()]
            words = list(argv)
            try:
                return os.posix_spawn(
                    words[0], words, environ, file_actions=actions, setsid=detached
                )
            except NotImplementedError:
                # A libc without POSIX_SPAWN_SETSID: the broker makes its own session at its start.
                return os.posix_spawn(words[0], words, environ, file_actions=actions)
        finally:
            os.close(null)

    def parent_pid(self) -> int:
        """Return the pid of what started this process, or of what it was given to since then."""
        return os.getppid()

    def watch_parent(self) -> int:
        """Return a descriptor that becomes readable when the parent ends; -1 where none is had."""
        parent = os.getppid()
        try:
            fd = os.pidfd_open(parent)
        except (
            OSError,
            AttributeError,
        ):  # macOS, an older kernel, or a parent in another namespace
            return -1
        if os.getppid() == parent:
            return fd
        os.close(fd)  # it ended meanwhile, and its number may be another's
        return -1

    def leave_parent(self) -> None:
        """Go on as a child of init (or of a subreaper), in a session of one's own.

        What called this ends with status 0, without cleaning up; only for a process without
        threads.  Where the kernel allows no further process, the caller goes on as it is.
        """
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            return
        os.setsid()

    def reap(self, pid: int) -> "int | None":
        """Return the exit status of an ended child (negative: the signal), None while it runs."""
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return -1
        return os.waitstatus_to_exitcode(status) if ended else None


def peer_of(sock: object) -> "tuple[int, int]":
    """Return (pid, uid) of the process at the other end of an AF_UNIX socket (pid 0: unknown)."""
    return _platform().peer_of(sock)  # type: ignore[no-any-return]
