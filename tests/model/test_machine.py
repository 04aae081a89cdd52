"""Hypothesis walks through the model's widest worlds: what breaks is shrunk to its core.

`PALACE_MODEL=full` makes many more examples.
"""

import os

from tests.model.machine import STEPS, Protocol, run_examples, settings_for

FULL = os.environ.get("PALACE_MODEL") == "full"

Protocol.TestCase.settings = settings_for(2_000 if FULL else 150)
TestProtocol = Protocol.TestCase


def test_only_whole_examples_are_counted() -> None:
    found = run_examples(5, 1)

    assert 1 <= found.whole <= 5
    assert 0 < found.steps <= 5 * STEPS * 2
