"""Hallways in a database: the list as the journal knows it, whatever form its file has."""

import json
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import mempalace.hallways
import pytest

from palace.engine.stores.hallways import Hallways
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreCorrupt
from tests.support.engines.successor import HALLWAYS, imported

pytestmark = pytest.mark.engine

ONE, TWO = {"id": "one", "wing": "w"}, {"id": "two", "wing": "w"}


def stock() -> Any:
    """Return the module as the stand-in has it."""
    module = ModuleType("hallways")
    vars(module).update(vars(mempalace.hallways))
    exec(HALLWAYS.read_text(), vars(module))
    return module


@pytest.fixture
def saved(tmp_path: Path) -> Hallways:
    (tmp_path / "hallways.json").write_text(json.dumps({"hallways": [ONE, TWO]}))
    return opened(tmp_path)


def opened(place: Path) -> Hallways:
    return Hallways(
        name="hallways",
        kind="hallway",
        path=f"{place}/hallways.sqlite3",
        earlier=f"{place}/hallways.json",
        kernel=Kernel(),
        keep_out=lambda _: nullcontext(),
        member="hallways",
        stock=stock,
    )


def test_whoever_only_looks_imports_nothing(saved: Hallways, tmp_path: Path) -> None:
    assert saved.load() == [ONE, TWO]
    assert saved.count("hallway") == 2
    saved.read_fingerprint()
    assert not saved.was_replaced([2, 0])
    assert os.listdir(tmp_path) == ["hallways.json"]


def test_what_is_deleted_before_the_import_stays_deleted(saved: Hallways, tmp_path: Path) -> None:
    saved.write("hallway", {"one": None})

    assert len(imported(tmp_path)) == 1
    assert saved.load() == [TWO]
    assert opened(tmp_path).load() == [TWO]


def test_a_damaged_database_goes_aside_and_is_written_as_it_was(
    saved: Hallways, tmp_path: Path
) -> None:
    saved.store([ONE])
    saved.keep_whole()
    (tmp_path / "hallways.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreCorrupt, match=r"hallways\.sqlite3 can't be read"):
        saved.load()

    saved.keep_whole()

    assert saved.load() == [ONE]
    assert len(saved.mended) == 1
    assert (tmp_path / "hallways.sqlite3.damaged").read_bytes().startswith(b"no database")


def test_a_database_that_is_gone_is_written_again_and_a_changed_one_left(
    saved: Hallways, tmp_path: Path
) -> None:
    saved.store([ONE])
    (tmp_path / "hallways.sqlite3").unlink()
    assert saved.was_replaced([1, 0])
    saved.keep_whole()
    assert saved.load() == [ONE]

    opened(tmp_path).store([ONE, TWO])
    saved.keep_whole()
    assert saved.load() == [ONE, TWO]
    assert len(saved.mended) == 1


@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_fifo_is_not_waited_for(saved: Hallways, tmp_path: Path, end: str) -> None:
    saved.store([ONE])
    (tmp_path / f"hallways.sqlite3{end}").unlink(missing_ok=True)
    os.mkfifo(tmp_path / f"hallways.sqlite3{end}")
    done = threading.Event()

    def load() -> None:
        with pytest.raises(StoreCorrupt, match="a FIFO or a device"):
            saved.load()
        done.set()

    threading.Thread(target=load, daemon=True).start()
    assert done.wait(10)
    if end:  # it goes aside with the rest
        saved.keep_whole()
        assert (tmp_path / f"hallways.sqlite3{end}.damaged").is_fifo()
        assert saved.load() == [ONE]
