"""What the sources of the embedding model have in common: progress, and refusing in one line."""

from collections.abc import Callable

Progress = Callable[[str, float], None]  # a stage's text, and a fraction from 0 to 1
_REASON_CHARS = 240


class Refused(Exception):
    """One source can't deliver; the text is its one-line reason."""


def silent(_stage: str, _fraction: float) -> None:
    """Report progress to no one."""


def one_line(reason: object) -> str:
    """Return the text of `reason` with its line breaks folded, cut to a readable length."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= _REASON_CHARS else text[: _REASON_CHARS - 3] + "..."
