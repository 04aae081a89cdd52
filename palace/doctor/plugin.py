"""The server that shall hold namespaces: half of it is set, or it is away, or was lately."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from palace.canary.lifecycle_log import MEMORY_SERVER, LifecycleLog
from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import NOTE, WARNING, Finding
from palace.kernel.durations import span
from palace.settings.config import Config

LATELY = timedelta(hours=24)


def check_plugin(found: Diagnostics) -> Iterator[Finding]:
    """Yield why memories are not where the settings say that they shall be, or not in reach."""
    config = found.config
    if config is None or not config.memory_cutover:
        return
    if not config.memory_plugin:
        yield Finding(
            level=WARNING,
            code="half_configured",
            text="memory_cutover is on, and memory_plugin names no server: all memories are kept "
            "in this palace.",
            remedy="Name the server (palace config set memory_plugin=URL), or go back: palace "
            "config set memory_cutover=false; then palace stop",
        )
    elif found.exists and found.foreign is None and not found.is_anothers:
        yield from _away(found, config)


def _away(found: Diagnostics, config: Config) -> Iterator[Finding]:
    """Yield that the server doesn't answer, or has not within the last day."""
    holds = f"{config.memory_plugin}, which holds the {' and '.join(config.memory_plugin_kinds)}"
    told = ((found.status or {}).get("journal") or {}).get("plugin") or {}
    times = sorted(_given_up(found))
    if told.get("open"):
        yield Finding(
            level=WARNING,
            code="server_away",
            text=f"The memory server {holds} namespaces, doesn't answer: calls about these fail at "
            f"once, and it is asked again in {span(told['wait_s'])}.",
            remedy="Start that server, or correct its address: palace config set memory_plugin=URL;"
            " palace stop. Since when: palace logs --lifecycle",
        )
    elif times:
        yield Finding(
            level=NOTE,
            code="server_was_away",
            text=f"The memory server {holds} namespaces, was given up {len(times)} times within "
            f"the last 24 hours, the last time at {times[-1]:%Y-%m-%dT%H:%M:%SZ}.",
            remedy="When it answered again: palace logs --lifecycle",
        )


def _given_up(found: Diagnostics) -> Iterator[datetime]:
    """Yield when brokers have noted that the server was given up; others can write there, too."""
    now = datetime.now(UTC)
    for line in LifecycleLog(found.paths.root, found.kernel).latest():
        if (line.get("ev"), line.get("state")) != (MEMORY_SERVER, "open"):
            continue
        try:
            at = datetime.fromisoformat(line.get("time", ""))
        except ValueError:
            continue
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        if timedelta(0) <= now - at <= LATELY:
            yield at
