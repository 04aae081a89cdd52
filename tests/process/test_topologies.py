"""The pages of docs/topologies, run: every command, in the order in which a reader would type them.

A block of a page says where it runs: ```sh host, ```sh guest, ```sh docker; `fails` behind it says
that it is there to fail.  ```text seen is what the block before it must have said, with `...` for
anything.  ```json mcp is what an agent is given, and one is started with it then, in each place
that the page is about.  Host and guest are namespaces (tests/support/machines/namespaces.py); what
`docker run` would mount and set is taken from the page, and no Docker engine runs.
"""

import ast
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from tests.support.machines.namespaces import GATEWAY, Country, Machine, Volume
from tests.support.machines.needs import need_command, need_root
from tests.support.processes.clients import wait_until

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
DIRECTORY = ROOT / "docs" / "topologies"
RUNNING = ("sh host", "sh guest", "sh host fails", "sh guest fails")
SORTS = (*RUNNING, "sh docker", "json mcp", "text", "text seen")
MCP = '{"mcpServers": {"mempalace": {"command": "palace", "args": ["shim"]}}}'
TABLE = "| it says | what goes wrong | what to do |\n"
LINES_MAX = 60
COMMANDS = ("bindfs", "ip", "nsenter", "openssl", "scp", "ssh-keyscan", "sshd", "unshare")
DESKTOP_NAME = "host.docker.internal"  # what Docker Desktop's containers know unasked


@attrs.frozen(kw_only=True)
class Topology:
    """What a page is about: where its agents run, who may serve them, whose kernel a guest has."""

    agents: tuple[str, ...]
    owners: tuple[str, ...] = ("host",)
    own_kernel: bool = True
    second_machine: bool = False


TOPOLOGIES = {
    "native.md": Topology(agents=("host", "host", "host")),
    "macos-container.md": Topology(agents=("host", "guest")),
    "container-bridge.md": Topology(agents=("guest", "other")),
    "container-alone.md": Topology(agents=("guest", "other"), owners=("guest", "other")),
    "linux-docker.md": Topology(agents=("host", "guest", "other"), own_kernel=False),
    "second-machine.md": Topology(agents=("guest", "host"), second_machine=True),
}


@attrs.frozen(kw_only=True)
class Block:
    """A fenced block of a page; `sort` is its info string."""

    page: str
    line: int
    sort: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line} ({self.sort})"


def blocks_of(page: str) -> list[Block]:
    """Return a page's blocks in their order; none may be open at its end."""
    found = []
    begun: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate((DIRECTORY / page).read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif begun is None:
            begun = number, line.removeprefix("```")
            lines = []
        else:
            assert line == "```", f"{page}:{number}"
            found.append(Block(page=page, line=begun[0], sort=begun[1], text="\n".join(lines)))
            begun = None
    assert begun is None, f"{page}:{begun} is not closed"
    return found


# The pages as they are written.


def test_there_is_a_topology_for_each_page() -> None:
    assert sorted(path.name for path in DIRECTORY.iterdir()) == sorted(TOPOLOGIES)


@pytest.mark.parametrize("page", TOPOLOGIES)
def test_a_page_is_short_and_made_of_known_blocks(page: str) -> None:
    sorts = [block.sort for block in blocks_of(page)]

    assert len((DIRECTORY / page).read_text().splitlines()) <= LINES_MAX
    assert set(sorts) <= set(SORTS)
    assert set(sorts) & set(RUNNING)
    for part in ("\nFor ", "\nLimits: ", TABLE):
        assert part in (DIRECTORY / page).read_text()


@pytest.mark.parametrize("page", TOPOLOGIES)
def test_every_agent_gets_the_same_line(page: str) -> None:
    given = [block.text for block in blocks_of(page) if block.sort == "json mcp"]

    assert given == [MCP]
    assert MCP in (ROOT / "README.md").read_text()


def test_lines_for_docker_are_shell_and_are_not_run_here() -> None:
    blocks = [
        block for page in TOPOLOGIES for block in blocks_of(page) if block.sort == "sh docker"
    ]
    for block in blocks:
        subprocess.run(["bash", "-n", "-c", block.text], check=True)
        assert block.text.startswith("docker run ")

    assert blocks
    pytest.skip(f"no Docker engine: not run as written: {', '.join(b.place for b in blocks)}")


def words_of_palace() -> str:
    """Return all that palace's sources say, the values in between left out."""
    paths = sorted((ROOT / "palace").rglob("*.py"))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    said = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return "\n".join(value for value in said if isinstance(value, str))


def test_what_goes_wrong_is_said_in_these_words() -> None:
    words = words_of_palace()
    for page in TOPOLOGIES:
        table = (DIRECTORY / page).read_text().partition(TABLE)[2]
        rows = [line for line in table.splitlines() if line.startswith("| ")]
        assert rows, page
        for said in re.findall(r"`([^`]+)`", "\n".join(row.split(" | ")[0] for row in rows)):
            for piece in said.split("..."):
                assert piece in words, f"{page}: {said}"


# The pages as they are run.


@attrs.define(kw_only=True)
class Play:
    """One page on its stage; `said` is the output of the last block that ran."""

    topology: Topology
    country: Country
    cache: Path  # of embedding models
    places: dict[str, Machine] = attrs.field(factory=dict)
    said: str = ""
    ran: int = 0

    def begin(self) -> None:
        server = self.country.host("server.example")
        self._place("host", server)
        if self.topology.second_machine:
            self._place("guest", self.country.second("laptop", server))

    def _place(self, name: str, machine: Machine) -> None:
        self.places[name] = machine
        chroma = machine.home / ".cache" / "chroma"
        chroma.parent.mkdir()
        chroma.symlink_to(self.cache)

    def play(self, block: Block) -> None:
        if block.sort in RUNNING:
            self._run(block)
        elif block.sort == "text seen":
            self._compare(block)
        elif block.sort == "sh docker":
            words = self._docker_words(block)
            for name in ("guest", "other"):
                self._place(name, self._container(name, words, block))
        elif block.sort == "json mcp":
            self._use(block)

    def _run(self, block: Block) -> None:
        _, place, *fails = block.sort.split()
        done = self.places[place].run(block.text)
        self.said = done.stdout
        self.ran += 1
        assert (done.returncode != 0) == bool(fails), f"{block.place}: {done.stdout}"

    def _compare(self, block: Block) -> None:
        said = iter(self.said.splitlines())
        for line in block.text.splitlines():
            wanted = ".*".join(re.escape(piece) for piece in line.split("..."))
            wanted = re.sub(r"(\\ )+", r"\\s+", wanted)
            found = any(re.fullmatch(wanted, each.rstrip()) for each in said)
            assert found, f"{block.place} shows {line!r}, this was said:\n{self.said}"

    def _docker_words(self, block: Block) -> list[str]:
        """Return docker's arguments as the host's shell makes them."""
        script = f"docker() {{ printf '%s\\n' \"$@\"; }}\n{block.text}"
        done = self.places["host"].run(script)
        assert done.returncode == 0, f"{block.place}: {done.stdout}"
        return done.stdout.splitlines()

    def _container(self, name: str, words: list[str], block: Block) -> Machine:
        """Start the stand-in for what `docker run` would; an option it doesn't know is an error."""
        host = self.places["host"]
        volumes, environ = [], {}
        given = iter(words)
        assert next(given) == "run"
        for word in given:
            if word in ("-it", "--rm"):
                continue
            if not word.startswith("-"):
                assert (word, *given) == ("IMAGE", "bash"), block.place
                break
            value = next(given)
            if word == "-v":
                volumes.append(self._volume(value))
            elif word == "-e":
                key, _, text = value.partition("=")
                environ[key] = text if "=" in value else host.environ[key]
            elif word == "--user":
                assert value == f"{os.getuid()}:{os.getgid()}", block.place
            else:
                assert word == "--name", f"{block.place}: {word}"
        own_kernel = self.topology.own_kernel
        hosts = {DESKTOP_NAME: GATEWAY} if own_kernel else {}
        return self.country.container(
            name, host, volumes, environ=environ, hosts=hosts, own_kernel=own_kernel
        )

    def _volume(self, text: str) -> Volume:
        source, target, *how = text.split(":")
        assert how in ([], ["ro"]), text
        named = not source.startswith("/")  # others are of the host's disk
        path = self.country.root / f"volume-{source}" if named else Path(source)
        if named:
            path.mkdir(exist_ok=True)
        assert path.is_dir(), text
        foreign = self.topology.own_kernel and not named
        return Volume(source=path, target=target, foreign=foreign, read_only=bool(how))

    def _use(self, block: Block) -> None:
        """Start the page's agents with its configuration; each sees what all have added."""
        server = json.loads(block.text)["mcpServers"]["mempalace"]
        with ExitStack() as stack:
            command = [server["command"], *server["args"]]
            places = [self.places[name] for name in self.topology.agents]
            agents = [stack.enter_context(place.client(*command)) for place in places]
            for number, agent in enumerate(agents):
                agent.initialize()
                agent.tool("kg_add", subject="page", predicate="has", object=f"n{number}")
            for agent in agents:
                facts = agent.tool("kg_query", entity="page")["facts"]
                assert {fact["object"] for fact in facts} == {f"n{n}" for n in range(len(agents))}
            wait_until(lambda: len(self._owners()) == 1, what="who lost the election has left")
            assert set(self._owners()) <= set(self.topology.owners)
            assert [agent.close() for agent in agents] == [0] * len(agents)

    def _owners(self) -> list[str]:
        """Return the place of each broker that runs."""
        return [name for name, machine in self.places.items() for _ in machine.brokers()]


@pytest.fixture
def country(short_dir: Path) -> Iterator[Country]:
    need_root()
    for command in COMMANDS:
        need_command(command)
    search = [str(Path(sys.executable).parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    environ = {
        "PATH": os.pathsep.join(search),
        "USER": pwd.getpwuid(os.geteuid()).pw_name,
        "LANG": "C.UTF-8",
        "PALACE_IDLE_S": "120",
    }
    with Country(root=short_dir, environ=environ) as country:
        yield country


@pytest.mark.parametrize("page", TOPOLOGIES)
def test_a_page_does_what_it_says(page: str, country: Country, model_home: Path) -> None:
    blocks = blocks_of(page)
    play = Play(topology=TOPOLOGIES[page], country=country, cache=model_home / ".cache" / "chroma")
    play.begin()
    for block in blocks:
        play.play(block)

    assert play.ran == sum(block.sort in RUNNING for block in blocks) > 0
