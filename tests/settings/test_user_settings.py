"""What counts in the user's settings alone, whom they are for, and what is said of the rest."""

import tomllib
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.checks import PALACE, USER
from palace.settings.config import KNOWN, SETTINGS, Loaded, adopt, ignored_text, load_settings
from palace.settings.paths import Paths
from palace.settings.recorded import RECORDED
from palace.settings.user_settings import (
    SETTINGS_BYTES_MAX,
    UserSettings,
    read_toml,
    read_user_settings,
    toml_text,
    write_user_settings,
)

KERNEL = Kernel()
ID, OTHER_ID = "a" * 32, "b" * 32
# Whoever adds to this list has made sure that the setting can do no more than slow or stop the
# palace whose files its writer may change anyway.
MAY_STAY = {
    *(
        "journal",
        "journal_fsync",
        "mcp_extras",
        "idle_s",
        "grace_s",
        "admission_wait_s",
        "queue_wait_s",
        "queue_depth_max",
    ),
    *("session_depth_max", "sessions_max", "readers", "batch_max", "polls", "line_bytes_max"),
    *("watchdog_s", "mempalace_lock_wait_s", "canary", "log_level"),
}
# A value of each of the others that isn't its default.
OF_OTHERS = {
    "listen": "192.0.2.7:1",
    "listen_anywhere": True,
    "advertise": ("h:1",),
    "certificate": "/x/c.pem",
    "private_key": "/x/k.pem",
    "bridge": "ssh://evil",
    "bridge_config": "/x/cfg",
    "bridge_command": "/x/run",
    "http": 7777,
    "path_map": {"/work": "/home"},
    "allow_uids": (7,),
    "redact": "off",
    "wrap": "org",
    "own_tools": "off",
    "memory_contract": "on",
    "serve_http": "192.0.2.7:8443",
    "memory_plugin": "http://127.0.0.1:9",
    "memory_plugin_token_file": "/k",
    "memory_plugin_certificate": "/c",
    "memory_plugin_kinds": ("workspace",),
    "memory_cutover": True,
    "mesh": "on",
    "adjustments_off": ("pin_once",),
}


class Place:
    """A palace, and the environment of its user."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(str(root / "palace"))
        self.environ = {"HOME": str(root / "home"), "XDG_STATE_HOME": str(root / "state")}
        Path(self.paths.root).mkdir(mode=0o700)

    def lend(self, text: str) -> None:
        Path(self.paths.settings).write_text(text)

    def load(self, **more: str) -> Loaded:
        return load_settings(self.paths, self.environ | more, KERNEL)

    def adopt(self, identity: str = ID) -> None:
        """Do what an owner does once it has the palace's identity."""
        loaded = self.load()
        Path(self.paths.palace_id).write_text(identity + "\n")
        adopt(self.paths, loaded, self.environ, KERNEL)

    def user(self) -> UserSettings:
        return read_user_settings(self.paths, self.environ, KERNEL)

    def set(self, **values: object) -> None:
        user = self.user()
        user.values |= values
        write_user_settings(user, self.paths, self.environ, KERNEL)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_every_setting_is_classified() -> None:
    assert {setting.key for setting in SETTINGS if setting.counts == PALACE} == MAY_STAY
    rest = {setting.key for setting in SETTINGS if setting.counts == USER}
    assert rest == set(OF_OTHERS) | set(RECORDED)


def test_what_may_stay_in_a_palace_names_nothing_and_is_bounded() -> None:
    for key in MAY_STAY:
        setting = KNOWN[key]
        is_bounded = setting.low is not None and setting.high is not None
        assert setting.choices or is_bounded or isinstance(setting.default, bool), key
        assert not setting.form


@pytest.mark.parametrize("key", OF_OTHERS)
def test_a_palace_says_none_of_the_users_settings(place: Place, key: str) -> None:
    place.lend(f"{key} = {toml_text(OF_OTHERS[key])}\n")

    loaded = place.load()

    assert getattr(loaded.config, key) == KNOWN[key].default
    assert loaded.ignored == {key: OF_OTHERS[key]}
    said = ignored_text(loaded.ignored, place.paths)
    assert key in said
    assert f"palace config trust --palace {place.paths.root}" in said
    place.set(**{key: OF_OTHERS[key]})
    agreed = place.load()
    assert getattr(agreed.config, key) == OF_OTHERS[key]
    assert not agreed.ignored


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("graph", '"/elsewhere/graph.sqlite3"'),
        ("graph", '"/other/home/.mempalace/knowledge_graph.sqlite3"'),
        ("config_dir", '"/elsewhere"'),
        ("environment", '{ PATH = "/x/bin" }'),
        ("environment", '{ LD_PRELOAD = "/x.so" }'),
        ("environment", '{ PIP_INDEX_URL = "http://evil" }'),
        ("environment", '{ MEMPALACE_EMBEDDING_API_URL = "http://evil" }'),
        ("environment", '{ MEMPALACE_EMBEDDING_MODEL = "openai-compat" }'),
        ("environment", '{ MEMPALACE_LANG = "../../x" }'),
        ("environment", '{ HF_HOME = "/x" }'),
    ],
)
def test_other_data_than_stocks_are_neither_taken_nor_passed_over(
    place: Place, key: str, text: str
) -> None:
    place.lend(f"{key} = {text}\n")

    with pytest.raises(ConfigError) as caught:
        place.load()

    for part in (key, place.paths.settings, "palace config trust", f"palace config set {key}="):
        assert part in caught.value.message
    value = tomllib.loads(f"v = {text}")["v"]
    place.set(**{key: value})
    assert getattr(place.load().config, key) == value


def test_what_stocks_own_rules_say_needs_no_agreement(place: Place) -> None:
    home = place.environ["HOME"]
    place.lend(
        f'graph = "kg.sqlite3"\nconfig_dir = "{home}/.mempalace"\n'
        'environment = { MEMPALACE_EMBEDDING_MODEL = "minilm", MEMPALACE_LANG = "de", '
        'HF_HOME = "/mine" }\n'
    )

    loaded = place.load(HF_HOME="/mine")

    assert loaded.config.graph == f"{place.paths.root}/kg.sqlite3"
    assert loaded.config.config_dir == f"{home}/.mempalace"
    assert loaded.config.environment["HF_HOME"] == "/mine"
    assert not loaded.ignored


def test_the_graph_beside_stocks_own_palace_is_its_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    graph = f'graph = "{home}/.mempalace/knowledge_graph.sqlite3"\n'
    stocks, lent = home / ".mempalace" / "palace", tmp_path / "lent"
    for root in (stocks, lent):
        root.mkdir(parents=True)
        (root / "chroma.sqlite3").touch()
        (root / "palace.toml").write_text(graph)
    environ = {"HOME": str(home)}

    found = load_settings(Paths(str(stocks)), environ, KERNEL).config.graph
    assert found == f"{home}/.mempalace/knowledge_graph.sqlite3"
    with pytest.raises(ConfigError, match="palace config trust"):
        load_settings(Paths(str(lent)), environ, KERNEL)


def test_what_is_adopted_is_not_changed_from_within_the_palace(place: Place) -> None:
    place.adopt()
    graph = place.load().config.graph
    place.lend('graph = "/x/graph"\nconfig_dir = "/x"\nenvironment = { PATH = "/x" }\n')

    loaded = place.load()

    assert (loaded.config.graph, loaded.config.environment) == (graph, {})
    assert set(loaded.ignored) == {"graph", "config_dir", "environment"}


def test_they_are_for_one_palace_at_one_path(place: Place, tmp_path: Path) -> None:
    place.set(listen="127.0.0.1:1")
    place.adopt()
    assert place.load().config.listen == "127.0.0.1:1"

    Path(place.paths.palace_id).write_text(OTHER_ID)
    assert place.load().config.listen == ""
    assert place.user().other_id == ID
    place.adopt(OTHER_ID)
    assert place.user().other_id == ID, "whose they are is for the user to say"

    Path(place.paths.palace_id).write_text(ID)
    elsewhere = Path(place.paths.root).rename(tmp_path / "moved")
    assert load_settings(Paths(str(elsewhere)), place.environ, KERNEL).config.listen == ""


def test_what_was_set_before_the_palace_had_an_identity_counts(place: Place) -> None:
    place.set(listen="192.0.2.7:1")
    Path(place.paths.palace_id).write_text(f"{ID}\n")

    loaded = place.load()

    assert loaded.config.listen == "192.0.2.7:1"
    assert (loaded.user.other_id, loaded.user.is_bound) == ("", False)


def test_a_restored_palace_without_an_identity_keeps_the_settings_of_its_path(
    place: Place,
) -> None:
    place.set(idle_s=7)
    place.adopt()
    Path(place.paths.palace_id).unlink()

    assert place.load().config.idle_s == 7
    place.adopt(OTHER_ID)
    assert place.load().config.idle_s == 7
    assert read_toml(place.user().path, KERNEL)["palace_id"] == OTHER_ID


def test_a_file_that_others_could_have_written_is_refused(place: Place) -> None:
    place.set(listen="127.0.0.1:1")
    directory = Path(place.user().path).parent
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write to it"):
        place.load()

    directory.chmod(0o700)
    place.environ["XDG_STATE_HOME"] = f"{place.paths.root}/state"
    with pytest.raises(ConfigError, match="lies in the palace"):
        place.set(listen="127.0.0.1:1")


def test_a_file_of_another_path_is_refused(place: Place) -> None:
    place.set(idle_s=7)
    path = Path(place.user().path)
    path.write_text(path.read_text().replace(place.paths.root, "/another"))

    with pytest.raises(ConfigError, match="names another palace"):
        place.load()


def test_a_state_directory_that_cant_be_used_is_no_reason_not_to_serve(place: Place) -> None:
    Path(place.environ["XDG_STATE_HOME"]).write_text("a file")

    place.adopt()

    assert "graph" in read_toml(place.paths.settings, KERNEL)


def test_values_are_written_as_they_are_read(place: Place) -> None:
    values = {
        "path_map": {'/a "b" \\': "/ü\u0007", "/\U000e0001": "/\U0010ffff"},
        "advertise": ["a:1", "b:2"],
        "http": False,
        "idle_s": 1.5,
    }
    place.set(**values)

    assert place.user().values == values


def test_settings_that_are_too_long_are_refused_and_not_cut_off(place: Place) -> None:
    place.lend("readers = 2\n" + "# more\n" * (SETTINGS_BYTES_MAX // 7) + "readers = 3\n")

    with pytest.raises(ConfigError, match="which no settings need"):
        place.load()
