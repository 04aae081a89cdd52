"""`palace install` and `palace uninstall` as people run them, in a home of their own."""

import json
import os
import pty
import select
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palace.mcp_hosts.table import HOSTS
from palace.protocol.errors import HostFile

PALACE = [sys.executable, "-P", "-m", "palace"]
BIN = str(Path(sys.executable).parent)
ENTRY = {"command": "palace", "args": ["shim"]}
STOCK = """{
  "mcpServers": {
    "mempalace": { "command": "mempalace-mcp", "env": {"KEY": "1"} }, "x": {"command": "x"}
  }
}"""


class Home:
    """A home directory, and the command run in it as from a terminal's shell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ = {"HOME": str(path), "PATH": f"{BIN}:/usr/bin:/bin"}

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PALACE, *words],
            env=self.environ | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, *words: str, **more: str) -> str:
        done = self.run(*words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, name: str, data: str | bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def all(self) -> dict[str, Any]:
        """Return everything below the home: content, mode, and where links lead."""
        found: dict[str, Any] = {}
        for path in sorted(self.path.rglob("*")):
            name = str(path.relative_to(self.path))
            mode = stat.S_IMODE(path.lstat().st_mode)
            if path.is_symlink():
                found[name] = os.readlink(path)
            else:
                found[name] = (mode, path.read_bytes() if path.is_file() else None)
        return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home" / ".local" / "state").mkdir(parents=True)
    return Home(tmp_path / "home")


def words_of() -> list[list[str]]:
    """Every host and its hooks, for the user and for a project."""
    found = []
    for host in HOSTS:
        found.append([host.name])
        found += [[host.name, "--hooks"]] if host.hooks else []
        found += [[host.name, "--project", "project"]] if host.project else []
    return found


def test_all_hosts_are_installed_and_nothing_is_left_of_them(home: Home) -> None:
    """One process for all: a round trip of each through the command would be half a minute."""
    project = home.path / "project"
    project.mkdir()
    before = home.all()
    code = (
        "import sys, typer.testing; from palace.cli.app import app\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    done = typer.testing.CliRunner().invoke(app, line.split())\n"
        "    print(done.exit_code, line)\n"
    )

    def run(verb: str) -> list[str]:
        rows = [[verb, *words, "--yes"] for words in words_of()]
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=home.environ,
            cwd=home.path,
            input="\n".join(map(" ".join, rows)),
            capture_output=True,
            text=True,
            check=True,
        )
        return [row for row in done.stdout.splitlines() if row]

    assert all(row.startswith("0 ") for row in run("install"))
    listed = home.ok("install", "--list")
    assert listed.count(" installed ") == len(
        [words for words in words_of() if "--project" not in words]
    )
    once = home.all()
    assert all(row.startswith("0 ") for row in run("install"))
    assert home.all() == once
    assert all(row.startswith("0 ") for row in run("uninstall"))

    assert home.all() == before


def test_a_stock_entry_is_moved_when_asked_and_comes_back(home: Home) -> None:
    file = home.write(".cursor/mcp.json", STOCK)
    before = home.all()

    refused = home.run("install", "cursor", "--yes")
    assert refused.returncode == 81
    assert "--replace" in refused.stderr
    assert home.all() == before
    assert "stock" in home.ok("install", "--list")

    home.ok("install", "cursor", "--replace", "--yes")
    entry = json.loads(file.read_text())["mcpServers"]["mempalace"]
    assert entry["args"] == ["shim"]
    note = next((home.path / ".local/state/palace/hosts").iterdir())
    assert stat.S_IMODE(note.stat().st_mode) == 0o600  # it holds what was replaced

    home.ok("uninstall", "cursor", "--yes")
    assert home.all() == before


@pytest.mark.parametrize("aim", ["../.cursor/mcp.json", "../elsewhere/new.json", "../.cursor"])
def test_a_link_that_leads_out_of_its_project_is_not_followed(home: Home, aim: str) -> None:
    """A repository may hold any link; an entry for the project must not become the user's own."""
    home.write(".cursor/mcp.json", '{"mcpServers": {"mine": {"command": "mine"}}}')
    project = home.path / "project"
    (project / "sub").mkdir(parents=True)
    if aim == "../.cursor":
        (project / ".cursor").symlink_to(aim)
    else:
        (project / ".cursor").mkdir()
        (project / ".cursor" / "mcp.json").symlink_to(f"../{aim}")
    before = home.all()

    for command in ("install", "uninstall"):
        done = home.run(command, "cursor", "--project", str(project), "--yes")
        assert done.returncode == HostFile.exit_code
        assert "leads out of its project" in done.stderr
    assert "can't be parsed" in home.ok("install", "--list", "--project", str(project))
    assert home.all() == before


def test_a_link_within_its_project_is_followed(home: Home) -> None:
    project = home.path / "project"
    real = home.write("project/shared/mcp.json", "{}")
    (project / ".cursor").mkdir()
    (project / ".cursor" / "mcp.json").symlink_to("../shared/mcp.json")
    (home.path / "by another name").symlink_to(project)

    home.ok("install", "cursor", "--project", str(home.path / "by another name"), "--yes")

    assert "mempalace" in json.loads(real.read_text())["mcpServers"]


def test_mode_link_line_ends_and_byte_order_mark_stay(home: Home) -> None:
    text = "\ufeff# mine\r\n[a]\r\nb = 1 # c"
    real = home.write("dotfiles/codex.toml", text)
    real.chmod(0o640)
    (home.path / ".codex").mkdir()
    link = home.path / ".codex" / "config.toml"
    link.symlink_to("../dotfiles/codex.toml")
    before = home.all()

    home.ok("install", "codex", "--yes")

    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    block = '\r\n\r\n[mcp_servers.mempalace]\r\ncommand = "palace"\r\nargs = ["shim"]'
    assert real.read_bytes() == (text + block).encode()
    home.ok("uninstall", "codex", "--yes")
    assert home.all() == before


@pytest.mark.parametrize(
    ("host", "file", "data", "line"),
    [
        ("codex", ".codex/config.toml", "[mcp_servers.x]\na = 1\n\n[mcp_servers.x]\na = 2\n", 4),
        ("codex", ".codex/config.toml", "a = 1\n[[mcp_servers]]\nb = 1\n", 2),
        ("codex", ".codex/config.toml", "a = 1\nmcp_servers = 3\n", 2),
        ("claude-code", ".claude.json", '{\n  "a": 1,\n  // no\n}\n', 3),
        ("claude-code", ".claude.json", '{\n  "a": 1,\n}\n', 2),
        ("cursor", ".cursor/mcp.json", '{\n  "mcpServers": []\n}\n', 2),
        ("cursor", ".cursor/mcp.json", '{"mcpServers": {},\n"mcpServers": {}\n}\n', 2),
        ("vscode", ".config/Code/User/mcp.json", '{\n  "servers": {\n', 3),
        ("zed", ".config/zed/settings.json", b'{\n"a": "\xff"}', 2),
        ("opencode", ".config/opencode/opencode.json", "[1]", 1),
        ("pi", ".pi/agent/mcp.json", '{"a":\n' + "[" * 300 + "]" * 300 + "}", 2),
    ],
)
def test_what_cannot_be_read_is_left_alone_and_named_with_its_line(
    home: Home, host: str, file: str, data: str | bytes, line: int
) -> None:
    home.write(file, data)
    before = home.all()

    for words in (["install", host, "--replace"], ["uninstall", host, "--force"]):
        done = home.run(*words, "--yes")
        if words[0] == "uninstall" and done.returncode == 0:
            assert "nothing was changed" in done.stdout  # readable, and without a place for ours
        else:
            assert done.returncode == 65, done.stderr
            assert f"line {line}:" in done.stderr
    assert home.all() == before


def test_an_entry_that_somebody_changed_is_kept_unless_forced(home: Home) -> None:
    file = home.write(".gemini/settings.json", '{\n  "theme": "dark" // mine\n}\n')
    home.ok("install", "gemini-cli", "--yes")
    edited = file.read_text().replace('"shim"', '"shim", "--palace", "/p"')
    file.write_text(edited)

    refused = home.run("uninstall", "gemini-cli", "--yes")
    assert refused.returncode == 81
    assert "--force" in refused.stderr
    assert file.read_text() == edited
    assert "already" in home.ok("install", "gemini-cli", "--yes")

    home.ok("uninstall", "gemini-cli", "--force", "--yes")
    assert file.read_text() == '{\n  "theme": "dark" // mine\n}\n'


def test_a_palace_line_that_its_user_wrote_comes_back(home: Home) -> None:
    """What palace had replaced before is not what they have now: it would be gone for good."""
    stock = '{"mcpServers": {"mempalace": {"command": "mempalace-mcp", "args": []}}}\n'
    file = home.write(".gemini/settings.json", stock)
    home.ok("install", "gemini-cli", "--replace", "--yes")
    theirs = stock.replace("mempalace-mcp", "/opt/palace").replace(
        "[]", '["shim", "--palace", "/p"]'
    )
    file.write_text(theirs)

    refused = home.run("uninstall", "gemini-cli", "--yes")
    assert refused.returncode == 81
    assert "whoever changed it keeps it" in refused.stderr
    assert file.read_text() == theirs

    home.ok("install", "gemini-cli", "--replace", "--yes")
    assert "/opt/palace" not in file.read_text()
    home.ok("uninstall", "gemini-cli", "--yes")
    assert file.read_text() == theirs


def test_a_host_that_wrote_its_file_again_gets_the_rest_back(home: Home) -> None:
    file = home.write(".claude.json", '{"numStartups":1}')
    home.ok("install", "claude-code", "--yes")
    values = json.loads(file.read_text()) | {"numStartups": 2}
    file.write_text(json.dumps(values, indent=2))

    home.ok("uninstall", "claude-code", "--yes")

    assert json.loads(file.read_text()) == {"numStartups": 2}


def test_without_its_note_an_entry_is_found_and_taken_out(home: Home) -> None:
    file = home.write(".codex/config.toml", 'a = 1\n\n[mcp_servers.x]\ncommand = "x"\n')
    before = home.all()
    home.ok("install", "codex", "--yes")
    for note in (home.path / ".local/state/palace/hosts").iterdir():
        note.write_text("torn")

    home.ok("uninstall", "codex", "--yes")

    assert file.read_text() == 'a = 1\n\n[mcp_servers.x]\ncommand = "x"\n'
    assert home.all() == before
    assert "no entry" in home.ok("uninstall", "codex", "--yes")


def test_opencodes_second_shape_is_used_where_it_is_in_use(home: Home) -> None:
    file = home.write("p/opencode.jsonc", '{"mcp": {"servers": {"x": {"type": "local"}}}} // v2')
    project = str(home.path / "p")

    home.ok("install", "opencode", "--project", project, "--yes")

    assert '{"x": {"type": "local"}, "mempalace": {"type": "local", "command":' in file.read_text()
    home.ok("uninstall", "opencode", "--project", project, "--yes")
    assert file.read_text() == '{"mcp": {"servers": {"x": {"type": "local"}}}} // v2'


def test_a_hook_that_was_lost_is_put_in_again_and_both_go(home: Home) -> None:
    file = home.write(".claude/settings.json", '{\n  "model": "m"\n}\n')
    before = home.all()
    home.ok("install", "claude-code", "--hooks", "--yes")
    once = file.read_text()
    values = json.loads(once)
    del values["hooks"]["PreCompact"]
    file.write_text(json.dumps(values, indent=2) + "\n")

    home.ok("install", "claude-code", "--hooks", "--yes")
    assert file.read_text() == once
    home.ok("uninstall", "claude-code", "--hooks", "--yes")
    assert home.all() == before


def test_stocks_own_hooks_are_not_doubled(home: Home) -> None:
    hook = {"hooks": [{"type": "command", "command": "/x/mempal_save_hook.sh"}]}
    home.write(".claude/settings.json", json.dumps({"hooks": {"Stop": [hook]}}))

    assert home.run("install", "claude-code", "--hooks", "--yes").returncode == 81


def test_a_command_is_named_by_its_path_where_the_host_would_not_find_it(home: Home) -> None:
    def command(*words: str, **environ: str) -> str:
        found = home.run("install", *words, **environ)
        assert found.returncode == 80
        row = next(
            row for row in found.stdout.splitlines() if '"command"' in row or "command =" in row
        )
        return row.split('"')[-2]

    assert command("gemini-cli") == "palace"
    assert command("cursor") == f"{BIN}/palace"  # a desktop knows no such directory
    assert command("gemini-cli", PATH="/usr/bin:/bin") == f"{BIN}/palace"
    assert command("gemini-cli", VIRTUAL_ENV=str(Path(BIN).parent)) == f"{BIN}/palace"
    links = home.path / "links"
    links.mkdir()
    (links / "palace").symlink_to(f"{BIN}/palace")
    assert command("cursor", PATH=f"{links}:/usr/bin") == f"{links}/palace"
    (links / "palace").unlink()
    (links / "palace").write_text("#!/bin/sh\n")
    (links / "palace").chmod(0o755)
    assert command("codex", PATH=f"{links}:/usr/bin") == f"{BIN}/palace"  # another's palace


def test_the_page_on_hosts_names_every_file_and_where_that_was_read() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "hosts.md").read_text()
    rows = {row.split("|")[1].strip(" `"): row for row in page.splitlines() if row.startswith("|")}
    for host in HOSTS:
        assert all(f"/{name}`" in rows[host.name] for name in host.files), host.name
        assert all(f"`{name}`" in rows[host.name] for name in host.project), host.name
        assert "https://" in rows[host.name], host.name
        if host.hooks:
            assert host.hooks.project in page


def test_nothing_is_written_unasked(home: Home) -> None:
    before = home.all()
    done = home.run("install", "codex")
    assert (done.returncode, home.all()) == (80, before)
    assert "+[mcp_servers.mempalace]" in done.stdout
    assert "--yes" in done.stderr

    assert answered(home, "n\n") == 80
    assert home.all() == before
    assert answered(home, "y\n") == 0
    assert (home.path / ".codex" / "config.toml").exists()


def answered(home: Home, answer: str) -> int:
    """Run the command on a terminal and type an answer to its question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PALACE, "install", "codex"], env=home.environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen and select.select([ours], [], [], 30)[0]:
        seen += os.read(ours, 4096)
    assert b"+args" in seen
    os.write(ours, answer.encode())
    code = process.wait(30)
    os.close(ours)
    return code


@pytest.mark.parametrize("host", ["claude-code", "codex"])
def test_stock_takes_the_hooks_that_are_put_in(home: Home, host: str) -> None:
    file = {"claude-code": ".claude/settings.json", "codex": ".codex/hooks.json"}[host]
    home.ok("install", host, "--hooks", "--yes")
    hooks = json.loads((home.path / file).read_text())["hooks"]

    assert set(hooks) == {"Stop", "PreCompact"}
    for groups in hooks.values():
        (hook,) = groups[0]["hooks"]
        done = subprocess.run(
            ["sh", "-c", hook["command"]],
            env=home.environ,
            input='{"session_id": "s", "transcript_path": ""}',
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, json.loads(done.stdout)) == (0, {}), done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["install"], 2),
        (["install", "codex", "--list"], 2),
        (["install", "emacs"], 78),
        (["install", "zed", "--hooks"], 78),
        (["install", "zed", "--project", "."], 78),
        (["install", "codex", "--project", "/no/such"], 78),
    ],
)
def test_wrong_usage_is_told(home: Home, words: list[str], code: int) -> None:
    assert home.run(*words).returncode == code
