"""Two hosts that name one namespace of one PostgreSQL: never both write, whatever happens to them.

Hosts and server have a network of their own each.  Links are cut, sessions ended, brokers stopped,
killed, and made to leave, all in the middle of writes.  The database itself notes who commits.
"""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import attrs
import pytest

from palace.engine.stores.pgvector_fence import TABLE
from tests.support.engines.postgres import Postgres, running_postgres
from tests.support.faults.killing import is_deep, is_full
from tests.support.machines.needs import need_command, need_root
from tests.support.processes.clients import PALACE, Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

INCIDENTS = 100 if is_full() else 24 if is_deep() else 6
SEED = 17
WATCHDOG_S = 60.0
NET = "10.213"
# So that nobody waits for half a minute: both ends miss a peer after two or three seconds.
SOONER = "connect_timeout=2&tcp_user_timeout=2000&keepalives_idle=1&keepalives_interval=1"
SERVER = {
    "listen_addresses": "*",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": "2000",
}
AUDIT = f"""
CREATE TABLE audit (name text, epoch bigint, incarnation text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit SELECT current_setting('application_name'), epoch, incarnation FROM {TABLE};
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON %s
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
"""


@attrs.define
class Network:
    """One of its own; the process that keeps it is ended by the test."""

    pid: int

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv]

    def run(self, *argv: str) -> None:
        subprocess.run(self.command(*argv), check=True, capture_output=True)


@attrs.define
class Host:
    """A host with a palace, and an agent on it that never stops filing drawers."""

    name: str
    network: Network
    site: Site
    filed: list[str] = attrs.field(factory=list)
    refused: list[str] = attrs.field(factory=list)
    longest_s: float = 0.0
    over: threading.Event = attrs.field(factory=threading.Event)

    def palace(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.network.command(*PALACE, *arguments),
            env=self.site.environ(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def client(self) -> Client:
        return Client(self.network.command(*PALACE, "shim"), self.site.environ())

    def file_drawers(self) -> None:
        with self.client() as client:
            client.initialize()
            number = 0
            while not self.over.is_set():
                number += 1
                text = f"{self.name} files drawer {number}"
                begun_s = time.monotonic()
                where = {"wing": "w", "room": self.name, "content": text}
                reply = client.call("mempalace_add_drawer", **where)
                self.longest_s = max(self.longest_s, time.monotonic() - begun_s)
                if "result" in reply and '"success": true' in reply["result"]["content"][0]["text"]:
                    self.filed.append(text)
                else:
                    self.refused.append(str(reply)[:300])
                    self.over.wait(0.2)

    def has_filed_more(self, than: int) -> bool:
        return len(self.filed) > than

    def cut(self) -> None:
        self.network.run("ip", "link", "set", "eth0", "down")

    def mend(self) -> None:
        self.network.run("ip", "link", "set", "eth0", "up")

    def broker(self) -> int:
        return int(self.site.record()["pid"])


@attrs.define
class Country:
    """Two hosts, a server, and what happens to them."""

    server: Postgres
    hosts: tuple[Host, Host]
    happened: list[str] = attrs.field(factory=list)

    def owner(self) -> Host:
        """Return the host that has the right, or had it last."""
        (place,) = self.server.ask(f"SELECT place FROM {TABLE}")[0]
        return next(host for host in self.hosts if str(host.site.palace) == place)

    def epoch(self) -> int:
        return int(self.server.ask(f"SELECT epoch FROM {TABLE}")[0][0])

    def other(self, host: Host) -> Host:
        return next(one for one in self.hosts if one is not host)

    def is_free(self) -> bool:
        held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
        return not self.server.ask(held)

    def serves_again(self) -> None:
        """Wait until somebody files drawers, whoever has the right now."""
        before = [len(host.filed) for host in self.hosts]
        wait_until(
            lambda: any(map(Host.has_filed_more, self.hosts, before)),
            timeout_s=WATCHDOG_S,
        )

    # What happens.

    def link_cut(self) -> None:
        """Its agent is told, while the link is still cut."""
        owner = self.owner()
        refused = len(owner.refused)
        owner.cut()
        wait_until(lambda: len(owner.refused) > refused, timeout_s=WATCHDOG_S)
        owner.mend()

    def stopped(self) -> None:
        pid = self.owner().broker()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(1)
            os.kill(pid, signal.SIGCONT)

    def sessions_ended(self) -> None:
        self.server.end_sessions()

    def killed(self) -> None:
        """Its successor settles what it left; until then the other host is refused, and rightly."""
        owner, epoch = self.owner(), self.epoch()
        try:
            os.kill(owner.broker(), signal.SIGKILL)
        except ProcessLookupError:
            return  # it was just leaving
        wait_until(lambda: self.epoch() > epoch, timeout_s=WATCHDOG_S)

    def handed_over(self) -> None:
        """Its owner leaves for a while, and the other one has it."""
        owner = self.owner()
        other = self.other(owner)
        assert owner.palace("stop", "--hold").returncode == 0
        filed = len(other.filed)
        wait_until(lambda: other.has_filed_more(filed), timeout_s=WATCHDOG_S)
        assert "are those of palace" in owner.palace("start").stderr

    def forced(self) -> None:
        """Its owner is cut off, and somebody says that it is gone for good; it isn't."""
        owner = self.owner()
        other = self.other(owner)
        owner.cut()
        wait_until(self.is_free, timeout_s=WATCHDOG_S)
        wait_until(lambda: self._is_taken_by(other), timeout_s=WATCHDOG_S)
        assert other.palace("start").returncode == 0
        filed = len(other.filed)
        wait_until(lambda: other.has_filed_more(filed), timeout_s=WATCHDOG_S)
        owner.mend()

    def _is_taken_by(self, host: Host) -> bool:
        """Take the tables by force; a broker that was just about to begin is in the way."""
        host.palace("stop", "--hold")
        taken = host.palace("own", "--force")
        assert taken.returncode in (0, 75), taken.stderr
        return "from epoch" in taken.stdout


KINDS = (
    Country.link_cut,
    Country.stopped,
    Country.sessions_ended,
    Country.killed,
    Country.handed_over,
    Country.forced,
)


@pytest.fixture
def country(tmp_path: Path, model_home: Path) -> Iterator[Country]:
    need_root()
    need_command("ip")
    with ExitStack() as stack:
        networks = []
        for _ in range(3):
            keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            stack.callback(keeper.wait)
            stack.callback(keeper.kill)
            networks.append(Network(keeper.pid))
        base, *others = networks
        for network in networks:
            wait_until(lambda network=network: _is_apart(network.pid))
            network.run("ip", "link", "set", "lo", "up")
        for number, network in enumerate(others, 1):
            cable = ["ip", "link", "add", f"host{number}", "type", "veth", "peer", "name", "eth0"]
            base.run(*cable, "netns", str(network.pid))
            base.run("ip", "addr", "add", f"{NET}.{number}.1/24", "dev", f"host{number}")
            base.run("ip", "link", "set", f"host{number}", "up")
            network.run("ip", "addr", "add", f"{NET}.{number}.2/24", "dev", "eth0")
            network.run("ip", "link", "set", "eth0", "up")
        server = stack.enter_context(
            running_postgres(prefix=tuple(base.command()), settings=SERVER, trusted=f"{NET}.0.0/16")
        )
        hosts = []
        for number, network in enumerate(others, 1):
            site = make_site(tmp_path / f"host{number}", model_home)
            dsn = f"postgresql://postgres@{NET}.{number}.1/postgres?{SOONER}&keepalives_count=2"
            site.extra |= {
                "MEMPALACE_BACKEND": "pgvector",
                "MEMPALACE_PGVECTOR_DSN": dsn,
                "MEMPALACE_PGVECTOR_SHARED_NAMESPACE": "team",
            }
            stack.callback(end_brokers, tmp_path / f"host{number}")
            hosts.append(Host(f"host{number}", network, site))
        yield Country(server, (hosts[0], hosts[1]))


def _is_apart(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_two_hosts_never_write_at_once(country: Country) -> None:
    first = country.hosts[0]
    with first.client() as client:
        client.initialize()
        client.tool("add_drawer", wing="w", room="r", content="The first drawer of all.")
    (table,) = country.server.ask(
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE a.attname = 'embedding' AND c.relkind = 'r' AND c.relname LIKE '%%drawers'"
    )[0]
    country.server.ask(AUDIT % table)
    agents = [threading.Thread(target=host.file_drawers) for host in country.hosts]
    rng = random.Random(SEED)
    try:
        for agent in agents:
            agent.start()
        for number in range(INCIDENTS):
            kind = KINDS[number % len(KINDS)] if not is_full() else rng.choice(KINDS)
            country.serves_again()
            country.happened.append(kind.__name__)
            kind(country)
        country.serves_again()
    except AssertionError as error:
        error.add_note(f"{country.happened}")
        for host in country.hosts:
            error.add_note(f"{host.name}: {host.refused[-1:]}\n{host.site.log()[-9000:]}")
        raise
    finally:
        for host in country.hosts:
            host.over.set()
        for agent in agents:
            agent.join(2 * WATCHDOG_S)
    _look_at(country, table)


def _lists(client: Client, total: int) -> bool:
    reply = client.call("mempalace_list_drawers")
    if "error" in reply:
        assert reply["error"]["data"]["palace"] == "store_owned", reply
        return False
    assert json.loads(reply["result"]["content"][0]["text"])["total"] == total
    return True


def _look_at(country: Country, table: str) -> None:
    owner = country.owner()
    for host in (owner, country.other(owner)):  # each settles what it still has to
        with host.client() as client:
            client.initialize()
            (there,) = country.server.ask(f"SELECT count(*) FROM {table}")[0]
            # A broker that was refused answers so for a moment, until the next one asks.
            wait_until(partial(_lists, client, there), timeout_s=WATCHDOG_S)
        assert host.palace("stop").returncode == 0
    query = "SELECT name, epoch, incarnation, count(*) FROM audit GROUP BY 1, 2, 3"
    committed = country.server.ask(query)
    assert committed
    for name, epoch, incarnation, _ in committed:
        assert name == f"palace epoch {epoch} {incarnation}", "whoever commits has the right to"
    epochs = [epoch for _, epoch, _, _ in committed]
    assert len(epochs) == len(set(epochs)), "never two owners under one epoch"
    kept = [text for (text,) in country.server.ask(f"SELECT document FROM {table}")]
    for host in country.hosts:
        assert host.filed, host.refused[-3:]
        assert [text for text in host.filed if kept.count(text) != 1] == []
    told = {host.name: (len(host.filed), len(host.refused)) for host in country.hosts}
    longest = max(host.longest_s for host in country.hosts)
    print(
        f"{len(country.happened)} incidents, {len(epochs)} epochs with commits; filed and refused: "
        f"{told}; longest wait {longest:.1f} s"
    )
