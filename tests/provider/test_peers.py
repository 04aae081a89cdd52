"""palace as a provider: every byte of every host's file is back, whoever is killed in between."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from palace.mcp_hosts.install import install_host
from palace.mcp_hosts.table import HOSTS, NAMES, McpHost
from palace.mcp_hosts.target import find_target
from palace.protocol.errors import HostEntry, UnknownPeer
from palace.provider.peers import arrive, in_turn, leave, personalities

STATE = ".local/state"
# What people have in their files already, in a form that an editor of bytes must keep.
OLD = {
    "json": '{\n\t"theirs" : [1,2 ],  "mcpServers": {"other": {"command": "x"}}\r\n}\n\n',
    "jsonc": '// mine\n{\n  "theirs": 1, /* kept */\n}\n',
    "toml": "# mine\nmodel = 'x'   # kept\n\n[mcp_servers.other]\ncommand = \"y\"\n",
    "yaml": "# mine\nmodel: 'x'   # kept\nother:\n    - 1\n",
}
# What Python tells of before it changes a file: a death before each of these is tried.
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown")


@attrs.frozen
class World:
    """A user's home with projects in it."""

    home: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}

    def project(self, name: str) -> Path:
        path = self.home / "projects" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def arrive(self, runtime: str, name: str, project: str = "") -> None:
        with in_turn(self.environ):
            arrive(runtime, name, str(self.project(project or name)), self.environ)

    def leave(self, runtime: str, name: str) -> None:
        with in_turn(self.environ):
            leave(runtime, name, self.environ)

    def snapshot(self) -> dict[str, bytes | None]:
        """Return all files with their bytes, and directories, but for palace's own state."""
        found: dict[str, bytes | None] = {}
        for path in sorted(self.home.rglob("*")):
            name = str(path.relative_to(self.home))
            if not name.startswith(".local"):
                found[name] = path.read_bytes() if path.is_file() else None
        return found

    def file_of(self, host: McpHost, project: str) -> Path:
        inner = str(self.project(project)) if host.project else ""
        return Path(find_target(host.name, self.environ, project=inner).path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "home")
    for name in ("a", "b"):
        made.project(name)
    return made


def kind_of(host: McpHost) -> str:
    if host.toml or host.yaml:
        return "toml" if host.toml else "yaml"
    return "jsonc" if host.lenient else "json"


def say_nothing() -> None:
    """Show no diffs: only for a process that ends by itself."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def in_child(act: Callable[[], object], *, dies_before: int = 0) -> int:
    """Do something in a process of its own; return how it ended, negative for a signal.

    With `dies_before` it is killed with SIGKILL before that change of a file.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen = 0

    def count(event: str, _args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in CHANGES:
            seen += 1
            if seen == dies_before:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        say_nothing()
        sys.addaudithook(count)
        act()
        os._exit(0)
    finally:
        os._exit(70)


def deaths(act: Callable[[], object]) -> Iterator[int]:
    """Do something again and again, each time killed one change later, until it comes through."""
    for number in range(1, 1000):
        code = in_child(act, dies_before=number)
        if code == 0:
            return
        assert code == -signal.SIGKILL
        yield number
    pytest.fail("it never ended")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("there", [False, True], ids=["new", "old"])
def test_every_byte_is_back_wherever_a_birth_or_a_removal_is_killed(
    world: World, name: str, there: bool
) -> None:
    host = next(host for host in HOSTS if host.name == name)
    file = world.file_of(host, "a")
    if there:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(OLD[kind_of(host)].encode())
    before = world.snapshot()

    died = sum(1 for _ in deaths(lambda: world.arrive(name, "a")))
    assert b"palace" in file.read_bytes()
    died += sum(1 for _ in deaths(lambda: world.leave(name, "a")))

    assert died > 20
    assert world.snapshot() == before
    assert personalities(world.environ) == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_birth_that_is_killed_anywhere_can_be_taken_back_at_once(world: World, name: str) -> None:
    before = world.snapshot()

    for number in range(1, 400):
        code = in_child(lambda: world.arrive(name, "a"), dies_before=number)
        assert in_child(lambda: world.leave(name, "a")) == 0
        assert world.snapshot() == before, number
        if code == 0:
            break
    assert number > 20


@pytest.mark.parametrize("seed", range(2))
def test_fifty_births_and_removals_in_any_order_with_deaths_leave_nothing(
    world: World, seed: int
) -> None:
    chance = random.Random(seed)
    names = [f"agent-{number}" for number in range(6)]
    for host in HOSTS:
        for name in ("shared", *names):
            file = world.file_of(host, name)
            if chance.random() < 0.5 and not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(OLD[kind_of(host)].encode())
    before = world.snapshot()
    act: Callable[[], object]
    born: set[tuple[str, str]] = set()
    killed = steps = 0
    while steps < 50 or born:
        steps += 1
        arriving = steps <= 50 and chance.random() < 0.6
        if arriving or not born:
            who = (chance.choice(NAMES), chance.choice(names))
            where = chance.choice(["shared", who[1]])
            act = partial(world.arrive, who[0], who[1], where)
            born.add(who)
        else:
            who = chance.choice(sorted(born))
            act = partial(world.leave, who[0], who[1])
            born.discard(who)
        while (
            code := in_child(act, dies_before=chance.randrange(1, 30) * chance.randrange(2))
        ) != 0:
            assert code == -signal.SIGKILL
            killed += 1

    assert world.snapshot() == before
    assert killed > 20
    assert personalities(world.environ) == set()


def test_random_moments_kill_as_well_as_chosen_ones(world: World) -> None:
    chance, killed = random.Random(7), 0
    before = world.snapshot()
    for _ in range(100):
        pid = os.fork()
        if not pid:
            try:
                say_nothing()
                world.arrive("codex", "a")
                world.leave("codex", "a")
                os._exit(0)
            finally:
                os._exit(70)
        time.sleep(chance.random() * 0.02)
        os.kill(pid, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        world.leave("codex", "a")
        assert world.snapshot() == before
    assert killed > 20


def test_an_entry_is_taken_out_after_the_last_that_needs_it(world: World) -> None:
    file = world.file_of(next(host for host in HOSTS if host.name == "hermes"), "")
    for name in ("a", "b", "a"):
        world.arrive("hermes", name)

    world.leave("hermes", "a")
    assert b"palace" in file.read_bytes()
    world.leave("hermes", "a")
    assert b"palace" in file.read_bytes()
    world.leave("hermes", "b")
    assert not file.exists()


def test_one_file_of_several_hosts_is_counted_for_all_of_them(world: World) -> None:
    file = world.project("a") / ".vscode" / "mcp.json"
    for runtime in ("vscode", "vscodium"):
        world.arrive(runtime, "a")

    world.leave("vscode", "a")
    assert file.exists()
    world.leave("vscodium", "a")
    assert not file.exists()


def test_an_entry_that_its_user_installed_stays(world: World) -> None:
    install_host(find_target("hermes", world.environ), replace=False, yes=True)
    before = world.snapshot()

    world.arrive("hermes", "a")
    world.leave("hermes", "a")

    assert world.snapshot() == before


def test_another_servers_entry_is_left_alone_and_nobody_counts_for_it(world: World) -> None:
    file = world.project("a") / ".mcp.json"
    file.write_text('{"mcpServers": {"mempalace": {"command": "mempalace-mcp"}}}')
    before = world.snapshot()

    with pytest.raises(HostEntry):
        world.arrive("claude-code", "a")

    assert world.snapshot() == before
    assert personalities(world.environ) == set()


def test_a_project_that_is_gone_needs_no_undoing(world: World) -> None:
    world.arrive("codex", "a")
    (world.project("a") / ".codex" / "config.toml").unlink()
    (world.project("a") / ".codex").rmdir()
    world.project("a").rmdir()

    world.leave("codex", "a")

    assert personalities(world.environ) == set()


def test_an_unknown_runtime_is_named(world: World) -> None:
    with pytest.raises(UnknownPeer, match="telegram"):
        world.arrive("telegram", "a")


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", '{"v": 9, "files": []}', '{"v": 1, "files": [{}]}', "[" * 9999),
        json.dumps({"v": 1, "files": [{"file": "/x", "members": 3}]}),
        json.dumps({"v": 1, "files": [{"members": [["a"]]}]}),
    ],
)
def test_a_count_that_cant_be_read_counts_for_nothing(world: World, text: str) -> None:
    world.arrive("codex", "a")
    (world.home / STATE / "palace" / "provider" / "peers.json").write_text(text)

    assert personalities(world.environ) == set()
    world.leave("codex", "a")


def test_births_at_once_take_turns_and_none_is_forgotten(world: World) -> None:
    before = world.snapshot()
    names = [f"agent-{number}" for number in range(8)]
    for act, where in ((world.arrive, ("a",)), (world.leave, ())):
        pids = []
        for name in names:
            pid = os.fork()
            if not pid:
                try:
                    say_nothing()
                    act("hermes", name, *where)
                    os._exit(0)
                finally:
                    os._exit(70)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert codes == [0] * len(names)
        assert personalities(world.environ) == (set(names) if where else set())

    assert world.snapshot() == before
