"""Text that nobody can have meant as a path: refused by name wherever a path may be given."""

import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from palace.__main__ import main
from palace.cli.app import COMMANDS
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.checks import PATHS
from palace.settings.config import SETTINGS, load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.given_path import GivenPath
from palace.settings.paths import (
    Paths,
    cache_dir,
    config_dir,
    find_palace,
    home_dir,
    runtime_dir,
    state_dir,
)

MEANT = (
    *("/p", "/p/a b/c", "p", "./p", "../p", "~", "~/p", "/p/~backup/x", "/p/100%/x", "/p/5%20%x"),
    *("/p/price$", "/p/$5", "/p/o'brien", "/p/x:y", "/p/.mempalace", "/p/[old]", "/ä/ö", "/p/a,b"),
)
UNMEANT = {
    "": "it is empty",
    " ": "it is blank",
    "\n": "it is blank",
    " /p": "white space",
    "/p\n": "white space",
    "/p\x1b[2J": "control characters",
    "/p/\udcff": "control characters",
    "${HOME}/p": r"\$\{HOME\} was not expanded",
    "$HOME/p": r"\$HOME was not expanded",
    "/home/$USER/p": r"\$USER was not expanded",
    "$env:HOME/p": r"\$env:HOME was not expanded",
    "$(pwd)/p": "was not expanded",
    "${workspaceFolder}": "was not expanded",
    "%USERPROFILE%/p": "%USERPROFILE% was not expanded",
    "/p/%APPDATA%": "%APPDATA% was not expanded",
    "/project/~/p": "~ stands for a home",
    "./~": "~ stands for a home",
    "{env:HOME}/p": "brace",
    "{{home}}/p": "brace",
    '{"palace": "/p"}': "brace",
    '["/p"]': "a list",
    "'/p'": "quoted",
    '"/p"': "quotation mark",
    "`pwd`/p": "backquote",
    "<your palace>": "placeholders",
    "/p/*": "asterisk",
    "C:\\Users\\ada": "backslash",
    "C:/Users/ada": "letter of a drive",
    "/p/My\\ Palace": "backslash",
    "file:///p": "URL",
    "https://host/p": "URL",
    "/p:/q": "list of paths",
    "undefined": "no path",
    "null": "no path",
    "None": "no path",
    "true": "no path",
    "False": "no path",
    "%(here)s/p": "placeholder",
    "__PALACE__": "placeholder",
    "/home/you/\N{HORIZONTAL ELLIPSIS}": "left out",
    "/home/.../p": "left out",
    "--json": "like an option",
}
SOME = ("${HOME}/p", "file:///p", "%TMP%/p", "/x/~/p", "{}", " /p")


@pytest.mark.parametrize("text", UNMEANT)
def test_what_nobody_can_have_meant_is_refused_with_place_text_and_reason(text: str) -> None:
    with pytest.raises(ConfigError, match=UNMEANT[text]) as refused:
        GivenPath(text, "--palace")

    assert f"--palace is {text!r}"[:60] in refused.value.message
    assert refused.value.message.endswith("Write the path out in full.")


@pytest.mark.parametrize("text", MEANT)
def test_unusual_names_that_somebody_can_mean_are_taken(text: str) -> None:
    assert GivenPath(text, "--palace").text == text


def test_long_text_is_shown_in_part() -> None:
    with pytest.raises(ConfigError) as refused:
        GivenPath("{" * 5000, "--palace")

    assert len(refused.value.message) < 300


# Every variable that holds a path, and what reads it.
VARIABLES = {
    **dict.fromkeys(
        ("MEMPALACE_PATH", "MEMPALACE_PALACE_PATH", "MEMPALACE_PALACE", "MEMPAL_PALACE_PATH"),
        lambda environ: find_palace("", environ),
    ),
    "MEMPALACE_CONFIG_DIR": config_dir,
    "XDG_CONFIG_HOME": config_dir,
    "XDG_CACHE_HOME": cache_dir,
    "XDG_STATE_HOME": state_dir,
    "XDG_RUNTIME_DIR": runtime_dir,
    "HOME": home_dir,
    **dict.fromkeys(
        (
            *("PALACE_TOKEN_FILE", "PALACE_BRIDGE_CONFIG", "PALACE_TRACE"),
            "PALACE_WORKSPACE_TOKEN_FILE",
        ),
        ShimEnvironment,
    ),
}


@pytest.mark.parametrize("text", SOME)
@pytest.mark.parametrize("name", VARIABLES)
def test_each_variable_that_is_a_path_is_refused_by_name(
    name: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^\${name} is "):
        VARIABLES[name]({"HOME": str(tmp_path), name: text})


@pytest.mark.parametrize("text", SOME)
def test_the_socket_of_a_named_broker_is_a_path_too(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^the socket in \$MEMPALACE_BROKER is "):
        ShimEnvironment({"MEMPALACE_BROKER": f"unix:{text}"})


def test_a_home_that_is_not_absolute_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not begin with /"):
        home_dir({"HOME": "home/ada"})


def test_the_home_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no user 'nobody-at-all' here"):
        find_palace("~nobody-at-all/p", {"HOME": str(tmp_path)})


def test_a_relative_xdg_directory_is_passed_over_as_its_specification_wants() -> None:
    assert state_dir({"HOME": "/h", "XDG_STATE_HOME": "state"}) == "/h/.local/state/palace"
    assert config_dir({"HOME": "/h", "XDG_CONFIG_HOME": "conf"}) == "/h/.config/mempalace"


@pytest.mark.parametrize("text", SOME)
@pytest.mark.parametrize("key", [one.key for one in SETTINGS if one.form in PATHS] + ["path_map"])
def test_each_setting_that_is_a_path_is_refused_by_its_key(
    key: str, text: str, tmp_path: Path
) -> None:
    value = f"{{{json.dumps(text)} = '/p'}}" if key == "path_map" else json.dumps(text)
    (tmp_path / "palace.toml").write_text(f"{key} = {value}\n")

    with pytest.raises(ConfigError, match=f"^{key} in {tmp_path}/palace.toml is "):
        load_config(Paths(str(tmp_path)), {"HOME": str(tmp_path)}, Kernel())


def path_parameters() -> list[tuple[str, str]]:
    """Return each command with each of its options and arguments ("") that is a path."""
    return [
        (name, str(mark.default) if isinstance(mark, typer.models.OptionInfo) else "")
        for name, command in COMMANDS.items()
        for parameter in inspect.signature(command).parameters.values()
        for mark in typing.get_args(parameter.annotation)
        if isinstance(mark, typer.models.ParameterInfo) and mark.metavar in ("DIR", "FILE")
    ]


Ended = Callable[[list[str]], tuple[int, str]]


@pytest.fixture
def ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Ended]:
    """How a command ends that is called in an empty home: with which code, and what it said."""

    def call(words: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["palace", *words])
        with open(os.devnull) as nothing:
            before = os.dup(0)
            os.dup2(nothing.fileno(), 0)
            try:
                with pytest.raises(SystemExit) as left:
                    main()
            finally:
                os.dup2(before, 0)
                os.close(before)
        return int(left.value.code or 0), capfd.readouterr().err

    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith(("MEMPAL", "PALACE_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Each command takes the program's directory out, which is another entry at each call here.
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")  # which it takes out, or sets for brokers
    umask = os.umask(0o077)
    os.umask(umask)
    yield call
    os.umask(umask)  # `palace serve` sets its own, before it looks at its arguments


REQUIRED = {"service": "status", "install": "cursor", "uninstall": "cursor", "purge": "id"}
PEER = ("--cwd", "/w", "--runtime", "codex", "--personality", "a")  # what another core gives


@pytest.mark.parametrize(("name", "option"), path_parameters())
@pytest.mark.parametrize("text", ["${HOME}/p", "file:///p"])
def test_each_argument_that_is_a_path_is_refused_and_makes_nothing(
    name: str, option: str, text: str, ended: Ended
) -> None:
    given = PEER if name.endswith("provision-peer") else ()
    words = [name, *given, *([option] if option else []), text]
    if option and name in REQUIRED:
        words.append(REQUIRED[name])
    if option and name in ("backup", "restore"):
        words.append("b")
    code, said = ended(words)

    assert code == 78, said
    assert f"palace {name}: {option or 'DIR'} is {text!r}" in said
    assert said.count("\n") == 1
    assert os.listdir() == []


@pytest.mark.parametrize("name", sorted({name for name, _ in path_parameters()} - {"model"}))
def test_an_empty_argument_is_not_the_default(name: str, ended: Ended) -> None:
    option = "--project" if name in ("install", "uninstall") else "--palace"
    words = [name, option, "", *([REQUIRED[name]] if name in REQUIRED else [])]
    words += ["b"] if name in ("backup", "restore") else []
    code, said = ended(words)

    assert code == 78, said
    assert f"{option} is ''" in said


def test_every_reader_of_a_path_in_the_environment_is_known_here() -> None:
    """A variable with a path's name that is read anywhere must be in VARIABLES."""
    read: set[str] = set()
    for path in (Path(__file__).parents[2] / "palace").rglob("*.py"):
        if path.name == "inherited.py":  # it passes variables on, and reads none
            continue
        for word in path.read_text().replace("$", " ").replace('"', " ").split():
            name = word.strip("`'(),:;.=[]{}")
            if name.isupper() and name.endswith(("_PATH", "_HOME", "_FILE", "_CONFIG", "_TRACE")):
                read.add(name)
    ours = {name for name in read if name.startswith(("MEMPAL", "PALACE_", "XDG_"))}

    assert ours <= set(VARIABLES), ours - set(VARIABLES)
