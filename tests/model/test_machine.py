"""Hypothesis walks through the model's widest worlds: what breaks is shrunk to its core.

The walker's choice is one number for each step, so that a failure is a short list of numbers.
`PALACE_MODEL=full` makes many more examples.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.checks import violation
from tests.model.model import init, next_states
from tests.model.walks import DEEP, WIDE, pick
from tests.model.world_types import Label, Model

FULL = os.environ.get("PALACE_MODEL") == "full"


class Protocol(RuleBasedStateMachine):
    """One rule, `step`: take one of the steps that the model has here."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = WIDE
        self.state = init(WIDE)
        self.steps = next_states(self.state, WIDE)
        self.taken: list[Label] = []

    @initialize(deep=st.booleans())
    def begin(self, *, deep: bool) -> None:
        self.scope = DEEP if deep else WIDE
        self.state = init(self.scope)
        self.steps = next_states(self.state, self.scope)

    @rule(number=st.integers(0, 2**16 - 1))
    def step(self, number: int) -> None:
        if not self.steps:
            return  # the power is off, or all have left
        label, self.state = pick(self.steps, number)
        self.taken.append(label)
        self.steps = next_states(self.state, self.scope)

    @invariant()
    def nothing_is_broken(self) -> None:
        assert violation(Model(self.scope), self.state) == "", self.taken


Protocol.TestCase.settings = settings(
    max_examples=2_000 if FULL else 300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestProtocol = Protocol.TestCase
