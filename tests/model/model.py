"""One model of the whole protocol: `init`, `next_states`, `violation`.

A state is a tuple of numbers and tuples; a step is what one process does without anything else of
the same process in between, and all others, SIGKILL included, may come between any two.  Where
the product decides with a pure machine, that machine itself decides here (machines.py).  The parts:

    scope.py     how much of the world is in it       state.py    what a state is made of
    owner.py     becoming the owner, leaving          serving.py  sessions, admission, replies
    engine.py    the store, the journal, recovery     client.py   shims
    canary.py    who notices the ends of owners
    world.py     kills, power cuts, users, strangers  checks.py   the invariants
"""

from collections.abc import Iterator

from tests.model.canary import canary_steps
from tests.model.checks import violation
from tests.model.client import shim_steps
from tests.model.engine import load_steps, work_steps
from tests.model.owner import owner_steps
from tests.model.scope import Scope
from tests.model.serving import serve_steps
from tests.model.state import FREE, SERVE, Disk, Kernel, Left, Proc, Seen, Shim, State
from tests.model.world import world_steps
from tests.model.world_types import Label, Model

Steps = list[tuple[Label, State]]


def init(scope: Scope) -> State:
    left = Left(
        **{
            name: getattr(scope, name)
            for name in Left._fields
            if name != "holds" and hasattr(scope, name)
        },
        holds=int(scope.hold),
    )
    fresh = (0, 0) if not scope.fine else (0,)
    return State(
        procs=(Proc(),) * scope.slots,
        shims=(Shim(),) * scope.clients,
        conns=(),
        disk=Disk() if not scope.fine else Disk(linked=0, inodes=0),
        kernel=Kernel(flock=fresh, guest=fresh),
        left=left,
        seen=Seen(),
    )


def next_states(state: State, scope: Scope, variant: str = "") -> Steps:
    """Return every step that is possible, and where it leads."""
    model = Model(scope, variant)
    steps: Steps = []

    def out(label: Label, after: State) -> None:
        steps.append((label, after))

    for i, p in enumerate(state.procs):
        if p.pc != FREE:
            owner_steps(model, state, i, out)
            if p.pc >= SERVE:
                serve_steps(model, state, i, out)
                load_steps(model, state, i, out)
                work_steps(model, state, i, out)
    for c in range(len(state.shims)):
        shim_steps(model, state, c, out)
    if scope.canary:
        canary_steps(model, state, out)
    world_steps(model, state, out)
    return steps


def walk(scope: Scope, labels: list[Label], variant: str = "") -> Iterator[State]:
    """Follow labels from the first state; raises LookupError where one is not possible."""
    state = init(scope)
    yield state
    for label in labels:
        found = [after for name, after in next_states(state, scope, variant) if name == label]
        if not found:
            raise LookupError(f"no step {label} here")
        state = found[0]
        yield state


__all__ = ["Model", "init", "next_states", "violation", "walk"]
