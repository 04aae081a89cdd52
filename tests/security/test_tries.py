"""Attacks on one running palace, each by another user, a container, a guest and a client.

The broker is a real one with the real engine.  The other user is one whom `allow_uids` lets in, the
container has the palace's directory, but another view of the machine's files, the guest comes over
TLS with the record's token, and the client is a process of the owner's.  Which lines of the threat
model each attack stands for is in docs/reference/tries.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.client.guest.tunnel import Tunnel
from palace.client.guest.wss import carry_websocket
from tests.security import attacks
from tests.support.machines.needs import need_command, need_root
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving, make_site, settle, status_of, wait_ready
from tests.support.processes.clients import Client, Site, end_brokers

pytestmark = [pytest.mark.process, pytest.mark.engine]

USER = 65534
TURN_S = 5.0  # for an honest call beside an attack, on a machine with other work
REMEMBERED = "The lead has decided upon the harbour."
CANARY = "PRIVATE-KEY-CANARY"
SOURCE = Path(attacks.__file__).read_text()
BECOME = "import os, sys; os.setgroups([]); os.setgid({0}); os.setuid({0})\n"
# The user's files are behind an empty directory; the palace is where it was.
INSIDE = 'mount -t tmpfs none "$HIDDEN" && exec "$@"'
CONTAINER = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", INSIDE, "inside")


@attrs.define(eq=False)
class Palace:
    """A palace that is served, and an honest client of it."""

    site: Site
    broker: Serving
    honest: Client
    session: str
    drawer: str  # the honest client's
    memory: str  # of a namespace
    _attackers: dict[str, "Outside | Inside"] = attrs.field(factory=dict)

    def attacker(self, party: str) -> "Outside | Inside":
        """Return one of PARTIES, which is there from its first attack on."""
        if party not in self._attackers:
            self._attackers[party] = PARTIES[party](self.site)
        return self._attackers[party]

    def close(self) -> None:
        for attacker in self._attackers.values():
            attacker.close()

    def ask(self) -> None:
        """Have the honest client answered, by the broker and in the session that were there."""
        assert self.honest.tool("search", query="what is known", limit=3)["results"]
        assert self.broker.process.poll() is None
        status = status_of(self.site)
        assert status["pid"] == self.broker.pid
        assert self.session in {entry["session"] for entry in status["sessions"]}

    def session_name(self) -> str:
        """Return the whole name of the honest client's session, as everybody finds it."""
        journal = b"".join(path.read_bytes() for path in self.site.palace.glob("journal/*.jsonl"))
        (name,) = {
            found.decode()
            for found in re.findall(rb'"(h[0-9a-f]{32}):\d+"', journal)
            if found.decode().startswith(self.session)
        }
        return name

    def files_outside(self) -> dict[str, bytes]:
        """Return the user's own files."""
        home = self.site.home
        own = [home / ".ssh/id.md", *(path for path in home.parent.rglob("*PWNED*"))]
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in own}

    def shown(self) -> str:
        """Return what people's commands print of it."""
        done = [self.site.run(*words.split()) for words in ("status", "history", "doctor")]
        return "".join(one.stdout + one.stderr for one in done)


@pytest.fixture(scope="module")
def palace(model_home: Path) -> Iterator[Palace]:
    need_root()
    need_command("unshare")
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="p-", dir="/tmp")))
    try:
        root.chmod(0o711)
        site = make_site(root, model_home)
        site.palace.parent.chmod(0o711)
        site.palace.mkdir(mode=0o711)
        site.palace.chmod(0o711)
        lent = root / "lent"
        lent.mkdir()
        (site.home / ".ssh").mkdir(mode=0o700)
        (site.home / ".ssh/id.md").write_text(f"# Keys\n\n{CANARY}\n" * 20)
        settle(
            site,
            f'listen = "127.0.0.1:{free_port()}"\nallow_uids = [{USER}]\n'
            f'path_map = {{ "/lent" = "{lent}" }}\n',
        )
        with Serving(site) as broker:
            wait_ready(site)
            with site.shim() as honest:
                honest.initialize()
                text = "What is known of the tide."
                filed = honest.tool("add_drawer", wing="w", room="r", content=text)
                (entry,) = status_of(site)["sessions"]
                names = entry["session"], filed["drawer_id"], remembered(site)
                palace = Palace(site, broker, honest, *names)
                try:
                    yield palace
                finally:
                    palace.close()
    finally:
        end_brokers(root)
        shutil.rmtree(root)


def remembered(site: Site) -> str:
    """Have the owner register a workspace, and keep something in its team's namespace."""
    assert site.run("workspace", "add", "lead").returncode == 0
    with site.shim() as owner:
        owner.initialize()
        asked = {"namespace": "team:lead", "content": REMEMBERED}
        reply = owner.request("tools/call", name="palace_commit_memory", arguments=asked)
        return str(json.loads(reply["result"]["content"][0]["text"])["id"])


class Outside:
    """An attacker in a process of its own."""

    def __init__(self, site: Site, *prefix: str, become: int = 0) -> None:
        first = BECOME.format(become) if become else ""
        text = f"{SOURCE}\n{first}serve(sys.argv[1])"
        socket = str(site.palace / "broker.sock")
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", text, socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=os.environ | {"HIDDEN": str(site.home)},
        )

    def attack(self, name: str, facts: attacks.Facts) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([name, facts]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class Inside:
    """An attacker in this process: what it has is a way to the broker."""

    def __init__(self, connect: attacks.Connect) -> None:
        self._connect = connect

    def attack(self, name: str, facts: attacks.Facts) -> Any:
        return list(getattr(attacks, name)(self._connect, facts))

    def close(self) -> None:
        self.attack("release", {})


def guest_of(site: Site) -> Inside:
    record = json.loads((site.palace / "broker.json").read_text())
    (url,) = (url for url in record["endpoints"] if url.startswith("wss:"))
    way = {"url": url, "token": record["token"], "fingerprint": record["fingerprint"]}
    return Inside(lambda: Tunnel(lambda near: carry_websocket(near, **way)).sock)


PARTIES: dict[str, Callable[[Site], Outside | Inside]] = {
    "other_user": lambda site: Outside(site, become=USER),
    "container": lambda site: Outside(site, *CONTAINER),
    "guest": guest_of,
    "client": Outside,
}


@pytest.fixture(params=PARTIES)
def party(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def facts_for(palace: Palace, party: str) -> attacks.Facts:
    home = palace.site.home
    status = status_of(palace.site)
    return {
        "http": status["http"]["url"].split(":")[2].split("/")[0],
        "guests": status["listen"].rpartition(":")[2],
        "memory": palace.memory,
        "drawer": palace.drawer,
        "victim": palace.session_name(),
        "secret": str(home / ".ssh/id.md"),
        "made": str(home.parent / "PWNED"),
        "roams": "yes" if party == "client" else "",  # it may read what its user can
    }


def tried(palace: Palace, party: str, name: str) -> str:
    """Have a party attack; return all that it was answered, once an honest client was, too."""
    before = palace.files_outside()
    answers = json.dumps(palace.attacker(party).attack(name, facts_for(palace, party)))
    assert "Error" not in answers[:20], answers
    palace.ask()
    assert palace.files_outside() == before
    assert CANARY not in answers
    return answers


def test_nobody_ends_it_by_what_has_no_bounds(palace: Palace, party: str) -> None:
    answers = tried(palace, party, "bounds")

    assert answers.count("the end") >= 7, "who says something wrong in a session may go on"


def test_nobody_takes_a_session_by_its_name(palace: Palace, party: str) -> None:
    answers = tried(palace, party, "session")

    assert "the tide" not in answers
    assert answers.count("-31045") + answers.count("refused") >= 3, answers


def test_nobody_controls_it_from_a_session(palace: Palace, party: str) -> None:
    answers = tried(palace, party, "control")

    assert answers.count("palace/1 refused") == 6, answers


@pytest.mark.parametrize("party", ["other_user", "guest"])
def test_nobody_but_the_owner_controls_it(palace: Palace, party: str) -> None:
    answers = tried(palace, party, "commands")

    assert answers.count("refused") == 4, answers


def test_nobody_has_a_file_read_or_made_by_a_name(palace: Palace, party: str) -> None:
    tried(palace, party, "files")

    found = palace.honest.tool("search", query=CANARY, limit=50)["results"]
    assert not [row for row in found if CANARY in row["text"]]


def test_nobody_controls_a_terminal_by_a_name(palace: Palace, party: str) -> None:
    tried(palace, party, "terminal")
    shown = palace.shown()

    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown)
    assert "\nFORGED" not in shown


def test_nobody_keeps_another_out_by_what_it_holds(palace: Palace, party: str) -> None:
    tried(palace, party, "share")
    try:
        with palace.site.shim() as another:
            another.initialize()
            assert another.tool("event_wait", stream="s", timeout_ms=1) is not None
            another.tool("add_drawer", wing="w", room="r", content=f"Not kept out by {party}.")
    finally:
        palace.attacker(party).attack("release", {})


def test_nobody_stops_the_loop_by_lines(palace: Palace, party: str) -> None:
    attacker, taken_s, done = palace.attacker(party), [], threading.Event()

    def attack() -> None:
        attacker.attack("lines", facts_for(palace, party))
        done.set()

    thread = threading.Thread(target=attack)
    thread.start()
    while not done.wait(0.05) and thread.is_alive():
        begun_s = time.monotonic()
        palace.ask()
        taken_s.append(time.monotonic() - begun_s)
    thread.join()

    assert done.is_set(), "the attack was carried out"
    assert taken_s, "it went on for some time"
    assert max(taken_s) < TURN_S


def test_nobody_has_the_writer_alone(palace: Palace, party: str) -> None:
    attacker, facts = palace.attacker(party), facts_for(palace, party)
    attacker.attack("writer", facts)
    try:
        for number in range(2):
            text = f"Written beside {party}, {number}."
            assert palace.honest.tool("add_drawer", wing="w", room="r", content=text)["success"]
        items, _ = attacker.attack("replies", facts)[-2:]
    finally:
        attacker.attack("release", facts)

    assert items == 0, "the checkpoint goes on for longer than what came after it"


def test_nobody_writes_a_memory_by_tools_that_know_of_none(palace: Palace, party: str) -> None:
    answers = tried(palace, party, "memories")

    assert answers.count("may not") == 4 * 4 + 3, answers
    with palace.site.shim() as owner:
        owner.initialize()
        asked = {"namespaces": ["team:lead"]}
        reply = owner.request("tools/call", name="palace_search_memory", arguments=asked)
    (memory,) = json.loads(reply["result"]["content"][0]["text"])["memories"]
    assert memory["id"] == palace.memory
    assert memory["content"].endswith(REMEMBERED)


def test_nobody_comes_in_without_a_token(palace: Palace, party: str) -> None:
    answers = palace.attacker(party).attack("uninvited", facts_for(palace, party))

    palace.ask()
    assert len(answers) == 8
    # None is let in, or told of another protocol.
    assert [answer for answer in answers if answer.split(" ")[1][:1] not in ("4", "5", "u")] == []
