"""A palace behind a boundary between kernels, served over TLS: guests, neighbours, killed brokers.

The boundary is a FUSE mount of bindfs: flock succeeds there while it is held beneath, and no socket
can be connected to.  Nothing in the product is switched for it.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults.killing import is_full
from tests.support.loads.mixed import WING, Tally, nonces_in, take_turns
from tests.support.loads.pool import ClientPool
from tests.support.machines.mounts import mounted
from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import make_palace, make_site, wait_gone
from tests.support.processes.clients import (
    PALACE,
    Client,
    Site,
    brokers_of,
    end_brokers,
    wait_until,
)
from tests.support.processes.watch import STORE, Watcher
from tests.support.stores.effects import facts_in, texts_in

KILLS = 10 if is_full() else 4
NEIGHBOURS, GUESTS = 2, 3
FORBIDDEN_MARKS = (".drift", ".corrupt", ".broken")


@pytest.fixture(autouse=True)
def parts() -> None:
    need_root()
    need_command("bindfs")


def expose(site: Site, *more: str, host: str = "127.0.0.1") -> None:
    """Let the palace's broker listen for guests."""
    make_palace(site, "\n".join((f'listen = "{host}:{free_port()}"', *more, "")))


@pytest.fixture
def guest(site: Site, tmp_path: Path) -> Iterator[Site]:
    """The palace as a guest sees it; its broker listens on the loopback."""
    expose(site)
    with mounted(site.palace.parent, tmp_path / "mount") as mount:
        yield Site(home=site.home, palace=mount / "palace")


def test_a_guest_reaches_the_broker_and_never_opens_the_store(site: Site, guest: Site) -> None:
    with Watcher(guest.palace) as through, Watcher(site.palace) as watcher:
        with site.shim() as neighbour, guest.shim() as client:
            neighbour.tool("add_drawer", wing="w", room="r", content="by a neighbour")
            client.initialize()
            client.tool("add_drawer", wing="w", room="r", content="by a guest")
            shown = client.tool("list_drawers", wing="w")["drawers"]
            status = site.status()
            codes = [client.close(), neighbour.close()]
        opened = through.opens[STORE]
    watcher.assert_one_at_a_time()

    assert len(shown) == 2
    assert codes == [0, 0]
    assert opened == 0
    assert watcher.pids == {status["pid"]}
    assert not brokers_of(guest.palace)


def test_a_question_from_a_guest_follows_the_record_where_its_shim_may_not(
    site: Site, guest: Site
) -> None:
    with site.shim() as neighbour:
        neighbour.tool("kg_query", entity="a")
        with guest.shim() as client:  # it finds a socket and a record
            client.tool("kg_query", entity="a")
            asked = guest.run("status", "--json")
        status = json.loads(asked.stdout)

    assert asked.returncode == 0, asked.stderr
    assert status["pid"] == site.record()["pid"]
    # A session over TLS has no process that the broker's kernel could name.
    assert sorted(session["pid"] > 0 for session in status["sessions"]) == [False, True]


def test_a_guest_follows_the_palace_to_its_next_broker(site: Site, guest: Site) -> None:
    with site.shim() as neighbour, guest.shim() as client:
        neighbour.tool("kg_add", subject="a", predicate="is", object="b")
        client.tool("kg_add", subject="a", predicate="is", object="c")
        before = site.record()
        wait_gone(site.kill_broker())
        neighbour.tool("kg_query", entity="a")
        facts = client.tool("kg_query", entity="a")["facts"]
        after = site.record()

    assert {fact["object"] for fact in facts} == {"b", "c"}
    assert before["token"] != after["token"]
    assert before["fingerprint"] != after["fingerprint"]


def test_a_guest_that_nobody_serves_says_what_would_help(guest: Site) -> None:
    with guest.shim() as client:
        assert "result" in client.initialize()
        error = client.call("mempalace_status")["error"]

    for words in (str(guest.palace.parent), "fuse", "palace start", "bridge", "palace own --here"):
        assert words in error["message"]
    assert not (guest.palace / "broker.lock").exists()


def test_the_token_is_in_no_log_no_title_and_no_status(site: Site, guest: Site) -> None:
    with site.shim() as neighbour, guest.shim() as client:
        neighbour.tool("status")
        client.tool("status")
        token = site.record()["token"]
        shown = [site.run("status", "--json").stdout, site.run("ensure").stdout, site.log()]
        shown += [site.run("doctor", "--json").stdout]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    shown.append((entry / "cmdline").read_text(errors="replace"))
                except OSError:
                    continue

    assert len(token) >= 32
    assert not [text for text in shown if token in text]


# Other networks, other files.


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """A network namespace; yields its name and our address as it is seen from there."""
    ip = need_command("ip")
    name = f"palace{os.getpid()}"
    link = f"p{os.getpid()}"
    commands = (
        f"{ip} netns add {name}",
        f"{ip} link add {link} type veth peer name {link}g netns {name}",
        f"{ip} addr add 10.213.7.1/30 dev {link}",
        f"{ip} link set {link} up",
        f"{ip} -n {name} addr add 10.213.7.2/30 dev {link}g",
        f"{ip} -n {name} link set {link}g up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield name, "10.213.7.1"
    finally:
        subprocess.run([ip, "netns", "del", name], check=False)
        subprocess.run([ip, "link", "del", link], check=False, stderr=subprocess.DEVNULL)


def test_a_guest_in_another_network_is_served(
    site: Site, tmp_path: Path, network: tuple[str, str]
) -> None:
    name, address = network
    expose(site, host=address)
    with mounted(site.palace.parent, tmp_path / "mount") as mount:
        guest = Site(home=site.home, palace=mount / "palace")
        inside = [need_command("ip"), "netns", "exec", name, *PALACE, "shim"]
        with site.shim() as neighbour, Client(inside, guest.environ()) as client:
            neighbour.tool("status")
            assert client.tool("kg_add", subject="a", predicate="is", object="b")["success"]


# A mount namespace of its own, and the mark that container engines leave there.
CONTAINER = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs none /run && : > /run/.containerenv && cd "$HOME" && exec "$@"',
    "container",
)


def test_files_of_a_container_are_translated_or_refused(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "notes.md").write_text("# Notes\n\nThe lighthouse keeper feeds the gulls.\n" * 9)
    make_palace(site, f'[path_map]\n"/workspace" = "{source}"\n')
    with site.shim() as neighbour:
        neighbour.tool("status")  # the broker runs outside, where the files have other names
        with Client([*CONTAINER, *PALACE, "shim"], site.environ()) as client:
            refused = client.call("mempalace_mine", source=str(source), wing="w")["error"]
            relative = client.call("mempalace_mine", source="src", wing="w")["error"]
            mined = client.tool("mine", source="/workspace", wing="w")
            drawers = client.tool("list_drawers", wing="w")["drawers"]

    assert (refused["code"], relative["code"]) == (-31064, -31064)
    assert "path_map" in refused["message"]
    assert drawers, mined


def test_a_relative_path_is_the_clients_not_the_brokers(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "here" / "src"
    source.mkdir(parents=True)
    (source / "notes.md").write_text("# Notes\n\nThe harbour master paints his boat green.\n" * 9)
    with Client([*PALACE, "shim"], site.environ(), cwd=source.parent) as client:
        client.tool("mine", source="src", wing="w")
        assert client.tool("list_drawers", wing="w")["drawers"]


# A storm.


def test_guests_and_neighbours_lose_nothing_while_the_broker_is_killed_again_and_again(
    tmp_path: Path, model_home: Path
) -> None:
    site = make_site(tmp_path, model_home)
    expose(site)
    try:
        with mounted(site.palace.parent, tmp_path / "mount") as mount:
            storm(site, Site(home=site.home, palace=mount / "palace"))
    finally:
        end_brokers(site.palace)


def storm(site: Site, guest: Site) -> None:
    with Watcher(guest.palace) as through, Watcher(site.palace) as watcher:
        with site.shim() as first:
            first.tool("add_drawer", wing=WING, room="first", content="so that searches find some")
        shims = [site.shim() for _ in range(NEIGHBOURS)] + [guest.shim() for _ in range(GUESTS)]
        tallies = [Tally(number=number) for number in range(len(shims))]
        pool = ClientPool(shims, tallies, take_turns)
        pool.start()
        for _ in range(KILLS):
            wanted = pool.replies() + 3 * len(shims)
            wait_until(lambda w=wanted: pool.replies() >= w or pool.failed(), 90, "replies")
            pid = site.kill_broker()
            wait_gone(pid)
            wait_until(lambda p=pid: served_again(site, p), 90, "a new broker")
        wanted = pool.replies() + 4 * len(shims)
        wait_until(lambda: pool.replies() >= wanted or pool.failed(), 90, "replies")
        pool.end()
        codes = [client.close() for client in shims]
        assert site.run("stop").returncode == 0
        opened = through.opens[STORE]
    watcher.assert_one_at_a_time()
    print(watcher.report())

    assert codes == [0] * len(shims)
    assert opened == 0
    assert [tally.unexpected for tally in tallies] == [[]] * len(shims)
    assert [tally.unknown for tally in tallies] == [set()] * len(shims)
    texts, facts = nonces_in(texts_in(site)), nonces_in(facts_in(site))
    for tally in tallies:
        assert len(tally.drawers) > 2
        assert {*tally.drawers, *tally.entries} <= set(texts)
        assert tally.facts <= set(facts)
    assert not [nonce for nonce, count in facts.items() if count > 1]
    names = [path.name for path in site.palace.rglob("*")]
    assert not [name for name in names if any(mark in name for mark in FORBIDDEN_MARKS)]


def served_again(site: Site, killed: int) -> bool:
    try:
        return bool(site.record()["pid"] != killed)
    except (FileNotFoundError, json.JSONDecodeError):
        return False
