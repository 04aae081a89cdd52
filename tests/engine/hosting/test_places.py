"""Where stock keeps its lists, and which directories it may close to others."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from mempalace import hallways, palace_graph

from palace.engine.hosting import adjustments
from palace.engine.hosting.host import Host, HostedState
from palace.engine.patches import Patches
from palace.engine.stores.palace_stores import unopened_stores
from palace.kernel.kernel import Kernel
from palace.ownership.data_locks import outside_files
from palace.settings.config import Config
from palace.settings.paths import Paths

Hosting = Callable[..., Host]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    path = tmp_path / "beside"
    path.mkdir(0o755)
    (path / "palace").mkdir(0o700)
    return path


@pytest.fixture
def host(beside: Path, tmp_path: Path) -> Iterator[Hosting]:
    """Return a host whose places are adjusted until the test ends."""
    patches = Patches()

    def make(**settings: Any) -> Host:
        root = beside / "palace"
        config = Config(graph=f"{tmp_path}/graph/kg", config_dir=f"{tmp_path}/config", **settings)
        made = Host(
            server=cast("Any", None),
            state=HostedState({"HOME": str(tmp_path / "home")}),
            paths=Paths(str(root)),
            config=config,
        )
        patches.apply([*adjustments.list_files(made), *adjustments.keep_modes(made)])
        return made

    try:
        yield make
    finally:
        patches.undo()


@pytest.mark.parametrize(("mode", "inside"), [(0o755, False), (0o1777, True), (0o777, True)])
def test_lists_are_in_the_palace_where_others_may_write_beside_it(
    beside: Path, host: Hosting, mode: int, inside: bool
) -> None:
    beside.chmod(mode)
    made = host()
    place = beside / "palace" if inside else beside
    stores = unopened_stores(made.paths, made.config, Kernel())
    if inside:
        assert palace_graph._get_tunnel_file() == stores.tunnels.path
        assert hallways._get_hallway_file(None) == stores.hallways.path
    assert stores.tunnels.path == f"{place}/tunnels.json"
    assert stores.hallways.path == f"{place}/hallways.json"
    lists = {f"{place}/tunnels.json", f"{place}/hallways.json"}
    assert lists.isdisjoint(outside_files(made.paths, made.config)) == inside


def closed(path: Path) -> bool:
    """Try to close a directory as stock does; tell whether it is."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o711)
    path.chmod(0o700)
    os.chmod(str(path), 0o700)
    return stat.S_IMODE(path.stat().st_mode) == 0o700


def test_only_mempalaces_own_directories_are_closed(
    beside: Path, host: Hosting, tmp_path: Path
) -> None:
    host()
    own = [beside / "palace", tmp_path / "config", tmp_path / "home" / ".mempalace" / "locks"]
    others = [beside, tmp_path / "graph", tmp_path / "home", tmp_path / "palace"]
    assert [closed(path) for path in own] == [True] * 3
    assert [closed(path) for path in others] == [False] * 4


def test_the_way_to_the_socket_stays_open_for_those_who_may_connect(
    beside: Path, host: Hosting, tmp_path: Path
) -> None:
    host(allow_uids=(7,))
    assert not closed(beside / "palace")
    assert not closed(beside)
    assert closed(tmp_path / "config")
    assert closed(beside / "palace" / "inner")


def test_files_and_other_modes_are_stocks_affair(beside: Path, host: Hosting) -> None:
    host()
    file = beside / "file"
    file.touch(0o644)
    file.chmod(0o700)
    beside.chmod(0o750)
    assert stat.S_IMODE(file.stat().st_mode) == 0o700
    assert stat.S_IMODE(beside.stat().st_mode) == 0o750
