"""A palace remembers the newest engine that has served it, and no older one opens it."""

from pathlib import Path

import pytest

from palace import __version__
from palace.engine.durability.pinned import (
    check_not_older,
    note_made_by,
    note_served,
    older_than_served,
    served_by,
    way_back,
    way_up,
)
from palace.engine.hosting.mempalace import MempalaceEngine
from palace.engine.versions import is_older
from palace.kernel.kernel import Kernel
from palace.protocol.errors import EngineOlder
from palace.settings.config import Config
from palace.settings.installation import command_for
from palace.settings.paths import Paths

KERNEL = Kernel()
NOW = {"mempalace": "3.11.0", "chromadb": "1.5.2"}


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("3.11.0", "3.11.0", False),
        ("3.11.0", "3.11.1", True),
        ("3.11.9", "3.11.10", True),
        ("3.11", "3.11.0", True),
        ("3.12.0", "3.11.77", False),
        ("3.11.1.dev3+g1", "3.11.1", False),
        ("1.5.2", "1.10.0rc1", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, than: str, *, older: bool) -> None:
    assert is_older(version, than) == older


def test_the_newest_that_served_is_remembered_and_no_older_one_may(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    check_not_older(paths, KERNEL, NOW)
    note_served(paths, KERNEL, NOW)
    check_not_older(paths, KERNEL, NOW)
    note_served(paths, KERNEL, {**NOW, "chromadb": "1.6.0"})

    with pytest.raises(EngineOlder, match=r"chromadb 1.5.2 .* served with 1.6.0") as refused:
        check_not_older(paths, KERNEL, NOW)
    assert refused.value.exit_code == 76
    assert "'chromadb>=1.6.0'" in refused.value.message
    assert "palace rebuild --stop --downgrade" in refused.value.message

    note_made_by(paths, KERNEL, NOW)
    check_not_older(paths, KERNEL, NOW)


def test_another_line_of_the_engine_comes_with_a_newer_palace(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    note_served(paths, KERNEL, {**NOW, "mempalace": "3.12.0"})
    assert way_up(paths, KERNEL, NOW) == command_for()
    assert way_back(paths, KERNEL, NOW).split("; ") == [
        command_for(),
        "palace start",
        "palace stop",
        command_for(f"palace-broker=={__version__}"),
        command_for("mempalace==3.11.0"),
        "palace rebuild --stop --downgrade",
    ]


@pytest.mark.engine
def test_an_older_engine_imports_and_opens_nothing(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    Path(paths.engine).write_text("mempalace 3.11.999\n")
    config = Config(graph=f"{paths.root}/graph", config_dir=str(tmp_path))
    engine = MempalaceEngine(paths, config, {"HOME": str(tmp_path)}, KERNEL)
    for work in (engine.check, engine.load):
        with pytest.raises(EngineOlder, match=r"served with 3.11.999"):
            work()
    assert engine.loading_text() == "starting"
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_it_is_written_once(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    note_served(paths, KERNEL, NOW)
    before = Path(paths.engine).stat().st_mtime_ns
    note_served(paths, KERNEL, NOW)
    assert Path(paths.engine).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "data", [b"", b"\xff\x00", b"mempalace", b"mempalace x", b"mempalace 9" + b"9" * 5000, b"a b c"]
)
def test_what_is_no_version_counts_as_absent(data: bytes, tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    Path(paths.engine).write_bytes(data)
    assert served_by(paths, KERNEL) == {}
    assert not older_than_served(paths, KERNEL, NOW)
