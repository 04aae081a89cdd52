"""The model's files in their place: which they are, whether all are there, and putting them there.

Both chromadb and mempalace look for six files by their names, in one directory of the user's cache.
The directory appears whole or not at all.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

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
    """Say whether all of `MODEL_FILES` are there and none is empty or cut."""
    try:
        there = all((directory / name).stat().st_size > 0 for name in MODEL_FILES)
    except OSError:
        return False
    return there and not cut_file(directory)


def cut_file(directory: Path) -> str:
    """Return the model's file that ends before its contents do, "" where none does.

    A full disk and a killed copy leave such files, which look installed by their names.
    """
    for name in MODEL_FILES:
        try:
            with (directory / name).open("rb") as file:
                if _reaches_beyond(file) if name == GRAPH else _is_open(file, name):
                    return str(directory / name)
        except OSError:
            continue
    return ""


def _reaches_beyond(file: BinaryIO) -> bool:
    """Tell whether one of a protobuf message's outermost fields ends after the file does."""
    size = os.fstat(file.fileno()).st_size
    while (at := file.tell()) < size:
        file.seek(at)
        tag = _varint(file)
        if tag is None or tag & 7 not in (0, 2):  # ONNX has no others here: it is something else
            return False
        number = _varint(file)
        if number is None:
            return False
        if tag & 7 == 2:
            if file.tell() + number > size:
                return True
            file.seek(number, os.SEEK_CUR)
    return False


def _varint(file: BinaryIO) -> int | None:
    number = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    return None


def _is_open(file: BinaryIO, name: str) -> bool:
    """Tell whether a file of JSON has no end."""
    if not name.endswith(".json") or file.read(1) != b"{":
        return False
    file.seek(-min(8, os.fstat(file.fileno()).st_size), os.SEEK_END)
    return not file.read().rstrip().endswith(b"}")


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
