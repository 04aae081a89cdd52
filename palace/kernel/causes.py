"""What helps against what the kernel refused: one text for each cause, wherever it is met.

Rule for this file: standard library only, and light; loaded where something has failed.
"""

import errno
import os
import stat

_ROOM = "Free space there, or files where there is space (df -i)"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: "Free some of this user's quota there",
    errno.EROFS: "It is on a file system that is mounted read-only: mount it read-write",
    errno.EMFILE: "This process may open too few files: raise its limit (ulimit -n)",
    errno.ENFILE: "The whole system has too many files open: end what holds them",
    errno.EIO: "The disk, or what serves it, reports an error: see dmesg",
    errno.ESTALE: "What serves this mount has replaced it: mount it again",
    errno.ELOOP: "It is a symbolic link, which is not followed here: put the file itself there",
    errno.EISDIR: "A directory is where a file belongs: move it away",
    errno.ENOTDIR: "A file is where a directory belongs: move it away",
    errno.ENOENT: "It was removed, or what holds it is not mounted",
    errno.ENAMETOOLONG: "Use a shorter path",
}


def remedy_for(error: OSError) -> str:
    """Return what to do about it, as a sentence without its full stop; "" where nobody knows."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Let this user (uid {os.geteuid()}) read and write it, or run as its owner"
    return _REMEDIES.get(error.errno or 0, "")


def why_closed(path: str) -> "tuple[str, str]":
    """Say why this user can't write a file or a directory that is there, and what to do about it.

    `sudo` leaves such files, which are root's, in the directory of whoever used it.
    """
    import pwd

    found, uid = os.stat(path), os.geteuid()
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    if found.st_uid != uid:
        try:
            owner = pwd.getpwuid(found.st_uid).pw_name
        except KeyError:
            owner = f"uid {found.st_uid}"
        return f"it is {owner}'s, with mode {mode}", f"Take it over: sudo chown {uid} {path}"
    if not found.st_mode & stat.S_IWUSR:
        return f"its mode is {mode}", f"Let its owner write: chmod u+w {path}"
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "it is on a read-only mount", f"{_REMEDIES[errno.EROFS]}: mount -o remount,rw {path}"
    return f"although its mode is {mode}", f"See whether it is immutable: chattr -i {path}"


def cause_text(error: OSError) -> str:
    """Say what the kernel refused, of which file, and what to do about it."""
    what = error.strerror or str(error)
    told = f"{error.filename}: {what}." if error.filename else f"{what}."
    remedy = remedy_for(error)
    return f"{told} {remedy}." if remedy else told
