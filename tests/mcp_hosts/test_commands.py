"""The words with which a host starts palace: short where it finds them, whole where it doesn't."""

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from palace.mcp_hosts.commands import find_program, mempalace_command, palace_command
from palace.protocol.errors import ConfigError
from palace.settings.paths import python_command


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with both programs, and nothing on PATH."""
    scripts = tmp_path / "venv with blanks" / "bin"
    scripts.mkdir(parents=True)
    for name in ("palace", "mempalace"):
        (scripts / name).touch(mode=0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(scripts))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    return scripts


def on_path(*directories: Path) -> dict[str, str]:
    return {"PATH": os.pathsep.join(map(str, directories))}


def test_outside_path_the_whole_path_is_written(installed: Path) -> None:
    assert palace_command({}, desktop=False) == [f"{installed}/palace"]
    assert mempalace_command({}) == f"'{installed}/mempalace'"


def test_on_path_the_name_is_enough_for_what_a_shell_starts(installed: Path) -> None:
    assert palace_command(on_path(installed), desktop=False) == ["palace"]
    assert mempalace_command(on_path(installed)) == "mempalace"


def test_a_desktop_has_another_path(installed: Path) -> None:
    assert palace_command(on_path(installed), desktop=True) == [f"{installed}/palace"]


def test_what_only_this_shell_has_activated_is_written_whole(installed: Path) -> None:
    environ = on_path(installed) | {"VIRTUAL_ENV": f"{installed.parent}/"}

    assert palace_command(environ, desktop=False) == [f"{installed}/palace"]
    environ["VIRTUAL_ENV"] = str(installed.parent)[:-3]
    assert palace_command(environ, desktop=False) == ["palace"]


def test_a_link_that_leads_to_ours_is_preferred(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "palace"
    link.symlink_to(installed / "palace")

    assert find_program("palace", on_path(tmp_path / "links")) == str(link)


def test_another_installations_program_is_not_ours(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/palace").touch(mode=0o755)

    assert find_program("palace", on_path(tmp_path / "other")) == f"{installed}/palace"
    environ = on_path(tmp_path / "other", installed)
    assert palace_command(environ, desktop=False) == [f"{installed}/palace"]


def test_a_program_that_can_not_be_run_is_none(installed: Path) -> None:
    for name in ("palace", "mempalace"):
        (installed / name).chmod(0o644)

    assert find_program("palace", {}) == ""
    assert palace_command({}, desktop=False) == python_command()
    with pytest.raises(ConfigError, match="no `mempalace` command"):
        mempalace_command({})


def test_a_relative_place_on_path_is_none(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installed)

    assert find_program("palace", {"PATH": "."}) == f"{installed}/palace"
