"""What stock's own settings name: read as stock reads it, and never taken for nothing."""

import json
import os
from pathlib import Path

import pytest

from palace.protocol.errors import ConfigError
from palace.settings.paths import find_palace
from palace.settings.stock_config import (
    backend_of,
    check_journalled,
    read_stock_config,
    server_directory,
)


def put(directory: Path, data: bytes | object) -> None:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    (directory / "config.json").write_bytes(raw)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_settings_are_read_with_and_without_a_mark(tmp_path: Path, mark: bytes) -> None:
    put(tmp_path, mark + b'{"palace_path": "/p\xc3\xa9"}')

    assert read_stock_config(str(tmp_path)) == {"palace_path": "/pé"}


def test_where_there_is_no_file_nothing_is_said(tmp_path: Path) -> None:
    assert read_stock_config(str(tmp_path)) == {}
    assert read_stock_config(str(tmp_path / "none")) == {}
    (tmp_path / "file").touch()
    assert read_stock_config(str(tmp_path / "file")) == {}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "it is not JSON"),
        (b"", "it is not JSON"),
        (b'{"a": "\xff"}', r"it is not UTF-8 \(byte 7\)"),
        (b"[" * 100_000, "it is .*nested too deeply"),
        (b"[1]", "it holds no JSON object, but list"),
        (b"null", "it holds no JSON object, but NoneType"),
    ],
)
def test_what_can_not_be_understood_is_not_taken_for_nothing(
    tmp_path: Path, data: bytes, why: str
) -> None:
    put(tmp_path, data)

    with pytest.raises(ConfigError, match=why) as caught:
        read_stock_config(str(tmp_path))
    assert f"{tmp_path}/config.json" in caught.value.message


@pytest.mark.parametrize("kind", ["a dangling link", "a directory", "a FIFO"])
def test_what_is_no_file_is_not_taken_for_a_home_without_settings(
    tmp_path: Path, kind: str
) -> None:
    """Stock takes it for that, and the default palace for the one that it may name."""
    path = tmp_path / ".mempalace" / "config.json"
    path.parent.mkdir()
    if kind == "a dangling link":
        path.symlink_to(tmp_path / "dotfiles" / "config.json")
    elif kind == "a directory":
        path.mkdir()
    else:
        os.mkfifo(path)

    with pytest.raises(ConfigError, match="link to nothing" if "link" in kind else "not a file"):
        find_palace("", {"HOME": str(tmp_path)})


def test_a_file_that_can_not_be_read_is_not_taken_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()

    with pytest.raises(ConfigError, match="it is not a file"):
        read_stock_config(str(tmp_path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "palace"
    root.mkdir()
    return root


def backend(root: Path, environ: dict[str, str] | None = None) -> tuple[str, str]:
    found = backend_of(str(root), str(root.parent), environ or {})
    return found.name, found.said_by


def test_a_palace_is_chromas_where_nothing_says_otherwise(root: Path) -> None:
    assert backend(root) == ("chroma", "default")
    assert backend_of("", str(root.parent), {}).is_journalled


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chroma.sqlite3", "chroma"),
        ("sqlite_exact.sqlite3", "sqlite_exact"),
        ("milvus_backend.json", "milvus"),
        ("milvus.db", "milvus"),
        ("pgvector_backend.json", "pgvector"),
        ("qdrant_backend.json", "qdrant"),
    ],
)
def test_what_lies_in_a_palace_says_what_it_was_made_by(root: Path, name: str, said: str) -> None:
    (root / name).touch()

    assert backend(root) == (said, f"{root}/{name}")


def test_settings_come_before_the_environment_and_that_before_what_is_there(root: Path) -> None:
    (root / "chroma.sqlite3").touch()
    given = {"MEMPALACE_BACKEND": " Qdrant "}
    assert backend(root, given) == ("qdrant", "$MEMPALACE_BACKEND")
    assert backend(root, {"MEMPALACE_BACKEND": " "})[0] == "chroma"
    put(root.parent, {"backend": " PGVector "})

    assert backend(root, given) == ("pgvector", f"{root.parent}/config.json")


def test_what_needs_a_journal_is_refused_where_the_backend_has_none(root: Path) -> None:
    check_journalled(str(root), str(root.parent), {})
    put(root.parent, {"backend": "qdrant"})

    with pytest.raises(ConfigError, match=r"backend qdrant .*Nothing was changed\. .*--hold"):
        check_journalled(str(root), str(root.parent), {})


@pytest.mark.engine
def test_a_servers_directory_is_the_one_that_stock_derives(tmp_path: Path) -> None:
    from mempalace.server_registry import server_state_dir

    palace = os.path.realpath(tmp_path)
    stock = server_state_dir(palace)

    assert server_directory("/home/u", palace) == f"/home/u/.mempalace/server/{stock.name}"
    assert stock.parts[-3:-1] == (".mempalace", "server")
