"""The server that shall hold namespaces, where only half of it is set."""

from collections.abc import Iterator

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import WARNING, Finding


def check_plugin(found: Diagnostics) -> Iterator[Finding]:
    """Yield why memories are not where the settings say that they shall be."""
    config = found.config
    if config is not None and config.memory_cutover and not config.memory_plugin:
        yield Finding(
            level=WARNING,
            code="half_configured",
            text="memory_cutover is on, and memory_plugin names no server: all memories are kept "
            "in this palace.",
            remedy="Name the server (palace config set memory_plugin=URL), or go back: palace "
            "config set memory_cutover=false; then palace stop",
        )
