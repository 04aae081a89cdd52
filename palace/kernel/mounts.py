"""Which file systems share their locks with this kernel.

The list is of what is known to be local: flock and AF_UNIX are coherent there between all
processes of this kernel, containers included.  Everything else (virtiofs, other FUSE, 9p, NFS,
CIFS, vboxsf, unknown) is foreign: flock "succeeds" there and excludes no process elsewhere.  The
type comes from the mount table, since statfs on 9p reports the host's own type.
"""

LOCAL_TYPES = frozenset(
    {
        "apfs",
        "bcachefs",
        "btrfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hfs",
        "jfs",
        "overlay",
        "ramfs",
        "tmpfs",
        "ufs",
        "xfs",
        "zfs",
    }
)


class Mount:
    """One row of the mount table: where, of which type, from what."""

    __slots__ = ("fs_type", "point", "source")

    def __init__(self, *, point: str, fs_type: str, source: str) -> None:
        self.point = point
        self.fs_type = fs_type
        self.source = source

    @property
    def is_local(self) -> bool:
        return self.fs_type in LOCAL_TYPES

    def __repr__(self) -> str:
        return f"Mount(point={self.point!r}, fs_type={self.fs_type!r}, source={self.source!r})"


def parse_mountinfo(text: str) -> "list[Mount]":
    """Read Linux's /proc/self/mountinfo (proc(5)); rows that can't be read are left out."""
    mounts = []
    for row in text.splitlines():
        left, dash, right = row.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if not dash or len(fields) < 5 or len(types) < 2:
            continue
        mounts.append(Mount(point=_unescape(fields[4]), fs_type=types[0], source=types[1]))
    return mounts


def covering(mounts: "list[Mount]", path: str) -> Mount:
    """Return the mount a resolved path lies on: the longest, and of equals the last, point."""
    best = Mount(point="/", fs_type="unknown", source="unknown")
    for mount in mounts:
        point = mount.point.rstrip("/") + "/"
        if (path + "/").startswith(point) and len(mount.point) >= len(best.point):
            best = mount
    return best


def _unescape(field: str) -> str:
    # The kernel writes blank, tab, newline and backslash as three octal digits.
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, char)
    return field
