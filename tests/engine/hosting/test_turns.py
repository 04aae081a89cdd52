"""Changes have turns, in the order in which they asked; a batch's members have theirs together."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from palace.engine.hosting.turns import Turns

WAIT_S = 30


class Lock:
    """Stock's lock, as far as turns use it; it must not be waited for in the wrong order."""

    def __init__(self) -> None:
        self.held = threading.Lock()
        self.held.acquire()

    def yield_write(self) -> bool:
        return False

    def release_write(self) -> None:
        self.held.release()

    def read_lock(self) -> nullcontext[None]:
        return nullcontext()

    def __enter__(self) -> object:
        return self.held.__enter__()

    def __exit__(self, *_error: object) -> None:
        self.held.release()

    def acquire_write(self) -> None:
        assert self.held.acquire(timeout=WAIT_S)


@contextmanager
def running(*works: Callable[[], None]) -> Iterator[None]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    wait = threading.Event()
    for _ in range(WAIT_S * 100):
        if condition():
            return
        wait.wait(0.01)
    pytest.fail("it never came so far")


@pytest.fixture
def turns() -> Turns:
    return Turns()


def in_turn(turns: Turns, log: list[str], name: str, batch: Any = None) -> Callable[[], None]:
    def work() -> None:
        with turns.turn(batch):
            log.append(name)

    return work


def test_turns_come_in_the_order_in_which_they_were_asked_for(turns: Turns) -> None:
    log: list[str] = []
    with turns.turn():
        for number in range(3):
            threading.Thread(target=in_turn(turns, log, str(number))).start()
            until(lambda number=number: turns.waiting == number + 1)
        assert log == []

    until(lambda: len(log) == 3)
    assert log == ["0", "1", "2"]


def test_a_batchs_members_have_one_turn_and_wait_for_each_other_in_it(turns: Turns) -> None:
    batch, meeting = object(), threading.Barrier(2)

    def member() -> None:
        with turns.turn(batch):
            meeting.wait(WAIT_S)

    log: list[str] = []
    with turns.turn():
        threading.Thread(target=member).start()
        until(lambda: turns.waiting == 1)
        threading.Thread(target=in_turn(turns, log, "behind")).start()
        until(lambda: turns.waiting == 2)
        other = threading.Thread(target=member)
        other.start()
    other.join(WAIT_S)

    assert not other.is_alive()
    until(lambda: log == ["behind"])


def test_others_come_first_whether_they_wait_already_or_come_meanwhile(turns: Turns) -> None:
    log: list[str] = []
    lock = Lock()
    with turns.turn():
        with running(in_turn(turns, log, "waited")):
            until(lambda: turns.waiting == 1)
            with turns.others_first(lock), running(in_turn(turns, log, "came")):
                until(lambda: len(log) == 2)
        assert lock.held.locked()
        threading.Thread(target=in_turn(turns, log, "later")).start()
        until(lambda: turns.waiting == 1)
        assert log == ["waited", "came"]
    until(lambda: log == ["waited", "came", "later"])


def test_a_turn_ends_with_an_error(turns: Turns) -> None:
    with pytest.raises(ValueError, match="no"), turns.turn():
        raise ValueError("no")

    with turns.turn():
        assert turns.waiting == 0
