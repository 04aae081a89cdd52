"""Agents that are born and leave: `palace workspace` and the slot, through real processes."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from palace.kernel.logline import fields_of
from palace.mcp_hosts.table import NAMES
from palace.protocol.errors import EmptySlot, SlotTaken, UnknownPeer, WorkspaceRefused
from tests.provider.scripts import JOURNALLING, block, declared, journal_of, python_script
from tests.provider.scripts import script as sh
from tests.support.faults.killing import is_deep
from tests.support.loads.light import storm_site
from tests.support.processes.clients import PALACE, Site

pytestmark = pytest.mark.process

# A provider as somebody else would write it: a note beside each agent, taken away again.
NOTES = """
import pathlib, sys
way, cwd, runtime, who, occasion = sys.argv[1:]
note = pathlib.Path(cwd, f".notes-{runtime}")
if way == "give":
    note.write_text(f"{who} may read this\\n")
elif note.exists():
    note.unlink()
with open(sys.argv[0] + ".journal", "a") as journal:
    journal.write("\\0".join([way, runtime, who, occasion, ""]))
"""


@pytest.fixture
def site(short_dir: Path) -> Site:
    made = storm_site(short_dir)
    slot_of(made).parent.mkdir(parents=True)
    return made


def slot_of(site: Site) -> Path:
    return site.home / ".config" / "palace" / "memory-provider.json"


def place(site: Site, name: str) -> Path:
    path = site.home / "work" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def add(site: Site, name: str, *runtimes: str) -> "subprocess.CompletedProcess[str]":
    words = [f"--runtime={one}" for one in runtimes]
    return site.run("workspace", "add", name, "--cwd", str(place(site, name)), *words)


def noted(site: Site) -> list[dict[str, str]]:
    text = (site.palace / "lifecycle.log").read_text()
    found = [fields_of(line) for line in text.splitlines()]
    return [one for one in found if one["ev"] == "memory-provision" and one["state"] != "asked"]


def test_a_birth_warns_loudly_and_succeeds(site: Site) -> None:
    command = sh(site.home / "give", "echo >&2 'vault offline'; exit 3")
    declared(slot_of(site), provision=block(command))

    done = add(site, "reviewer", "claude-code")

    assert done.returncode == 0
    assert "reviewer is registered" in done.stdout
    repair = "palace workspace on reviewer"
    assert f"reviewer claude-code: failed (vault offline); repair: {repair}" in done.stdout
    assert "WARNING: reviewer claude-code: failed (vault offline)" in done.stderr
    assert repair in done.stderr
    told = noted(site)[-1]
    assert told["identity"] == "claude-code-reviewer"
    assert (told["occasion"], told["state"], told["exit"]) == ("birth", "failed", "3")
    assert (told["detail"], told["provider"]) == ("vault offline", "notes")
    assert int(told["ms"]) >= 0

    sh(site.home / "give", JOURNALLING)
    repaired = site.run("workspace", "on", "reviewer")
    assert (repaired.returncode, repaired.stderr) == (0, "")
    assert repaired.stdout == "reviewer claude-code: ok\n"
    assert noted(site)[-1]["occasion"] == "sweep-on"


def test_what_is_removed_is_so_before_the_provider_hears_of_it(site: Site) -> None:
    body = f"""
import json, subprocess, sys
told = subprocess.run({[*PALACE, "workspace", "list", "--json"]!r}, capture_output=True, text=True)
rows = [json.loads(line) for line in told.stdout.splitlines()]
found = [row for row in rows if row["id"] == sys.argv[1]]
json.dump([found, sys.argv[2:]], open(sys.argv[0] + ".saw", "w"))
sys.exit(9)
"""
    command = python_script(site.home / "take", body)
    declared(slot_of(site), unprovision=block(command, "{personality}", "{cwd}", "{occasion}"))
    cwd = place(site, "a")
    site.run("workspace", "add", "a", "--cwd", str(cwd))  # before it had a runtime: no birth
    assert add(site, "b", "codex").returncode == 0
    (place(site, "b") / "mine").write_text("kept")

    done = site.run("workspace", "remove", "b", "--purge")

    [row], args = json.loads(Path(f"{command}.saw").read_text())
    assert row["removed"] is True
    assert (row["cwd"], row["runtimes"]) == (str(place(site, "b")), ["codex"])
    assert args == [str(place(site, "b")), "remove"]
    assert done.returncode == 0  # whatever the provider does
    assert "b is removed" in done.stdout
    assert "directory stay" in done.stdout
    assert "b codex: failed" in done.stdout
    assert "palace workspace off b" in done.stderr
    assert (place(site, "b") / "mine").read_text() == "kept"
    assert site.run("workspace", "off", "b").returncode == 1  # it may be asked again


def test_each_command_has_its_occasion_one_call_an_agent_and_runtime(site: Site) -> None:
    give, take = sh(site.home / "give", JOURNALLING), sh(site.home / "take", JOURNALLING)
    args = ("{occasion}:{personality}:{runtime}",)
    declared(slot_of(site), provision=block(give, *args), unprovision=block(take, *args))
    before = slot_of(site).read_bytes(), slot_of(site).stat()

    assert add(site, "a", "codex", "claude-code").returncode == 0
    assert add(site, "b", "telegram").returncode == 0
    assert site.run("workspace", "on", "--all").returncode == 0
    assert site.run("workspace", "off", "a").returncode == 0
    off = site.run("workspace", "off", "--all")
    assert off.returncode == 0
    assert "b telegram: skipped-no-agentic-runtime" in off.stdout
    assert site.run("workspace", "remove", "a").returncode == 0
    # Whoever owns the slot never writes it: not even its times.
    assert (slot_of(site).read_bytes(), slot_of(site).stat().st_mtime_ns) == (
        before[0],
        before[1].st_mtime_ns,
    )

    both = ("a:claude-code", "a:codex")
    assert sorted(journal_of(give)) == [
        *(f"birth:{one}" for one in both),
        *(f"sweep-on:{one}" for one in both),
    ]
    assert sorted(journal_of(take)) == [
        *(f"off-all:{one}" for one in both),
        *(f"off-peer:{one}" for one in both),
        *(f"remove:{one}" for one in both),
    ]


def test_nobody_and_nothing_are_refused_by_name(site: Site) -> None:
    assert site.run("workspace", "on", "--all").returncode == EmptySlot.exit_code
    declared(slot_of(site), provision=block(sh(site.home / "give", "exit 0")))
    unknown = site.run("workspace", "on", "nobody")
    assert unknown.returncode == UnknownPeer.exit_code
    assert "nobody" in unknown.stderr
    assert site.run("workspace", "on").returncode == 2
    assert site.run("workspace", "off", "a", "--all").returncode == 2
    homeless = site.run("workspace", "add", "a", "--runtime", "codex")
    assert homeless.returncode == WorkspaceRefused.exit_code
    option = add(site, "b", "-c")
    assert option.returncode == WorkspaceRefused.exit_code
    assert add(site, "c", "codex").returncode == 0
    missing = site.run("workspace", "off", "c")
    assert missing.returncode == 1
    assert "missing-direction (notes declares no unprovision command)" in missing.stdout


def test_a_workspace_may_run_more_later(site: Site) -> None:
    give = sh(site.home / "give", JOURNALLING)
    declared(slot_of(site), provision=block(give, "{runtime}"))
    assert add(site, "a").returncode == 0
    assert journal_of(give) == []

    assert site.run("workspace", "on", "a", "--runtime", "codex").returncode == 0
    assert site.run("workspace", "on", "a", "--runtime", "pi").returncode == 0

    assert sorted(journal_of(give)) == ["codex", "codex", "pi"]


def test_an_empty_slot_and_a_planted_one_change_nothing(site: Site) -> None:
    command = sh(site.home / "give", JOURNALLING)
    planted = (site.palace / "memory-provider.json", place(site, "a") / "memory-provider.json")
    for path in planted:
        declared(path, provision=block(command))

    done = add(site, "a", "codex")

    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    declared(slot_of(site), provision=block(command))
    slot_of(site).chmod(0o666)
    warned = add(site, "b", "codex")
    assert warned.returncode == 0
    assert "counts as empty: others may write to it" in warned.stderr
    assert journal_of(command) == []
    doctor = site.run("doctor", "--json")
    assert "slot_unsound" in doctor.stdout


def test_a_death_between_register_and_provider_is_repaired(site: Site) -> None:
    """Twice: the command that registers and runs, and the one that removes."""
    slow = sh(site.home / "slow", '. "$0.wait"; exec sleep 60')
    Path(f"{slow}.wait").write_text('touch "$0.begun"\n')
    give, take = sh(site.home / "give", JOURNALLING), sh(site.home / "take", JOURNALLING)
    declared(slot_of(site), provision=block(slow), unprovision=block(slow))
    words = ["workspace", "add", "a", "--cwd", str(place(site, "a")), "--runtime", "codex"]
    _kill_once_begun(site, slow, words)

    declared(slot_of(site), provision=block(give), unprovision=block(take, "{occasion}"))
    assert site.run("workspace", "on", "a").stdout == "a codex: ok\n"
    declared(slot_of(site), unprovision=block(slow))
    _kill_once_begun(site, slow, ["workspace", "remove", "a"])

    declared(slot_of(site), unprovision=block(take, "{occasion}"))
    assert site.run("workspace", "on", "a").returncode == UnknownPeer.exit_code
    assert site.run("workspace", "off", "a").stdout == "a codex: ok\n"
    assert journal_of(take) == ["off-peer"]


def _kill_once_begun(site: Site, slow: Path, words: list[str]) -> None:
    begun = Path(f"{slow}.begun")
    with subprocess.Popen([*PALACE, *words], env=site.environ()) as process:
        end_s = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < end_s:
            time.sleep(0.02)
        process.kill()
    begun.unlink()
    for entry in Path("/proc").iterdir():  # what it started: it can't end that any more
        try:
            line = (entry / "cmdline").read_bytes()
            mine = f"HOME={site.home}".encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if line == b"sleep\x0060\x00" and mine:
            os.kill(int(entry.name), signal.SIGKILL)


def test_a_provider_of_twenty_lines_takes_palaces_place(site: Site) -> None:
    notes = python_script(site.home / "notes", NOTES)
    args = ("{cwd}", "{runtime}", "{personality}", "{occasion}")
    claimed = site.run("provider", "claim")
    assert claimed.returncode == 0, claimed.stderr
    assert add(site, "a", "claude-code").returncode == 0
    entry = place(site, "a") / ".mcp.json"
    assert "palace" in entry.read_text()
    assert site.run("workspace", "off", "--all").returncode == 0
    assert not entry.exists()

    declared(
        slot_of(site),
        provision=block(notes, "give", *args),
        unprovision=block(notes, "take", *args),
    )
    shown = site.run("provider", "show").stdout
    assert "notes 2.0 (notes-memory)" in shown
    assert site.run("provider", "claim").returncode == SlotTaken.exit_code
    assert site.run("provider", "release").returncode == SlotTaken.exit_code
    assert site.run("workspace", "on", "--all").stdout == "a claude-code: ok\n"
    assert (place(site, "a") / ".notes-claude-code").read_text() == "a may read this\n"
    assert not entry.exists()
    assert site.run("workspace", "remove", "a").returncode == 0
    assert list(place(site, "a").iterdir()) == []

    slot_of(site).unlink()  # which frees it, whoever was there
    assert site.run("provider", "claim").returncode == 0
    assert site.run("provider", "release").returncode == 0
    assert not slot_of(site).exists()


def test_another_core_needs_to_know_nothing_but_the_declaration(site: Site) -> None:
    slot = site.home / "other" / "memory-provider.json"
    claimed = site.run("provider", "claim", "--slot", str(slot), "--palace", str(site.palace))
    assert claimed.returncode == 0, claimed.stderr
    body = json.loads(slot.read_text())
    assert slot.stat().st_mode & 0o777 == 0o600
    assert "heartbeat" not in body  # its broker leaves when idle

    def core(way: str, name: str, runtime: str, occasion: str) -> int:
        values = {"cwd": str(place(site, name)), "runtime": runtime, "personality": name}
        argv = [body[way]["command"], *body[way]["args"]]
        for key, value in (values | {"occasion": occasion}).items():
            argv = [word.replace(f"{{{key}}}", value) for word in argv]
        environ = site.environ()
        del environ["MEMPALACE_PATH"]  # a core knows of none
        return subprocess.run(argv, env=environ, check=False, timeout=60).returncode

    for _ in range(2):
        assert core("provision", "a", "claude-code", "birth") == 0
        assert core("provision", "a", "codex", "sweep-on") == 0
    [row] = [json.loads(one) for one in site.run("workspace", "list", "--json").stdout.splitlines()]
    assert (row["id"], row["runtimes"]) == ("a", ["claude-code", "codex"])
    assert (place(site, "a") / ".codex" / "config.toml").exists()
    assert core("unprovision", "a", "codex", "off-peer") == 0
    assert not (place(site, "a") / ".codex").exists()
    for _ in range(2):
        assert core("unprovision", "a", "claude-code", "remove") == 0
    assert list(place(site, "a").iterdir()) == []
    [row] = [json.loads(one) for one in site.run("workspace", "list", "--json").stdout.splitlines()]
    assert row["removed"] is True
    assert core("provision", "-c", "codex", "birth") != 0
    assert core("provision", "b", "codex", "off-all") != 0


def test_a_broker_that_stays_beats_and_one_that_leaves_declares_no_heart(site: Site) -> None:
    site.run("config", "set", "idle_s=0")
    claimed = site.run("provider", "claim", PALACE_IDLE_S="0")
    assert claimed.returncode == 0, claimed.stderr
    beat = Path(json.loads(slot_of(site).read_text())["heartbeat"])
    os.utime(beat, (0, 0))
    assert site.run("start", PALACE_IDLE_S="0").returncode == 0
    end_s = time.monotonic() + 20
    while beat.stat().st_mtime == 0 and time.monotonic() < end_s:
        time.sleep(0.1)

    assert time.time() - beat.stat().st_mtime < 30
    assert " s ago" in site.run("provider", "show").stdout
    assert site.run("stop").returncode == 0


BIRTHS = 50 if is_deep() else 5


def test_births_and_removals_by_a_core_that_is_killed_leave_every_byte(site: Site) -> None:
    """Whoever asks speaks the declaration alone, and dies with the command that it has run."""
    chance = random.Random(59)
    claimed = site.run("provider", "claim", "--palace", str(site.palace))
    assert claimed.returncode == 0, claimed.stderr
    body = json.loads(slot_of(site).read_text())
    for name in ("a", "b", "c"):
        (place(site, name) / ".mcp.json").write_text('{"theirs":  [1]}\n\n')
    before = files_in(site)
    born: set[tuple[str, str]] = set()
    killed = 0
    for turn in range(BIRTHS):
        arriving = not born or chance.random() < 0.6
        who = (chance.choice("abc"), chance.choice(NAMES)) if arriving else chance.choice([*born])
        born = born | {who} if arriving else born - {who}
        way, occasion = ("provision", "birth") if arriving else ("unprovision", "off-peer")
        argv = asked(body[way], site, who, occasion)
        if turn % 2:
            killed += not ends_within(argv, site, chance.random() * 0.6)
        assert ends_within(argv, site, 60), who
    for who in born:
        assert ends_within(asked(body["unprovision"], site, who, "remove"), site, 60)

    assert files_in(site) == before
    print(f"{BIRTHS} births and removals, {killed} killed")


def asked(block: dict[str, Any], site: Site, who: tuple[str, str], occasion: str) -> list[str]:
    values = {"cwd": str(place(site, who[0])), "personality": who[0], "runtime": who[1]}
    argv = [block["command"], *block["args"]]
    for key, value in (values | {"occasion": occasion}).items():
        argv = [word.replace(f"{{{key}}}", value) for word in argv]
    return argv


def ends_within(argv: list[str], site: Site, seconds: float) -> bool:
    """Run a command, and kill it if it takes longer; tell whether it has ended well."""
    with subprocess.Popen(
        argv, env=site.environ(), stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return False


def files_in(site: Site) -> dict[str, bytes]:
    """Return what is in the home, but for palace's own state and its slot."""
    return {
        str(path): path.read_bytes()
        for path in site.home.rglob("*")
        if path.is_file() and not {".local", ".mempalace", "palace"} & {*path.parts}
    }
