"""An ssh that says nothing any more, or never stops: the pull ends, and so does the ssh."""

import os
import time
from pathlib import Path

import pytest

from palace.client.feeds.ssh import ssh_feed
from palace.client.guest.ssh import Target
from palace.client.guest.tunnel import TunnelProblem
from tests.support.processes.clients import wait_until

# What stands in for the user's ssh: it notes who it is, says this, and goes on doing that.
SSH = """#!/bin/sh
echo $$ > "{pid}"
{does}
"""


def ssh_that(does: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (root / "bin").mkdir()
    command, pid = root / "bin" / "ssh", root / "pid"
    command.write_text(SSH.format(pid=pid, does=does))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return pid


def has_ended(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.process
@pytest.mark.parametrize("before", ["", "echo one;"])
def test_who_is_silent_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    pid = ssh_that(f"{before} exec sleep 600", tmp_path, monkeypatch)
    said = ssh_feed(Target("ssh://there"), [], line_bytes_max=100, silent_s=0.5)
    got = []
    with pytest.raises(TunnelProblem, match=r"said nothing for 0\.5 s"):
        got.extend(said)
    assert got == ([b"one"] if before else [])
    wait_until(lambda: has_ended(pid), what="the ssh has ended")


@pytest.mark.process
def test_one_that_never_stops_is_read_as_far_as_somebody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = ssh_that("while :; do echo more; done", tmp_path, monkeypatch)
    said = ssh_feed(Target("ssh://there"), [], line_bytes_max=100, silent_s=60)
    assert [next(said) for _ in range(1000)] == [b"more"] * 1000
    said.close()  # type: ignore[attr-defined]  # a generator's
    wait_until(lambda: has_ended(pid), what="the ssh has ended")


@pytest.mark.process
def test_a_line_without_an_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = ssh_that("while :; do printf xxxxxxxxxx; done", tmp_path, monkeypatch)
    began_s = time.monotonic()
    said = list(ssh_feed(Target("ssh://there"), [], line_bytes_max=100, silent_s=60))
    assert len(said) == 1
    assert time.monotonic() - began_s < 60, "it was not read to an end that never comes"
    wait_until(lambda: has_ended(pid), what="the ssh has ended")
