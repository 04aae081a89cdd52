"""What a slot promises whoever declares himself in it, each with a real program as the provider."""

import os
import signal
import time
from inspect import signature
from pathlib import Path

import attrs
import pytest

from palace.provider.births import (
    BIRTH,
    MISSING,
    OFF_ALL,
    OFF_PEER,
    REMOVE,
    SKIPPED,
    SWEEP_ON,
    Peer,
    Provider,
)
from palace.provider.declaration import Command, heartbeat_age_s, read_slot
from palace.provider.run import FAILED, NOT_EXECUTABLE, OK, TIMEOUT, TIMEOUT_S, run_command
from tests.provider.scripts import ALL, JOURNALLING, block, declared, journal_of, provider, script

STRANGE = "/tmp/some peer's dir; $(id) `id` {runtime}"


def peer(*runtimes: str, cwd: str = "/tmp") -> Peer:
    return Peer(personality="boris", cwd=cwd, runtimes=runtimes or ("claude-code",))


def test_argv_is_given_verbatim_with_spaces_and_metacharacters(tmp_path: Path) -> None:
    command = script(tmp_path / "give", JOURNALLING)
    literal = "$(reboot) `id` ; rm -rf / > x \n 'é"
    slot = declared(tmp_path / "slot", provision=block(command, *ALL, literal, ""))

    told = provider(slot).sweep([peer(cwd=STRANGE)], BIRTH)

    assert [one.state for one in told] == [OK]
    assert journal_of(command) == [
        *("--cwd", STRANGE, "--runtime=claude-code", "boris", "--occasion", "birth"),
        *(literal, ""),
    ]


def test_an_outcome_says_what_was_run_and_how_long_it_took(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "sleep 0.1")
    block = Command(command=str(command), args=("--in={cwd}",))
    told = run_command(block, {"cwd": "/a b"}, dict(os.environ))

    assert told.argv == (str(command), "--in=/a b")
    assert 100 <= told.ms < 5000


def test_a_command_has_two_minutes() -> None:
    assert TIMEOUT_S == 120.0
    assert signature(run_command).parameters["timeout_s"].default == TIMEOUT_S
    assert attrs.fields(Provider).timeout_s.default == TIMEOUT_S


def test_both_shapes_of_a_placeholder_are_replaced_once(tmp_path: Path) -> None:
    command = script(tmp_path / "give", JOURNALLING)
    args = ("{cwd}", "--at={cwd}/{personality}", "{unknown}", "{ cwd }", "{cwd}{runtime}")
    slot = declared(tmp_path / "slot", provision=block(command, *args))

    provider(slot).sweep([peer(cwd="/{runtime}/{cwd}")], BIRTH)

    assert journal_of(command) == [
        *("/{runtime}/{cwd}", "--at=/{runtime}/{cwd}/boris", "{unknown}", "{ cwd }"),
        "/{runtime}/{cwd}claude-code",
    ]


def test_a_command_wins_over_the_plugin_block_which_is_not_touched(tmp_path: Path) -> None:
    command = script(tmp_path / "give", JOURNALLING)
    plugin = {"name": str(script(tmp_path / "plugin", JOURNALLING)), "marketplace": "m"}
    slot = declared(tmp_path / "slot", provision=block(command), plugin=plugin | {"source": "s"})

    assert provider(slot).sweep([peer()], BIRTH)[0].state == OK
    assert not journal_of(tmp_path / "plugin")


def test_a_provider_that_fails_is_not_replaced_by_anything(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "echo >&2 'vault offline'; exit 3")
    plugin = {"name": str(script(tmp_path / "plugin", JOURNALLING)), "marketplace": "m"}
    slot = declared(tmp_path / "slot", provision=block(command), plugin=plugin | {"source": "s"})

    told = provider(slot).sweep([peer()], SWEEP_ON)[0]

    assert (told.state, told.exit_code, told.detail) == (FAILED, 3, "vault offline")
    assert not told.is_fine
    assert not journal_of(tmp_path / "plugin")


@pytest.mark.parametrize("plugin", [False, True])
def test_a_direction_that_is_missing_is_refused_by_its_name(tmp_path: Path, plugin: bool) -> None:
    command = script(tmp_path / "give", JOURNALLING)
    more = {"plugin": {"name": "n", "marketplace": "m", "source": "s"}} if plugin else {}
    giving = provider(declared(tmp_path / "slot", provision=block(command), **more))
    taking = provider(declared(tmp_path / "slot", unprovision=block(command), **more))

    for asked, occasion, direction in (
        (giving, OFF_PEER, "unprovision"),
        (taking, BIRTH, "provision"),
    ):
        told = asked.sweep([peer()], occasion)[0]
        assert told.state == MISSING
        assert f"notes declares no {direction} command" in told.detail
        assert ("plugin block is not carried out" in told.detail) is plugin
        assert not told.is_fine
    assert not journal_of(command)


@pytest.mark.parametrize(
    ("occasion", "direction"),
    [
        *((BIRTH, "give"), (SWEEP_ON, "give")),
        *((OFF_PEER, "take"), (OFF_ALL, "take"), (REMOVE, "take")),
    ],
)
def test_each_occasion_runs_its_direction_and_is_told(
    tmp_path: Path, occasion: str, direction: str
) -> None:
    give, take = script(tmp_path / "give", JOURNALLING), script(tmp_path / "take", JOURNALLING)
    slot = declared(
        tmp_path / "slot",
        provision=block(give, "{occasion}"),
        unprovision=block(take, "{occasion}"),
    )

    provider(slot).sweep([peer()], occasion)

    assert journal_of(give) == ([occasion] if direction == "give" else [])
    assert journal_of(take) == ([occasion] if direction == "take" else [])


def test_codex_is_a_runtime_like_any_other(tmp_path: Path) -> None:
    command = script(tmp_path / "give", JOURNALLING)
    slot = declared(tmp_path / "slot", provision=block(command, "{runtime}"))
    heard = []

    told = provider(slot, heard=heard).sweep([peer("codex", "claude-code", "codex")], BIRTH)

    assert sorted(journal_of(command)) == ["claude-code", "codex"]
    assert [one.runtime for one in told] == ["codex", "claude-code"]
    assert {one.fields()["identity"] for one in heard} == {"codex-boris", "claude-code-boris"}


@pytest.mark.parametrize("runtimes", [(), ("telegram",)])
def test_what_is_no_agent_is_skipped_and_the_script_not_run(
    tmp_path: Path, runtimes: tuple[str, ...]
) -> None:
    command = script(tmp_path / "give", JOURNALLING)
    slot = declared(tmp_path / "slot", provision=block(command))

    told = provider(slot).sweep([Peer(personality="cron", cwd="/", runtimes=runtimes)], BIRTH)

    assert [(one.state, one.is_fine) for one in told] == [(SKIPPED, True)]
    assert not journal_of(command)


def test_an_empty_slot_is_valid(tmp_path: Path) -> None:
    found = read_slot(str(tmp_path / "slot"))

    assert found.declaration is None
    assert not found.problem


def test_a_time_out_ends_the_whole_group(tmp_path: Path) -> None:
    command = script(tmp_path / "give", 'echo $$ > "$0.pid"; sleep 30 & sleep 30')
    slot = declared(tmp_path / "slot", provision=block(command))
    began_s = time.monotonic()

    told = provider(slot, timeout_s=0.3).sweep([peer()], BIRTH)[0]

    assert (told.state, told.exit_code) == (TIMEOUT, None)
    assert time.monotonic() - began_s < 5
    assert told.ms < 5000
    assert group_is_gone(int(Path(f"{command}.pid").read_text()))


def group_is_gone(group: int) -> bool:
    """Tell whether no process of a group is left; those that init has yet to reap don't count."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("how", ["missing", "mode", "directory", "format"])
def test_what_cant_be_executed_is_told_as_that(tmp_path: Path, how: str) -> None:
    command = tmp_path / "give"
    if how == "mode":
        command.write_text("#!/bin/sh\n")
    elif how == "directory":
        command.mkdir()
    elif how == "format":
        command.write_bytes(b"\x7fELF nonsense")
        command.chmod(0o755)
    slot = declared(tmp_path / "slot", provision=block(command))

    told = provider(slot).sweep([peer()], BIRTH)[0]

    assert (told.state, told.exit_code) == (NOT_EXECUTABLE, None)
    assert str(command) in told.detail


def test_a_provider_that_a_signal_ends_has_failed_without_a_code(tmp_path: Path) -> None:
    command = script(tmp_path / "give", "kill -KILL $$")
    slot = declared(tmp_path / "slot", provision=block(command))

    told = provider(slot).sweep([peer()], BIRTH)[0]

    assert (told.state, told.exit_code) == (FAILED, None)
    assert f"signal {signal.SIGKILL:d}" in told.detail


def test_a_heartbeats_age_is_told_and_nothing_done_about_it(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    slot = declared(tmp_path / "slot", heartbeat=str(beat))
    assert slot.declaration is not None
    assert heartbeat_age_s(slot.declaration) is None
    for age_s in (0, 100, 10**7, -1000):
        beat.touch()
        os.utime(beat, (time.time() - age_s,) * 2)
        told = heartbeat_age_s(slot.declaration)
        assert told is not None
        assert abs(told - age_s) < 10
    relative = declared(tmp_path / "slot", heartbeat="beat").declaration
    assert relative is not None
    assert heartbeat_age_s(relative) is None
