"""Real hosts, from the npm registry: a conversation with a played model, over killed brokers.

`palace install`, the host's own health check, one session that adds and searches while brokers are
killed and stopped, a second agent beside it, and `palace uninstall` to the byte.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.brokers.played_model import PlayedModel, Step, playing
from tests.support.faults.killing import is_deep, is_full
from tests.support.faults.upgrades import install_other_version, private_metadata, upgraded_path
from tests.support.machines.npm import npm_packages
from tests.support.processes.brokers import wait_gone
from tests.support.processes.clients import PALACE, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

BIN = str(Path(PALACE[0]).parent)
KILLS = 30 if is_full() else 6
NEWEST = os.environ.get("PALACE_TEST_HOSTS", "") == "newest"  # a job of its own tries these
NEXT = "3.11.77"  # the engine that a session is upgraded to
TURNS = 15  # of a conversation, after which stock's hook saves it
TEXT = "Sea otters hold hands while they sleep, so that the tide doesn't part them."
FOREIGN = ("ANTHROPIC", "CLAUDE", "CODEX", "GEMINI", "GOOGLE", "OPENAI", "OPENCODE")


@attrs.frozen
class Host:
    """One host: its package, how `palace install` calls it, and how it is run.

    `settings` are the file that `palace install` edits, and `files` are others that it has; both
    may have the played model's URL as `{url}`, as may `environ`.  `check` lists its servers; `ask`
    holds one conversation.  `beside` are packages that it needs.
    """

    package: str
    version: str
    name: str
    check: tuple[str, ...]
    ask: tuple[str, ...]
    connected: str
    settings: tuple[str, str]
    environ: dict[str, str]
    files: tuple[tuple[str, str], ...] = ()
    beside: tuple[str, ...] = ()


CLAUDE = Host(
    package="@anthropic-ai/claude-code",
    version="2.1.332",
    name="claude-code",
    check=("claude", "mcp", "list"),
    ask=("claude", "-p", "go", "--allowedTools", "mcp__mempalace", "--max-turns", "200"),
    connected="Connected",
    settings=(".claude.json", '{"numStartups": 1}\n'),
    environ={
        "ANTHROPIC_BASE_URL": "{url}",
        "ANTHROPIC_API_KEY": "played",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "ENABLE_TOOL_SEARCH": "false",  # else tools are looked for before they are called
    },
)
CODEX = Host(
    package="@openai/codex",
    version="0.171.0",
    name="codex",
    check=("codex", "mcp", "list"),
    ask=(
        *("codex", "exec", "--skip-git-repo-check"),
        *("--dangerously-bypass-approvals-and-sandbox", "go"),
    ),
    connected="mempalace",  # it lists servers without asking them
    settings=(
        ".codex/config.toml",
        'model = "played"\nmodel_provider = "played"\n\n[model_providers.played]\n'
        'name = "played"\nbase_url = "{url}/v1"\nwire_api = "responses"\nenv_key = "PLAYED"\n',
    ),
    environ={"PLAYED": "played"},
)
OPENCODE = Host(
    package="opencode-ai",
    version="1.18.33",
    name="opencode",
    check=("opencode", "mcp", "list"),
    ask=("opencode", "run", "go"),
    connected="connected",
    settings=(
        ".config/opencode/opencode.json",
        '{"$schema": "https://opencode.ai/config.json", "model": "anthropic/claude-sonnet-4-5",\n'
        '  "autoupdate": false, "permission": "allow",\n'
        ' "provider": {"anthropic": {"options": {"baseURL": "{url}/v1", "apiKey": "played"}}}}\n',
    ),
    environ={},
)
GEMINI = Host(
    package="@google/gemini-cli",
    version="0.61.0",
    name="gemini-cli",
    check=("gemini", "mcp", "list"),
    ask=("gemini", "--yolo", "-m", "gemini-2.5-pro", "-p", "go"),
    connected="Connected",
    settings=(
        ".gemini/settings.json",
        '{\n  "security": {\n    "auth": {"selectedType": "gemini-api-key"},\n'
        '    "folderTrust": {"enabled": false}\n  },\n'
        '  "general": {"enableAutoUpdate": false},\n'
        '  "privacy": {"usageStatisticsEnabled": false}\n}\n',
    ),
    environ={"GEMINI_API_KEY": "played", "GOOGLE_GEMINI_BASE_URL": "{url}"},
)
PI = Host(
    package="@earendil-works/pi-coding-agent",
    version="1.6.0",
    name="pi",
    check=("pi", "mcp", "list"),
    ask=("pi", "--approve", "--print", "--model", "played/played", "go"),
    connected="connected",
    settings=(".pi/agent/mcp.json", '{\n  "mcpServers": {}\n}\n'),
    environ={"PI_OFFLINE": "1"},
    files=(
        (
            ".pi/agent/models.json",
            '{"providers": {"played": {"baseUrl": "{url}", "api": "anthropic-messages",\n'
            '  "apiKey": "played", "models": [{"id": "played"}]}}}\n',
        ),
        # Else a model reaches the tools by scripts alone, which a played one doesn't write.
        ("work/.pi/mcp.json", '{"mcpServers": {"mempalace": {"exposure": "direct"}}}\n'),
    ),
    beside=("node@24",),
)
HOSTS = (CLAUDE, CODEX, OPENCODE, GEMINI, PI)


@attrs.frozen
class Desk:
    """A home with one host in it, and the played model that it is led to."""

    host: Host
    site: Site
    programs: Path
    url: str

    @property
    def settings(self) -> Path:
        return self.site.home / self.host.settings[0]

    def run(self, *words: str) -> str:
        """Run a program as its user would, and return what it has said."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MEMPAL", "PALACE_", "XDG_", *FOREIGN))
        }
        mine = {"HOME": str(self.site.home), "PATH": f"{BIN}:{self.programs}:/usr/bin:/bin"}
        mine |= self.site.extra
        theirs = {name: text.replace("{url}", self.url) for name, text in self.host.environ.items()}
        done = subprocess.run(
            words,
            env=kept | mine | theirs,
            cwd=self.site.home / "work",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout + done.stderr


def steps_of(kills: int) -> list[Step]:
    """Return an add for each kill, and a search after it; no two calls are alike."""
    steps: list[Step] = []
    for number in range(kills):
        filed = {"wing": "sea", "room": "otters", "content": f"{TEXT} {number}"}
        steps.append(("add_drawer", filed))
        steps.append(("search", {"query": f"otters asleep {number}", "limit": 3}))
    return steps


class Killer:
    """Kills the broker before every other call; stops it once, and upgrades its engine once."""

    def __init__(self, site: Site, kills: int, upgrade: Callable[[], object]) -> None:
        self.site = site
        self.upgrade = upgrade
        self.upgrade_at = kills + 3
        self.upgraded = ""  # the version that the next broker has
        self.stop_at = kills  # the middle of the session: two calls for each kill
        self.killed: list[int] = []
        self.stops = 0
        self.second: Any = None  # what another agent saw beside it

    def __call__(self, number: int) -> None:
        if number == 0:
            return
        if number == self.stop_at:
            self.stops += 1
            assert self.site.run("stop").returncode == 0
        elif number == self.stop_at + 1:
            with self.site.session() as beside:
                self.second = beside.tool("search", query="otters", limit=1)
        elif number == self.upgrade_at:
            pid = self.site.record()["pid"]
            self.upgrade()
            wait_gone(pid)  # it has noticed, and left by itself
        elif number == self.upgrade_at + 1:
            self.upgraded = self.site.status()["engine"]["version"]
        elif number % 2 == 0:
            self.killed.append(self.site.kill_broker())


@pytest.fixture(params=HOSTS, ids=[host.name for host in HOSTS])  # one, where a test says which
def host(request: pytest.FixtureRequest) -> Host:
    chosen: Host = request.param
    return attrs.evolve(chosen, version="latest") if NEWEST else chosen


@pytest.fixture
def programs(host: Host, pytestconfig: pytest.Config) -> Path:
    if not is_deep():
        pytest.skip("fetches hosts of 30 to 300 MB: PALACE_TEST_PROFILE=deep")
    wanted = f"{host.package}@{host.version}"
    packages = npm_packages(pytestconfig, f"host-{host.name}", wanted, *host.beside, scripts=True)
    return packages / "node_modules/.bin"


Open = Callable[[PlayedModel], Desk]


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    """A palace where it is without any variable, since some hosts pass none."""
    site = make_site(tmp_path, model_home, "home/.config/mempalace/palace")
    (site.home / "work").mkdir()
    yield site
    end_brokers(tmp_path)


def test_a_conversation_survives_its_brokers(
    host: Host, programs: Path, site: Site, tmp_path: Path
) -> None:
    metadata = private_metadata(tmp_path)
    site.extra["PYTHONPATH"] = upgraded_path(tmp_path)
    killer = Killer(site, KILLS, lambda: install_other_version(metadata, NEXT))
    with playing(PlayedModel(steps_of(KILLS), killer)) as model:
        desk = Desk(host, site, programs, model.url)
        before = host.settings[1].replace("{url}", model.url).encode()
        for name, text in (host.settings, *host.files):
            path = site.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("{url}", model.url))
        desk.run("palace", "install", host.name, "--yes")
        if host.name == CODEX.name:  # which passes no such variable
            with desk.settings.open("a") as file:
                file.write(f'\n[mcp_servers.mempalace.env]\nPYTHONPATH = "{tmp_path}"\n')
        listed = desk.run(*host.check)
        desk.run(*host.ask)
        desk.run("palace", "uninstall", host.name, "--yes")
        after = desk.settings.read_bytes()
    with site.session() as shim:
        held = shim.tool("list_drawers", wing="sea", limit=1)

    print(
        f"{host.package}@{host.version}: {len(killer.killed)} kills, {killer.stops} stop, "
        f"1 upgrade to {killer.upgraded}, {len(model.told)} calls of {len(model.steps)}, "
        f"{len(model.offered)} tools offered"
    )
    assert host.connected in listed
    failed = [said for said in model.told if not ("drawer_id" in said or "results" in said)]
    assert (failed, len(model.told)) == ([], len(model.steps))
    assert len(killer.killed) >= KILLS - 3
    assert killer.second["results"]
    assert killer.upgraded == NEXT
    assert held["total"] == KILLS, "each was filed once"
    assert entry_gone(host, before, after)


@pytest.mark.parametrize("host", [CLAUDE], ids=[CLAUDE.name], indirect=True)
def test_what_is_said_arrives_by_the_save_hook(host: Host, programs: Path, site: Site) -> None:
    """Codex has such hooks, too, and runs none before its user has reviewed them in its screen."""
    with site.session() as shim, playing(PlayedModel([])) as model:
        shim.tool("kg_stats")  # a broker serves
        desk = Desk(host, site, programs, model.url)
        desk.settings.write_bytes(host.settings[1].encode())
        desk.run("palace", "install", host.name, "--hooks", "--yes")
        hooks = site.home / ".claude" / "settings.json"
        assert "mempalace hook run" in hooks.read_text()
        for number in range(TURNS):
            asked = f"Where does the walrus called Number {number} sleep, and for how long?"
            go_on = ["--continue"] if number else []
            desk.run("claude", "-p", asked, *go_on)
        query = {"query": "the walrus called Number 3", "limit": 5}

        def arrived() -> bool:
            return any("walrus" in one["text"] for one in shim.tool("search", **query)["results"])

        wait_until(arrived, 60, "the conversation is filed")
        desk.run("palace", "uninstall", host.name, "--hooks", "--yes")
        left = hooks.read_text() if hooks.exists() else ""
    print(f"{host.package}@{host.version}: {TURNS} turns, saved by its Stop hook")
    assert "mempalace" not in left


def entry_gone(host: Host, before: bytes, after: bytes) -> bool:
    """Tell whether a file is as it was; Claude Code writes state of its own into its file."""
    if host is CLAUDE or host.name == CLAUDE.name:
        return "mcpServers" not in json.loads(after) or not json.loads(after)["mcpServers"]
    return before == after
