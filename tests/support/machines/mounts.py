"""A boundary between kernels, imitated on one: a FUSE mount of bindfs.

flock succeeds there while it is held beneath, and no socket can be connected to.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machines.needs import need_command, need_root


@contextmanager
def mounted(source: Path, mount: Path) -> Iterator[Path]:
    """Show a directory through the boundary; yields the mount."""
    need_root()
    bindfs = need_command("bindfs")
    mount.mkdir()
    subprocess.run([bindfs, str(source), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
