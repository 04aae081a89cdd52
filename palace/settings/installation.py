"""The one command that changes this installation: pip, pipx and uv each keep one in their own way.

A command of another kind would change another installation, or none, and whoever ran it would think
that they had done what was asked of them.  There are two wheels: `palace-broker`, and
`palace-shim`, the same without what only a broker loads (images/light.py).  Their files have the
same names, so one has to go before the other comes.

Rule for this file: standard library only, light; errors ask it late.
"""

import os
import sys

OURS = "palace-broker"
LIGHT = "palace-shim"
WITH_ENGINE = "palace-broker[engine]"
PIPX, UV_TOOL, UV, PIP = "pipx", "uv tool", "uv", "pip"


def is_light(package: str = "") -> bool:
    """Tell whether the package at this directory, or our own, can be no broker's."""
    package = package or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return not os.path.exists(f"{package}/broker/broker.py")


def kind_of(prefix: str, base_prefix: str) -> str:
    """Return who made the environment at `prefix`, by what its maker leaves there."""
    if os.path.exists(f"{prefix}/pipx_metadata.json"):
        return PIPX
    if os.path.exists(f"{prefix}/uv-receipt.toml"):
        return UV_TOOL
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    has_pip = os.path.isdir(f"{prefix}/lib/{version}/site-packages/pip")
    return UV if prefix != base_prefix and not has_pip else PIP


def command_for(
    requirement: str = "", *, prefix: str = "", base_prefix: str = "", light: bool | None = None
) -> str:
    """Return what brings `requirement` into this installation; without one, the newest palace.

    `light`: whether it is the wheel without a broker's part; by default, as it is found.
    """
    prefix, base_prefix = prefix or sys.prefix, base_prefix or sys.base_prefix
    light = is_light() if light is None else light
    kind, is_ours = kind_of(prefix, base_prefix), requirement in ("", OURS, WITH_ENGINE)
    installed = LIGHT if light else OURS
    if kind == PIPX:
        if not requirement:
            return f"pipx upgrade {installed}"
        if is_ours:
            gone = f"pipx uninstall {LIGHT}; " if light else ""
            return f"{gone}pipx install --force '{requirement}'"
        return f"pipx inject --force {installed} '{requirement}'"
    if kind == UV_TOOL:
        if not requirement:
            return f"uv tool upgrade {installed}"
        gone = f"uv tool uninstall {LIGHT}; " if light else ""
        wanted = "" if is_ours else f" --with '{requirement}'"
        return f"{gone}uv tool install --force '{WITH_ENGINE}'{wanted}"
    python = f"{prefix}/bin/python" if prefix != base_prefix else sys.executable
    words = [f"'{requirement}'"] if requirement else ["--upgrade", installed]
    installer = f"uv pip install --python {python}" if kind == UV else f"{python} -m pip install"
    if not (light and requirement and is_ours):
        return " ".join([installer, *words])
    removal = f"uv pip uninstall --python {python}" if kind == UV else f"{python} -m pip uninstall"
    gone = f"{removal} {LIGHT}" if kind == UV else f"{removal} --yes {LIGHT}"
    return f"{gone}; {' '.join([installer, *words])}"
