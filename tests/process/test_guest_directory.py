"""A guest in a namespace of its own, which sees a guest's directory, read-only, and no palace."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import settle
from tests.support.processes.clients import PALACE, Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.process, pytest.mark.engine]

# The palace and its user's state are behind empty directories; the guest's is read-only.
ALONE = """
set -e
mount -t tmpfs none "$HIDDEN_PALACE"
mount -t tmpfs none "$HIDDEN_STATE"
mount --bind "$GIVEN" /mnt
mount -o remount,bind,ro /mnt
cd /
exec "$@"
"""


@attrs.frozen
class Guest:
    """A guest's machine; `environ` names nothing of the palace's."""

    argv: list[str]
    environ: dict[str, str]

    def shim(self) -> Client:
        return Client([*self.argv, *PALACE, "shim"], self.environ)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace that serves guests."""
    need_root()
    need_command("unshare")
    site = make_site(tmp_path_factory.mktemp("exposed"), model_home)
    try:
        with site.shim() as client:
            client.tool("status")  # which gives the palace an identity
        settle(site, f'listen = "127.0.0.1:{free_port()}"\n')
        yield site
    finally:
        end_brokers(site.palace)


def make_guest(site: Site, tmp_path: Path, name: str, *options: str) -> Guest:
    """Make a guest's directory, and let the next broker know its certificate."""
    given = tmp_path / name
    made = site.run("expose", "guest", name, "--into", str(given), *options)
    assert made.returncode == 0, made.stderr
    assert [path.name for path in given.iterdir()] == ["guest.json"]
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MEMPALACE_PATH": "/mnt",
        "HIDDEN_PALACE": str(site.palace),
        "HIDDEN_STATE": str(site.home / ".local"),
        "GIVEN": str(given),
    }
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ALONE, "guest"]
    return Guest(argv, environ)


def ask(client: Client, replies: list[dict[str, Any]]) -> dict[str, Any]:
    replies.append(client.call("mempalace_get_aaak_spec"))
    return replies[-1]


def test_a_guest_with_its_directory_alone_is_served_named_and_revoked(
    site: Site, tmp_path: Path
) -> None:
    writer = make_guest(site, tmp_path, "writer")
    reader = make_guest(site, tmp_path, "reader", "--read-only")
    site.run("stop")
    assert site.run("start").returncode == 0

    with writer.shim() as one, reader.shim() as other:
        filed = one.tool("add_drawer", wing="w", room="r", content="a guest's memory")
        found = other.tool("get_drawer", drawer_id=filed["drawer_id"])
        refused = other.call("mempalace_add_drawer", wing="w", room="r", content="not to be kept")
        status = json.loads(site.run("status", "--json").stdout)
        revoked = site.run("expose", "revoke", "reader")
        replies: list[dict[str, Any]] = []
        wait_until(lambda: "error" in ask(other, replies), what="the guest is not served")
        still = one.tool("get_drawer", drawer_id=filed["drawer_id"])

    assert found["content"] == still["content"] == "a guest's memory"
    assert "not to be kept" not in json.dumps(status)
    assert "read-only" in json.dumps(refused).lower()
    named = {session["guest"]: session["read_only"] for session in status["sessions"]}
    assert named == {"writer": False, "reader": True}
    assert revoked.returncode == 0
    assert "it was revoked" in replies[-1]["error"]["message"]
    log = (site.palace / "broker.log").read_text()
    assert "guest reader has connected" in log
    assert "guest reader: its token was revoked" in log
    tokens = [json.loads((tmp_path / n / "guest.json").read_text())["token"] for n in ("writer",)]
    assert not [token for token in tokens if token in log + json.dumps(status)]
    book = next((site.home / ".local/state/palace/guests").rglob("guests.json")).read_text()
    assert not [token for token in tokens if token in book]
