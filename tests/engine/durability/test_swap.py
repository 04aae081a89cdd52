"""A plan of renames that lies in the palace: ours is carried through, anybody else's is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.engine.durability.swap import PLAN, Exchange, Move
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreCorrupt
from palace.settings.paths import Paths
from tests.support.disks.memory import ROOT, Choose, Disk, Stopped, all_kept, all_lost

SEGMENT = "0123abcd-0123-4567-89ab-0123456789ab"


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    root = tmp_path / "store/palace"
    root.mkdir(parents=True)
    (tmp_path / "home/.ssh").mkdir(parents=True)
    (tmp_path / "home/.ssh/id").write_text("secret")
    (root / "chroma.sqlite3").write_text("old")
    (root / "planted").write_text("planted")
    return Exchange(Paths(str(root)), f"{tmp_path}/home/graph.sqlite3", Kernel())


def contents(exchange: Exchange) -> dict[str, str]:
    top = Path(exchange.paths.root).parent.parent
    return {
        str(path.relative_to(top)): path.read_text()
        for path in top.rglob("*")
        if path.is_file() and path.name != PLAN
    }


def planted(exchange: Exchange, plan: Any) -> None:
    text = plan if isinstance(plan, str) else json.dumps(plan)
    Path(exchange.paths.root, PLAN).write_text(text)


@pytest.mark.parametrize(
    "move",
    [
        ("{home}/.ssh/id", "{root}/id"),
        ("{home}/.ssh/id", "{root}/replaced-1/id"),
        ("{root}/planted", "{home}/.bashrc"),
        ("{root}/planted", "{root}/chroma.sqlite3"),
        ("{root}/chroma.sqlite3", "{home}/chroma.sqlite3"),
        ("{root}/chroma.sqlite3", "{root}/../../home/replaced-1/chroma.sqlite3"),
        ("{root}/chroma.sqlite3", "{root}/replaced-1/../../../home/.ssh/id"),
        ("{root}/chroma.sqlite3", "{root}/replaced-1/other"),
        ("{root}/chroma.sqlite3", "{root}/replaced-x/chroma.sqlite3"),
        ("{root}/rebuild-1/palace/planted", "{root}/planted"),
        ("{root}/rebuild-1/palace/chroma.sqlite3", "{root}/journal"),
        ("{root}/restore-1", "{home}/journal"),
        ("{root}/planted", "{home}/graph.sqlite3"),
        ("{home}/graph.sqlite3", "{home}/.ssh/id"),
        ("{home}/graph.sqlite3", "{home}/graph.sqlite3.replaced-1/../.ssh/id"),
        ("planted", "moved"),
        ("{root}/recover-1/planted", "{root}/planted"),
        ("{root}/recover-1/journal", "{root}/epoch"),
        ("{root}/recover-1/epoch", "{home}/epoch"),
        ("{root}/recover-x/epoch", "{root}/epoch"),
    ],
)
def test_a_rename_that_no_rebuild_makes_is_refused_with_the_whole_plan(
    exchange: Exchange, move: tuple[str, str]
) -> None:
    root = exchange.paths.root
    home = str(Path(root).parent.parent / "home")
    old, new = (text.format(root=root, home=home) for text in move)
    ours = [f"{root}/chroma.sqlite3", f"{root}/replaced-7/chroma.sqlite3"]
    before = contents(exchange)
    planted(exchange, [ours, [old, new]])

    with pytest.raises(StoreCorrupt, match="Nothing was renamed"):
        exchange.finish()

    assert contents(exchange) == before


@pytest.mark.parametrize(
    "plan",
    [
        *("", "[[", "{}", "[1]", '[["a"]]', "[[1, 2]]", '[["a", ["b"]]]', "[" * 30_000),
        *("9" * 5000, [["a" * 5000, "b"]], [["a", "b"]] * 10_001),
    ],
    ids=lambda plan: str(plan)[:12],
)
def test_what_is_no_plan_is_refused(exchange: Exchange, plan: Any) -> None:
    planted(exchange, plan)

    with pytest.raises(StoreCorrupt, match="Nothing was renamed"):
        exchange.finish()


@pytest.mark.parametrize("name", ["replaced-7", "rebuild-7", "rebuild-7/palace"])
def test_a_directory_that_is_a_link_is_not_followed(exchange: Exchange, name: str) -> None:
    root = Path(exchange.paths.root)
    outside = root.parent.parent / "home"
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to(outside)
    (outside / "palace").mkdir()
    for place in (outside, outside / "palace"):
        (place / "chroma.sqlite3").write_text("theirs")
    before = contents(exchange)
    built = f"{root}/rebuild-7/palace/chroma.sqlite3"
    away = [f"{root}/chroma.sqlite3", f"{root}/replaced-7/chroma.sqlite3"]
    planted(exchange, [away if name == "replaced-7" else [built, f"{root}/chroma.sqlite3"]])

    with pytest.raises(OSError, match="no plain name"):
        exchange.finish()

    assert contents(exchange) == before


def test_what_a_rebuild_and_a_restoration_rename_is_carried_through(exchange: Exchange) -> None:
    root, graph = exchange.paths.root, exchange.graph
    built = Path(root, "rebuild-7/palace")
    (built / SEGMENT).mkdir(parents=True)
    (built / SEGMENT / "data").write_text("index")
    for name in (
        "chroma.sqlite3",
        "chroma.sqlite3-wal",
        "logstream.sqlite3",
        "palace.sqlite3",
        "replica.json",
    ):
        (built / name).write_text(f"new {name}")
    Path(root, f"{SEGMENT}.drift-20260101").mkdir()
    Path(root, "restore-7").mkdir()
    Path(root, "restore-7/segment").write_text("new journal")
    Path(root, "journal").mkdir()
    Path(f"{graph}.rebuilt").write_text("new graph")
    Path(graph).write_text("old graph")
    lists = f"{Path(root).parent}/tunnels.json"
    Path(lists).write_text("old list")
    names = ["chroma.sqlite3", f"{SEGMENT}.drift-20260101", "journal"]
    moves = [Move(f"{root}/{name}", f"{root}/replaced-7/{name}") for name in names]
    moves += [Move(path, f"{path}.replaced-7") for path in (graph, lists)]
    moves += [Move(f"{built}/{name.name}", f"{root}/{name.name}") for name in built.iterdir()]
    moves += [Move(f"{graph}.rebuilt", graph), Move(f"{root}/restore-7", f"{root}/journal")]

    exchange.swap(moves)

    found = contents(exchange)
    assert found["store/palace/chroma.sqlite3"] == "new chroma.sqlite3"
    assert found["store/palace/replaced-7/chroma.sqlite3"] == "old"
    assert found[f"store/palace/{SEGMENT}/data"] == "index"
    assert found["store/palace/journal/segment"] == "new journal"
    assert found["home/graph.sqlite3"] == "new graph"
    assert found["home/graph.sqlite3.replaced-7"] == "old graph"
    assert found["store/tunnels.json.replaced-7"] == "old list"
    assert not Path(root, PLAN).exists()
    assert not exchange.finish()


# Power cuts, at every call and within one.

BUILT = f"{ROOT}/rebuild-7/palace"
GRAPH = "/home/graph.sqlite3"
MOVES = [
    Move(f"{ROOT}/chroma.sqlite3", f"{ROOT}/replaced-7/chroma.sqlite3"),
    Move(GRAPH, f"{GRAPH}.replaced-7"),
    Move(f"{BUILT}/chroma.sqlite3", f"{ROOT}/chroma.sqlite3"),
    Move(f"{GRAPH}.rebuilt", GRAPH),
]
OLD = {f"{ROOT}/chroma.sqlite3": b"old rows", GRAPH: b"old facts"}
NEW = {f"{ROOT}/chroma.sqlite3": b"new rows", GRAPH: b"new facts"}


def rebuilt() -> Disk:
    directories = ("/", ROOT, "/home", f"{ROOT}/rebuild-7", BUILT)
    disk = Disk(dict.fromkeys(directories))
    for path, data in OLD.items():
        disk.put(path, data)
    disk.put(f"{BUILT}/chroma.sqlite3", NEW[f"{ROOT}/chroma.sqlite3"])
    disk.put(f"{GRAPH}.rebuilt", NEW[GRAPH])
    return disk


def stores_on(disk: Disk) -> dict[str, bytes]:
    return {path: disk.read(path) for path in OLD if path in disk.names}


def until_stopped(disk: Disk, calls: int, *, begin: bool) -> bool:
    """Swap, or finish a swap, until the process dies after so many calls; False if it didn't."""
    exchange = Exchange(Paths(ROOT), GRAPH, disk)
    disk.stop_after(calls)
    try:
        if begin:
            exchange.swap(MOVES)
        else:
            exchange.finish()
    except Stopped:
        return True
    return False


@pytest.mark.parametrize("choose", [all_lost, all_kept])
def test_after_a_power_cut_at_any_call_all_stores_are_old_or_all_are_new(choose: Choose) -> None:
    calls = 0
    while until_stopped(disk := rebuilt(), calls, begin=True):
        seconds = 0
        while until_stopped(again := disk.power_cut(choose), seconds, begin=False):
            last = again.power_cut(choose)
            until_stopped(last, 1000, begin=False)
            assert stores_on(last) in (OLD, NEW), (calls, seconds)
            seconds += 1
        assert stores_on(again) in (OLD, NEW), calls
        assert PLAN not in {path.rsplit("/", 1)[-1] for path in again.names}
        calls += 1

    assert calls > 20
    assert stores_on(disk) == NEW
    after = disk.power_cut(choose)  # once it has said that it is done
    until_stopped(after, 1000, begin=False)
    assert stores_on(after) == NEW
    assert disk.read(f"{ROOT}/replaced-7/chroma.sqlite3") == OLD[f"{ROOT}/chroma.sqlite3"]
    assert disk.read(f"{GRAPH}.replaced-7") == OLD[GRAPH]
