"""`palace expose`: two of the user's settings change, and nothing in the palace."""

import tomllib
from pathlib import Path

import pytest

from palace.commands.config import change_settings
from palace.commands.expose import (
    Exposure,
    expose_off,
    exposure_here,
    interface_address,
)
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.user_settings import read_user_settings
from tests.support.machines.needs import need_command, need_root
from tests.support.processes.brokers import run
from tests.support.processes.clients import PALACE, Site

WANTED = Exposure(listen="127.0.0.1:7253", advertise=("host.docker.internal:7253",))


def test_docker_on_a_mac_reaches_the_loopback_by_a_name() -> None:
    assert exposure_here(7253, platform="darwin") == WANTED


@pytest.mark.skipif(not Path("/proc").exists(), reason="asks Linux for an interface")
def test_docker_on_linux_is_served_at_the_bridges_address_where_there_is_one() -> None:
    assert interface_address("lo") == "127.0.0.1"
    assert exposure_here(80, platform="linux", bridge="lo") == Exposure(
        listen="127.0.0.1:80", advertise=("127.0.0.1:80", "host.docker.internal:80")
    )
    with pytest.raises(ConfigError, match="bind mount the palace's directory"):
        exposure_here(80, platform="linux", bridge="nothing0")


@pytest.fixture
def short_site(short_dir: Path) -> Site:
    home = short_dir / "home"
    home.mkdir()
    return Site(home=home, palace=short_dir / "palace")


def test_off_changes_a_setting_once_and_makes_no_file(short_site: Site) -> None:
    paths, environment = Paths(str(short_site.palace)), ShimEnvironment(short_site.environ())
    assert "nothing was changed" in expose_off(paths, environment)
    user = read_user_settings(paths, environment.all, Kernel())
    assert not Path(user.path).exists()
    change_settings(paths, environment, {"listen": "127.0.0.1:1"}, Kernel())

    assert "before: listen at 127.0.0.1:1" in expose_off(paths, environment)

    assert read_user_settings(paths, environment.all, Kernel()).values == {}
    assert not Path(paths.settings).exists()


# A network of its own, in which Docker's bridge is there.
WITH_DOCKER0 = (
    *("unshare", "--net", "sh", "-c"),
    'ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && exec "$@"',
    "sh",
)


@pytest.mark.process
def test_the_command_writes_the_users_settings_and_none_of_the_palaces(short_site: Site) -> None:
    need_root()
    need_command("ip")
    settings = short_site.palace / "palace.toml"

    missing = run(["unshare", "--net", *PALACE, "expose", "docker"], short_site)
    assert missing.returncode == 78
    assert "There is no docker0" in missing.stderr
    assert not settings.exists()

    done = run([*WITH_DOCKER0, *PALACE, "expose", "docker", "--port", "7300"], short_site)
    assert done.returncode == 0, done.stderr
    assert "palace start; palace expose docker" in done.stdout
    config = load_config(Paths(str(short_site.palace)), short_site.environ(), Kernel())
    assert config.listen == "172.17.0.1:7300"
    assert config.advertise == ("172.17.0.1:7300", "host.docker.internal:7300")
    mine = Path(
        read_user_settings(Paths(str(short_site.palace)), short_site.environ(), Kernel()).path
    )
    assert not settings.exists()
    assert mine.stat().st_mode & 0o777 == 0o600

    assert "listen at 172.17.0.1:7300" in short_site.run("expose").stdout
    again = run([*WITH_DOCKER0, *PALACE, "expose", "docker"], short_site)
    assert "before: listen at 172.17.0.1:7300" in again.stdout
    assert "172.17.0.1:7253" in mine.read_text()
    (short_site.palace / "palace_id").write_text("a" * 32)
    given = run([*WITH_DOCKER0, *PALACE, "expose", "docker", "ci", "--read-only"], short_site)
    for part in ("palace stop", "for guest ci, which may read", "palace shim", "extra_hosts"):
        assert part in given.stdout
    assert "ci: may read" in short_site.run("expose").stdout
    assert short_site.run("expose", "revoke", "ci").returncode == 0
    assert short_site.run("expose", "off").returncode == 0
    assert set(tomllib.loads(mine.read_text())) == {"palace", "palace_id"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["podman"],
        ["off", "--port", "1"],
        ["docker", "--port=x"],
        ["guest"],
        ["revoke"],
        ["off", "ci"],
        ["revoke", "ci", "--read-only"],
    ],
)
def test_wrong_usage_is_told(short_site: Site, arguments: list[str]) -> None:
    assert short_site.run("expose", *arguments).returncode == 2
