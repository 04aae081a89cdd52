"""Brokers that end, or meet an error, at each system call that touches their palace.

From the opening of the lock file to the welcome, through a change, to the last byte of a clean end.
A preloaded library counts the calls of all threads (tests/support/faults/syscalls.c).  The quick
profile takes every 25th of them, PALACE_TEST_PROFILE=deep every ninth, full all.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults.killing import is_deep, is_full
from tests.support.faults.syscalls import NOWHERE, Stage, build
from tests.support.machines.needs import need_command

pytestmark = pytest.mark.process

STRIDE = 1 if is_full() else 9 if is_deep() else 25
# What a life is made of: without these the library would not see what it must.
SEEN = {
    *("open /broker.lock", "flock /broker.lock", "rename /epoch", "unlink /broker.sock"),
    *("bind /broker.sock", "listen /broker.sock", "rename /broker.json", "accept4 /broker.sock"),
    *("send /broker.sock", "write /chroma.sqlite3.light", "unlink /broker.json"),
    *("close /broker.sock", "close /chroma.sqlite3.light"),
}
FAILING = ("open", "write", "fsync", "rename", "mkdir", "bind", "listen", "flock", "ftruncate64")
FAILURES = (errno.EIO, errno.ENOSPC, errno.EMFILE)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_command("cc")
    return build(tmp_path_factory.mktemp("steps"))


@pytest.fixture
def stage(tmp_path: Path, library: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, library)
    try:
        yield stage
    finally:
        stage.close()


def test_owner_that_dies_at_any_step_is_replaced(stage: Stage) -> None:
    stage.live(NOWHERE)
    whole = stage.live(NOWHERE)
    assert set(whole) >= SEEN

    lives = {number: stage.live(number) for number in range(1, len(whole) + 1, STRIDE)}

    died = [number for number, steps in lives.items() if len(steps) <= number + 1]
    print(f"{len(lives)} lives, {len(died)} ended at their step of {len(whole)}")
    assert len(died) >= len(lives) - 2, "threads may take turns otherwise, now and then"
    assert stage.problems() == []


def test_first_owner_of_a_palace_that_dies_at_any_step_is_replaced(
    tmp_path: Path, library: Path
) -> None:
    number = 0
    whole: list[str] = []
    while number <= len(whole):
        root = tmp_path / str(number)
        root.mkdir()
        stage = Stage(root, library)
        try:
            steps = stage.live(number)
            assert stage.problems() == [], number
        finally:
            stage.close()
        whole = whole or steps
        number += STRIDE


@pytest.mark.parametrize("failure", FAILURES, ids=errno.errorcode.get)
def test_owner_with_an_error_at_any_step_refuses_or_goes_on(stage: Stage, failure: int) -> None:
    stage.live(NOWHERE)
    whole = stage.live(NOWHERE)
    failing = [number for number, step in enumerate(whole, 1) if step.split()[0] in FAILING]
    numbers = failing[FAILURES.index(failure) % STRIDE :: STRIDE]  # others for other errors

    for number in numbers:
        stage.live(number, failure)

    print(f"{len(stage.refusals)} refusals at {len(numbers)} steps: {stage.refusals}")
    assert len(stage.refusals) <= len(numbers)
    assert all(os.strerror(failure) in text for text in stage.refusals)
    assert stage.problems() == []
