"""Reading and writing a host's configuration: whole, through links, with its mode and its BOM."""

import os
import stat
from collections.abc import Iterator

import attrs

from palace.protocol.errors import HostFile

BYTES_MAX = 64 << 20
_BOM = "\ufeff"


@attrs.frozen(kw_only=True)
class Configuration:
    """A file as it was read: `real` is what links lead to, `data` None where there is none.

    `text` is what is behind the byte order mark, with its line ends as they are.
    """

    path: str
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
                f"The path of palace's own command is no UTF-8, which {self.path} can't hold. Put "
                "a link to it on PATH."
            ) from None


def read_configuration(path: str) -> Configuration:
    """Read a file; raises HostFile for what is no text, OSError for what can't be read."""
    real = os.path.realpath(path)
    try:
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Configuration(path=path, real=real, data=None, bom="", text="")
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostFile(f"{path} is no regular file, so it was left alone.")
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise HostFile(f"{path} is larger than {BYTES_MAX >> 20} MiB, so it was left alone.")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HostFile(
            f"{path}, line {line}: {error.reason}: it is no UTF-8. Nothing was changed; save it as "
            "UTF-8 first."
        ) from None
    bom = _BOM if text.startswith(_BOM) else ""
    return Configuration(path=path, real=real, data=data, bom=bom, text=text[len(bom) :])


def write_configuration(before: Configuration, data: bytes) -> list[str]:
    """Replace a file in one step; return the directories that were made for it.

    Raises HostFile where somebody has written to it since it was read, OSError as the kernel does.
    """
    made = list(_make_directories(os.path.dirname(before.real)))
    temporary = f"{before.real}.palace-{os.getpid()}"
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
    return made


def remove_configuration(before: Configuration, directories: list[str]) -> list[str]:
    """Remove a file that we made, and of the directories that we made those that are empty.

    Returns the directories that are not.
    """
    _check_unchanged(before)
    os.unlink(before.real)
    return remove_empty(directories)


def remove_empty(directories: list[str]) -> list[str]:
    """Remove directories, the innermost first; return those that stay."""
    kept = []
    for directory in sorted(directories, key=len, reverse=True):
        try:
            os.rmdir(directory)
        except OSError:
            kept.append(directory)
    return kept


def _check_unchanged(before: Configuration) -> None:
    if read_configuration(before.path).data != before.data:
        raise HostFile(f"{before.path} was changed by somebody else just now. Ask again.")


def _keep_owner_and_mode(fd: int, path: str) -> None:
    old, new = os.stat(path), os.fstat(fd)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(fd, old.st_uid, old.st_gid)
        except PermissionError:
            raise HostFile(
                f"{path} belongs to uid {old.st_uid} and group {old.st_gid}, which a new file of "
                "yours could not. Run this as its owner."
            ) from None
    os.fchmod(fd, stat.S_IMODE(old.st_mode))


def _make_directories(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        return
    yield from _make_directories(os.path.dirname(path))
    os.mkdir(path)
    yield path


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
