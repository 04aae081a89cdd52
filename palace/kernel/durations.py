"""Durations as people say them."""


def span(seconds: float) -> str:
    """Return a duration as people say it: 5 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
