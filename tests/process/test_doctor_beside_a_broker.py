"""What the doctor says beside a running broker that can't be reached as its users reach it."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from palace.settings.stock_config import server_directory
from tests.support.loads.light import storm_site
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def light(short_dir: Path) -> Iterator[Site]:
    """A palace whose brokers have the light engine."""
    yield storm_site(short_dir)
    end_brokers(short_dir)


def info_of(site: Site) -> Path:
    return Path(server_directory(str(site.home), str(site.palace))) / "serverinfo.json"


def findings(site: Site) -> dict[str, dict[str, str]]:
    said = site.run("doctor", "--json").stdout.splitlines()
    return {one["code"]: one for one in map(json.loads, said)}


def change_settings(site: Site) -> None:
    settings = site.palace / "palace.toml"
    started = settings.stat().st_mtime + 2  # the record has whole seconds
    wait_until(lambda: time.time() > started, what="a change can be told from the start")
    other = settings.with_name("prepared.toml")
    other.write_text(settings.read_text() + "readers = 2\n")
    os.utime(other, (0, 0))
    other.rename(settings)


def settle_settings(site: Site) -> None:
    os.utime(site.palace / "palace.toml", (0, 0))


def remove_for_good(site: Site, path: Path) -> None:
    """Remove a file where its broker can't write it again, as on a disk that is full."""
    pid = json.loads(info_of(site).read_text())["pid"]
    path.with_name(f"{path.name}.{pid}.tmp").mkdir()  # where it is written before it is renamed
    path.unlink()


def remove_info(site: Site) -> None:
    remove_for_good(site, info_of(site))


def misdirect_info(site: Site) -> None:
    """Let the file be another server's that lives: its broker leaves it alone."""
    told = json.loads(info_of(site).read_text()) | {"port": free_port(), "pid": os.getpid()}
    info_of(site).write_text(json.dumps(told))


def remove_others_info(site: Site) -> None:
    info_of(site).unlink()


def remove_token(site: Site) -> None:
    remove_for_good(site, info_of(site).parent / "token")


def talk_nonsense(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{site.palace}/broker.sock")
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sock.recv(1000)


def remove_socket(site: Site) -> None:
    """Remove what its broker makes again, and wait until it has."""
    (site.palace / "broker.sock").unlink()
    wait_until((site.palace / "broker.sock").exists, what="the socket is bound again")


def nothing(_site: Site) -> None:
    return


# Each by its finding's code: how it comes about, and what has to be done besides `palace stop`.
SITUATIONS: dict[str, tuple[Callable[[Site], None], Callable[[Site], None]]] = {
    "settings_changed": (change_settings, settle_settings),
    "not_published": (remove_info, nothing),
    "http_unreachable": (misdirect_info, remove_others_info),
    "no_token": (remove_token, nothing),
    "errors": (talk_nonsense, nothing),
    "renewed": (remove_socket, nothing),
}


def test_what_cant_be_published_again_is_an_error_until_what_it_names_is_corrected(
    light: Site,
) -> None:
    record = light.palace / "broker.json"
    with Serving(light) as owner:
        wait_until(record.exists, what="the broker is published")
        assert "not_held" not in findings(light)
        obstacle = record.with_name(f"{record.name}.{owner.pid}.tmp")
        obstacle.mkdir()
        record.unlink()
        wait_until(lambda: "not_held" in findings(light), what="the broker has looked")
        said = findings(light)["not_held"]
        obstacle.rmdir()
        wait_until(lambda: "not_held" not in findings(light), what="it has tried again")

    assert said["level"] == "error"
    assert str(record) in said["text"]
    assert said["remedy"].startswith("It tries again by itself")
    assert json.loads(record.read_text())["pid"] == owner.pid


@pytest.mark.parametrize("code", SITUATIONS)
def test_it_is_a_warning_that_the_next_broker_ends(light: Site, code: str) -> None:
    arrange, besides = SITUATIONS[code]
    with Serving(light):
        wait_until(info_of(light).exists, what="stock is told of the broker")
        before = findings(light)
        arrange(light)
        said = findings(light)
        assert light.run("stop").returncode == 0
    besides(light)
    with Serving(light):
        wait_until(info_of(light).exists, what="stock is told of the next one")
        after = findings(light)

    assert code not in before
    assert said[code]["level"] == "warning"
    assert said[code]["remedy"]
    assert code not in after
    assert "stock's way in" in after
