"""What hosts run over all of their files, as those hosts merge them, and how it goes away."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.mcp_hosts import switches
from palace.mcp_hosts.entries import opened_palace
from palace.mcp_hosts.install import install_host
from palace.mcp_hosts.listing import list_hosts
from palace.mcp_hosts.survey import Survey, survey
from palace.mcp_hosts.table import HOSTS
from palace.mcp_hosts.target import find_target

PALACE = {"command": "palace", "args": ["shim"]}
STOCK = {"command": "mempalace-mcp", "args": []}
OTHER = {"command": "memory"}
TOML_PALACE = '[mcp_servers.mempalace]\ncommand = "palace"\nargs = ["shim"]\n'
EXCLUDED = {"excluded": ["mempalace"]}
UNQUOTED = "{mcp: {servers: {mempalace: {command: 'mempalace-mcp',},},},}"
OFF = {"disabled": True}
TRUST = '[projects."$HOME/src/x"]\ntrust_level = "trusted"\n'
LOCAL_PALACE = {"mcp": {"mempalace": {"command": ["palace", "shim"]}}}
LOCAL_STOCK = {"mcp": {"mempalace": {"command": ["mempalace-mcp"]}}}
TOML_STOCK = '[mcp_servers.mempalace]\ncommand = "mempalace-mcp"\n'


@attrs.frozen
class World:
    """A home and a project in it, which is a repository with a directory in it."""

    home: Path

    @property
    def project(self) -> Path:
        return self.home / "src" / "x"

    def write(self, name: str, content: Any) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text.replace("$HOME", str(self.home)))
        return path

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}

    def survey(self, name: str, directory: str = "") -> Survey:
        host = next(host for host in HOSTS if host.name == name)
        return survey(host, self.environ, directory)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A home, in whose `etc` is what managers of the machine put into /etc."""
    made = World(tmp_path)
    monkeypatch.setattr(switches, "ETC", f"{tmp_path}/etc")
    (made.project / "sub").mkdir(parents=True)
    (made.project / ".git").mkdir()
    return made


def claude(**more: Any) -> dict[str, Any]:
    return {"mcpServers": {"mempalace": PALACE}} | more


# (host, files, what runs in the project's directory, which stock is named, and how it goes)
CASES: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    "claude: local hides user": (
        "claude-code",
        {".claude.json": claude(projects={"$HOME/src/x": {"mcpServers": {"mempalace": STOCK}}})},
        [],
        ["(cd $HOME/src/x && claude mcp remove mempalace --scope local)"],
    ),
    "claude: local of another project": (
        "claude-code",
        {".claude.json": claude(projects={"/y": {"mcpServers": {"mempalace": STOCK}}})},
        ["mempalace"],
        ["(cd /y && claude mcp remove mempalace --scope local)"],
    ),
    "claude: local hides the project's stock": (
        "claude-code",
        {
            ".claude.json": {"projects": {"$HOME/src/x": {"mcpServers": {"mempalace": PALACE}}}},
            "src/x/.mcp.json": {"mcpServers": {"mempalace": STOCK}},
        },
        ["mempalace"],
        ["(cd $HOME/src/x && claude mcp remove mempalace --scope project)"],
    ),
    "claude: the project's own file": (
        "claude-code",
        {
            ".claude.json": claude(),
            "src/x/.mcp.json": {"mcpServers": {"mempalace": STOCK}},
        },
        [],
        ["palace install claude-code --project $HOME/src/x --replace"],
    ),
    "claude: a remembered project's own file": (
        "claude-code",
        {
            ".claude.json": claude(projects={"$HOME/src/z": {}}),
            "src/z/.mcp.json": {"mcpServers": {"memory": STOCK}},
        },
        ["mempalace"],
        ["(cd $HOME/src/z && claude mcp remove memory --scope project)"],
    ),
    "claude: the record of a directory switches it off": (
        "claude-code",
        {
            ".claude.json": {
                "mcpServers": {"mempalace": PALACE, "memory": STOCK},
                "projects": {"$HOME/src/x": {"disabledMcpServers": ["mempalace", "memory"]}},
            }
        },
        [],
        ["claude mcp remove memory --scope user"],  # it runs everywhere else
    ),
    "claude: another name": (
        "claude-code",
        {".claude.json": {"mcpServers": {"mempalace": PALACE, "memory": STOCK}}},
        ["mempalace"],
        ["claude mcp remove memory --scope user"],
    ),
    "codex: a plugin's stock that the user's own server hides": (
        "codex",
        {
            ".codex/config.toml": '[plugins."m@market"]\nenabled = true\n'
            '[mcp_servers.mempalace]\ncommand = "memory"\n',
            ".codex/plugins/cache/market/m/1.0/.mcp.json": {"mcpServers": {"mempalace": STOCK}},
        },
        [],
        [],
    ),
    "claude: a plugin": (
        "claude-code",
        {
            ".claude.json": claude(),
            ".claude/settings.json": {"enabledPlugins": {"mempalace@market": True}},
            ".claude/plugins/installed_plugins.json": {
                "version": 2,
                "plugins": {"mempalace@market": [{"installPath": "$HOME/.claude/plugins/p"}]},
            },
            ".claude/plugins/p/.claude-plugin/plugin.json": {"mcpServers": {"mempalace": STOCK}},
        },
        ["mempalace"],
        ["claude plugin uninstall mempalace@market"],
    ),
    "claude: a plugin that is switched off": (
        "claude-code",
        {
            ".claude.json": claude(),
            ".claude/settings.json": {"enabledPlugins": {"mempalace@market": False}},
            ".claude/plugins/installed_plugins.json": {
                "plugins": {"mempalace@market": [{"installPath": "$HOME/.claude/plugins/p"}]}
            },
            ".claude/plugins/p/.mcp.json": {"mempalace": STOCK},
        },
        ["mempalace"],
        [],
    ),
    "claude: switched off in the project": (
        "claude-code",
        {
            ".claude.json": {
                "projects": {"$HOME/src/x": {"disabledMcpjsonServers": ["mempalace"]}}
            },
            "src/x/.mcp.json": {"mcpServers": {"mempalace": STOCK}},
        },
        [],
        [],
    ),
    "codex: a trusted project switches it off": (
        "codex",
        {
            ".codex/config.toml": TOML_PALACE
            + '[projects."$HOME/src/x"]\ntrust_level = "trusted"\n',
            "src/x/.codex/config.toml": "[mcp_servers.mempalace]\nenabled = false\n",
        },
        [],
        [],
    ),
    "codex: a project that is not trusted": (
        "codex",
        {
            ".codex/config.toml": TOML_PALACE,
            "src/x/.codex/config.toml": "[mcp_servers.mempalace]\nenabled = false\n",
        },
        ["mempalace"],
        [],
    ),
    "codex: a plugin": (
        "codex",
        {
            ".codex/config.toml": '[plugins."mempalace@market"]\nenabled = true\n',
            ".codex/plugins/cache/market/mempalace/1.0/.mcp.json": {
                "mcpServers": {"mempalace": STOCK}
            },
        },
        [],
        ["codex plugin remove mempalace@market"],
    ),
    "codex: a plugin that the user's entry hides": (
        "codex",
        {
            ".codex/config.toml": TOML_PALACE + '[plugins."mempalace@market"]\nenabled = true\n',
            ".codex/plugins/cache/market/mempalace/1.0/.mcp.json": {
                "mcpServers": {"mempalace": STOCK}
            },
        },
        ["mempalace"],
        [],
    ),
    "kiro: an agent of its own": (
        "kiro",
        {
            ".kiro/settings/mcp.json": {"mcpServers": {"mempalace": PALACE}},
            ".kiro/agents/dev.json": {"name": "dev", "mcpServers": {"mempalace": STOCK}},
        },
        ["mempalace"],
        ["delete mcpServers.mempalace from $HOME/.kiro/agents/dev.json"],
    ),
    "codex: stock under another name": (
        "codex",
        {".codex/config.toml": TOML_PALACE + TOML_STOCK.replace("mempalace]", "memory]")},
        ["mempalace"],
        ["codex mcp remove memory"],
    ),
    "opencode: the second file is read after the first": (
        "opencode",
        {
            ".config/opencode/opencode.json": LOCAL_PALACE,
            ".config/opencode/opencode.jsonc": {
                "mcp": {"mempalace": {"command": ["mempalace-mcp"]}}
            },
        },
        [],
        ["palace install opencode --replace"],
    ),
    "opencode: a project adds to the user's": (
        "opencode",
        {
            ".config/opencode/opencode.json": {
                "mcp": {"mempalace": {"command": ["palace", "shim"], "enabled": False}}
            },
            "src/x/opencode.json": {"mcp": {"mempalace": {"enabled": True}}},
        },
        ["mempalace"],
        [],
    ),
    "opencode: the project's directory": (
        "opencode",
        {
            ".config/opencode/opencode.json": {
                "mcp": {"mempalace": {"command": ["palace", "shim"]}}
            },
            "src/x/.opencode/opencode.json": LOCAL_STOCK,
        },
        [],
        ["delete mcp.mempalace from $HOME/src/x/.opencode/opencode.json"],
    ),
    "gemini: a folder that is not trusted": (
        "gemini-cli",
        {
            ".gemini/settings.json": {"mcpServers": {"mempalace": PALACE}},
            ".gemini/trustedFolders.json": {"$HOME/src/x": "DO_NOT_TRUST", "$HOME": "TRUST_FOLDER"},
        },
        [],
        [],
    ),
    "gemini: a folder in one that is trusted, below one that is not": (
        "gemini-cli",
        {
            ".gemini/settings.json": {
                "mcpServers": {"mempalace": PALACE},
                "security": {"folderTrust": {"enabled": True}},
            },
            ".gemini/trustedFolders.json": {
                "$HOME": "DO_NOT_TRUST",
                "$HOME/src/other": "TRUST_PARENT",
            },
        },
        ["mempalace"],
        [],
    ),
    "gemini: folder trust is on, and nobody was asked yet": (
        "gemini-cli",
        {
            ".gemini/settings.json": {
                "mcpServers": {"mempalace": PALACE},
                "security": {"folderTrust": {"enabled": True}},
            },
        },
        [],
        [],
    ),
    "gemini: folder trust is switched off by whoever manages the machine": (
        "gemini-cli",
        {
            ".gemini/settings.json": {
                "mcpServers": {"mempalace": PALACE},
                "security": {"folderTrust": {"enabled": True}},
            },
            ".gemini/trustedFolders.json": {"$HOME/src": "DO_NOT_TRUST"},
            "etc/gemini-cli/settings.json": {"security": {"folderTrust": {"enabled": False}}},
        },
        ["mempalace"],
        [],
    ),
    "opencode: all of its tools are denied by a pattern": (
        "opencode",
        {
            ".config/opencode/opencode.json": {
                "mcp": {"mempalace": {"command": ["palace", "shim"]}},
                "tools": {"mempalace*": False},
            }
        },
        [],
        [],
    ),
    "opencode: denied, and some of its tools offered": (
        "opencode",
        {
            ".config/opencode/opencode.json": {
                "mcp": {"mempalace": {"command": ["palace", "shim"]}},
                "permission": {"*": "deny", "mempalace_mempalace_search": "allow"},
            }
        },
        ["mempalace"],
        [],
    ),
    "opencode: other tools and some of its own are denied": (
        "opencode",
        {
            ".config/opencode/opencode.json": {
                "mcp": {"mempalace": {"command": ["palace", "shim"]}},
                "tools": {"other_*": False, "mempalace_mempalace_delete*": False},
                "permission": {"bash": {"*": "deny"}, "edit": "deny"},
            }
        },
        ["mempalace"],
        [],
    ),
    "opencode: denied by the user and offered by the project": (
        "opencode",
        {
            ".config/opencode/opencode.json": {
                "mcp": {"mempalace": {"command": ["palace", "shim"]}},
                "permission": {"mempalace_*": {"*": "deny"}},
            },
            "src/x/sub/opencode.json": {"permission": {"mempalace_*": "ask"}},
        },
        ["mempalace"],
        [],
    ),
    "opencode: denied in this directory": (
        "opencode",
        {
            ".config/opencode/opencode.json": LOCAL_PALACE,
            "src/x/sub/.opencode/opencode.json": {"permission": "deny"},
        },
        [],
        [],
    ),
    "vscode: no access to servers": (
        "vscode",
        {
            ".config/Code/User/mcp.json": {"servers": {"mempalace": PALACE}},
            ".config/Code/User/settings.json": '{"chat.mcp.access": "none", /* mine */}',
        },
        [],
        [],
    ),
    "vscode: access to those of a registry": (
        "vscodium",
        {
            ".config/VSCodium/User/mcp.json": {"servers": {"mempalace": PALACE}},
            ".config/VSCodium/User/settings.json": {"chat.mcp.access": "registry"},
        },
        [],
        [],
    ),
    "vscode: access to all of them": (
        "vscode",
        {
            ".config/Code/User/mcp.json": {"servers": {"mempalace": PALACE}},
            ".config/Code/User/settings.json": {"chat.mcp.access": "all"},
        },
        ["mempalace"],
        [],
    ),
    "vscode: no access in this directory": (
        "vscode",
        {
            ".config/Code/User/mcp.json": {"servers": {"mempalace": PALACE}},
            "src/x/sub/.vscode/settings.json": {"chat.mcp.enabled": False},
        },
        [],
        [],
    ),
    "gemini: excluded by name": (
        "gemini-cli",
        {
            ".gemini/settings.json": {
                "mcpServers": {"mempalace": STOCK},
                "mcp": {"excluded": ["mempalace"]},
            }
        },
        [],
        [],
    ),
    "gemini: an extension": (
        "gemini-cli",
        {
            ".gemini/extensions/memory/gemini-extension.json": {"mcpServers": {"m": STOCK}},
        },
        [],
        ["gemini extensions uninstall memory"],
    ),
    "gemini: excluded in the system's settings, in another case": (
        "gemini-cli",
        {
            ".gemini/settings.json": {"mcpServers": {"mempalace": PALACE}},
            "etc/gemini-cli/settings.json": {"mcp": {"excluded": ["MemPalace"]}},
        },
        [],
        [],
    ),
    "gemini: not among the allowed": (
        "gemini-cli",
        {
            ".gemini/settings.json": {
                "mcpServers": {"mempalace": STOCK, "memory": STOCK},
                "mcp": {"allowed": ["memory"]},
            }
        },
        [],
        ["gemini mcp remove memory --scope user"],
    ),
    "gemini: excluded in this directory": (
        "gemini-cli",
        {
            ".gemini/settings.json": {"mcpServers": {"mempalace": PALACE, "memory": STOCK}},
            "src/x/sub/.gemini/settings.json": {"mcp": {"excluded": ["mempalace", "memory"]}},
        },
        [],
        ["gemini mcp remove memory --scope user"],  # it runs everywhere else
    ),
    "gemini: excluded in a directory above, whose settings it does not read": (
        "gemini-cli",
        {
            ".gemini/settings.json": {"mcpServers": {"mempalace": PALACE}},
            "src/x/.gemini/settings.json": {"mcp": {"excluded": ["mempalace"]}},
        },
        ["mempalace"],
        [],
    ),
    "gemini: switched off in a session": (
        "gemini-cli",
        {
            ".gemini/settings.json": {"mcpServers": {"MemPalace": STOCK, "mempalace": PALACE}},
            ".gemini/mcp-server-enablement.json": {"mempalace": {"enabled": False}},
        },
        [],
        [],
    ),
    "claude: denied by name": (
        "claude-code",
        {
            ".claude.json": claude(),
            ".claude/settings.json": {"deniedMcpServers": [{"serverName": "mempalace"}]},
        },
        [],
        [],
    ),
    "claude: denied by its command, in this directory": (
        "claude-code",
        {
            ".claude.json": claude(),
            "src/x/sub/.claude/settings.local.json": {
                "deniedMcpServers": [{"serverCommand": ["palace", "shim"]}]
            },
        },
        [],
        [],
    ),
    "claude: others are allowed": (
        "claude-code",
        {
            ".claude.json": {"mcpServers": {"mempalace": STOCK}},
            ".claude/settings.json": {"allowedMcpServers": [{"serverName": "x"}]},
        },
        [],
        [],
    ),
    "claude: allowed by name, and commands are named": (
        "claude-code",
        {
            ".claude.json": claude(),
            ".claude/settings.json": {
                "allowedMcpServers": [{"serverName": "mempalace"}, {"serverCommand": ["x"]}]
            },
        },
        [],
        [],
    ),
    "claude: allowed by the user beside what the manager allows": (
        "claude-code",
        {
            ".claude.json": claude(),
            ".claude/settings.json": {"allowedMcpServers": [{"serverName": "mempalace"}]},
            "etc/claude-code/managed-settings.json": {"allowedMcpServers": [{"serverName": "x"}]},
        },
        ["mempalace"],
        [],
    ),
    "claude: only what the manager allows": (
        "claude-code",
        {
            ".claude.json": claude(),
            ".claude/settings.json": {"allowedMcpServers": [{"serverName": "mempalace"}]},
            "etc/claude-code/managed-settings.json": {
                "allowedMcpServers": [{"serverName": "x"}],
                "allowManagedMcpServersOnly": True,
            },
        },
        [],
        [],
    ),
    "claude: the project's server is refused in its settings": (
        "claude-code",
        {
            "src/x/.mcp.json": {"mcpServers": {"mempalace": PALACE}},
            "src/x/.claude/settings.local.json": {"disabledMcpjsonServers": ["mempalace"]},
        },
        [],
        [],
    ),
    "codex: not among what is required": (
        "codex",
        {
            ".codex/config.toml": TOML_PALACE,
            "etc/codex/requirements.toml": '[mcp_servers.x.identity]\ncommand = "x"\n',
        },
        [],
        [],
    ),
    "codex: required to be another command": (
        "codex",
        {
            ".codex/config.toml": TOML_PALACE,
            "etc/codex/requirements.toml": '[mcp_servers.mempalace.identity]\ncommand = "x"\n',
        },
        [],
        [],
    ),
    "codex: among what is required": (
        "codex",
        {
            ".codex/config.toml": TOML_PALACE,
            "etc/codex/requirements.toml": '[mcp_servers.mempalace.identity]\ncommand = "palace"\n',
        },
        ["mempalace"],
        [],
    ),
    "copilot: switched off by its settings": (
        "copilot-cli",
        {
            ".copilot/mcp-config.json": {"mcpServers": {"mempalace": PALACE}},
            ".copilot/settings.json": {"disabledMcpServers": ["mempalace"]},
        },
        [],
        [],
    ),
    "pi: a file of all its kind": (
        "pi",
        {
            ".pi/agent/mcp.json": {"mcpServers": {"mempalace": PALACE}},
            ".config/mcp/mcp.json": {"mcpServers": {"memory": STOCK}},
        },
        ["mempalace"],
        ["delete mcpServers.memory from $HOME/.config/mcp/mcp.json"],
    ),
    "openclaw: names without quotes": (
        "openclaw",
        {".openclaw/openclaw.json": UNQUOTED},
        [],
        ["palace install openclaw --replace"],
    ),
    "vscode: a profile, and the settings of earlier versions": (
        "vscode",
        {
            ".config/Code/User/mcp.json": {"servers": {"mempalace": PALACE}},
            ".config/Code/User/profiles/-3a/mcp.json": {"servers": {"mempalace": STOCK}},
            ".config/Code/User/settings.json": {"mcp": {"servers": {"memory": STOCK}}},
        },
        ["mempalace"],
        [
            "delete servers.mempalace from $HOME/.config/Code/User/profiles/-3a/mcp.json",
            "delete mcp.servers.memory from $HOME/.config/Code/User/settings.json",
        ],
    ),
    "cursor: through a shell": (
        "cursor",
        {
            ".cursor/mcp.json": {
                "mcpServers": {"mempalace": {"command": "sh", "args": ["-c", "mempalace-mcp"]}}
            }
        },
        [],
        ["Remove it: delete mcpServers.mempalace from $HOME/.cursor/mcp.json"],
    ),
    "kiro: the workspace's file": (
        "kiro",
        {
            ".kiro/settings/mcp.json": {"mcpServers": {"mempalace": PALACE}},
            "src/x/.kiro/settings/mcp.json": {
                "mcpServers": {"mempalace": STOCK | {"disabled": True}}
            },
        },
        [],
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_host_runs_is_read_over_all_its_files(world: World, case: str) -> None:
    name, files, palaces, remedies = CASES[case]
    for file, content in files.items():
        world.write(file, content)
    before = {path: path.stat().st_mtime_ns for path in world.home.rglob("*")}

    found = world.survey(name, str(world.project / "sub"))

    assert [one.name for one in found.palaces] == palaces
    assert len(found.stocks) == len(remedies)
    for entry, remedy in zip(found.stocks, remedies, strict=True):
        assert remedy.replace("$HOME", str(world.home)) in entry.remedy
        listed = list_hosts(world.environ, directory=str(world.project / "sub"))
        own = entry.name == "mempalace" and not entry.source.scope
        assert own or remedy.replace("$HOME", str(world.home)) in listed
    assert found.unreadable == {}
    assert {path: path.stat().st_mtime_ns for path in world.home.rglob("*")} == before


def test_a_file_that_cannot_be_read_is_named_and_the_others_count(world: World) -> None:
    world.write(".claude.json", claude())
    broken = world.write("src/x/.mcp.json", '{"mcpServers": ')

    found = world.survey("claude-code", str(world.project))

    assert [one.name for one in found.palaces] == ["mempalace"]
    assert list(found.unreadable) == [str(broken)]


@pytest.mark.parametrize(
    "content",
    ["[]", '{"mcpServers": []}', '{"mcpServers": {"mempalace": null}}', '{"projects": 3}', "3"],
)
def test_odd_files_are_read_without_an_error(world: World, content: str) -> None:
    for name in (".claude.json", ".gemini/settings.json", ".config/opencode/opencode.json"):
        world.write(name, content)
    for name in ("claude-code", "gemini-cli", "opencode"):
        found = world.survey(name, str(world.project))
        assert (found.palaces, found.stocks) == ([], [])


def test_the_file_whose_entry_counts_is_the_one_that_is_changed(world: World) -> None:
    first = world.write(".config/opencode/opencode.json", {"mcp": {}})
    assert find_target("opencode", world.environ).path == str(first)
    second = world.write(".config/opencode/opencode.jsonc", {"mcp": {"mempalace": OTHER}})
    assert find_target("opencode", world.environ).path == str(second)


def test_the_list_says_which_palace_each_entry_opens(world: World) -> None:
    entry = PALACE | {"args": ["shim", "--palace", "/srv/mem"]}
    world.write(".cursor/mcp.json", {"mcpServers": {"mempalace": entry}})

    listed = list_hosts(world.environ)

    row = next(row for row in listed.splitlines() if row.startswith("cursor "))
    assert row.split()[1:3] == ["installed", "/srv/mem"]
    assert opened_palace(entry, world.environ) == "/srv/mem"


def test_the_row_of_a_host_says_that_its_settings_switch_it_off(world: World) -> None:
    world.write(".copilot/mcp-config.json", {"mcpServers": {"mempalace": PALACE}})
    world.write(".copilot/settings.json", {"disabledMcpServers": ["mempalace"]})

    rows = [row for row in list_hosts(world.environ).splitlines() if row.startswith("copilot-cli")]

    assert len(rows) == 1
    assert "installed, switched off" in rows[0]


@pytest.mark.parametrize("directory", [".gemini", "src/x/.gemini"])
def test_install_names_the_file_that_keeps_the_host_from_starting_it(
    world: World, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    monkeypatch.chdir(world.project)
    path = world.write(f"{directory}/settings.json", {"mcp": {"excluded": ["mempalace"]}})

    said = install_host(find_target("gemini-cli", world.environ), replace=False, yes=True)

    assert f"{path}" in said.splitlines()[-1]
    assert "Gemini CLI does not start it" in said


def test_install_says_what_else_the_host_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.project)
    local = {"mcpServers": {"mempalace": STOCK}}
    world.write(".claude.json", {"projects": {"$HOME/src/x": local}})

    said = install_host(find_target("claude-code", world.environ), replace=False, yes=True)

    assert "does not start it here" in said
    assert f"(cd {world.project} && claude mcp remove mempalace --scope local)" in said


@pytest.mark.parametrize(
    ("host", "file", "content", "name", "scope"),
    [
        (
            *("kiro", ".kiro/agents/dev.json", {"mcpServers": {"mempalace": STOCK}}),
            *("agent:dev:mempalace", "in the agent dev"),
        ),
        (
            *("vscode", ".config/Code/User/profiles/-3a/mcp.json"),
            {"servers": {"mempalace": STOCK}},
            *("profile:-3a:mempalace", "in the profile -3a"),
        ),
        (
            *("hermes", ".hermes/profiles/work/config.yaml", {"mcp_servers": {"mempalace": STOCK}}),
            *("profile:work:mempalace", "in the profile work"),
        ),
    ],
)
def test_an_entry_of_a_profile_or_an_agent_is_told_from_the_hosts_own(
    world: World, host: str, file: str, content: Any, name: str, scope: str
) -> None:
    path = world.write(file, content)

    (entry,) = world.survey(host, "").stocks

    assert (entry.name, entry.source.scope) == (name, scope)
    (table,) = content
    assert entry.remedy == f"Remove it: delete {table}.mempalace from {path}"
