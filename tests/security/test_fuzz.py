"""A short slice of fuzzing: the inputs that are kept, and a few hundred like them; `just fuzz`."""

import logging
from collections.abc import Iterator

import hypothesis
import pytest

from tests.security import targets
from tests.security.mutating import mutated

# Of all targets together they take some seconds of one core.
EXAMPLES = {
    "wire": 200,
    "journal": 50,
    "records": 40,
    "settings": 60,
    "hosts": 150,
    "backups": 40,
    "modern": 300,
    "memories": 60,
    "register": 12,
    "feed": 200,
    "connection": 12,  # a broker for each from here on
    "http": 10,
    "websocket": 2,
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Leave out what palace logs of each input."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", targets.NAMES)
def test_inputs_that_are_kept_hold(name: str) -> None:
    one = targets.load(name).one
    for data in targets.corpus(name):
        one(data)


@pytest.mark.parametrize("name", targets.NAMES)
def test_inputs_like_those_hold(name: str) -> None:
    one = targets.load(name).one

    @hypothesis.settings(max_examples=EXAMPLES[name], derandomize=True, database=None)
    @hypothesis.given(mutated(targets.corpus(name)))
    def holds(data: bytes) -> None:
        one(data)

    holds()
