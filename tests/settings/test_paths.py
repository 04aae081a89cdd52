"""Finding the palace and its graph: as stock does, with our two ways before that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from palace.protocol.errors import ConfigError
from palace.settings import paths
from palace.settings.paths import Paths, find_palace


def store(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "chroma.sqlite3").write_bytes(b"SQLite format 3\0")
    return directory


def test_the_flag_comes_before_everything(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "MEMPALACE_PATH": "/elsewhere"}

    found = find_palace("~/mine", environ)

    assert (found.root, found.found_by) == (str(tmp_path / "mine"), "--palace")


def test_our_variable_names_the_palace_or_its_parent(tmp_path: Path) -> None:
    inner = store(tmp_path / "memory" / "palace")

    for named in (inner, inner.parent):
        found = find_palace("", {"HOME": "/h", "MEMPALACE_PATH": str(named)})
        assert (found.root, found.found_by) == (str(inner), "MEMPALACE_PATH")


def test_a_new_directory_named_like_stocks_own_gets_stocks_layout(tmp_path: Path) -> None:
    for name, expected in ((".mempalace", ".mempalace/palace"), ("notes", "notes")):
        found = find_palace("", {"HOME": "/h", "MEMPALACE_PATH": str(tmp_path / name)})
        assert found.root == str(tmp_path / expected)


@pytest.mark.parametrize("name", ["chroma.sqlite3", "sqlite_exact.sqlite3"])
def test_a_directory_that_holds_drawers_is_the_palace_itself(tmp_path: Path, name: str) -> None:
    (tmp_path / "palace").mkdir()
    (tmp_path / name).touch()

    found = find_palace("", {"HOME": "/h", "MEMPALACE_PATH": str(tmp_path)})

    assert (found.root, found.store) == (str(tmp_path), str(tmp_path / name))


def test_two_stores_under_one_name_are_ambiguous(tmp_path: Path) -> None:
    store(tmp_path)
    store(tmp_path / "palace")

    with pytest.raises(ConfigError, match="ambiguous"):
        find_palace("", {"HOME": "/h", "MEMPALACE_PATH": str(tmp_path)})


def test_links_to_the_palace_are_resolved(tmp_path: Path) -> None:
    real = store(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)

    assert find_palace(str(tmp_path / "link"), {"HOME": "/h"}).root == str(real)


STOCK = "from mempalace.config import MempalaceConfig as C; print(C().palace_path)"


@pytest.mark.engine
@pytest.mark.parametrize(
    "situation",
    ["nothing", "variable", "short", "legacy_variable", "order", "legacy", "xdg", "config", "dir"],
)
def test_the_palace_is_found_where_stock_finds_it(tmp_path: Path, situation: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    settings = {
        "variable": {"MEMPALACE_PALACE_PATH": "~/a/../b"},
        "short": {"MEMPALACE_PALACE": "~/short"},
        "legacy_variable": {"MEMPAL_PALACE_PATH": str(tmp_path / "old")},
        "order": {"MEMPALACE_PALACE": "/second", "MEMPALACE_PALACE_PATH": "/first"},
        "xdg": {"XDG_CONFIG_HOME": str(tmp_path / "xdg")},
        "dir": {"MEMPALACE_CONFIG_DIR": "~/conf"},
    }
    environ |= settings.get(situation, {})
    if situation == "legacy":
        store(home / ".mempalace" / "palace")
    if situation == "config":
        (home / ".mempalace").mkdir()
        place = json.dumps({"palace_path": str(tmp_path / "configured")})
        (home / ".mempalace" / "config.json").write_text(place)

    done = subprocess.run(
        [sys.executable, "-P", "-c", STOCK], env=environ, capture_output=True, text=True, check=True
    )

    assert find_palace("", environ).root == os.path.realpath(done.stdout.strip())


def test_the_graph_is_the_one_stock_would_open(tmp_path: Path) -> None:
    home = tmp_path / "home"
    at_home = str(home / ".mempalace" / "knowledge_graph.sqlite3")
    environ = {"HOME": str(home)}
    root = str(store(tmp_path / "p"))
    inside = f"{root}/knowledge_graph.sqlite3"

    assert paths.stock_graph(Paths(root, found_by="--palace"), environ) == inside
    assert paths.stock_graph(Paths(root, found_by="default"), environ) == at_home
    assert paths.stock_graph(Paths(root, found_by="MEMPALACE_PALACE_PATH"), environ) == at_home
    assert paths.stock_graph(Paths(root, found_by="MEMPALACE_PATH"), environ) == inside


def test_our_variable_on_stocks_own_palace_keeps_stocks_graph(tmp_path: Path) -> None:
    home = tmp_path / "home"
    root = store(home / ".mempalace" / "palace")
    environ = {"HOME": str(home), "MEMPALACE_PATH": str(home / ".mempalace")}
    found = find_palace("", environ)

    assert found.root == str(root)
    assert paths.stock_graph(found, environ) == str(home / ".mempalace/knowledge_graph.sqlite3")


def test_a_long_palace_path_gets_its_socket_elsewhere() -> None:
    short, long = Paths("/p"), Paths("/" + "x" * 200)

    assert short.socket("/run/user/7") == "/p/broker.sock"
    elsewhere = long.socket("/run/user/7")
    assert elsewhere.startswith("/run/user/7/palace-")
    assert len(elsewhere) <= paths.SUN_PATH_BYTES_MAX
    assert elsewhere != Paths("/" + "y" * 200).socket("/run/user/7")


def test_the_runtime_directory_is_the_users_own() -> None:
    assert paths.runtime_dir({"XDG_RUNTIME_DIR": "/run/user/7/"}) == "/run/user/7"
    assert str(os.geteuid()) in paths.runtime_dir({"XDG_RUNTIME_DIR": "relative"})
