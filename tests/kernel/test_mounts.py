import pytest

from palace.kernel.darwin import parse_mount_output
from palace.kernel.mounts import LOCAL_TYPES, Mount, covering, parse_mountinfo

MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:20 / /tmp rw - tmpfs tmpfs rw
24 22 0:33 / /workspace rw,relatime shared:1 master:2 - virtiofs share rw
25 22 0:34 / /my\\040files rw - fuse.bindfs /src rw
26 24 0:35 / /workspace/deep/palace rw - ext4 /dev/vdb rw
27 22 0:36 / /tmp rw - 9p host rw
broken row
28 22 0:37 / /half - x
"""


@pytest.mark.parametrize(
    ("path", "fs_type"),
    [
        ("/home/me/palace", "ext4"),
        ("/", "ext4"),
        ("/workspace", "virtiofs"),
        ("/workspace/palace", "virtiofs"),
        ("/workspace/deep/palace", "ext4"),
        ("/workspace2", "ext4"),
        ("/my files/palace", "fuse.bindfs"),
        ("/tmp/x", "9p"),  # the later of two mounts on one point hides the earlier
    ],
)
def test_a_path_lies_on_its_longest_and_last_mount(path: str, fs_type: str) -> None:
    assert covering(parse_mountinfo(MOUNTINFO), path).fs_type == fs_type


def test_an_unknown_table_is_no_local_file_system() -> None:
    assert not covering([], "/x").is_local


@pytest.mark.parametrize("fs_type", ["virtiofs", "9p", "nfs4", "cifs", "fuse", "fuse.sshfs", ""])
def test_only_listed_types_are_local(fs_type: str) -> None:
    assert not Mount(point="/", fs_type=fs_type, source="x").is_local
    assert "ext4" in LOCAL_TYPES


def test_the_macos_table_is_read_as_mount_prints_it() -> None:
    text = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)\n"
        "//me@nas/share on /Volumes/My Share (smbfs, nodev, nosuid)\n"
    )
    mounts = parse_mount_output(text)

    assert [(mount.point, mount.fs_type) for mount in mounts] == [
        ("/", "apfs"),
        ("/System/Volumes/Data", "apfs"),
        ("/Volumes/My Share", "smbfs"),
    ]
