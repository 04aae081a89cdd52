"""The model's files in their place: which they are, whether all are there, and putting them there.

Both chromadb and mempalace look for six files by their names, in one directory of the user's cache.
The directory appears whole or not at all.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

MODEL_NAME = "all-MiniLM-L6-v2"
GRAPH = "model.onnx"
COPIED = (
    "config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
MODEL_FILES = (GRAPH, *COPIED)
"""What chromadb looks for; the last one is put in place last, as the mark of completeness."""

STAGING_PREFIX = ".palace-model-"
_STALE_SECONDS = 24 * 3600.0


def model_dir(home: Path) -> Path:
    """Return the directory, below the home directory `home`, where chromadb expects the model."""
    return home / ".cache" / "chroma" / "onnx_models" / MODEL_NAME / "onnx"


def is_complete(directory: Path) -> bool:
    """Say whether all of `MODEL_FILES` are there and none is empty."""
    try:
        return all((directory / name).stat().st_size > 0 for name in MODEL_FILES)
    except OSError:
        return False


def sweep(parent: Path) -> None:
    """Remove what installers left that were killed; a living one is never this old."""
    limit = time.time() - _STALE_SECONDS
    for left in parent.glob(STAGING_PREFIX + "*"):
        with suppress(OSError):
            if left.stat().st_mtime < limit:
                shutil.rmtree(left, ignore_errors=True)


def publish(built: Path, target: Path) -> None:
    """Move the directory `built` to `target`, durably, unless another installer was first."""
    for name in MODEL_FILES:
        _sync(built / name)
    _sync(built)
    try:
        os.rename(built, target)
    except OSError:
        if not target.is_dir():
            raise
        if not is_complete(target):
            _mend(built, target)
    _sync(target.parent)


def _mend(built: Path, target: Path) -> None:
    """Complete a directory that an interrupted download left, file by file.

    The last file vanishes first and comes back last: while others are being replaced, neither this
    module nor chromadb takes the directory for a model. Two installers that do this at once only
    replace genuine files by genuine files.
    """
    (target / MODEL_FILES[-1]).unlink(missing_ok=True)
    for name in MODEL_FILES:
        if name == MODEL_FILES[-1]:
            _sync(target)
        os.replace(built / name, target / name)
    _sync(target)


def _sync(path: Path) -> None:
    """Bring a file's content or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
