"""What `install` and `uninstall` leave of entries that others wrote, in each host's own files."""

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from palace.mcp_hosts.files import read_configuration, write_configuration
from palace.mcp_hosts.install import install_host, uninstall_host
from palace.mcp_hosts.listing import list_hosts, state_of
from palace.mcp_hosts.table import HOSTS, McpHost
from palace.mcp_hosts.target import find_target, targets_with_palace
from palace.protocol.errors import HostEntry, HostFile
from palace.settings.installation import command_for

KEPT: dict[str, Any] = {
    "cwd": "/srv/work",
    "timeout": 90000,
    "disabled": True,
    "autoApprove": ["mempalace_search"],
    "alwaysAllow": ["mempalace_search"],
    "disabledTools": ["mempalace_delete_drawer"],
    "tools": {"mempalace_search": {"approval_mode": "approve"}},
    "trust": False,
}


LOCAL_STOCK = '{"mcp": {"mempalace": {"type": "local", "command": ["mempalace-mcp"]}}}'
LOCAL_PALACE = '{"mcp": {"mempalace": {"type": "local", "command": ["palace", "shim"]}}}'


@attrs.frozen
class Hosts:
    """One user's hosts, in a home of their own."""

    home: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": "/usr/bin:/bin"}

    def install(self, name: str, *, replace: bool = False, hooks: bool = False) -> str:
        target = find_target(name, self.environ, hooks=hooks)
        return install_host(target, replace=replace, yes=True)

    def uninstall(self, name: str, *, force: bool = False, hooks: bool = False) -> str:
        targets = targets_with_palace(name, self.environ, hooks=hooks)
        return "\n".join(uninstall_host(one, force=force, yes=True) for one in targets)

    def state(self, name: str) -> str:
        return state_of(find_target(name, self.environ))

    def file(self, name: str) -> Path:
        path = Path(find_target(name, self.environ).path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    (tmp_path / ".local" / "state").mkdir(parents=True)
    return Hosts(tmp_path)


def stock_entry(host: McpHost) -> dict[str, Any]:
    words = ["mempalace-mcp", "--palace", "/srv/mem/work"]
    if host.shape == "local":
        return {"type": "local", "command": words, "environment": {"HF_HOME": "/srv/hf"}} | KEPT
    entry = {"command": words[0], "args": words[1:], "env": {"HF_HOME": "/srv/hf"}}
    return entry | KEPT


def written(host: McpHost, entry: dict[str, Any], name: str = "mempalace") -> str:
    """Return a configuration with one entry, written as that host's users write it."""
    if host.toml:
        rows = [f"# mine\n[mcp_servers.{name}] # it"]
        flat = {key: value for key, value in entry.items() if key not in ("env", "tools")}
        rows += [f"{key} = {json.dumps(value)}" for key, value in flat.items()]
        rows += [f"[mcp_servers.{name}.env]\nHF_HOME = '/srv/hf'"]
        rows += [f"[mcp_servers.{name}.tools.mempalace_search]\napproval_mode = 'approve'"]
        return "\n".join([*rows, "[mcp_servers.other]", "command = 'other'", ""])
    if host.yaml:
        servers = {name: entry, "other": {"command": "other"}}
        return "# mine\n" + yaml.safe_dump({"first": 1, "mcp_servers": servers}, sort_keys=False)
    values: Any = {name: entry, "other": {"command": "other"}}
    for part in reversed(host.path):
        values = {part: values}
    comment = "// mine\n" if host.lenient else ""
    return comment + json.dumps({"first": 1} | values, indent=4) + "\n"


def entry_in(host: McpHost, text: str, name: str = "mempalace") -> dict[str, Any]:
    if host.toml:
        values: Any = tomllib.loads(text)
    elif host.yaml:
        values = yaml.safe_load(text)
    else:
        values = json.loads(text.removeprefix("// mine\n"))
    for part in host.path:
        values = values[part]
    entry = values[name]
    assert isinstance(entry, dict)
    return entry


def commanded(host: McpHost, words: list[str]) -> dict[str, Any]:
    if host.shape == "local":
        return {"command": words}
    return {"command": words[0], "args": words[1:]}


def words_in(entry: dict[str, Any]) -> list[str]:
    command = entry["command"]
    return command if isinstance(command, list) else [command, *entry["args"]]


each_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


@each_host
def test_everything_but_the_command_stays_and_all_of_it_comes_back(
    hosts: Hosts, host: McpHost
) -> None:
    file = hosts.file(host.name)
    file.write_text(written(host, stock_entry(host)))
    before = file.read_bytes()

    said = hosts.install(host.name, replace=True)

    old, new = entry_in(host, before.decode()), entry_in(host, file.read_text())
    assert words_in(new)[-3:] == ["shim", "--palace", "/srv/mem/work"]
    for entry in (old, new):
        entry.pop("command")
        entry.pop("args", None)
    assert new == old
    assert list(new) == list(old)
    assert "switched off" in said
    assert "switched off" in hosts.state(host.name)
    hosts.uninstall(host.name)
    assert file.read_bytes() == before


@each_host
def test_a_note_is_void_once_something_else_is_in_its_place(hosts: Hosts, host: McpHost) -> None:
    """Installed; removed by the host's own command; the user's own entry; replaced; uninstalled."""
    file = hosts.file(host.name)
    hosts.install(host.name)
    file.write_text(written(host, stock_entry(host)))
    before = file.read_bytes()

    assert "no entry of palace" in hosts.uninstall(host.name)
    assert file.read_bytes() == before
    hosts.install(host.name, replace=True)
    hosts.uninstall(host.name)

    assert file.read_bytes() == before


@pytest.mark.parametrize("later", [LOCAL_STOCK, LOCAL_PALACE])
def test_an_entry_goes_though_a_later_file_of_the_host_hides_it(hosts: Hosts, later: str) -> None:
    directory = hosts.home / ".config" / "opencode"
    hosts.install("opencode")
    (directory / "opencode.jsonc").write_text(later)
    if later == LOCAL_STOCK:
        hosts.install("opencode", replace=True)

    said = hosts.uninstall("opencode", force=True)  # palace's other entry is its user's

    assert not (directory / "opencode.json").exists()
    left = json.loads((directory / "opencode.jsonc").read_text())
    assert left == (json.loads(LOCAL_STOCK) if later == LOCAL_STOCK else {"mcp": {}})
    assert f"Removed: {directory}/opencode.json" in said
    assert "has no entry of palace" in hosts.uninstall("opencode")


@each_host
def test_a_forced_uninstall_takes_nobody_elses_entry(hosts: Hosts, host: McpHost) -> None:
    file = hosts.file(host.name)
    hosts.install(host.name)
    file.write_text(written(host, stock_entry(host)))
    before = file.read_bytes()

    hosts.uninstall(host.name, force=True)

    assert file.read_bytes() == before


@each_host
def test_what_a_host_adds_to_our_entry_goes_with_it(hosts: Hosts, host: McpHost) -> None:
    file = hosts.file(host.name)
    hosts.install(host.name)
    ours = entry_in(host, file.read_text())
    file.write_text(written(host, ours | KEPT))

    hosts.install(host.name)
    assert KEPT.items() <= entry_in(host, file.read_text()).items()
    hosts.install(host.name, replace=True)
    assert KEPT.items() <= entry_in(host, file.read_text()).items()
    hosts.uninstall(host.name)

    text = file.read_text()
    assert "mempalace" not in text
    assert entry_in(host, text, "other") == {"command": "other"}


@each_host
def test_an_entry_of_palaces_is_written_again_and_keeps_its_palace(
    hosts: Hosts, host: McpHost
) -> None:
    file = hosts.file(host.name)
    entry = stock_entry(host)
    words = ["/gone/palace", "shim", "--palace", "/srv/mem/work"]
    entry |= commanded(host, words)
    file.write_text(written(host, entry))
    before = file.read_bytes()

    hosts.install(host.name)
    assert file.read_bytes() == before
    hosts.install(host.name, replace=True)

    new = words_in(entry_in(host, file.read_text()))
    assert new[0] != "/gone/palace"
    assert new[-3:] == words[-3:]
    hosts.uninstall(host.name)
    assert file.read_bytes() == before


@each_host
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["docker", "exec", "-i", "box", "mempalace-mcp"], "docker"),
        (["ssh", "box", "palace", "shim"], "ssh"),
        (["sh", "-c", "mempalace-mcp --palace /p"], "sh -c"),
        (["mempalace-mcp", "--read-only"], "--read-only"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name_with_the_way_out(
    hosts: Hosts, host: McpHost, words: list[str], named: str
) -> None:
    file = hosts.file(host.name)
    file.write_text(written(host, commanded(host, words)))
    before = file.read_bytes()

    with pytest.raises(HostEntry) as refused:
        hosts.install(host.name, replace=True)

    assert named in refused.value.message
    assert "remove it first" in refused.value.message
    assert file.read_bytes() == before


STATES = {
    "installed": ["palace", "shim"],
    "installed, through uvx": ["uvx", "palace", "shim"],
    "installed, through docker": ["docker", "exec", "c", "palace", "shim"],
    "stock": ["mempalace-mcp"],
    "stock through ssh": ["ssh", "h", "mempalace-mcp"],
    "something else": ["memory"],
}


@each_host
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("off", [{}, {"enabled": False}, {"disabled": True}], ids=str)
def test_states_are_told_apart_and_looking_changes_nothing(
    hosts: Hosts, host: McpHost, state: str, off: dict[str, bool]
) -> None:
    entry = commanded(host, STATES[state]) | off
    hosts.file(host.name).write_text(written(host, entry))
    before = everything(hosts.home)

    assert hosts.state(host.name) == state + (", switched off" if off else "")
    list_hosts(hosts.environ)
    list_hosts(hosts.environ, project=str(hosts.home))

    assert everything(hosts.home) == before


def everything(home: Path) -> dict[str, tuple[int, bytes | None]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in home.rglob("*")
    }


def test_an_earlier_versions_note_still_gives_back_what_it_replaced(hosts: Hosts) -> None:
    """Version 1 of the notes: the entry was replaced whole."""
    file = hosts.file("cursor")
    hosts.install("cursor")
    ours = json.loads(file.read_text())["mcpServers"]["mempalace"]
    (path,) = (hosts.home / ".local/state/palace/hosts").iterdir()
    note = json.loads(path.read_text()) | {"v": 1, "left": ""}
    (filling,) = note["installed"]["fillings"]
    del filling["changed"]
    filling["replaced"] = old = '{"command": "mempalace-mcp", "env": {"A": "b"}}'
    path.write_text(json.dumps(note))
    file.write_text(json.dumps({"mcpServers": {"mempalace": ours | {"timeout": 5}}}))

    hosts.uninstall("cursor")

    assert file.read_text() == f'{{"mcpServers": {{"mempalace": {old}}}}}'


HOOK = {"type": "command", "command": "/x/mempal_save_hook.sh", "timeout": 7}
FORMAT = {"type": "command", "command": "prettier"}


@pytest.mark.parametrize("name", [host.name for host in HOSTS if host.hooks])
def test_a_hook_keeps_its_time_limit_its_matcher_and_its_neighbours(
    hosts: Hosts, name: str
) -> None:
    path = Path(find_target(name, hosts.environ, hooks=True).path)
    path.parent.mkdir(parents=True, exist_ok=True)
    group = {"matcher": "*", "hooks": [FORMAT, HOOK]}
    path.write_text(json.dumps({"hooks": {"Stop": [{"hooks": [FORMAT]}, group]}}, indent=1))
    before = path.read_bytes()

    with pytest.raises(HostEntry):
        hosts.install(name, hooks=True)
    hosts.install(name, hooks=True, replace=True)

    after = json.loads(path.read_text())["hooks"]["Stop"]
    assert after[0] == {"hooks": [FORMAT]}
    assert after[1]["matcher"] == "*"
    assert after[1]["hooks"][0] == FORMAT
    assert after[1]["hooks"][1]["timeout"] == 7
    assert "hook run --hook stop" in after[1]["hooks"][1]["command"]
    hosts.uninstall(name, hooks=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", [host.name for host in HOSTS if host.hooks])
def test_a_users_hook_in_our_group_outlives_ours(hosts: Hosts, name: str) -> None:
    path = Path(find_target(name, hosts.environ, hooks=True).path)
    hosts.install(name, hooks=True)
    values = json.loads(path.read_text())
    values["hooks"]["Stop"][0]["hooks"].append(FORMAT)
    path.write_text(json.dumps(values))

    hosts.install(name, hooks=True)
    hosts.uninstall(name, hooks=True)

    assert json.loads(path.read_text())["hooks"] == {"Stop": [{"hooks": [FORMAT]}]}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mcp_servers:\n", "is empty"),
        ("~", "document is null"),
        ("---\n# nothing yet\n", "document is null"),
        ("mcp_servers: [1]\n", "not a mapping"),
        ("a: 1\nb: {\n", "line 3"),
        ("- 1\n", "not a mapping"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("d: &d\n  x: 1\nmcp_servers: *d\n", "can't edit"),
        (
            "d: &d\n  mempalace: {command: mempalace-mcp}\nmcp_servers:\n  <<: *d\n",
            "not written in one place",
        ),
    ],
)
def test_yaml_that_a_program_cannot_edit_is_left_alone(hosts: Hosts, text: str, named: str) -> None:
    file = hosts.file("hermes")
    file.write_text(text)

    with pytest.raises(HostFile, match=named):
        hosts.install("hermes", replace=True)

    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", "mcp_servers:\n  mempalace:\n    command: "),
        ("a: 1", "a: 1\nmcp_servers:\n  mempalace:\n    command: "),
        ("mcp_servers: {}\n", 'mcp_servers: {"mempalace": {"command": '),
        ("mcp_servers:\n    x:\n        command: x # it\n# end\n", " # it\n    mempalace:\n      "),
        ("mcp_servers:\n  x: {command: x}\nz: 1\n", "}\n  mempalace:\n    command: "),
        ("mcp_servers: {x: {command: x}}\n", '}, "mempalace": {"command": '),
    ],
)
def test_an_entry_in_yaml_is_written_as_its_neighbours_are(
    hosts: Hosts, text: str, after: str
) -> None:
    file = hosts.file("hermes")
    file.write_text(text)

    hosts.install("hermes")

    assert after in file.read_text()
    hosts.uninstall("hermes")
    assert file.read_text() == text


@each_host
def test_an_entry_that_was_taken_over_twice_is_its_users_again(hosts: Hosts, host: McpHost) -> None:
    """The host wrote its file again in between, and palace had moved."""
    file = hosts.file(host.name)
    file.write_text(written(host, stock_entry(host)))
    before = entry_in(host, file.read_text())
    hosts.install(host.name, replace=True)
    entry = entry_in(host, file.read_text())
    words = ["/gone/palace", *words_in(entry)[-3:]]
    file.write_text(written(host, entry | commanded(host, words)))

    hosts.install(host.name, replace=True)
    assert words_in(entry_in(host, file.read_text()))[0] != "/gone/palace"
    hosts.uninstall(host.name)

    assert entry_in(host, file.read_text()) == before


def test_without_pyyaml_that_is_what_is_missing(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hosts.file("hermes")
    file.write_text("mcp_servers: {}\n")
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(HostFile, match="PyYAML is needed") as refused:
        hosts.install("hermes")
    assert command_for("pyyaml") in str(refused.value)

    assert hosts.state("hermes") == "can't be read without PyYAML"
    assert file.read_text() == "mcp_servers: {}\n"


def test_a_link_that_leads_elsewhere_by_now_is_not_written_to(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("{}")
    link = tmp_path / "mcp.json"
    link.symlink_to("one")
    before = read_configuration(str(link))
    link.unlink()
    link.symlink_to("two")

    with pytest.raises(HostFile, match="changed by another program"):
        write_configuration(before, b"{1}")

    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["{}", "{}"]
    assert sorted(os.listdir(tmp_path)) == ["mcp.json", "one", "two"]
