"""Commands that behave badly: what is asked of one always ends, in bounds, with an outcome."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from palace.provider.declaration import Command
from palace.provider.run import (
    DETAIL_CHARS_MAX,
    FAILED,
    NOT_EXECUTABLE,
    OK,
    TIMEOUT,
    Outcome,
    _Tails,
    _wait,
    run_command,
)
from tests.provider.scripts import python_script, script
from tests.provider.test_slot import group_is_gone

VALUES = {"cwd": "/", "runtime": "codex", "personality": "p", "occasion": "birth"}


def run(command: Path, *, timeout_s: float = 30, environ: Mapping[str, str] = {}) -> Outcome:
    block = Command(command=str(command))
    return run_command(block, VALUES, {**os.environ, **environ}, timeout_s=timeout_s)


def test_a_descendant_that_keeps_its_output_open_is_not_waited_for(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "sleep 20 & exit 0")
    began_s = time.monotonic()

    told = run(command)

    assert told.state == OK
    assert time.monotonic() - began_s < 10


def test_a_descendant_that_writes_for_ever_holds_up_nobody(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "for _ in 1 2 3 4 5 6; do yes & done; sleep 0.5; exit 4")
    began_s = time.monotonic()

    told = run(command)

    assert (told.state, told.exit_code) == (FAILED, 4)
    assert time.monotonic() - began_s < 10


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a file can't be waited for")
def test_what_comes_faster_than_it_is_read_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A descendant may write on; here its streams are a file that is never found empty."""
    command = subprocess.Popen([script(tmp_path / "give", "exit 0")])
    streams = [open("/dev/random", "rb", buffering=0) for _ in range(2)]  # noqa: SIM115
    ended = []

    def wait() -> None:
        tails = _Tails(*streams)
        ended.append(_wait(command.pid, tails, 30))
        tails.close()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(20)

    assert ended == [True]
    assert command.wait() == 0


def test_what_it_wrote_last_is_read_after_its_end(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "echo its last words >&2")
    pipe = subprocess.PIPE
    with subprocess.Popen([command], stdout=pipe, stderr=pipe) as ended:
        assert ended.stdout is not None
        assert ended.stderr is not None
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        tails = _Tails(ended.stdout, ended.stderr)

        assert _wait(ended.pid, tails, 5)
        assert tails.text == "its last words"
        tails.close()


def test_what_ignores_a_request_to_end_is_killed_with_its_children(tmp_path: Path) -> None:
    body = 'trap "" TERM; echo $$ > "$0.pid"; sh -c \'trap "" TERM; sleep 30\' & sleep 30; sleep 30'
    command = script(tmp_path / "give", body)
    began_s = time.monotonic()

    told = run(command, timeout_s=0.2)

    assert told.state == TIMEOUT
    assert 2 <= time.monotonic() - began_s < 8
    assert group_is_gone(int(Path(f"{command}.pid").read_text()))


def test_one_that_is_asked_to_end_may_do_so_itself(tmp_path: Path) -> None:
    body = 'trap "echo put back > $0.done; exit 0" TERM; while :; do sleep 0.05; done'
    command = script(tmp_path / "give", body)

    assert run(command, timeout_s=0.3).state == TIMEOUT
    assert Path(f"{command}.done").read_text() == "put back\n"


def test_one_that_closes_its_output_may_go_on_until_its_time_is_over(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "exec >&- 2>&-; sleep 0.3; exit 5")
    endless = script(tmp_path / "endless", "exec >&- 2>&-; exec sleep 30")

    assert (run(command).state, run(command).exit_code) == (FAILED, 5)
    assert run(endless, timeout_s=0.3).state == TIMEOUT


def test_a_gigabyte_of_output_fills_no_memory(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "head -c 1073741824 /dev/zero | tr '\\0' x; exit 9")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    told = run(command, timeout_s=110)

    assert (told.state, told.exit_code) == (FAILED, 9)
    assert len(told.detail) == DETAIL_CHARS_MAX
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


def test_one_that_removes_itself_is_told_as_missing_the_next_time(tmp_path: Path) -> None:
    command = script(tmp_path / "give", 'rm -- "$0"')

    assert run(command).state == OK
    assert run(command).state == NOT_EXECUTABLE


def test_secrets_and_line_breaks_are_taken_out_of_what_it_complains_of(tmp_path: Path) -> None:
    secret = "ghp_" + "a1B2c3D4e5F6" * 3
    command = script(tmp_path / "give", f"printf 'no\\n\\033[2Jway {secret}\\n' >&2; exit 1")

    told = run(command)

    assert secret not in told.detail
    assert "[REDACTED:" in told.detail
    assert "\n" not in told.detail


def test_half_of_a_secret_is_not_told_where_it_is_cut(tmp_path: Path) -> None:
    secret = "ghp_" + "a1B2c3D4e5F6" * 3
    complaint = f"no way {secret} {'and more ' * 42}"
    command = script(tmp_path / "give", f"printf '%s' '{complaint}' >&2; exit 1")

    told = run(command)

    assert secret[-10:] not in told.detail
    assert complaint[-DETAIL_CHARS_MAX:].strip()[:10] in secret, "it would be cut within it"


def test_the_end_of_what_it_complains_of_is_told_and_not_what_it_says(tmp_path: Path) -> None:
    body = f"echo said; echo 'the first {'x' * 500} words of all' >&2; exit 1"

    told = run(script(tmp_path / "give", body))

    assert told.detail.endswith(" words of all")
    assert (len(told.detail), "said" in told.detail) == (DETAIL_CHARS_MAX, False)


def test_it_reads_nothing_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    body = "import os, sys; sys.exit(0 if not sys.stdin.read() and os.getsid(0) == os.getpid() "
    command = python_script(tmp_path / "give", body + "else 1)")
    ours, (reading, writing) = os.dup(0), os.pipe()
    os.write(writing, b"for whoever ran palace\n")
    os.close(writing)
    os.dup2(reading, 0)
    try:
        assert run(command).state == OK
        assert os.read(0, 100) == b"for whoever ran palace\n"
    finally:
        os.dup2(ours, 0)
        os.close(ours)
        os.close(reading)


def test_it_inherits_no_descriptor_and_none_of_palaces_secrets(tmp_path: Path) -> None:
    body = """
import os, sys
left = {int(fd) for fd in os.listdir("/proc/self/fd")} - {0, 1, 2}
left = [fd for fd in left if os.path.exists(f"/proc/self/fd/{fd}")]
ours = [name for name in os.environ if name.startswith("PALACE")]
print(sorted(name for name in ours if "_TEST_" not in name), left, file=sys.stderr)
sys.exit(1)
"""
    command = python_script(tmp_path / "give", body)
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    names = {
        "PALACE_TOKEN_FILE": "/t",
        "PALACE_WORKSPACE_TOKEN_FILE": "/t",
        "PALACE_BRIDGE_COMMAND": "ssh",
        "PALACE_IDLE_S": "1",
    }

    told = run(command, environ=names)
    os.close(fd)

    assert told.detail == "['PALACE_IDLE_S'] []"


def test_a_value_that_no_program_can_be_given_is_an_outcome(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "exit 0")
    block = Command(command=str(command), args=("{cwd}",))

    for bad in ("a\0b", "\ud800"):
        told = run_command(block, VALUES | {"cwd": bad}, {}, timeout_s=5)
        assert (told.state, told.exit_code) == (NOT_EXECUTABLE, None)


def test_a_directory_with_a_line_break_is_one_argument(tmp_path: Path) -> None:
    command = script(tmp_path / "give", 'printf "%s" "$1" > "$0.got"')
    run_command(
        Command(command=str(command), args=("{cwd}",)),
        VALUES | {"cwd": "/a\nb {occasion}"},
        dict(os.environ),
        timeout_s=5,
    )

    assert Path(f"{command}.got").read_text() == "/a\nb {occasion}"


def test_the_search_path_decides_nothing(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "exit 0")
    (tmp_path / "games").mkdir()
    script(tmp_path / "games" / "give", "exit 7")

    assert run(command, environ={"PATH": str(tmp_path / "games")}).state == OK
