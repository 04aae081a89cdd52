"""Reading and writing a host's configuration: in full, following links, keeping mode and BOM."""

import os
import stat
from contextlib import suppress

import attrs

from palace.protocol.errors import HostFile

BYTES_MAX = 64 << 20
_BOM = "\ufeff"
_TEMPORARY = ".palace-"  # and the pid of its writer


@attrs.frozen(kw_only=True)
class Configuration:
    """A file as it was read: `real` is the path behind links, `data` is None if there is no file.

    `text` is what follows the byte order mark, with its line ends unchanged.
    """

    path: str
    beneath: str = ""
    real: str
    data: bytes | None
    bom: str
    text: str

    def encoded(self, text: str) -> bytes:
        """Return the bytes of the file with another text; raises HostFile."""
        try:
            return (self.bom + text).encode()
        except UnicodeEncodeError:
            raise HostFile(
                f"{self.path} can't contain the path of palace's own command, which is not UTF-8. "
                "Put a link to that command on PATH."
            ) from None


def read_configuration(path: str, *, beneath: str = "") -> Configuration:
    """Read a file; raises HostFile if it is not text, OSError if it can't be read.

    `beneath` is a project whose file it is: links in it are its author's, and none may lead out.
    """
    real = os.path.realpath(path)
    project = os.path.realpath(beneath) if beneath else "/"
    if os.path.commonpath((real, project)) != project:
        raise HostFile(
            f"{path} leads out of its project, to {real}. Links in a project are its author's, so "
            "the file was left alone. If this one is yours, put a file in its place, or install "
            "for yourself: leave out --project."
        )
    try:
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Configuration(path=path, beneath=beneath, real=real, data=None, bom="", text="")
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostFile(f"{path} is not a regular file, so it was left alone.")
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise HostFile(f"{path} is larger than {BYTES_MAX >> 20} MiB, so it was left alone.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HostFile(
            f"{path}, line {line}: {error.reason}, so this is not UTF-8. Nothing was changed. Save "
            "it as UTF-8 first."
        ) from None
    bom = _BOM if text.startswith(_BOM) else ""
    text = text[len(bom) :]
    return Configuration(path=path, beneath=beneath, real=real, data=data, bom=bom, text=text)


def missing_directories(before: Configuration) -> list[str]:
    """Return the directories that a file still needs, the outermost first."""
    missing: list[str] = []
    path = os.path.dirname(before.real)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing[::-1]


def write_configuration(before: Configuration, data: bytes) -> None:
    """Replace a file in one step, and make the directories that it needs.

    Raises HostFile if it has been written to since it was read, OSError as the kernel does.
    """
    for directory in missing_directories(before):
        os.mkdir(directory)
    remove_abandoned(before)
    temporary = f"{before.real}{_TEMPORARY}{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o666 if before.data is None else 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if before.data is not None:
                _keep_owner_and_mode(fd, before.real)
            os.fsync(fd)
        _check_unchanged(before)
        os.rename(temporary, before.real)
    except (OSError, HostFile):
        os.unlink(temporary)
        raise
    _sync_directory(os.path.dirname(before.real))


def remove_abandoned(before: Configuration) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it."""
    directory, name = os.path.split(before.real)
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for one in names:
        pid = one.removeprefix(f"{name}{_TEMPORARY}")
        if pid != one and pid.isascii() and pid.isdigit() and not _is_alive(int(pid)):
            with suppress(OSError):
                os.unlink(f"{directory}/{one}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove_configuration(before: Configuration, directories: list[str]) -> list[str]:
    """Remove a file that palace created, and those of the given directories that are empty.

    Returns the directories that are not.
    """
    _check_unchanged(before)
    os.unlink(before.real)
    return remove_empty(directories)


def remove_empty(directories: list[str]) -> list[str]:
    """Remove empty directories, innermost first; return those that remain."""
    kept = []
    for directory in sorted(directories, key=len, reverse=True):
        try:
            os.rmdir(directory)
        except OSError:
            kept.append(directory)
    return kept


def _check_unchanged(before: Configuration) -> None:
    now = read_configuration(before.path, beneath=before.beneath)
    if (now.real, now.data) != (before.real, before.data):
        raise HostFile(f"{before.path} was changed by another program just now. Try again.")


def _keep_owner_and_mode(fd: int, path: str) -> None:
    old, new = os.stat(path), os.fstat(fd)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(fd, old.st_uid, old.st_gid)
        except PermissionError:
            raise HostFile(
                f"{path} belongs to uid {old.st_uid} and group {old.st_gid}, which a file that you "
                "write could not. Run this as its owner."
            ) from None
    os.fchmod(fd, stat.S_IMODE(old.st_mode))


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
