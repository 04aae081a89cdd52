"""Which version of a package is installed, which of two is the older, and which palace serves."""

import importlib.metadata
import re

from palace.protocol.errors import StoreUnavailable
from palace.protocol.wire import whole_number
from palace.settings.installation import WITH_ENGINE, command_for, is_light

SUPPORTED = "3.11"  # the line of mempalace that this palace works with
_DIGITS = 9  # of one part: dates fit


def installed_version(name: str = "mempalace") -> str:
    """Return an installed distribution's version, "" where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_installed() -> None:
    """Refuse early, and with the remedy, where the engine is missing or of another line."""
    version = installed_version()
    if is_light() or not version or not installed_version("chromadb"):
        raise StoreUnavailable(
            "The memory engine is not installed here, so no broker can run. Install it: "
            f"{command_for(WITH_ENGINE)} (containers that only need the shim can do "
            "without, when a broker runs elsewhere on this machine)."
        )
    if not version.startswith(SUPPORTED + "."):
        raise StoreUnavailable(
            f"mempalace {version} is installed; this palace works with {SUPPORTED}.x. "
            f"Install that: {command_for(f'mempalace=={SUPPORTED}.*')}"
        )


def _numbers(version: str) -> list[int]:
    """Return the numbers of a release, without what marks it as anything else."""
    release = re.split(r"[^\d.]", version, maxsplit=1)[0]
    parts = (part[:_DIGITS].lstrip("0") or "0" for part in release.split(".") if part)
    return [whole_number(part) for part in parts]


def is_older(version: str, than: str) -> bool:
    return _numbers(version) < _numbers(than)
