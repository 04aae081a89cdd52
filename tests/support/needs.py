"""Parts of the machine that some tests need: absent ones fail in CI, and skip elsewhere."""

import os
import shutil

import pytest


def need(present: bool, what: str) -> None:
    """Go on only where the part is there; `what` says which and how to get it."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {what}")
    pytest.skip(what)


def need_root() -> None:
    need(os.geteuid() == 0, "needs root (chown, mount): sudo .venv/bin/just test")


def need_command(name: str) -> str:
    """Return a command's path; those of administrators count, whatever PATH says."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    need(found is not None, f"needs {name}: see what .ci/run installs")
    return found or ""
