"""A machine of one rule with which Hypothesis walks through the model's widest worlds.

The walker's choice is one number for each step, so that a failure is a short list of numbers.
"""

import attrs
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.model.checks import violation
from tests.model.model import init, next_states
from tests.model.walks import DEEP, WIDE, pick
from tests.model.world_types import Label, Model

STEPS = 50
_CALLS = STEPS + 1  # Hypothesis counts the beginning, too


class Protocol(RuleBasedStateMachine):
    """One rule, `step`: take one of the steps that the model has here."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = WIDE
        self.state = init(WIDE)
        self.steps = next_states(self.state, WIDE)
        self.taken: list[Label] = []
        self.asked = 0

    @initialize(deep=st.booleans())
    def begin(self, *, deep: bool) -> None:
        self.scope = DEEP if deep else WIDE
        self.state = init(self.scope)
        self.steps = next_states(self.state, self.scope)

    @rule(number=st.integers(0, 2**16 - 1))
    def step(self, number: int) -> None:
        self.asked += 1
        if not self.steps:
            return  # the power is off, or all have left
        label, self.state = pick(self.steps, number)
        self.taken.append(label)
        self.steps = next_states(self.state, self.scope)

    @invariant()
    def nothing_is_broken(self) -> None:
        assert violation(Model(self.scope), self.state) == "", self.taken


@attrs.define
class Examples:
    """What really ran: examples in which every step was asked for, and the steps of the model."""

    whole: int = 0
    steps: int = 0


def settings_for(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=_CALLS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def run_examples(count: int, number: int) -> Examples:
    """Run examples by a seed, and count; raises what Hypothesis found."""
    found = Examples()

    class Counted(Protocol):
        def teardown(self) -> None:
            found.whole += self.asked >= STEPS
            found.steps += len(self.taken)

    run_state_machine_as_test(seed(number)(Counted), settings=settings_for(count))
    return found
