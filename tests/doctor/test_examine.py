"""What the doctor finds where no process is needed to prepare it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palace.doctor.examine import examine_palace
from palace.doctor.finding import Finding
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, find_palace


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "palace").mkdir(mode=0o700)
    return tmp_path


def examined(home: Path, **environ: str) -> dict[str, Finding]:
    """Return the findings by their codes."""
    environment = ShimEnvironment({"HOME": str(home), "PATH": os.environ["PATH"]} | environ)
    paths = Paths(str(home / "palace"))
    return {finding.code: finding for finding in examine_palace(paths, environment)}


def test_a_fresh_palace_has_no_error_and_every_part_is_named(home: Path) -> None:
    found = examined(home)

    assert {code for code, finding in found.items() if finding.level == "error"} == set()
    well = {code for code, finding in found.items() if finding.level == "ok"}
    assert well == {
        *("mount", "directory", "disk", "installation", "mempalace's lock", "broker.lock"),
        *("journal", "stores", "hosts"),
    }


def test_looking_takes_no_lock_and_leaves_nothing_behind(home: Path) -> None:
    examined(home)

    assert [*home.rglob("*")] == [home / "palace"]


def test_a_directory_that_others_may_write_to_is_an_error(home: Path) -> None:
    (home / "palace").chmod(0o777)

    found = examined(home)["unsafe_palace"]

    assert "mode 0777" in found.text
    assert "chmod go-w" in found.remedy


def test_wrong_settings_are_told_with_their_key(home: Path) -> None:
    (home / "palace" / "palace.toml").write_text("idle_s = -1\n")

    found = examined(home)["settings"]

    assert (found.level, "idle_s" in found.text) == ("error", True)


def test_a_palace_that_is_not_there_is_a_note_or_an_error_by_who_named_it(home: Path) -> None:
    environment = ShimEnvironment({"HOME": str(home), "MEMPALACE_PATH": f"{home}/no/where"})
    by_default = ShimEnvironment({"HOME": str(home)})

    named = examine_palace(find_palace("", environment.all), environment)
    default = examine_palace(find_palace("", by_default.all), by_default)

    levels = [{f.code: f.level for f in found}["no_palace"] for found in (named, default)]
    assert levels == ["error", "note"]


def test_a_graph_that_another_palace_serves_is_named_with_its_holder(home: Path) -> None:
    kernel = Kernel()
    fd = kernel.open_lock(f"{home}/tunnels.json.owner.lock")
    assert kernel.try_lock(fd)

    found = examined(home)["shared_file"]
    kernel.close(fd)

    assert f"pid {os.getpid()}" in found.text
    assert "shared_file" not in examined(home)


def test_the_owner_of_a_lock_is_named_with_command_user_and_age(home: Path) -> None:
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('has it', flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", code, f"{home}/palace/broker.lock"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        found = examined(home)
        holder.kill()

    assert found["broker.lock"].text.startswith(
        f"pid {holder.pid} ({Path(sys.executable).name} -c import"
    )
    assert " of " in found["broker.lock"].text
    assert " ago" in found["broker.lock"].text
    assert f"kill -9 {holder.pid}" in found["silent"].remedy


def test_hosts_are_told_by_what_stands_in_their_files(home: Path) -> None:
    (home / ".cursor").mkdir()
    (home / ".cursor" / "mcp.json").write_text("{ this is no JSON")
    stock = '{"mcpServers": {"mempalace": {"command": "mempalace-mcp", "args": []}}}'
    (home / ".claude.json").write_text(stock)

    found = examined(home)

    assert "palace install claude-code --replace" in found["stock_entry"].remedy
    assert f"{home}/.cursor/mcp.json" in found["host_file"].text


PALACE_ENTRY = {"command": "palace", "args": ["shim"]}
STOCK_ENTRY = {"command": "mempalace-mcp", "args": []}


@pytest.mark.parametrize(
    ("claude", "code", "text", "remedy"),
    [
        (
            {"mcpServers": {"mempalace": PALACE_ENTRY, "memory": STOCK_ENTRY}},
            "stock_entry",
            "memory, `mempalace-mcp`",
            "claude mcp remove memory --scope user",
        ),
        (
            {
                "mcpServers": {"mempalace": PALACE_ENTRY},
                "projects": {"/y": {"mcpServers": {"mempalace": STOCK_ENTRY}}},
            },
            "stock_entry",
            "in /y",
            "(cd /y && claude mcp remove mempalace --scope local)",
        ),
        (
            {"mcpServers": {"mempalace": {"command": "docker", "args": ["x", "mempalace-mcp"]}}},
            "stock_entry",
            "docker x mempalace-mcp",
            "Remove it: claude mcp remove mempalace --scope user",
        ),
        (
            {"mcpServers": {"mempalace": PALACE_ENTRY | {"command": "/gone/palace"}}},
            "host_command",
            "/gone/palace, which does not exist",
            "palace install claude-code --replace",
        ),
        (
            {
                "mcpServers": {"mempalace": PALACE_ENTRY},
                "projects": {"CWD": {"mcpServers": {"mempalace": {"command": "else"}}}},
            },
            "hidden_entry",
            "does not start palace here: HOME/.claude.json (in CWD, for this user) takes the place "
            "of the entry in HOME/.claude.json",
            "Remove it: (cd CWD && claude mcp remove mempalace --scope local)",
        ),
        (
            {"mcpServers": {"mempalace": PALACE_ENTRY | {"args": ["shim", "--palace", "/q"]}}},
            "hosts",
            "claude-code (opens /q)",
            "",
        ),
        (
            {"mcpServers": {"mempalace": PALACE_ENTRY | {"disabled": True}}},
            "hosts",
            "palace is installed in none of them; switched off: claude-code",
            "",
        ),
    ],
)
def test_what_hosts_run_is_told_with_the_command_that_changes_it(
    home: Path, claude: dict[str, Any], code: str, text: str, remedy: str
) -> None:
    (home / ".claude.json").write_text(json.dumps(claude).replace("CWD", os.getcwd()))

    found = examined(home)

    places = {"CWD": os.getcwd(), "HOME": str(home)}
    for name, place in places.items():
        text, remedy = text.replace(name, place), remedy.replace(name, place)
    assert text in found[code].text
    assert remedy in found[code].remedy
