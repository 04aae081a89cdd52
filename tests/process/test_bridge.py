"""Guests over ssh: a real sshd, both ways to carry the bytes, and everything that can go wrong."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.support.machines.mounts import mounted
from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import NAME, Sshd, open_sshd
from tests.support.processes.brokers import call_line, make_palace, settle, wait_gone
from tests.support.processes.clients import Client, Site, brokers_of, wait_until
from tests.support.processes.watch import STORE, Watcher

BIN = str(Path(sys.executable).parent)
PATH = f"{BIN}:/usr/bin:/bin"


def shell_environ(site: Site, path: str = PATH) -> dict[str, str]:
    """Return what a shell on the palace's machine finds set."""
    return {"PATH": path, "HOME": str(site.home), "PALACE_IDLE_S": "120"}


@attrs.frozen
class RemotePalace:
    """A palace's machine, and a client's words for the way there."""

    site: Site
    sshd: Sshd
    runtime: Path

    @property
    def url(self) -> str:
        return f"ssh://{NAME}{self.site.palace}"

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "MEMPALACE_BROKER": self.url,
            "PALACE_BRIDGE_CONFIG": str(self.sshd.config),
            "XDG_RUNTIME_DIR": str(self.runtime),
            **more,
        }

    def shim(self, **more: str) -> Client:
        return self.site.shim(**self.environ(**more))

    def ssh_clients(self) -> list[int]:
        """Return the ssh processes that name our configuration, its ControlMaster left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0] == b"ssh" and str(self.sshd.config).encode() in words:
                    found.append(int(entry.name))
        return found

    def assert_nothing_left(self) -> None:
        wait_until(lambda: not self.ssh_clients(), what="no ssh is left")
        wait_until(lambda: not list(self.runtime.glob("palace-ssh-*")), what="no socket is left")


WAYS = {
    "forwarded": {},
    "forwarded, shared": {"master": True},
    "relayed": {"forwarding": False},
    "relayed, shared": {"forwarding": False, "master": True},
}


@pytest.fixture(autouse=True)
def parts() -> None:
    need_root()  # sshd wants a directory in /run
    need_command("sshd")


@pytest.fixture
def runtime(short_dir: Path) -> Path:
    directory = short_dir / "run"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture(params=sorted(WAYS))
def far(request: pytest.FixtureRequest, site: Site, runtime: Path) -> Iterator[RemotePalace]:
    make_palace(site)
    directory = runtime.parent / "ssh"
    with open_sshd(directory, environ=shell_environ(site), **WAYS[request.param]) as sshd:
        yield RemotePalace(site, sshd, runtime)


@pytest.fixture
def plain(site: Site, runtime: Path) -> Iterator[RemotePalace]:
    make_palace(site)
    with open_sshd(runtime.parent / "ssh", environ=shell_environ(site)) as sshd:
        yield RemotePalace(site, sshd, runtime)


def failure(client: Client) -> str:
    """Return the message of a call that must fail."""
    error = client.call("mempalace_status")["error"]
    assert error["code"] <= -31000
    return str(error["message"])


def test_a_session_over_ssh_starts_the_broker_and_outlives_everything(far: RemotePalace) -> None:
    with far.shim() as client:
        client.initialize()
        client.tool("kg_add", subject="a", predicate="is", object="b")
        assert len(brokers_of(far.site.palace)) == 1
        assert far.sshd.cut()
        client.tool("kg_add", subject="a", predicate="is", object="c")
        wait_gone(far.site.kill_broker())
        facts = client.tool("kg_query", entity="a")["facts"]
        assert client.close() == 0

    assert {fact["object"] for fact in facts} == {"b", "c"}
    far.assert_nothing_left()


def test_a_connection_that_is_cut_in_the_middle_of_a_request_costs_nothing(
    far: RemotePalace,
) -> None:
    with far.shim() as client:
        client.tool("status")
        client.send(call_line("waits", "event_wait", timeout_ms=2500))
        time.sleep(0.5)
        assert far.sshd.cut()
        reply = json.loads(client.receive())

    assert reply["id"] == "waits"
    assert "result" in reply


def test_a_killed_shim_leaves_no_ssh_and_the_next_one_tidies_up(plain: RemotePalace) -> None:
    with plain.shim() as client:
        client.tool("status")
        client.process.kill()
        wait_until(lambda: not plain.ssh_clients(), what="no ssh is left")
    assert list(plain.runtime.glob("palace-ssh-*"))
    with plain.shim() as client:
        client.tool("status")

    plain.assert_nothing_left()


def test_shims_over_ssh_and_one_beside_the_palace_share_one_broker(plain: RemotePalace) -> None:
    shims = [plain.shim() for _ in range(4)] + [plain.site.shim()]
    try:
        for number, client in enumerate(shims):
            client.tool("kg_add", subject="crowd", predicate="has", object=f"n{number}")
        facts = shims[0].tool("kg_query", entity="crowd")["facts"]
        assert len(brokers_of(plain.site.palace)) == 1
    finally:
        codes = [client.close() for client in shims]

    assert len(facts) == len(shims)
    assert codes == [0] * len(shims)
    plain.assert_nothing_left()


# What can go wrong.


def test_an_unknown_host_key_is_told_and_nothing_waits_at_a_prompt(
    site: Site, runtime: Path
) -> None:
    make_palace(site)
    with open_sshd(runtime.parent / "ssh", known=False, environ=shell_environ(site)) as sshd:
        far = RemotePalace(site, sshd, runtime)
        with far.shim() as client:
            assert "Host key verification failed" in failure(client)
    assert not (site.palace / "broker.lock").exists()


def test_a_shell_that_does_not_find_palace_is_told_and_can_be_told_where_it_is(
    site: Site, runtime: Path
) -> None:
    make_palace(site)
    environ = shell_environ(site, "/usr/bin:/bin")
    with open_sshd(runtime.parent / "ssh", environ=environ) as sshd:
        far = RemotePalace(site, sshd, runtime)
        with far.shim() as client:
            text = failure(client)
        assert "bridge_command" in text
        assert "not found" in text
        with far.shim(PALACE_BRIDGE_COMMAND=f"{BIN}/palace") as client:
            assert "result" in client.call("mempalace_get_aaak_spec")


def test_another_palace_than_the_mount_shows_is_refused(plain: RemotePalace) -> None:
    other = Site(home=plain.site.home, palace=plain.site.home / "other" / "palace")
    other.palace.parent.mkdir()
    with other.shim() as client:
        client.tool("status")
    with plain.site.shim() as client:
        client.tool("status")
    url = f"ssh://{NAME}{other.palace}"
    with plain.shim(MEMPALACE_BROKER=url) as client:
        assert "serves another palace" in failure(client)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://", "ssh://"),
        ("ssh://-oProxyCommand=true", "no ssh://"),
        ("ssh://no.such.host.invalid", "Could not resolve"),
        ("ssh:host", "an address is"),
    ],
)
def test_a_url_that_leads_nowhere_is_named(site: Site, url: str, words: str) -> None:
    make_palace(site)
    with site.shim(MEMPALACE_BROKER=url) as client:
        text = failure(client)

    assert words in text
    assert "MEMPALACE_BROKER" in text or url in text
    assert not brokers_of(site.palace)


def test_without_an_ssh_client_the_message_says_so(plain: RemotePalace, tmp_path: Path) -> None:
    with plain.shim(PATH=str(tmp_path)) as client:
        assert "needs an ssh client" in failure(client)


def test_a_server_that_went_away_is_tried_for_a_while_and_named(site: Site, runtime: Path) -> None:
    make_palace(site)
    with open_sshd(runtime.parent / "ssh", environ=shell_environ(site)) as sshd:
        far = RemotePalace(site, sshd, runtime)
        with far.shim() as client:
            client.tool("status")
            sshd.end()
            text = failure(client)

    assert "Connection refused" in text


# A guest behind a boundary: the palace on a mount that locks don't cross.


@pytest.fixture
def guest(plain: RemotePalace, tmp_path: Path) -> Iterator[Site]:
    need_command("bindfs")
    settle(plain.site, f'[path_map]\n"/work" = "{tmp_path}/src"\n')
    with mounted(plain.site.palace.parent, tmp_path / "mount") as mount:
        environ = {"XDG_RUNTIME_DIR": str(plain.runtime)}
        site = Site(home=plain.site.home, palace=mount / "palace", extra=environ)
        settle(site, f'bridge = "{plain.url}"\nbridge_config = "{plain.sshd.config}"\n')
        yield site


def test_a_guest_takes_the_bridge_and_never_opens_the_store(
    plain: RemotePalace, guest: Site
) -> None:
    with Watcher(guest.palace) as through, Watcher(plain.site.palace) as watcher:
        with guest.shim() as client, plain.site.shim() as neighbour:
            client.tool("add_drawer", wing="w", room="r", content="by a guest")
            neighbour.tool("add_drawer", wing="w", room="r", content="by a neighbour")
            shown = client.tool("list_drawers", wing="w")["drawers"]
            pids = {client.process.pid}
        opened = through.opens[STORE]
    watcher.assert_one_at_a_time()

    assert len(shown) == 2
    assert opened == 0
    assert not watcher.pids & pids
    assert len(brokers_of(plain.site.palace)) == 1
    assert not brokers_of(guest.palace)
