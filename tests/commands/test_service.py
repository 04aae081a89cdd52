"""`palace service`: the unit's text, and what becomes of its file."""

import os
import plistlib
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.commands.service import FOR_A_PERSON, install_service, service_of, uninstall_service
from palace.protocol import errors
from palace.protocol.errors import ConfigError, LockHeld
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.machines.needs import need_command
from tests.support.processes.clients import Site

# A manager that notes what it is asked, in the place of one that would start units here.
MANAGER = '#!/bin/sh\necho "$@" >> "$HOME/asked"\n'


@pytest.fixture
def site(tmp_path: Path) -> Site:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    manager = home / "bin" / "systemctl"
    manager.write_text(MANAGER)
    manager.chmod(0o755)
    return Site(home=home, palace=tmp_path / "palace", extra={"PATH": f"{home}/bin:/usr/bin:/bin"})


def environment_of(site: Site) -> ShimEnvironment:
    return ShimEnvironment(site.environ())


def unit_of(site: Site) -> Path:
    return Path(service_of(Paths(str(site.palace)), site.environ(), platform="linux").file)


def words_of(text: str) -> list[str]:
    """Return what systemd starts: its quotes are a shell's, its escapes for % and $ its own."""
    row = next(row for row in text.splitlines() if row.startswith("ExecStart="))
    words = shlex.split(row.removeprefix("ExecStart="))
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


# A small alphabet: all of Unicode takes Hypothesis seconds to list, where it has no cache.
@given(st.text("ab %$\"'\\{}<>&#;=\u00e9\u4e2d\U0001f600", max_size=12))
def test_a_unit_starts_what_it_says_whatever_the_palaces_name(name: str) -> None:
    environ = {"HOME": "/home/me", "PATH": "/usr/bin", "XDG_STATE_HOME": f"/s {name}"}
    paths = Paths(f"/p/{name}", found_by="default")
    unit = service_of(paths, environ, platform="linux")
    agent = service_of(paths, environ, platform="darwin")

    assert words_of(unit.text()) == list(unit.argv)
    assert {f"--palace=/p/{name}", "--found-by=default", "--detached"} < set(unit.argv)
    assert unit.file == f"/home/me/.config/systemd/user/{unit.name}"
    parsed = plistlib.loads(agent.text().encode())
    assert parsed["ProgramArguments"] == list(agent.argv)
    assert parsed["EnvironmentVariables"] == dict(agent.variables)
    assert parsed["EnvironmentVariables"]["XDG_STATE_HOME"] == f"/s {name}"
    assert agent.file == f"/home/me/Library/LaunchAgents/{parsed['Label']}.plist"


def test_each_palace_has_a_unit_of_its_own() -> None:
    environ = {"HOME": "/home/me"}
    names = {service_of(Paths(root), environ).name for root in ("/a", "/b", "/a")}

    assert len(names) == 2


def test_an_agent_is_kept_alive_and_left_alone_when_it_was_stopped() -> None:
    agent = service_of(Paths("/p"), {"HOME": "/h"}, platform="darwin")
    parsed = plistlib.loads(agent.text().encode())

    assert parsed["RunAtLoad"] is True
    assert parsed["KeepAlive"] == {"SuccessfulExit": False}
    assert parsed["ThrottleInterval"] >= 10  # launchd's own minimum


def test_who_is_not_owner_now_is_tried_again_and_who_needs_a_person_is_not() -> None:
    assert LockHeld.exit_code not in FOR_A_PERSON
    kinds = (errors.ConfigError, errors.UnsafePalace, errors.OnHold, errors.ForeignKernel)
    assert {kind.exit_code for kind in kinds} < set(FOR_A_PERSON)


@pytest.mark.parametrize("name", ["palace", 'a "b" \\ %h $HOME ; # c', "mémoire 记忆"])
def test_systemd_has_nothing_to_say_against_a_unit(tmp_path: Path, name: str) -> None:
    analyze = need_command("systemd-analyze")
    home = tmp_path / "home"
    home.mkdir()
    environ = dict(os.environ) | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    unit = service_of(Paths(str(tmp_path / name)), environ, platform="linux")
    file = tmp_path / unit.name

    def verify(text: str) -> tuple[int, str]:
        file.write_text(text)
        done = subprocess.run(
            [analyze, "--user", "verify", str(file)],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    assert verify(unit.text()) == (0, "")
    assert "Restrt" in verify(unit.text().replace("Restart=", "Restrt="))[1]  # it does look


def test_a_unit_is_written_once_started_and_removed(site: Site) -> None:
    paths, environment = Paths(str(site.palace)), environment_of(site)
    unit = unit_of(site)

    assert "started now" in install_service(paths, environment)
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    written = unit.read_bytes()
    assert "there already" in install_service(paths, environment)
    assert unit.read_bytes() == written
    assert "Removed" in uninstall_service(paths, environment)
    assert not unit.exists()
    assert "nothing to remove" in uninstall_service(paths, environment)

    starting = ["--user daemon-reload", f"--user enable --now {unit.name}"]
    stopping = [f"--user disable --now {unit.name}", "--user daemon-reload"]
    asked = (site.home / "asked").read_text().splitlines()
    assert asked == [*starting, *starting, *stopping]


def test_a_unit_that_somebody_changed_is_left_alone_unless_forced(site: Site) -> None:
    paths, environment = Paths(str(site.palace)), environment_of(site)
    install_service(paths, environment)
    unit = unit_of(site)
    unit.write_text(unit.read_text() + "# mine\n")

    for act in (install_service, uninstall_service):
        with pytest.raises(ConfigError, match="--force"):
            act(paths, environment)
    assert unit.read_text().endswith("# mine\n")
    uninstall_service(paths, environment, force=True)
    assert not unit.exists()


def test_a_unit_of_an_older_version_is_replaced(site: Site, monkeypatch: Any) -> None:
    paths, environment = Paths(str(site.palace)), environment_of(site)
    monkeypatch.setattr("palace.commands.service.RETRY_S", 7)
    install_service(paths, environment)
    monkeypatch.undo()

    assert "Written" in install_service(paths, environment)
    assert "RestartSec=7\n" not in unit_of(site).read_text()


def test_where_no_manager_answers_the_user_is_told_what_to_run(site: Site) -> None:
    (site.home / "bin" / "systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    paths, environment = Paths(str(site.palace)), environment_of(site)
    unit = unit_of(site)

    said = install_service(paths, environment)
    assert "no bus" in said
    assert f"systemctl --user enable --now {unit.name}" in said
    link = unit.parent / "default.target.wants" / unit.name
    link.parent.mkdir()
    link.symlink_to(unit)
    uninstall_service(paths, environment)

    assert not link.is_symlink()


def test_the_command_says_whether_there_is_a_unit(site: Site) -> None:
    before = site.run("service", "status")
    assert before.returncode == 69
    assert "absent" in before.stdout

    assert site.run("service", "install").returncode == 0
    after = site.run("service", "status")
    assert after.returncode == 0
    assert "installed" in after.stdout
    assert "No broker runs" in after.stdout
    assert site.run("service", "restart").returncode == 2


def test_a_palace_that_can_never_be_served_gets_no_unit(site: Site) -> None:
    site.palace.mkdir(mode=0o700)
    site.palace.chmod(0o777)

    done = site.run("service", "install")

    assert done.returncode == errors.UnsafePalace.exit_code
    assert not unit_of(site).exists()
