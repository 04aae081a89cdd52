"""Short runs wait for nobody; parts of long texts leave them room while they are asked for."""

import threading
from contextlib import ExitStack

import attrs
import pytest

from palace.engine.embedding.precedence import QUIET_S, Precedence
from tests.support.processes.clients import wait_until


@attrs.define
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@attrs.define
class Part:
    """A part in a thread of its own, which runs until it is let go."""

    precedence: Precedence
    began: threading.Event = attrs.field(factory=threading.Event)
    may_end: threading.Event = attrs.field(factory=threading.Event)
    thread: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self.precedence.part():
            self.began.set()
            assert self.may_end.wait(30)

    def end(self) -> None:
        self.may_end.set()
        self.thread.join(30)


def test_parts_take_all_the_room_where_nobody_asks_for_little() -> None:
    precedence = Precedence(2, Clock())
    with ExitStack() as ending:
        parts = [Part(precedence) for _ in range(3)]
        for part in parts:
            ending.callback(part.end)
        wait_until(lambda: sum(part.began.is_set() for part in parts) == 2, what="two run")
        late = next(part for part in parts if not part.began.is_set())
        assert not precedence.has_room()

        next(part for part in parts if part.began.is_set()).end()

        assert late.began.wait(30)


def test_one_part_at_a_time_runs_beside_short_runs_and_for_a_moment_after() -> None:
    clock = Clock()
    precedence = Precedence(2, clock)
    with precedence.short(), precedence.short():
        assert precedence.has_room(), "a long text comes on, too"
        with precedence.part():
            assert not precedence.has_room()
            with precedence.short():  # it waits for no part
                assert not precedence.has_room()
    with precedence.part():
        clock.now_s += QUIET_S / 2
        assert not precedence.has_room()
        clock.now_s += QUIET_S / 2
        assert precedence.has_room()


def test_a_part_that_waits_goes_on_once_it_has_become_quiet() -> None:
    clock = Clock()
    precedence = Precedence(2, clock)
    with precedence.short():
        pass
    with precedence.part():
        waiting = Part(precedence)
        assert not waiting.began.is_set()
        clock.now_s += QUIET_S
        assert waiting.began.wait(30)
        waiting.end()


def test_a_run_that_fails_gives_its_place_back() -> None:
    clock = Clock()
    precedence = Precedence(1, clock)
    for way in (precedence.short, precedence.part):
        with pytest.raises(LookupError), way():
            raise LookupError
    clock.now_s += QUIET_S

    assert precedence.has_room()
    with precedence.part():
        assert not precedence.has_room()
