"""palace.toml, the environment and defaults: which wins, and what a wrong one is told."""

import tomllib
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.checks import is_anywhere
from palace.settings.config import SETTINGS, Config, adopt, load_config, load_settings
from palace.settings.paths import Paths
from palace.settings.user_settings import (
    UserSettings,
    read_user_settings,
    write_user_settings,
)


def environ_of(root: Path, **more: str) -> dict[str, str]:
    """Return the environment of a session, whose state directory is the test's."""
    return {"HOME": "/home/me", "XDG_STATE_HOME": f"{root.parent}/state-of-session"} | more


def load(root: Path, text: str | None = None, *, mine: str = "", **environ: str) -> Config:
    """Load settings with `text` as palace.toml, and with `mine` as the user's."""
    found, given = Paths(str(root)), environ_of(root, **environ)
    if text is not None:
        (root / "palace.toml").write_text(text)
    if mine:
        user = UserSettings(read_user_settings(found, given, Kernel()).path, "")
        user.values = tomllib.loads(mine)
        write_user_settings(user, found, given, Kernel())
    return load_config(found, given, Kernel())


def test_defaults_are_those_of_the_table(tmp_path: Path) -> None:
    config = load(tmp_path)

    for setting in SETTINGS:
        if setting.key not in ("graph", "config_dir"):
            assert getattr(config, setting.key) == setting.default, setting.key
    assert config.graph == f"{tmp_path}/knowledge_graph.sqlite3"
    assert config.config_dir == "/home/me/.config/mempalace"


def test_the_file_beats_the_defaults_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    text = "idle_s = 5\ngrace_s = 2.5\n"

    config = load(tmp_path, text, mine="allow_uids = [7]\ngraph = '/g'", PALACE_IDLE_S="0")

    assert (config.idle_s, config.grace_s, config.allow_uids) == (0.0, 2.5, (7,))
    assert config.graph == "/g"
    assert load(tmp_path, text, mine="graph = 'kg.db'\ngrace_s = 7").grace_s == 7
    assert load(tmp_path).graph == f"{tmp_path}/kg.db"


def test_an_engine_that_stores_each_call_alone_is_given_no_batches(tmp_path: Path) -> None:
    assert load(tmp_path, mine="adjustments_off = ['store_together']").batch_max == 1
    assert load(tmp_path, mine="adjustments_off = ['pin_once']").batch_max > 1


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "0", "0x0", "0.0", "00.0.0.0", "::", "[::]", "[0:0::0]", "[::%lo]", "*"]
)
def test_a_wildcard_is_one_in_every_spelling(tmp_path: Path, host: str) -> None:
    said = f'listen = "{host}:7000"\n'
    with pytest.raises(ConfigError, match="reached from every network"):
        load(tmp_path, mine=said)
    assert load(tmp_path, mine=said + "listen_anywhere = true\n").listen == f"{host}:7000"
    assert not any(map(is_anywhere, ("127.0.0.1", "::1", "localhost", "10.0.0.0", "::ffff:7f00:1")))
    assert is_anywhere("::ffff:0.0.0.0")
    assert is_anywhere("")


@pytest.mark.parametrize(
    ("text", "wanted"), [("http = false", False), ("http = true", True), ("http = 7254", 7254)]
)
def test_http_is_a_switch_or_a_port(tmp_path: Path, text: str, wanted: bool | int) -> None:
    found = load(tmp_path, mine=text).http

    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    "text",
    [
        "nonsense = 1",
        "idle_s = 'soon'",
        "idle_s = -1",
        "idle_s = true",
        "idle_s = nan",
        "readers = 1.5",
        "readers = 0",
        "http = 0",
        "http = 65536",
        "http = 'yes'",
        "http = 80.5",
        "listen_anywhere = 1",
        "graph = 'relative/path'",
        "graph = 3",
        "allow_uids = ['me']",
        "allow_uids = 7",
        "adjustments_off = 'pin_once'",
        "not toml at all",
        "idle_s = 1\nidle_s = 2",
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert str(tmp_path / "palace.toml") in caught.value.message
    assert caught.value.exit_code == 78


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PALACE_IDLE_S"):
        load(tmp_path, PALACE_IDLE_S="soon")
    with pytest.raises(ConfigError, match="idle_s"):
        load(tmp_path, PALACE_IDLE_S="-3")


def test_adoption_fixes_the_graph_for_whoever_comes_later(tmp_path: Path) -> None:
    root = tmp_path / 'odd "name" \\ ü'
    root.mkdir()
    given = environ_of(root, MEMPALACE_CONFIG_DIR="/configured")
    loaded = load_settings(Paths(str(root)), given, Kernel())
    first = loaded.config
    adopt(Paths(str(root)), loaded, given, Kernel())

    later = load_config(Paths(str(root), found_by="default"), environ_of(root), Kernel())

    assert (later.graph, later.config_dir) == (first.graph, first.config_dir)
    assert first.graph == f"{root}/knowledge_graph.sqlite3"
    assert first.config_dir == "/configured"


def test_a_graph_in_the_palace_moves_with_it_and_one_outside_stays(tmp_path: Path) -> None:
    inside, outside, moved = (tmp_path / name for name in ("inside", "outside", "moved"))
    for root, found_by in ((inside, "--palace"), (outside, "default")):
        root.mkdir()
        found = Paths(str(root), found_by=found_by)
        given = environ_of(root)
        adopt(found, load_settings(found, given, Kernel()), given, Kernel())
    inside.rename(moved)

    assert load(moved).graph == f"{moved}/knowledge_graph.sqlite3"
    assert load(outside).graph == "/home/me/.mempalace/knowledge_graph.sqlite3"


def test_adoption_never_overwrites(tmp_path: Path) -> None:
    load(tmp_path, "idle_s = 5\n")
    found, given = Paths(str(tmp_path)), environ_of(tmp_path)

    adopt(found, load_settings(found, given, Kernel()), given, Kernel())

    assert (tmp_path / "palace.toml").read_text() == "idle_s = 5\n"


@pytest.mark.parametrize(
    "text",
    [
        "graph = " + "[" * 20_000 + "]" * 20_000,
        "idle_s = " + "9" * 5000,
        "idle_s = " + "9" * 4300,
        "idle_s = inf",
        "idle_s = nan",
        "line_bytes_max = " + "9" * 4300,
        "allow_uids = [" + "9" * 4300 + "]",
        'graph = "/tmp/x\\u0000y"',
        'graph = "/tmp/\\u001b[2J"',
        'graph = ".."',
        'graph = "/' + "x" * 5000 + '"',
        'listen = "127.0.0.1:' + "9" * 5000 + '"',
        'listen = "127.0.0.1:\u0661"',
        'path_map = {"/a" = "/b\\u0000"}',
    ],
    ids=lambda text: text[:24],
)
def test_a_setting_of_somebody_elses_is_refused_in_a_few_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert str(tmp_path) in caught.value.message
    assert len(caught.value.message) < 2000
