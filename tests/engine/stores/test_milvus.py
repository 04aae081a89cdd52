"""The store of milvus-lite: what the seam journals is what its database then holds."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mempalace.backends.milvus import MilvusBackend

from palace.engine.durability.presence import StoreFiles
from palace.engine.stores import milvus_open
from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.milvus import Milvus
from palace.engine.stores.milvus_seam import milvus_patches
from palace.kernel.kernel import Kernel
from palace.protocol.errors import JournalFailed, StoreUnavailable
from tests.support.engines.milvus import need_milvus
from tests.support.stores.drawers import NAME, SeamedPalace, calls, make_all, put, seamed

pytestmark = [pytest.mark.engine]

KIND = PREFIX + NAME
RECORD = {"documents": ["otter"], "metadatas": [{}], "embeddings": [[1.0, 2.0]]}


@contextmanager
def opened(root: Path) -> Iterator[SeamedPalace]:
    """Yield a palace whose database ends with it."""
    need_milvus()
    stores: list[Milvus] = []

    def open_store() -> Milvus:
        stores.append(Milvus(str(root)))
        return stores[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root.parent))
        try:
            with seamed(root, open_store, milvus_patches, MilvusBackend()) as palace:
                yield palace
        finally:
            for store in stores:
                store.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[SeamedPalace]:
    with opened(tmp_path / "palace") as palace:
        yield palace


@settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(made_calls=st.lists(calls(), max_size=6))
def test_the_journal_says_what_stands_in_the_database(
    tmp_path_factory: pytest.TempPathFactory, made_calls: list[tuple[str, dict[str, Any]]]
) -> None:
    with opened(tmp_path_factory.mktemp("milvus") / "palace") as palace:
        make_all(palace, made_calls)


AWKWARD: list[Any] = [1e22, -0.0, 5e-324, math.nan, 2**70, "a\0b", "\ud800", (1, 2), {"n": None}]


@pytest.mark.parametrize("value", AWKWARD, ids=ascii)
def test_what_milvus_keeps_otherwise_is_journalled_so(made: SeamedPalace, value: Any) -> None:
    put(made, "a")
    text = value if isinstance(value, str) else "otter"
    given_one = {"documents": [text], "metadatas": [{"k": value}], "embeddings": [[1.0, -0.0]]}
    with suppress(Exception):  # for what is no JSON of its kind
        made.collection.upsert(ids=["b"], **given_one)
    made.assert_told()


@pytest.mark.parametrize("ident", ["O'Brien", "a\\b", "a\nb", "'] or id != ['"], ids=ascii)
def test_an_id_is_an_id_and_no_expression(made: SeamedPalace, ident: str) -> None:
    """Stock hands ids on as an expression, in which an apostrophe ends them."""
    put(made, "a", ident)
    assert set(made.told) == {(COLLECTION, NAME), (KIND, "a"), (KIND, ident)}
    made.collection.delete(ids=[ident])
    made.assert_told()
    assert set(made.told) == {(COLLECTION, NAME), (KIND, "a")}


def test_a_record_that_the_journal_does_not_take_is_not_written(made: SeamedPalace) -> None:
    put(made, "a")
    made.groups.stuck = True  # as after a change that could not be taken back
    for act in (lambda: put(made, "b"), lambda: made.collection.delete(ids=["a"])):
        with pytest.raises(JournalFailed):
            act()
    assert made.collection.get().ids == ["a"]


def test_a_collection_of_another_directory_is_not_this_palaces(made: SeamedPalace) -> None:
    other = made.backend.get_collection(str(made.root.parent / "other"), NAME, create=True)
    other.upsert(ids=["a"], **RECORD)
    made.backend.delete_collection(str(made.root.parent / "other"), NAME)
    assert made.told == {}


def test_a_collection_goes_with_its_records(made: SeamedPalace) -> None:
    put(made, "a", "b")
    made.backend.delete_collection(str(made.root), NAME)
    assert made.told == {}
    made.assert_told()


def test_a_state_that_is_written_again_keeps_nothing_of_the_one_before(made: SeamedPalace) -> None:
    """An upsert of milvus-lite's leaves what an older state has beside the new one."""
    put(made, "a")
    was = made.told[KIND, "a"]
    made.collection.upsert(ids=["a"], **{**RECORD, "metadatas": [{"room": "cellar"}]})
    made.store.write(KIND, {"a": was})
    assert made.collection.get(where={"room": "cellar"}).ids == []
    assert made.collection.get(where={"k": 1}).ids == ["a"]


# Beside whoever has it open.


def test_the_files_say_what_is_in_them_while_they_are_open(made: SeamedPalace) -> None:
    put(made, "a", "b", "c")
    made.collection.delete(ids=["b"])
    made.collection.update(ids=["c"], metadatas=[{"k": 2}])
    made.store.open()._engine.get_collection(NAME).flush()  # into a segment
    made.collection.delete(ids=["a"])
    put(made, "d")
    reader = Milvus(str(made.root))
    assert sorted(ident for _, ident, _ in reader.rows()) == ["c", "d"]
    assert sorted(reader.ids(KIND)) == ["c", "d"]
    found = {ident: record for _, ident, record in reader.rows()}
    assert found["c"] == made.told[KIND, "c"]
    assert list(reader.damages(1 << 62)) == list(reader.damages(0)) == []


def test_one_process_at_a_time_has_it_open(made: SeamedPalace, tmp_path: Path) -> None:
    put(made, "a")
    other = Milvus(str(made.root))
    made.store.close()
    made.backend.close()
    code = f"from milvus_lite.db import MilvusLite; MilvusLite({other.path!r}); print(flush=True)"
    command = [sys.executable, "-c", f"{code}; input()"]
    with (
        subprocess.Popen(command, stdin=-1, stdout=-1) as holder,
        pytest.MonkeyPatch.context() as p,
    ):
        assert holder.stdout is not None
        holder.stdout.readline()
        p.setattr(milvus_open, "WAIT_S", 0.2)
        with pytest.raises(StoreUnavailable, match="is open in another process"):
            other.open()
        holder.kill()
    assert other.open().ids(NAME) == ["a"]
    other.close()


def test_nobody_else_can_ask_it(made: SeamedPalace) -> None:
    """By itself milvus-lite listens on a port, for every user of the machine."""
    put(made, "a")
    socket = made.root / "milvus.sock"
    assert socket.is_socket()
    assert ports_of_this_process() == set()
    made.store.close()
    assert not socket.exists()


def ports_of_this_process() -> set[str]:
    """Return the addresses at which this process listens."""
    inodes = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {row[1] for row in rows if row[9] in inodes and row[3] == "0A"}


# Which state it is in.


def test_what_another_program_does_is_noticed(made: SeamedPalace) -> None:
    put(made, "a", "b")
    then = made.store.fingerprint()
    assert not made.looked_at().suspects(then, {})
    assert made.looked_at().was_replaced(then), "nothing was written, so that nothing was deleted"
    for act in (
        lambda c: c.upsert(ids=["c"], **RECORD),
        lambda c: c.update(ids=["a"], metadatas=[{"k": 2}]),
        lambda c: c.update(ids=["a"], embeddings=[[5.0, 5.0]]),
        lambda c: c.delete(ids=["b"]),
    ):
        before = made.looked_at().fingerprint()
        with by_another_program(made) as collection:
            act(collection)
        assert made.looked_at().suspects(before, {})
    assert not made.looked_at().was_replaced(then), "it went on, so that what is gone was deleted"
    assert not made.looked_at().is_older(then)


@contextmanager
def by_another_program(made: SeamedPalace) -> Iterator[Any]:
    """Yield the collection as a process has it that palace is not in."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("add", "upsert", "update", "delete"):
            method = getattr(type(made.collection), name)
            patch.setattr(type(made.collection), name, method.__wrapped__)
        yield made.collection


def test_an_older_copy_put_back_is_older(made: SeamedPalace) -> None:
    put(made, "a", "b")
    old, copy = made.store.fingerprint(), made.root.parent / "copy"
    shutil.copytree(made.root, copy, ignore=shutil.ignore_patterns("*.sock"))
    put(made, "c")
    made.collection.delete(ids=["a"])
    new = made.store.fingerprint()
    older = Milvus(str(copy))
    assert older.read_fingerprint() == old
    assert older.is_older(new)
    assert older.was_replaced(new)
    assert not made.looked_at().is_older(old)


def test_what_a_power_cut_has_taken_was_lost(made: SeamedPalace) -> None:
    """The log isn't synced: its end may be missing, or be no part of it."""
    put(made, "a")
    put(made, "b")
    then = made.store.fingerprint()
    [log] = made.root.glob("milvus.db/collections/*/wal/wal_data_*.arrow")
    whole = log.read_bytes()
    for data in (
        whole[: len(whole) * 3 // 4],
        whole[:-64] + bytes(64),
        whole[:-900] + bytes(900),
        b"",
    ):
        log.write_bytes(data)
        is_damaged = bool(list(Milvus(str(made.root)).damages(1 << 62)))
        assert is_damaged or made.looked_at().is_older(then)
        assert made.looked_at().suspects(then, {})
    log.write_bytes(whole)
    assert not made.looked_at().suspects(then, {})


def test_what_says_something_else_under_the_same_number_nobody_has_written(
    made: SeamedPalace,
) -> None:
    put(made, "a")
    then = made.store.fingerprint()
    then["collections"][NAME][2] += 1
    assert made.looked_at().suspects(then, {})
    assert made.looked_at().is_older(then)


@pytest.mark.parametrize("what", ["manifest.json", "schema.json", ".parquet", "no .parquet"])
def test_damaged_files_are_named(made: SeamedPalace, what: str) -> None:
    put(made, "a")
    made.store.open()._engine.get_collection(NAME).flush()
    files = [
        p for p in made.root.glob("milvus.db/**/*") if p.name.endswith(what.rsplit(maxsplit=1)[-1])
    ]
    path = next(path for path in files if "delta" not in path.name)
    path.unlink() if what.startswith("no ") else path.write_bytes(b"PAR1garbagePAR1")
    [problem] = Milvus(str(made.root)).damages(1 << 62)
    assert problem.startswith(f"{path} can't be read")


def test_a_mark_that_was_cut_off_is_made_again(made: SeamedPalace) -> None:
    put(made, "a")
    mark = made.root / "milvus_backend.json"
    whole = json.loads(mark.read_text())["milvus"]
    for text in ("", '{"backend": "mil', json.dumps({"backend": "milvus", "milvus": {}})):
        mark.write_text(text)
        again = made.backend.get_collection(str(made.root), NAME)
        assert again.count() == 1
        assert json.loads(mark.read_text())["milvus"] == whole


def test_vectors_are_kept_to_the_bit(made: SeamedPalace) -> None:
    exact = [0.1, -0.0, 1e-40, math.pi]
    made.collection.upsert(ids=["a"], documents=["otter"], metadatas=[{}], embeddings=[exact])
    told = made.told[KIND, "a"]
    (made.root.parent / "copy").mkdir()
    other = Milvus(str(made.root.parent / "copy"))
    other.write(COLLECTION, {NAME: {"dimension": 4}})
    other.write(KIND, {"a": told})
    assert other.read(KIND, ["a"]) == {"a": told}
    other.close()
    assert other.read(KIND, ["a"]) == {"a": told}


def test_an_owner_that_ends_leaves_no_socket(made: SeamedPalace) -> None:
    put(made, "a")
    assert (made.root / "milvus.sock").is_socket()
    made.store.leave()
    assert not (made.root / "milvus.sock").exists()
    assert made.collection.count() == 1, "what is under way goes on"


def test_a_database_that_is_taken_away_under_its_owner_is_missed(made: SeamedPalace) -> None:
    put(made, "a")
    stores: Any = SimpleNamespace(
        milvus=made.store,
        chroma=None,
        graph=SimpleNamespace(path=str(made.root / "graph")),
        logstream=SimpleNamespace(path=str(made.root / "log")),
    )
    files = StoreFiles(stores, Kernel())
    assert files.trouble() == ""
    made.collection.upsert(ids=["b"], **RECORD)
    made.store.open()._engine.get_collection(NAME).flush()
    assert files.trouble() == ""
    moved = made.root / "milvus.db" / "collections" / NAME
    moved.rename(made.root / "elsewhere")
    assert "was removed while it was open" in files.trouble()
    (made.root / "elsewhere").rename(moved)
    assert files.trouble() == ""
