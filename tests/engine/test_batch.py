"""Calls that meet at their first write, in real threads."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from palace.engine.batch import Batch, PendingWrite, store_or_each

PATIENCE_S = 20


def run(batch: Batch[Any], calls: Sequence[Callable[[], None]]) -> list[BaseException | None]:
    """Run calls in threads of their own; return what each raised."""
    raised: list[BaseException | None] = [None] * len(calls)

    def work(place: int) -> None:
        try:
            with batch.member():
                calls[place]()
        except BaseException as error:
            raised[place] = error

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a call of the batch waits for ever"
    return raised


def make(size: int) -> tuple[Batch[Any], list[list[Any]]]:
    stored: list[list[Any]] = []
    batch = Batch([{}] * size, lambda puts: stored.append(sorted(put.write for put in puts)))
    return batch, stored


def test_all_writes_of_a_batch_are_stored_at_once() -> None:
    batch, stored = make(4)

    raised = run(batch, [lambda n=n: batch.put(n) for n in range(4)])

    assert stored == [[0, 1, 2, 3]]
    assert raised == [None] * 4


class Slow(threading.Condition):
    """A condition whose holder is held up right after it has let go."""

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        time.sleep(0.02)


def test_a_write_is_stored_when_it_returns() -> None:
    batch, stored = make(4)
    batch._changed = Slow()
    early: list[int] = []

    def put(n: int) -> None:
        batch.put(n)
        if not any(n in puts for puts in stored):
            early.append(n)

    run(batch, [lambda n=n: put(n) for n in range(4)])

    assert early == []
    assert stored == [[0, 1, 2, 3]]


def test_a_call_that_writes_nothing_keeps_none_waiting() -> None:
    batch, stored = make(3)
    others_wait = threading.Event()

    def late() -> None:
        assert others_wait.wait(PATIENCE_S)

    def put(n: int) -> None:
        if n:
            others_wait.set()
        batch.put(n)

    run(batch, [lambda: put(0), lambda: put(1), late])

    assert stored == [[0, 1]]


def test_a_call_that_fails_keeps_none_waiting() -> None:
    batch, stored = make(2)

    def fails() -> None:
        raise LookupError

    raised = run(batch, [lambda: batch.put(1), fails])

    assert stored == [[1]]
    assert isinstance(raised[1], LookupError)


def test_calls_may_meet_more_than_once() -> None:
    batch, stored = make(3)

    def twice(n: int) -> None:
        batch.put(n)
        batch.put(n + 10)

    run(batch, [lambda: twice(0), lambda: twice(1), lambda: batch.put(2)])

    assert stored == [[0, 1, 2], [10, 11]]


def test_what_a_store_raises_is_raised_in_every_call() -> None:
    def store(_puts: Sequence[PendingWrite[Any]]) -> None:
        raise SystemExit

    batch = Batch([{}] * 2, store)

    raised = run(batch, [lambda n=n: batch.put(n) for n in range(2)])

    assert [type(error) for error in raised] == [SystemExit, SystemExit]


def test_one_that_can_not_be_stored_fails_alone() -> None:
    stored: list[int] = []

    def store(puts: Sequence[PendingWrite[Any]]) -> None:
        if any(put.write == 2 for put in puts):
            raise ValueError("poison")
        stored.extend(put.write for put in puts)

    batch = Batch([{}] * 4, lambda puts: store_or_each(puts, store))

    raised = run(batch, [lambda n=n: batch.put(n) for n in range(4)])

    assert sorted(stored) == [0, 1, 3]
    assert [type(error) for error in raised] == [type(None), type(None), ValueError, type(None)]


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_of_few_is_stored_as_one_of_many(size: int) -> None:
    batch, stored = make(size)

    run(batch, [lambda n=n: batch.put(n) for n in range(size)])

    assert stored == [list(range(size))]
