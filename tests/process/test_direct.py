"""Where no broker can be started: direct mode, and mounts whose locks exclude nobody."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loads.light import sandbox as sandbox_of
from tests.support.loads.light import storm_site
from tests.support.machines.mounts import mounted
from tests.support.processes.brokers import (
    Reaper,
    Serving,
    call_line,
    code_of,
    detached_brokers_of,
    make_palace,
    parent_of,
    processes_of,
    status_of,
    wait_gone,
)
from tests.support.processes.clients import PALACE, Client, Site, wait_until
from tests.support.processes.watch import STORE, Watcher
from tests.support.stores.effects import assert_explained, texts_in

pytestmark = pytest.mark.process

FOREIGN_KERNEL = -31056


def sandbox(site: Site) -> Reaper:
    """Return a sandbox that kills detached brokers as soon as they appear."""
    return Reaper(lambda: detached_brokers_of(site.palace))


@pytest.mark.usefixtures("follow_trace")
def test_shim_serves_itself_and_others_where_brokers_are_killed(site: Site, tmp_path: Path) -> None:
    make_palace(site)
    words = tmp_path / "stderr"
    with sandbox(site) as reaper, Watcher(site.palace) as watcher:
        with words.open("wb") as log:
            first = Client([*PALACE, "shim"], site.environ(), stderr=log)
        first.tool("add_drawer", wing="w", room="r", content="by the first")
        status, text = status_of(site), site.run("status").stdout
        direct = status["pid"]

        assert reaper.killed
        assert direct not in reaper.killed
        assert parent_of(direct) == first.process.pid
        assert os.getsid(direct) == os.getsid(first.process.pid)
        assert (status["mode"], site.record()["mode"]) == ("direct", "direct")
        assert "direct" in next(row for row in text.splitlines() if row.startswith("degraded"))
        assert "degraded: direct" in words.read_text()

        with site.shim() as second:
            second.tool("add_drawer", wing="w", room="r", content="by the second")
            assert status_of(site)["pid"] == direct
            assert len(status_of(site)["sessions"]) == 2
            assert first.close() == 0
            wait_gone(direct)

            assert len(second.tool("list_drawers", wing="w")["drawers"]) == 2
            heir = status_of(site)["pid"]
            assert parent_of(heir) == second.process.pid
            assert status_of(site)["epoch"] == 2

            second.process.send_signal(signal.SIGKILL)
            wait_until(lambda: not processes_of(site.palace), what="nobody is left")
    assert not (site.palace / "broker.json").exists()
    assert not (site.palace / "broker.sock").exists()
    assert watcher.pids == {direct, heir}
    assert_explained({"first": ["by the first"], "second": ["by the second"]}, texts_in(site))
    watcher.assert_one_at_a_time()


def test_a_broker_of_its_own_takes_over_once_nothing_kills_it(short_dir: Path) -> None:
    """A client serves the palace only for as long as no broker can."""
    site = storm_site(short_dir)
    sandbox_of(site).touch()
    with site.shim() as first, site.shim() as second:
        first.tool("add_drawer", wing="w", room="r", content="by the first")
        second.tool("add_drawer", wing="w", room="r", content="by the second")
        direct = site.record()
        assert direct["mode"] == "direct"
        sandbox_of(site).unlink()
        client = first if parent_of(direct["pid"]) == first.process.pid else second
        other = second if client is first else first
        assert client.close() == 0
        wait_gone(direct["pid"])

        other.tool("search", query="by the first")
        after = status_of(site)
        assert after["mode"] == "broker"
        assert parent_of(after["pid"]) != other.process.pid
    assert status_of(site)["pid"] == after["pid"], "it outlives its clients"
    assert site.run("stop").returncode == 0


def test_ensure_does_not_fall_back_to_direct(site: Site) -> None:
    with sandbox(site) as reaper:
        done = site.run("ensure")

    assert done.returncode == 71
    assert done.stderr.startswith("palace ensure: ")
    assert done.stdout == ""
    assert reaper.killed
    assert not processes_of(site.palace)
    assert not (site.palace / "epoch").exists()


@pytest.fixture
def guest(site: Site, tmp_path: Path) -> Iterator[Site]:
    """The site's palace as a guest of another kernel sees it: through a FUSE mount."""
    make_palace(site)
    with mounted(site.palace.parent, tmp_path / "mount") as mount:
        yield Site(home=site.home, palace=mount / "palace")


def assert_refused(text: str, guest: Site) -> None:
    """Check the one message: it names the mount, its type, and what to do."""
    assert str(guest.palace.parent) in text
    assert "fuse" in text
    for remedy in ("palace expose docker", "bridge=ssh", "palace own --here", "doctor --boundary"):
        assert remedy in text
    assert text.strip().count("\n") == 0


def test_palace_on_a_foreign_mount_is_never_opened(site: Site, guest: Site) -> None:
    store = site.palace / STORE
    store.write_bytes(b"not to be opened")
    with Watcher(site.palace, guest.palace) as watcher:
        with guest.shim() as client:
            assert "result" in client.initialize()
            client.send(call_line("refused", "search", query="anything"))
            served, ensured = guest.run("serve"), guest.run("ensure")
            reply = json.loads(client.receive())
            again = client.call("mempalace_kg_add", subject="a", predicate="is", object="b")
        opened = watcher.opens[STORE]
        (guest.palace / STORE).read_bytes()
        wait_until(lambda: watcher.opens[STORE] > opened, what="the watcher sees the mount, too")

    assert reply["id"] == "refused"
    assert [code_of(reply), code_of(again)] == [FOREIGN_KERNEL, FOREIGN_KERNEL]
    assert [served.returncode, ensured.returncode] == [72, 72]
    for text in (reply["error"]["message"], served.stderr, ensured.stderr):
        assert_refused(text, guest)
    assert opened == 0
    assert sorted(entry.name for entry in site.palace.iterdir()) == [STORE]
    assert store.read_bytes() == b"not to be opened"


def test_palace_on_a_foreign_mount_is_refused_while_its_owner_runs(site: Site, guest: Site) -> None:
    with Serving(site) as owner:
        served = guest.run("serve")
        with guest.shim() as client:
            reply = client.call("mempalace_get_aaak_spec")

        assert served.returncode == 72
        assert code_of(reply) == FOREIGN_KERNEL
        assert status_of(site)["epoch"] == 1
        assert site.record()["pid"] == owner.pid


def test_named_broker_serves_a_guest(site: Site, guest: Site) -> None:
    """The remedy that the refusal names works."""
    with (
        Serving(site),
        guest.shim(MEMPALACE_BROKER=f"unix:{site.palace}/broker.sock") as client,
    ):
        assert client.tool("kg_add", subject="a", predicate="is", object="b")["success"]
        assert client.tool("kg_query", entity="a")["count"] == 1
