"""Commands that behave badly: what is asked of one always ends, in bounds, with an outcome."""

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path

from palace.provider.declaration import Command
from palace.provider.run import (
    DETAIL_CHARS_MAX,
    FAILED,
    NOT_EXECUTABLE,
    OK,
    TIMEOUT,
    Outcome,
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


def test_it_reads_nothing_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    body = "import os, sys; sys.exit(0 if not sys.stdin.read() and os.getsid(0) == os.getpid() "
    command = python_script(tmp_path / "give", body + "else 1)")

    assert run(command).state == OK


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
