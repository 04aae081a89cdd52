"""Packages from the npm registry, for tests against what others have written in JavaScript."""

import fcntl
import subprocess
from pathlib import Path

import pytest

from tests.support.machines.needs import need_command


def npm_packages(config: pytest.Config, name: str, *packages: str, scripts: bool = False) -> Path:
    """Return a directory with packages, fetched once for a checkout and kept in its cache.

    `packages` name their versions; `scripts` lets them run what they want to at installation.
    """
    need_command("node")
    npm = need_command("npm")
    home = Path(config.cache.mkdir(f"npm-{name}"))
    with (home / "lock").open("w") as lock:  # two workers may want it
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = home / "done"
        if not done.exists() or done.read_text() != " ".join(packages):
            command = [npm, "install", "--no-audit", "--no-fund", "--silent", f"--prefix={home}"]
            command += [] if scripts else ["--ignore-scripts"]
            subprocess.run([*command, *packages], check=True, timeout=300)
            done.write_text(" ".join(packages))
    return home
