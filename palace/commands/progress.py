"""The progress bar of the commands that take long."""

import sys
from collections.abc import Callable

from palace.kernel.output import redraw


def progress_shown() -> Callable[[str, float], None]:
    """Return a function that draws a bar on a terminal, and does nothing elsewhere."""
    return _bar if sys.stderr.isatty() else _silent


def _bar(stage: str, fraction: float) -> None:
    done = int(fraction * 30)
    end = "\n" if fraction >= 1 else ""
    redraw(f"{stage:<36.36} [{'#' * done:<30}] {fraction:4.0%}", end=end)


def _silent(_stage: str, _fraction: float) -> None:
    return
