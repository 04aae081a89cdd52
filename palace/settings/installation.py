"""The one command that changes this installation: pip, pipx and uv each keep one in their own way.

A command of another kind would change another installation, or none, and whoever ran it would think
that they had done what was asked of them.

Rule for this file: standard library only, light; errors ask it late.
"""

import os
import sys

OURS = "palace-broker"
WITH_ENGINE = "palace-broker[engine]"
PIPX, UV_TOOL, UV, PIP = "pipx", "uv tool", "uv", "pip"


def kind_of(prefix: str, base_prefix: str) -> str:
    """Return who made the environment at `prefix`, by what its maker leaves there."""
    if os.path.exists(f"{prefix}/pipx_metadata.json"):
        return PIPX
    if os.path.exists(f"{prefix}/uv-receipt.toml"):
        return UV_TOOL
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    has_pip = os.path.isdir(f"{prefix}/lib/{version}/site-packages/pip")
    return UV if prefix != base_prefix and not has_pip else PIP


def command_for(requirement: str = "", *, prefix: str = "", base_prefix: str = "") -> str:
    """Return what brings `requirement` into this installation; without one, the newest palace."""
    prefix, base_prefix = prefix or sys.prefix, base_prefix or sys.base_prefix
    kind, is_ours = kind_of(prefix, base_prefix), requirement in ("", OURS, WITH_ENGINE)
    if kind == PIPX:
        if not requirement:
            return f"pipx upgrade {OURS}"
        if is_ours:
            return f"pipx install --force '{requirement}'"
        return f"pipx inject --force {OURS} '{requirement}'"
    if kind == UV_TOOL:
        if not requirement:
            return f"uv tool upgrade {OURS}"
        wanted = "" if is_ours else f" --with '{requirement}'"
        return f"uv tool install --force '{WITH_ENGINE}'{wanted}"
    python = f"{prefix}/bin/python" if prefix != base_prefix else sys.executable
    words = [f"'{requirement}'"] if requirement else ["--upgrade", OURS]
    installer = f"uv pip install --python {python}" if kind == UV else f"{python} -m pip install"
    return " ".join([installer, *words])
