"""mempalace's config.json: read as stock reads it, and never passed over."""

import json
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.config import load_config
from palace.settings.paths import Paths, find_palace

BROKEN = {
    "half written": b'{"palace_path": "/b',
    "empty": b"",
    "a list": b'["palace_path"]',
    "null": b"null",
    "UTF-16": '{"palace_path": "/b"}'.encode("utf-16"),
    "Latin-1": b'{"palace_path": "/b\xe9"}',
    "too deep": b"[" * 100_000,
    "a number as path": b'{"palace_path": 5}',
    "an empty path": b'{"palace_path": ""}',
    "a relative path": b'{"palace_path": "palace"}',
    "an unexpanded path": b'{"palace_path": "${HOME}/palace"}',
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / ".mempalace").mkdir()
    return tmp_path / ".mempalace" / "config.json"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_the_palace_that_it_names_is_the_palace(config: Path, tmp_path: Path, mark: bytes) -> None:
    config.write_bytes(mark + json.dumps({"palace_path": f"{tmp_path}/big"}).encode())

    assert find_palace("", {"HOME": str(tmp_path)}).root == f"{tmp_path}/big"


@pytest.mark.parametrize("kind", BROKEN)
def test_one_that_cant_be_understood_is_named_and_leads_to_no_other_palace(
    config: Path, tmp_path: Path, kind: str
) -> None:
    config.write_bytes(BROKEN[kind])

    with pytest.raises(ConfigError, match=str(config)):
        find_palace("", {"HOME": str(tmp_path)})


def test_one_that_is_no_file_is_named_too(config: Path, tmp_path: Path) -> None:
    (tmp_path / ".mempalace" / "palace").mkdir()
    (tmp_path / ".mempalace" / "palace" / "chroma.sqlite3").touch()
    config.mkdir()

    with pytest.raises(ConfigError, match=f"{config} can't be understood: Is a directory"):
        find_palace("", {"HOME": str(tmp_path)})


def test_a_broker_of_a_palace_that_was_named_reads_it_all_the_same(
    config: Path, tmp_path: Path
) -> None:
    """It names the backend and the embedder, too."""
    config.write_bytes(b'{"backend": "sqlite_exa')

    with pytest.raises(ConfigError, match=f"{config} can't be understood"):
        load_config(Paths(str(tmp_path / "p")), {"HOME": str(tmp_path)}, Kernel())
