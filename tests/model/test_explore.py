"""Every scope of the model holds, and none of them has become smaller."""

import os
from collections import Counter

import pytest

from tests.model.explore import Result, describe, explore
from tests.model.model import init, next_states, walk
from tests.model.scope import Scope
from tests.model.scopes import FLOORS, FULL, QUICK, SCOPES
from tests.model.walks import STEPS, walk_many

IS_FULL = os.environ.get("PALACE_MODEL") == "full"
# Others are searched by `just model-check`, which a gate runs, too.  Two are what patches under
# mutants/ are caught by.
SMALL = [
    scope for scope in QUICK if FLOORS[scope.name] <= 10_000 or scope.name in ("resend", "off")
]
_found: dict[str, Result] = {}


@pytest.mark.parametrize("scope", FULL if IS_FULL else SMALL, ids=lambda scope: scope.name)
def test_a_scope_holds(scope: Scope) -> None:
    result = explore(scope)
    _found[scope.name] = result
    trace = "\n".join(describe(scope, result.trace)) if result.broken else ""
    assert not result.broken, f"{result.broken}\n{trace}"
    assert result.complete
    assert result.states >= FLOORS[scope.name]


@pytest.mark.skipif(not IS_FULL, reason="needs all scopes: just model-check, or PALACE_MODEL=full")
def test_every_step_is_taken_somewhere() -> None:
    """Runs after the scopes, and says nothing where only some of them were run."""
    if not {scope.name for scope in FULL} <= _found.keys():
        pytest.skip("not all scopes were explored")
    reached = sum((result.reached for result in _found.values()), Counter[str]())
    from tests.model.parts import STEPS_EXPECTED

    assert reached.keys() >= STEPS_EXPECTED


def test_random_walks_break_nothing() -> None:
    walks = walk_many(2_000 if IS_FULL else 100)
    assert not walks.broken, f"python -m tests.model.walks {walks.seed}: {walks.broken}"
    assert walks.steps > walks.count * STEPS // 4


def test_a_walk_follows_labels_and_refuses_others() -> None:
    scope = SCOPES["race"]
    steps = next_states(init(scope), scope)
    assert len(list(walk(scope, [steps[0][0]]))) == 2
    with pytest.raises(LookupError):
        list(walk(scope, [("B9.ready", 0)]))
