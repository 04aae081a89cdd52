"""The command line: help that teaches, versions, exit codes, texts for people."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from palace import __main__ as palace_main
from palace import __version__
from palace.cli.app import app
from palace.commands.status_text import status_text
from palace.kernel.durations import span
from tests.support.processes.clients import PALACE

NAMES = {
    *("shim", "serve", "ensure", "status", "list", "stop", "start", "try", "model"),
    *("history", "logs", "doctor", "rebuild", "purge", "backup", "restore"),
    *("move-store", "set-embedder"),
    *("deaths", "recover", "trust", "mesh", "feed", "pull", "delegations"),
    *("dial", "own", "expose", "config", "install", "uninstall", "service"),
    *("provision-peer", "unprovision-peer"),
}
GROUPS = {
    "workspace": {"add", "list", "tree", "move", "remove", "audit", "on", "off"},
    "provider": {"show", "claim", "release"},
    "memory": {"list", "search", "commit", "forget", "export", "import", "backfill", "retire"},
    "namespace": {"add", "list", "remove"},
    "token": {"new", "list", "revoke"},
    "share": {"new", "list", "revoke"},
    "remote": {"add", "list", "remove"},
    "candidates": {"list", "search", "show", "accept", "dismiss"},
}
WITHOUT_PALACE = ("list", "try", "model", "install", "uninstall", "show", "release")


def run(
    *arguments: str, cwd: Path | None = None, **environ: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*PALACE, *arguments],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"} | environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"palace {__version__}\n"


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> "tuple[int, str]":
    """Return what a command line ends with and prints, without a process for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["palace", *arguments])
        try:
            code = palace_main.run(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, capsys.readouterr().out


def test_every_command_has_help_and_stands_in_the_overview(
    capsys: pytest.CaptureFixture[str],
) -> None:
    overview = run("--help").stdout

    assert {command.name for command in app.registered_commands} == NAMES | {"log"}
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    inner = {
        name: {command.name for command in group.registered_commands if command.name}
        for name, group in groups.items()
        if group is not None
    }
    assert inner == GROUPS
    for above, names in GROUPS.items():
        assert above in overview
        assert names <= set(in_process(capsys, above, "--help")[1].split())
        for name in names:
            code, said = in_process(capsys, above, name, "--help")
            assert code == 0
            assert "--palace" in said or name in WITHOUT_PALACE
    for name in NAMES:
        code, said = in_process(capsys, name, "--help")
        assert name in overview
        assert code == 0
        assert "--palace" in said or name in WITHOUT_PALACE


@pytest.mark.parametrize("arguments", [["shim"], ["status"], ["workspace", "add"]])
def test_a_process_helps_as_the_command_does(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(*arguments, "--help")

    assert (done.returncode, done.stdout) == in_process(capsys, *arguments, "--help")


def test_the_old_name_of_history_works_and_is_not_in_the_overview(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / f"{5:020}.jsonl").write_text("no record\n")
    here = ("--palace", str(tmp_path))

    def both(*more: str) -> Result:
        new, old = (CliRunner().invoke(app, [name, *here, *more]) for name in ("history", "log"))
        assert old.exit_code == new.exit_code
        assert old.output.replace(" log ", " history ") == new.output
        return new

    assert "at byte 0: torn" in both().output
    assert both("--json").output.startswith("{")
    assert both("--since", "none").exit_code == 2
    assert " log " not in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize("arguments", [["dance"], ["status", "--nonsense"], ["stop", "extra"]])
def test_wrong_usage_is_told_with_exit_code_2(arguments: list[str]) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["serve", "--nonsense"], ["serve", "--palace"], ["ensure", "nonsense"]]
)
def test_wrong_usage_of_the_fast_commands_is_a_configuration_error(arguments: list[str]) -> None:
    done = run(*arguments)

    assert done.returncode == 78
    assert "palace" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_a_palace_that_nobody_serves_says_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "broker.hold").write_text("2026-01-01T00:00:00Z\n")

    text = run("status", "--palace", str(tmp_path))
    machine = run("status", "--json", "--palace", str(tmp_path))
    missing = run("status", "--palace", str(tmp_path / "no"))

    assert text.returncode == machine.returncode == missing.returncode == 69
    assert "on hold since 2026-01-01" in text.stdout
    assert json.loads(machine.stdout)["running"] is False
    assert "does not exist" in missing.stdout


def test_status_says_why_there_is_no_broker(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    text = "Stock holds it. End it."
    line = f'time=2026-01-02T00:00:00Z level=error logger=palace.serve pid=2 text="{text}"'
    (tmp_path / "broker.log").write_text(f"{line}\n")

    said = run("status", "--palace", str(tmp_path))
    why = json.loads(run("status", "--json", "--palace", str(tmp_path)).stdout)["why"]

    assert "can't be used: " in said.stdout
    assert "mode 0777" in said.stdout
    assert f"-> Take write access from others: chmod go-w {tmp_path}" in said.stdout
    assert f"The last broker gave up at 2026-01-02T00:00:00Z: {text}" in said.stdout
    assert {"unsafe_palace", "last_start"} <= {one["code"] for one in why}


def test_stopping_what_does_not_run_says_so(tmp_path: Path) -> None:
    done = run("stop", "--palace", str(tmp_path))

    assert done.returncode == 69
    assert "No broker runs" in done.stderr


def test_a_command_never_loads_the_engine() -> None:
    code = "import sys; import palace.cli, palace.client.control; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )

    assert not {"chromadb", "mempalace", "trio", "numpy"} & set(done.stdout.split())


STATUS: dict[str, Any] = {
    "palace": "/p",
    "notices": [],
    "pid": 7,
    "epoch": 3,
    "up_s": 7300.0,
    "endpoint": "/p/broker.sock",
    "engine": {"state": "loading", "doing": "fetching the model (40%)", "version": ""},
    "journal": {"journal": "on", "seq": 7, "durable_seq": 6, "quarantined": 0},
    "queue": {"waiting": 1, "max": 9},
    "lanes": {"writer": {"running": 1, "max": 1, "widest": 1, "p50_ms": 1.25, "p95_ms": None}},
    "batches": {"count": 2, "calls": 5},
    "rates": {"10s": 0.5, "60s": 0.1},
    "requests": 5,
    "calls": 4,
    "user": "ada",
    "since": "2026-01-01T00:00:00Z",
    "version": "0.1.0",
    "listen": "127.0.0.1:7253",
    "bridge": "",
    "memory_bytes": 300 << 20,
    "busy_refusals": 0,
    "idle_s": 1.0,
    "idle_exit_s": 0,
    "graph": "/g",
    "log": "/l",
    "degraded": "direct",
    "errors": [{"ago_s": 3.0, "text": "it broke", "times": 2}],
    "sessions": [
        {
            "session": "ab",
            "client": "",
            "pid": 9,
            "requests": 2,
            "in_flight": 1,
            "since_s": 130.0,
            "idle_s": 5.0,
            "read_only": True,
            "connected": False,
        }
    ],
}


def test_status_for_people_shows_what_matters() -> None:
    text = status_text(STATUS)

    for part in ("pid 7 of ada, epoch 3", "2.0 h", "degraded", "never leaves", "(40%), 300 MiB"):
        assert part in text
    assert "3 s ago, 2 times: it broke" in text
    assert "/p/broker.sock, listen 127.0.0.1:7253" in text
    assert "0.5/s over 10 s, 0.1/s over 1 min" in text
    assert "  writer        1/1      1      1.2        -   2 batches of 2.5" in text
    assert "1 in flight, for 2 min, idle 5 s read-only (not connected)" in text
    failed = status_text(STATUS | {"engine": {"state": "failed", "failure": "no model"}})
    assert "failed: no model" in failed


COPY = {
    "since": "2026-01-01T00:00:00Z",
    "of": "00:01:00Z",
    "age_s": 130.0,
    "behind": True,
    "lacks": "",
    "problem": "",
}


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (COPY, "it is of 00:01:00Z, 2 min old, and the palace has changed since then\n"),
        (COPY | {"behind": False}, "answered from a copy since 2026-01-01T00:00:00Z; it is of"),
        (COPY | {"behind": False}, ", 2 min old\n"),
        (COPY | {"lacks": "graph holds 3"}, "; it may lack memories: graph holds 3\n"),
        (COPY | {"problem": "no space"}, "; no newer one can be made: no space\n"),
        (COPY | {"of": ""}, "2026-01-01T00:00:00Z, which the first query makes\n"),
        (COPY | {"of": "", "problem": "no space"}, "since no copy can be made: no space\n"),
    ],
)
def test_status_says_that_a_copy_answers_and_how_old_it_is(reading: Any, said: str) -> None:
    assert said in status_text(STATUS | {"reading": reading})
    assert "queries" not in status_text(STATUS | {"reading": None})
    assert "queries" not in status_text(STATUS)  # an older broker doesn't say


def test_status_says_where_http_is_served() -> None:
    served = {"url": "http://127.0.0.1:1/mcp", "sessions": 2, "token_file": "/t"}

    assert "http://127.0.0.1:1/mcp, 2 sessions, token in /t" in status_text(
        STATUS | {"http": served}
    )
    assert "not yet" in status_text(STATUS | {"http": served | {"url": ""}})
    assert "HTTP        off" in status_text(STATUS)  # an older broker doesn't say
    adoption = {"done": 3, "total": 9, "problem": ""}
    journal = STATUS["journal"] | {"adoption": adoption}
    assert "3 of 9 entries taken over so far" in status_text(STATUS | {"journal": journal})
    journal["adoption"] = adoption | {"problem": "no space"}
    assert "not going on: no space" in status_text(STATUS | {"journal": journal})


def test_durations_are_said_as_people_say_them() -> None:
    assert [span(s) for s in (0.2, 119, 120, 7199, 7200)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2.0 h",
    ]
