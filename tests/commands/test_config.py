"""`palace config`: what counts is shown, what palace.toml says is moved once it is agreed to."""

from pathlib import Path

import pytest

from palace.commands.config import (
    set_config,
    show_config,
    trust_settings,
    unset_config,
    without_keys,
)
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError, Unconfirmed
from palace.settings.config import Config, load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

LENT = """\
# of the palace
idle_s = 5  # soon
graph = "/elsewhere/graph.sqlite3"
bridge = "ssh://host"  # the Mac
allow_uids = [7]

[path_map]
"/work" = "/home/me/src"
"""


class Place:
    def __init__(self, root: Path) -> None:
        self.paths = Paths(str(root / "palace"))
        environ = {"HOME": str(root / "home"), "XDG_STATE_HOME": str(root / "state")}
        self.environment = ShimEnvironment(environ)
        Path(self.paths.root).mkdir(mode=0o700)
        Path(self.paths.palace_id).write_text("a" * 32)

    @property
    def toml(self) -> Path:
        return Path(self.paths.settings)

    def config(self) -> Config:
        return load_config(self.paths, self.environment.all, Kernel())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_nothing_is_taken_over_without_an_answer(place: Place) -> None:
    place.toml.write_text(LENT)

    with pytest.raises(Unconfirmed):
        trust_settings(place.paths, place.environment, yes=False)

    assert place.toml.read_text() == LENT
    with pytest.raises(ConfigError):
        place.config()


def test_what_is_agreed_to_is_shown_and_moved(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.toml.write_text(LENT)

    trust_settings(place.paths, place.environment, yes=True)

    shown = capsys.readouterr().out
    for part in (
        '- graph = not settled\n+ graph = "/elsewhere/graph.sqlite3"',
        '- bridge = ""\n+ bridge = "ssh://host"\n    ssh://[USER@]',
        "+ allow_uids = [7]",
        '+ path_map = { "/work" = "/home/me/src" }',
    ):
        assert part in shown
    assert "idle_s" not in shown
    config = place.config()
    assert (config.bridge, config.allow_uids) == ("ssh://host", (7,))
    assert config.path_map == {"/work": "/home/me/src"}
    assert config.graph == "/elsewhere/graph.sqlite3"
    assert "# of the palace\nidle_s = 5  # soon\ngraph" in place.toml.read_text()
    assert "bridge" not in place.toml.read_text()
    again = trust_settings(place.paths, place.environment, yes=False)
    assert "says nothing that isn't in your settings" in again


def test_settings_of_the_palace_that_was_there_before_are_asked_for_again(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    set_config(place.paths, place.environment, ["listen=127.0.0.1:1"])
    Path(place.paths.palace_id).write_text("b" * 32)

    assert "counts for nothing now" in show_config(place.paths, place.environment)
    with pytest.raises(ConfigError, match="palace config trust"):
        set_config(place.paths, place.environment, ["listen=127.0.0.1:2"])
    trust_settings(place.paths, place.environment, yes=True)

    assert '+ listen = "127.0.0.1:1"' in capsys.readouterr().out
    assert place.config().listen == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("idle_s=0", 0.0),
        ("http=false", False),
        ("bridge=ssh://me@host:7/p", "ssh://me@host:7/p"),
        ("graph=kg.sqlite3", None),
        ("advertise=a:1, b:2", ("a:1", "b:2")),
        ('advertise=["a:1"]', ("a:1",)),
        ("allow_uids=7,8", (7, 8)),
        ("path_map=/a=/b,/c=/d", {"/a": "/b", "/c": "/d"}),
        ('path_map={"/a" = "/b"}', {"/a": "/b"}),
        ("environment=TMPDIR=/var/tmp", {"TMPDIR": "/var/tmp"}),
    ],
)
def test_a_setting_is_given_as_people_write_it(place: Place, given: str, value: object) -> None:
    key = given.partition("=")[0]
    said = set_config(place.paths, place.environment, [given])

    wanted = f"{place.paths.root}/kg.sqlite3" if value is None else value
    assert getattr(place.config(), key) == wanted
    assert f"  {key} = " in said
    assert f"  {key} = " in show_config(place.paths, place.environment)
    assert f"{key} is not set any more" in unset_config(place.paths, place.environment, [key])
    assert f"  {key} = " not in show_config(place.paths, place.environment)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("idle_s", "no KEY=VALUE"),
        ("nonsense=1", "There is no setting"),
        ("idle_s=soon", "no value of TOML"),
        ("idle_s=-1", "between 0"),
        ("listen=nowhere", "HOST:PORT"),
        ("path_map=/a", "path_map"),
        ("environment=HOME=/x", "variables other than"),
    ],
)
def test_a_wrong_one_is_named_and_nothing_is_written(place: Place, given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        set_config(place.paths, place.environment, [given])

    assert not Path(place.environment.all["XDG_STATE_HOME"]).exists()


def test_what_is_ignored_is_shown_with_the_command(place: Place) -> None:
    place.toml.write_text('idle_s = 5\nlisten = "0.0.0.0:1"\n')

    shown = show_config(place.paths, place.environment)

    assert "  idle_s = 5.0  (palace.toml)" in shown
    assert f"listen in {place.toml} count for nothing there" in shown
    assert "palace config trust" in shown


def test_keys_are_taken_out_of_a_file_and_all_else_stays() -> None:
    assert without_keys(LENT, ["bridge", "allow_uids", "path_map"]) == (
        '# of the palace\nidle_s = 5  # soon\ngraph = "/elsewhere/graph.sqlite3"\n\n'
    )
    assert without_keys("not toml", ["bridge"]) is None
