"""Mounts: a boundary between kernels, imitated on one by bindfs, and small disks.

flock succeeds at the boundary while it is held beneath, and no socket can be connected to.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machines.needs import need_command, need_root
from tests.support.processes.brokers import make_palace
from tests.support.processes.clients import Site, end_brokers


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


@contextmanager
def on_small_disk(site: Site, size: str) -> Iterator[Path]:
    """Put a site's palace, which is made for it, on a disk of its own; its brokers are ended."""
    need_root()
    make_palace(site)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", site.palace], check=True)
    try:
        yield site.palace
    finally:
        end_brokers(site.palace)
        subprocess.run(["umount", "-l", site.palace], check=True)
