"""`palace expose`: two settings in palace.toml change, and nothing else that people wrote there."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.commands.expose import (
    NOWHERE,
    Exposure,
    expose_off,
    exposure_here,
    interface_address,
    read_exposure,
    with_exposure,
)
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.protocol.errors import ConfigError
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.machines.needs import need_command, need_root
from tests.support.processes.brokers import run
from tests.support.processes.clients import PALACE, Site

WANTED = Exposure(listen="127.0.0.1:7253", advertise=("host.docker.internal:7253",))
BY_HAND = """\
# Settings of this palace.
graph = "knowledge_graph.sqlite3"  # where stock had it
idle_s = 0   # never

# of a later version
unheard_of = [1, 2]

[path_map]  # guests
"/workspace" = "/home/me/src"
"""


def test_what_people_wrote_stays_and_the_way_back_leads_to_the_same_bytes() -> None:
    exposed = with_exposure(BY_HAND, WANTED, "palace.toml")

    assert read_exposure(tomllib.loads(exposed)) == WANTED
    added = [row for row in exposed.splitlines() if row not in BY_HAND.splitlines()]
    assert added == [
        'listen = "127.0.0.1:7253"',
        'advertise = ["host.docker.internal:7253"]',
    ]
    assert [row for row in exposed.splitlines() if row not in added] == BY_HAND.splitlines()
    assert with_exposure(exposed, NOWHERE, "palace.toml") == BY_HAND


def test_a_comment_beside_a_setting_outlives_its_value() -> None:
    given_text = 'listen = "10.0.0.1:99"  # the lab\nadvertise = [\n  "lab:99", # its name\n]\n'
    same = Exposure(listen="10.0.0.1:99", advertise=("lab:99",))

    assert with_exposure(given_text, same, "palace.toml") == given_text
    assert "# the lab" in with_exposure(given_text, WANTED, "palace.toml")
    off = with_exposure(given_text, NOWHERE, "palace.toml")
    assert off == 'listen = ""  # the lab\n'


@pytest.mark.parametrize("text", ["listen = ", "a = 1\na = 2\n", "\0"])
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"palace\.toml is not valid TOML"):
        with_exposure(text, WANTED, "palace.toml")


keys = st.text("abcdefghij_", min_size=1, max_size=6).filter(lambda key: "listen" not in key)
# A small alphabet: all of Unicode takes Hypothesis seconds to list, where it has no cache.
comments = st.text("abc \t#='\"[]\\,\u00e9\u4e2d\U0001f600", max_size=20).map(
    lambda text: f"#{text}"
)
scalars = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text("abc #\\[]=", max_size=8).map(lambda text: "'" + text + "'"),
    st.lists(st.integers(0, 9), max_size=3).map(str),
)
addresses = st.sampled_from(["127.0.0.1:7253", "172.17.0.1:7253", "host.docker.internal:80"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A palace.toml as people write it: keys, tables, comments and empty lines in any order."""
    rows: list[str] = []
    used: set[str] = set()
    if draw(st.booleans()):
        rows.append(f'listen = "{draw(addresses)}"' + draw(st.sampled_from(["", "  # mine"])))
    if draw(st.booleans()):
        rows.append(f'advertise = ["{draw(addresses)}"]')
    for kind in draw(st.lists(st.sampled_from(["key", "comment", "empty", "table"]), max_size=12)):
        if kind == "comment":
            rows.append(draw(comments))
        elif kind == "empty":
            rows.append("")
        else:
            key = draw(keys.filter(lambda key: key not in used))
            used.add(key)
            tail = draw(st.sampled_from(["", " # so"]))
            rows.append(f"[{key}]{tail}" if kind == "table" else f"{key} = {draw(scalars)}{tail}")
    return "\n".join(rows) + draw(st.sampled_from(["", "\n", "\n\n"]))


def comments_of(text: str) -> list[str]:
    """Return the comments that stand on lines of their own, and those behind other settings."""
    return [
        row.strip()
        for row in text.split("\n")
        if "#" in row and not row.startswith(("listen", "advertise"))
    ]


@given(documents(), st.one_of(st.just(NOWHERE), st.builds(Exposure, listen=addresses,
    advertise=st.lists(addresses, max_size=2).map(tuple))))  # fmt: skip
def test_any_file_keeps_all_but_the_two_settings(text: str, wanted: Exposure) -> None:
    changed = with_exposure(text, wanted, "palace.toml")

    before, after = tomllib.loads(text), tomllib.loads(changed)
    assert read_exposure(after) == wanted
    for name in ("listen", "advertise"):
        before.pop(name, None)
        after.pop(name, None)
    assert after == before
    assert comments_of(changed) == comments_of(text)
    assert with_exposure(changed, wanted, "palace.toml") == changed


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


def test_off_changes_a_file_once_and_makes_none(short_site: Site) -> None:
    paths, environment = Paths(str(short_site.palace)), ShimEnvironment(short_site.environ())
    assert "nothing was changed" in expose_off(paths, environment)
    assert not Path(paths.settings).exists()
    Path(paths.settings).write_text('listen = "127.0.0.1:1"\n')

    assert "before: listen at 127.0.0.1:1" in expose_off(paths, environment)

    assert Path(paths.settings).read_text() == ""


# A network of its own, in which Docker's bridge is there.
WITH_DOCKER0 = (
    *("unshare", "--net", "sh", "-c"),
    'ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && exec "$@"',
    "sh",
)


@pytest.mark.process
def test_the_command_writes_a_new_palaces_settings_as_a_broker_would(short_site: Site) -> None:
    need_root()
    need_command("ip")
    settings = short_site.palace / "palace.toml"

    missing = run(["unshare", "--net", *PALACE, "expose", "docker"], short_site)
    assert missing.returncode == 78
    assert "There is no docker0" in missing.stderr
    assert not settings.exists()

    done = run([*WITH_DOCKER0, *PALACE, "expose", "docker", "--port", "7300"], short_site)
    assert done.returncode == 0, done.stderr
    for part in ("palace stop", "mount the palace", "palace shim", "extra_hosts"):
        assert part in done.stdout
    config = load_config(Paths(str(short_site.palace)), short_site.environ(), Kernel())
    assert config.listen == "172.17.0.1:7300"
    assert config.advertise == ("172.17.0.1:7300", "host.docker.internal:7300")
    written = tomllib.loads(settings.read_text())
    assert {"graph", "config_dir", "environment"} <= set(written)
    assert settings.stat().st_mode & 0o777 == 0o600

    assert "listen at 172.17.0.1:7300" in short_site.run("expose").stdout
    again = run([*WITH_DOCKER0, *PALACE, "expose", "docker"], short_site)
    assert "before: listen at 172.17.0.1:7300" in again.stdout
    assert "172.17.0.1:7253" in settings.read_text()
    assert short_site.run("expose", "off").returncode == 0
    assert set(tomllib.loads(settings.read_text())) == {"graph", "config_dir", "environment"}


@pytest.mark.process
def test_settings_are_not_written_beside_a_broker_that_has_yet_to_write_them(
    short_site: Site,
) -> None:
    need_root()
    need_command("ip")
    short_site.palace.mkdir(mode=0o700)
    owner = lock.take_lock(Paths(str(short_site.palace)), Kernel())
    try:
        done = run([*WITH_DOCKER0, *PALACE, "expose", "docker"], short_site)
    finally:
        os.close(owner.lock_fd)

    assert done.returncode == 75
    assert "try again" in done.stderr
    assert not (short_site.palace / "palace.toml").exists()


@pytest.mark.parametrize("arguments", [["podman"], ["off", "--port", "1"], ["docker", "--port=x"]])
def test_wrong_usage_is_told(short_site: Site, arguments: list[str]) -> None:
    assert short_site.run("expose", *arguments).returncode == 2
