"""Changes have turns, in the order in which they asked; a batch's members have theirs together."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from palace.engine.hosting.turns import Turns

WAIT_S = 30


class Clock:
    """A clock that goes on when it is told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


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


def in_turn(
    turns: Turns, log: list[str], name: str, batch: Any = None, party: str = ""
) -> Callable[[], None]:
    def work() -> None:
        with turns.turn(batch, party):
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


def test_a_party_that_had_much_time_lately_goes_behind_others_and_waits_no_longer_than_that() -> (
    None
):
    clock, log = Clock(), list[str]()
    turns = Turns(clock)
    with turns.turn(party="long"):
        clock.now_s += 3
    with turns.turn():
        asking = [("long", "long"), ("short", "short")]
        for name, party in asking:
            threading.Thread(target=in_turn(turns, log, name, party=party)).start()
            until(lambda name=name: turns.waiting == 1 + [name for name, _ in asking].index(name))
        clock.now_s += 3.1  # who comes later than it was put back is behind it
        threading.Thread(target=in_turn(turns, log, "later")).start()
        until(lambda: turns.waiting == 3)

    until(lambda: len(log) == 3)
    assert log == ["short", "long", "later"]


def test_the_next_part_of_a_long_change_comes_after_who_asked_while_it_is_put_back() -> None:
    clock, log, lock = Clock(), list[str](), Lock()
    turns, has_it, may_end = Turns(clock), threading.Event(), threading.Event()

    def hold() -> None:
        with turns.turn():
            has_it.set()
            may_end.wait(WAIT_S)

    def come_later() -> None:
        until(lambda: turns.waiting == 1)  # the long change, for its next part
        clock.now_s += 1
        another = threading.Thread(target=in_turn(turns, log, "another"))
        another.start()
        until(lambda: turns.waiting == 2)
        may_end.set()
        another.join(WAIT_S)

    with turns.turn(party="long"), running(come_later):
        clock.now_s += 2
        with turns.others_first(lock, "long"):
            threading.Thread(target=hold).start()
            assert has_it.wait(WAIT_S)
        log.append("the next part")

    assert log == ["another", "the next part"]


def test_a_batchs_time_counts_for_its_members_in_equal_parts() -> None:
    clock, batch = Clock(), object()
    turns = Turns(clock)
    meeting = threading.Barrier(2, action=lambda: setattr(clock, "now_s", clock.now_s + 3))

    def member(party: str) -> Callable[[], None]:
        def work() -> None:
            with turns.turn(batch, party):
                meeting.wait(WAIT_S)

        return work

    with running(member("a"), member("b")):
        pass

    assert [turns.put_back_s(party) for party in "abc"] == [1.5, 1.5, 0.0]


def test_a_batch_is_due_when_the_first_of_its_members_is() -> None:
    clock, log, batch = Clock(), list[str](), object()
    turns = Turns(clock)
    with turns.turn(party="long"):
        clock.now_s += 3
    asking = [("long", batch), ("short", batch), ("between", None)]
    with turns.turn():
        for number, (party, together) in enumerate(asking):
            threading.Thread(target=in_turn(turns, log, party, together, party)).start()
            until(lambda number=number: _asked(turns) == number + 1)
            clock.now_s += 0.1

    until(lambda: len(log) == 3)
    assert log[2] == "between", "who came between is behind the whole batch"


def _asked(turns: Turns) -> int:
    return sum(asker.members for asker in turns._waiting)


def test_a_member_that_wakes_up_late_finds_its_batchs_turn() -> None:
    """Its others may have been refused, and have left, before it had the processor again."""
    gate, batch, log = threading.Event(), object(), list[str]()
    changed = threading.Condition()
    restore = changed._acquire_restore  # type: ignore[attr-defined]

    def restored(state: object) -> None:
        if threading.current_thread().name == "late":
            gate.wait(WAIT_S)
        restore(state)

    changed._acquire_restore = restored  # type: ignore[attr-defined]
    turns = Turns(changed=changed)
    late = threading.Thread(target=in_turn(turns, log, "late", batch), name="late")
    with turns.turn():
        late.start()
        until(lambda: _asked(turns) == 1)
        threading.Thread(target=in_turn(turns, log, "quick", batch)).start()
        until(lambda: _asked(turns) == 2)
    until(lambda: log == ["quick"])
    gate.set()

    late.join(WAIT_S)
    assert log == ["quick", "late"]
    with turns.turn():
        assert turns.waiting == 0
