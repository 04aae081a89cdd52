"""Long random walks through a world with everything in it, which no search could exhaust.

`python -m tests.model.walks SEED` walks one again, step by step.
"""

import random
import sys
import time
from collections import Counter

import attrs

from tests.model.checks import violation
from tests.model.explore import describe
from tests.model.model import Steps, init, next_states
from tests.model.scope import Scope
from tests.model.state import State
from tests.model.world import FAULTS
from tests.model.world_types import Label, Model

WIDE = Scope(
    name="wide",
    lines=("MQM", "EMQ", "PMQ"),
    slots=3,
    starts=8,
    crashes=3,
    reboots=1,
    kills=1,
    silences=2,
    cuts=2,
    faults=2,
    damage=1,
    stops=2,
    upgrades=1,
    wedges=1,
    stock=2,
    aliens=1,
    grace=True,
    hold=True,
    leave=True,
    pipeline=True,
    deadline=True,
    split=True,
    direct=True,
    ack=True,
    abandon=True,
    roll=True,
    depth=1,
)
# Three shims that change things, and owners that die: few strangers, so that walks get far.
DEEP = WIDE._replace(
    name="deep",
    stock=0,
    aliens=0,
    hold=False,
    deadline=False,
    faults=0,
    kills=0,
    lines=("MMQ",) * 3,
)
STEPS = 150
# Steps that may be taken again and again, or that end a life: taken less often.
_RARE = FAULTS - {"C.ask"} | {
    "C.dial",
    "C.dial.late",
    "X0.idle",
    "stock.end",
    "other.end",
    "hold.told",
    "hold.end",
}


def pick(steps: Steps, number: int) -> tuple[Label, State]:
    """Choose a step by a number: mostly one that brings the work on."""
    chance, number = number % 16, number // 16
    for rare in (_RARE, FAULTS) if chance else ():
        usual = [step for step in steps if step[0][0] not in rare]
        if usual:
            return usual[number % len(usual)]
    return steps[number % len(steps)]


@attrs.define
class Walks:
    count: int = 0
    steps: int = 0
    seconds: float = 0.0
    reached: Counter[str] = attrs.field(factory=Counter)
    broken: str = ""
    seed: int = -1


def walk_once(scope: Scope, seed: int, variant: str = "") -> tuple[list[Label], str]:
    """Walk one way; return its steps, and what it broke."""
    draw = random.Random(seed)
    model = Model(scope, variant)
    state, labels = init(scope), []
    for _ in range(STEPS):
        steps = next_states(state, scope, variant)
        if not steps:
            break
        label, state = pick(steps, draw.getrandbits(20))
        labels.append(label)
        broken = violation(model, state)
        if broken:
            return labels, broken
    return labels, ""


def walk_many(count: int, first: int = 0) -> Walks:
    found = Walks()
    begun = time.monotonic()
    for seed in range(first, first + count):
        labels, broken = walk_once(DEEP if seed % 2 else WIDE, seed)
        found.count += 1
        found.steps += len(labels)
        found.reached.update(name for name, _ in labels)
        if broken:
            found.broken, found.seed = broken, seed
            break
    found.seconds = time.monotonic() - begun
    return found


def main() -> int:
    seed = int(sys.argv[1])
    scope = DEEP if seed % 2 else WIDE
    labels, broken = walk_once(scope, seed)
    print("\n".join(describe(scope, labels)))
    print(broken or f"{len(labels)} steps, nothing broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
