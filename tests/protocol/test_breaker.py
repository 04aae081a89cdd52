"""The circuit breaker: beside a reference of a few lines, and under fifty callers at once."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from palace.protocol.breaker import FAILURES_MAX, OPEN_S, Breaker, Pass

CALLERS, LANE = 50, 8


class BesideReference(RuleBasedStateMachine):
    """Calls begin and end in any order.  The reference keeps the whole history and decides anew."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now_s = 0.0
        self.under_way: list[tuple[Pass, int]] = []  # and in which state each began
        self.changes = 0  # of state: each opening and each closing
        self.row = 0
        self.until_s: float | None = None
        self.probe: Pass | None = None

    @rule(by_s=st.sampled_from([0.0, 0.5, OPEN_S - 0.5, OPEN_S, 1e6]))
    def wait(self, by_s: float) -> None:
        self.now_s += by_s

    @rule()
    def begin(self) -> None:
        let = self.breaker.enter(self.now_s)
        if self.until_s is None:
            assert let is not None
            assert not let.probe
        elif self.now_s < self.until_s or self.probe is not None:
            assert let is None
        else:
            assert let is not None
            assert let.probe
            self.probe = let
        if let is not None:
            self.under_way.append((let, self.changes))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), how=st.sampled_from(["answered", "failed", "given up"]))
    def end(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.integers(0, len(self.under_way) - 1))
        let, began = self.under_way.pop(number)
        if how == "answered":
            self.breaker.succeeded(let)
        elif how == "failed":
            self.breaker.failed(let, self.now_s)
        else:
            self.breaker.gave_up(let)
        if began != self.changes:
            return
        is_probe, self.probe = let is self.probe, None if let is self.probe else self.probe
        if how == "answered":
            self.row = 0
            if is_probe:
                self.until_s = None
                self.changes += 1
        elif how == "failed":
            self.row += 1
            if is_probe or self.row >= 3:
                self.until_s = self.now_s + 60
                self.changes += 1

    @invariant()
    def it_says_how_long(self) -> None:
        assert self.breaker.is_open == (self.until_s is not None)
        wait_s = 0.0 if self.until_s is None else max(0.0, self.until_s - self.now_s)
        assert self.breaker.wait_s(self.now_s) == wait_s


TestBesideReference = BesideReference.TestCase


def test_fifty_callers_cost_a_dead_server_a_lane_of_calls_and_then_one_a_minute() -> None:
    breaker = Breaker()
    asked: list[float] = []
    under_way: list[Pass] = []
    for tick in range(1800):  # three minutes of tenths of a second
        now_s = tick / 10
        for one in under_way:  # each call takes a tenth to fail
            breaker.failed(one, now_s)
        under_way.clear()
        for _ in range(CALLERS):
            let = breaker.enter(now_s) if len(under_way) < LANE else None
            if let is not None:
                asked.append(now_s)
                under_way.append(let)

    assert asked == [0.0] * LANE + [60.1, 120.2]
    assert breaker.opened == 3


def test_three_failures_in_a_row_open_it_and_two_do_not() -> None:
    breaker = Breaker()
    for _ in range(100):
        for _ in range(FAILURES_MAX - 1):
            let = breaker.enter(0.0)
            assert let is not None
            breaker.failed(let, 0.0)
        let = breaker.enter(0.0)
        assert let is not None
        breaker.succeeded(let)

    assert breaker.opened == 0


def test_answers_from_before_it_opened_neither_close_it_nor_keep_it_open() -> None:
    breaker = Breaker()
    early = [let for _ in range(5) if (let := breaker.enter(0.0)) is not None]
    for let in early[:3]:
        breaker.failed(let, 1.0)
    breaker.succeeded(early[3])
    assert breaker.is_open
    breaker.failed(early[4], 59.0)

    assert breaker.wait_s(61.0) == 0.0
    probe = breaker.enter(61.0)
    assert probe is not None
    assert probe.probe


def test_a_probe_that_is_given_up_leaves_its_place_to_another() -> None:
    breaker = Breaker(failures_max=1)
    first = breaker.enter(0.0)
    assert first is not None
    breaker.failed(first, 0.0)
    probe = breaker.enter(60.0)
    assert probe is not None
    assert breaker.enter(60.0) is None
    breaker.gave_up(probe)
    another = breaker.enter(60.0)
    assert another is not None
    breaker.succeeded(another)

    assert not breaker.is_open
    assert breaker.failures == 0


@given(waits=st.lists(st.floats(0, 7), max_size=200))
def test_a_server_that_never_answers_is_asked_at_most_four_times_a_minute(
    waits: list[float],
) -> None:
    breaker, now_s = Breaker(), 0.0
    asked = []
    for wait in waits:
        now_s += wait
        let = breaker.enter(now_s)
        if let is not None:
            asked.append(now_s)
            breaker.failed(let, now_s)

    assert all(sum(0 <= other - one < 60 for other in asked) <= 4 for one in asked)
