"""The watcher is believed by other tests, so it has to notice what it is there for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.clients import wait_until
from tests.support.processes.watch import STORE, Watcher

pytestmark = pytest.mark.process

HOLD = "import sys; file = open(*sys.argv[1:]); print(flush=True); sys.stdin.read()"


class Opener:
    """A process that has a file open until `close`."""

    def __init__(self, path: Path, mode: str = "r") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOLD, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate()


def test_two_openers_at_once_are_noticed(tmp_path: Path) -> None:
    store = tmp_path / STORE
    store.touch()

    with Watcher(tmp_path) as watcher:
        openers = [Opener(store), Opener(store)]
        wait_until(lambda: watcher.overlaps, what="an overlap")
        for opener in openers:
            opener.close()

    pids = {opener.process.pid for opener in openers}
    assert watcher.pids == pids
    assert set(watcher.overlaps[0].holders) == pids
    with pytest.raises(AssertionError):
        watcher.assert_one_at_a_time()


def test_who_may_write_is_told_from_who_only_reads(tmp_path: Path) -> None:
    store = tmp_path / STORE
    store.touch()

    with Watcher(tmp_path) as watcher:
        openers = [Opener(store), Opener(store, "r+")]
        pids = {opener.process.pid for opener in openers}
        wait_until(lambda: watcher.pids == pids, what="both are seen")
        for opener in openers:
            opener.close()

    assert watcher.writers == {openers[1].process.pid}


def test_second_opener_of_a_segment_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / STORE).touch()
    segment = tmp_path / "segment"
    segment.mkdir()
    (segment / "data_level0.bin").touch()

    with Watcher(tmp_path) as watcher:
        openers = [Opener(tmp_path / STORE), Opener(segment / "data_level0.bin")]
        wait_until(lambda: watcher.overlaps, what="an overlap")
        for opener in openers:
            opener.close()

    assert watcher.pids == {opener.process.pid for opener in openers}


def test_openers_one_after_another_are_no_overlap(tmp_path: Path) -> None:
    store = tmp_path / STORE
    store.touch()
    pids = set()

    with Watcher(tmp_path) as watcher:
        for _ in range(3):
            opener = Opener(store)
            pids.add(opener.process.pid)
            wait_until(lambda: pids <= watcher.pids, what="the opener is seen")
            opener.close()

    assert watcher.pids == pids
    watcher.assert_one_at_a_time()


def test_other_files_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "broker.lock").touch()

    with Watcher(tmp_path) as watcher:
        openers = []
        for number in (1, 2):
            # One after the other: equal events that nobody has read yet are one to inotify.
            openers.append(Opener(tmp_path / "broker.lock"))
            wait_until(
                lambda number=number: watcher.opens["broker.lock"] >= number,
                what="inotify tells of the open",
            )
        before = watcher.samples
        wait_until(lambda: watcher.samples > before, what="another sample")
        for opener in openers:
            opener.close()

    assert not watcher.pids
    with pytest.raises(AssertionError):
        watcher.assert_one_at_a_time()


def test_opens_too_short_for_a_sample_are_counted(tmp_path: Path) -> None:
    later = tmp_path / "made-later"
    store = later / STORE

    with Watcher(later) as watcher:
        later.mkdir()
        store.touch()
        (later / "mark").touch()
        wait_until(lambda: (later / "mark").read_text() == "" and watcher.opens["mark"])
        before = watcher.opens[STORE]
        store.open().close()
        wait_until(lambda: watcher.opens[STORE] > before, what="inotify tells of the open")
