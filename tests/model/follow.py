"""Conformance of whole runs: every event that brokers and shims wrote is a step of the model.

    python -m tests.model.follow FILE

The trace (PALACE_TRACE) is followed through the model's own steps, of owners (owner.py, engine.py)
and of connections (serving.py, client.py).  A real run has thousands of requests, which the model's
states can't hold; so the requests are left out: sessions are opened, greeted, told goodbye and
lost, and carry no lines.  What was asked and answered is judged by history.py.  All processes of a
palace are in one state, and one event makes one step: the cost is linear in the trace.

Not every step is written down.  The worlds that explain a trace so far are kept, all of them:

* `ends_told=False`: SIGKILL writes nothing.  A process may have ended at any time after its last
  event, and has, where its lock is taken; it may have done one thing more before (an epoch).
* Between a system call and its line others may write theirs.  Each caller of `Kernel.trace` says on
  which side of its act it stands, so that whatever comes of an act stands behind its line.  Two
  remain: who takes the lock, or doesn't get it, says so afterwards.  A loser lost at some time
  since its start while somebody held it; a winner may hold it some time before its line.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.model import client, machines
from tests.model.checks import violation
from tests.model.engine import load_steps
from tests.model.model import init
from tests.model.owner import born, die, owner_steps
from tests.model.scope import Scope
from tests.model.serving import _hello
from tests.model.state import (
    CLOSE,
    EPOCH,
    EXIT,
    FENCE,
    FREE,
    GREET,
    HOLD,
    IDLE,
    LOCK,
    OTHER,
    PLACES,
    SERVE,
    STOCK,
    UP,
    WAITING,
    Conn,
    Proc,
    State,
    conn_of,
    find_inc,
    put,
    with_conn,
    with_proc,
    with_shim,
)
from tests.model.trace import Mismatch
from tests.model.world_types import Label, Model

Event = Mapping[str, Any]
OFTEN = 1 << 20
WORLDS_MAX = 5_000
DIALS_MAX = 4  # hellos of one shim that may still be answered
# What the model calls otherwise.  A moved palace is left as at a stop; an owner that could not take
# a change back hands over as at an upgrade; one whose tables another palace has is a failed one;
# who blocks B4 is told apart by the message alone; work that outlasts a grace is no part of these
# states.
NAMES = {
    "X0.moved": ("X0.stop",),
    "X0.failed": ("X0.idle", "X0.upgrade"),
    "X0.away": ("X0.idle", "X0.upgrade"),
    "B4.foreign": ("B4.shared",),
    "X4.grace": ("X4.settled", "X4.grace"),
}
UNWRITTEN = ("B3.free", "B4.late", "X3.backlog")
LAST_WORDS = ("X6.exit", "fault", "B3.held", "B4.foreign")


@attrs.frozen
class World:
    """One explanation of the trace so far.

    `parted` are owners that have said their last word and hold their locks until they end, `done`
    are lines whose act came before them, `leaving` the shims whose client has closed stdin.
    """

    state: State
    parted: frozenset[int] = frozenset()
    done: frozenset[int] = frozenset()
    leaving: frozenset[int] = frozenset()


@attrs.define
class Cast:
    """Who is who in a trace: known before it is followed, since a line also says what follows.

    Owners are numbered by their starts, from 1; shims by their sessions, from 0.
    """

    owners: list[int] = attrs.field(factory=list)  # by line: the owner whose it is, 0 for none
    shims: list[int] = attrs.field(factory=list)  # by line: the shim whose it is, -1 for none
    lines: dict[int, list[int]] = attrs.field(factory=dict)  # by owner
    sessions: dict[str, int] = attrs.field(factory=dict)
    bound: dict[int, int] = attrs.field(factory=dict)  # by owner: the line of B6

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Cast":
        cast = cls()
        owner_of: dict[int, int] = {}
        shim_of: dict[int, int] = {}
        over: set[int] = set()  # pids whose shim has ended: another's may come
        for number, event in enumerate(events):
            act, pid = event["act"], event["pid"]
            if act in ("C.dial", "B1.open") and pid in over:
                over.discard(pid)
                shim_of.pop(pid, None)
                owner_of.pop(pid, None)
            if act == "B1.open":
                shim_of.pop(pid, None)
                owner_of[pid] = len(cast.lines) + 1
                cast.lines[owner_of[pid]] = []
            elif act == "C.dial":
                shim = cast.sessions.setdefault(event["session"], len(cast.sessions))
                if shim_of.setdefault(pid, shim) != shim:
                    raise Mismatch(f"event {number + 1}: pid {pid} goes on under a new name")
            elif act == "C.leave":
                over.add(pid)
            owner = owner_of.get(pid, 0)
            if owner:
                cast.lines[owner].append(number)
            if act == "B6.bind":
                cast.bound[owner] = number
            cast.owners.append(owner)
            cast.shims.append(-1 if owner else shim_of.get(pid, -1))
            if act == "end":
                over.add(pid)
        return cast


class Follower:
    """Follows one trace."""

    def __init__(self, events: Iterable[Event], *, ends_told: bool = False) -> None:
        self.events = list(events)
        self.cast = Cast.of(self.events)
        self.ends_told = ends_told
        starts = len(self.cast.lines)
        self.scope = Scope(
            name="trace",
            lines=("",) * len(self.cast.sessions),
            slots=1,
            starts=starts,
            faults=OFTEN,
            stops=OFTEN,
            upgrades=OFTEN,
            stock=1,
            hold=True,
            grace=True,
            direct=True,
            journal_from=starts + 1,
        )
        self.model = Model(self.scope)
        self.worlds = {World(init(self.scope))}

    def run(self) -> int:
        """Follow the trace to its end; return the number of events, raise Mismatch."""
        for number, event in enumerate(self.events):
            after = {w for world in self.worlds for w in self._after(world, number, event)}
            after = {self._with_losers(world, number) for world in after}
            if not after:
                raise Mismatch(self._complaint(number, "no step of the model is this here"))
            good = {world for world in after if not violation(self.model, world.state)}
            if not good:
                broken = violation(self.model, next(iter(after)).state)
                raise Mismatch(self._complaint(number, f"breaks {broken}"))
            if len(good) > WORLDS_MAX:
                raise Mismatch(self._complaint(number, f"more than {WORLDS_MAX} explanations"))
            self.worlds = good
        return len(self.events)

    def _complaint(self, number: int, why: str) -> str:
        owner, shim = self.cast.owners[number], self.cast.shims[number]
        state = next(iter(self.worlds)).state
        where = f"shim {shim} is at {state.shims[shim].pc}" if shim >= 0 else "nobody is known"
        if owner:
            i = find_inc(state, owner)
            where = f"its process is at {PLACES[state.procs[i].pc]}" if i >= 0 else "it has ended"
        before = "\n".join(json.dumps(dict(e)) for e in self.events[max(0, number - 12) : number])
        event = json.dumps(dict(self.events[number]))
        return f"event {number + 1}: {event}: {why} ({where}), after\n{before}"

    def _after(self, world: World, number: int, event: Event) -> Iterator[World]:
        owner, shim = self.cast.owners[number], self.cast.shims[number]
        if number in world.done:
            yield attrs.evolve(world, done=world.done - {number})
        elif owner:
            yield from self._owner(world, number, event, owner)
        elif shim >= 0:
            yield from self._shim(world, number, event, shim)
        elif event["act"] in ("C.leave", "end"):  # of a shim that never dialled
            yield world

    # Owners.

    def _owner(self, world: World, number: int, event: Event, owner: int) -> Iterator[World]:
        act, s = event["act"], world.state
        i = find_inc(s, owner)
        if act == "B1.open":
            yield attrs.evolve(world, state=self._born(s, direct=bool(event.get("direct"))))
        elif act == "end":
            yield from self._end(world, i) if i >= 0 else [world]
        elif i < 0 or owner in world.parted:
            return
        elif act == "A.hello":
            yield from self._hello(world, event, i)
        elif act == "B2.lost":  # of those that lost while the lock was held it is done
            yield from self._lost(world, number, i)
        elif act == "B2.lock":
            for free in self._freed(world, number):
                yield from self._step(free, event, i)
        else:
            yield from self._step(world, event, i)

    def _born(self, s: State, *, direct: bool) -> State:
        if all(p.pc != FREE for p in s.procs):
            s = s._replace(procs=(*s.procs, Proc()))
        return born(self.model, s, -1, direct=direct)

    def _end(self, world: World, i: int) -> Iterator[World]:
        """A process ends: what it did last may be missing in the trace."""
        owner = world.state.procs[i].inc
        states = [world.state]
        if world.state.procs[i].pc == EPOCH:
            states += self._steps(world.state, i, ("B5.epoch",))
        for s in states:
            gone = die(self.model, s, i, -9, said=True)
            yield attrs.evolve(world, state=gone, parted=world.parted - {owner})

    def _freed(self, world: World, number: int) -> Iterator[World]:
        """The lock was taken: its last holder has ended, whether it could say so or not."""
        holder = world.state.kernel.flock[1]
        if not holder:
            yield world
        elif not self.ends_told and self._is_over(holder, number):
            yield from self._end(world, find_inc(world.state, holder))

    def _is_over(self, owner: int, number: int) -> bool:
        return self.cast.lines[owner][-1] < number

    def _steps(self, s: State, i: int, names: Sequence[str]) -> list[State]:
        found: list[State] = []
        unwritten: list[State] = []

        def out(label: Label, after: State) -> None:
            if label[0] in names:
                found.append(after)
            elif label[0] in UNWRITTEN:
                unwritten.append(after)

        owner_steps(self.model, s, i, out)
        load_steps(self.model, s, i, out)
        for after in unwritten:
            found += self._steps(after, i, names)
        return found

    def _step(self, world: World, event: Event, i: int) -> Iterator[World]:
        act, s = event["act"], world.state
        p = s.procs[i]
        k = s.kernel
        if p.pc == HOLD:  # the note is the user's, and who takes it away writes no event
            s = s._replace(disk=s.disk._replace(hold=act == "B3.held"))
        # Neither does stock, nor another palace's broker.
        if act in ("B4.data", "B4.foreign") and p.pc in (HOLD, FENCE) and not k.mempalace:
            k = k._replace(mempalace=STOCK)
        if act == "B4.fence" and k.mempalace == STOCK:
            k = k._replace(mempalace=0)
        if act == "B4.foreign" and not k.data:
            k = k._replace(data=OTHER)
        s = s._replace(kernel=k)
        if act == "X5.abandon" and p.pc == CLOSE:  # what runs is no part of this state
            found = [with_proc(s, i, p._replace(pc=EXIT))]
        else:
            found = self._steps(s, i, NAMES.get(act, (act,)))
        for after in found:
            if not _observed(event, p, after.procs[i]):
                continue
            if act in LAST_WORDS:
                yield attrs.evolve(world, parted=world.parted | {p.inc})
            else:
                yield attrs.evolve(world, state=after)

    # The election's losers.

    def _with_losers(self, world: World, number: int) -> World:
        """Take off the stage who loses just now: the lock is held, and its line will say so."""
        s, done = world.state, world.done
        if not s.kernel.flock[1]:
            return world
        for i, p in enumerate(s.procs):
            if p.pc == LOCK and p.inc != s.kernel.flock[1]:
                line = self._next_line(p.inc, number)
                if line and self.events[line]["act"] == "B2.lost":
                    s = die(self.model, s, i, 75, said=True)
                    done |= {line}
        return attrs.evolve(world, state=s, done=done)

    def _next_line(self, owner: int, number: int) -> int:
        """Return the line of an owner's next event, 0 where there is none."""
        return next((line for line in self.cast.lines[owner] if line > number), 0)

    def _lost(self, world: World, number: int, i: int) -> Iterator[World]:
        """Somebody held the lock, though no line said so yet: who says so first, or who never
        will, since it was killed.
        """
        s = world.state
        coming = sorted(
            (line, j)
            for j, p in enumerate(s.procs)
            if p.pc == LOCK and (line := self._next_line(p.inc, number))
            if self.events[line]["act"] == "B2.lock"
        )
        gone = die(self.model, s, i, 75, said=True)
        for line, j in coming[:1]:
            for after in self._steps(gone, j, ("B2.lock",)):
                yield attrs.evolve(world, state=after, done=world.done | {line})
        if not coming and self._silent_holder(s.procs[i].inc, number):
            yield attrs.evolve(world, state=gone)

    def _silent_holder(self, loser: int, number: int) -> bool:
        """Tell whether somebody was killed in a loser's time who may have held the lock."""
        for owner, lines in self.cast.lines.items():
            acts = [self.events[line]["act"] for line in lines if line > lines[0]]
            ended = lines[-1] if acts == ["end"] else len(self.events)
            silent = acts in ([], ["end"]) and owner != loser
            if silent and lines[0] < number and ended > self.cast.lines[loser][0]:
                return True
        return False

    # Connections.

    def _hello(self, world: World, event: Event, i: int) -> Iterator[World]:
        """A session is opened: by an owner that serves, for a hello that was sent to it."""
        s = world.state
        p = s.procs[i]
        if p.pc != SERVE:
            return
        c = self.cast.sessions.get(event["session"], -1)
        if c < 0:  # somebody else's than a shim's
            yield world
        for k, conn in enumerate(s.conns):
            if conn.shim != c or conn.stage != WAITING:
                continue
            if p.direct or -conn.to > self.cast.bound.get(p.inc, len(self.events)):
                t = s._replace(conns=put(s.conns, k, conn._replace(to=p.inc)))
                yield attrs.evolve(world, state=_hello(self.model, t, i, k))

    def _shim(self, world: World, number: int, event: Event, c: int) -> Iterator[World]:
        act, s = event["act"], world.state
        k = conn_of(s, c)
        if act == "C.leave":
            yield attrs.evolve(world, leaving=world.leaving | {c})
        elif act == "end":
            yield attrs.evolve(world, state=self._given_up(s, c, k))
        elif act == "C.dial" and s.shims[c].pc in (IDLE, GREET):
            yield attrs.evolve(world, state=self._dialled(s, number, c, k))
        elif act.startswith("C3.") and s.shims[c].pc == GREET:
            if s.conns[k].stage == WAITING or self._may_fail(world, number, act, s.conns[k]):
                yield attrs.evolve(world, state=self._given_up(s, c, k))
        elif act == "C4.lost" and s.shims[c].pc == UP:
            if c in world.leaving or self._is_closed(world, number, s.conns[k]):
                yield attrs.evolve(world, state=self._given_up(s, c, k))
        elif act == "C.goodbye" and s.shims[c].parting:  # said again, of work that was not begun
            yield world
        elif act in ("C2.welcome", "C.goodbye"):
            yield from self._told(world, event, c)

    def _dialled(self, s: State, number: int, c: int, k: int) -> State:
        """A hello is on its way, to whom its answer will tell; its line stands for the owner."""
        s = self._given_up(s, c, k)
        waiting = [conn for conn in s.conns if conn.shim == c and conn.stage == WAITING]
        for conn in waiting[: 1 - DIALS_MAX]:
            s = s._replace(conns=tuple(x for x in s.conns if x is not conn))
        s = client._greet(self.model, s, c, -number)
        start = machines.election_start(may_spawn=True, may_direct=True)
        return with_shim(s, c, s.shims[c]._replace(election=start))

    def _given_up(self, s: State, c: int, k: int) -> State:
        """The shim closes its connection; a hello that was sent may be read all the same."""
        s = with_shim(s, c, s.shims[c]._replace(pc=IDLE, parting=False))
        if k < 0:
            return s
        shut = s.conns[k]._replace(shut_up=True, down=())
        if shut.stage == WAITING:
            return s._replace(conns=put(s.conns, k, shut))
        return with_conn(s, k, shut)

    def _may_fail(self, world: World, number: int, act: str, conn: Conn) -> bool:
        """Tell whether a greeting that was answered may come to nothing."""
        if act == "C3.refused":  # an owner of an older epoch
            shim = world.state.shims[conn.shim]
            return bool(conn.down) and conn.down[0][0] == "W" and conn.down[0][1] < shim.epoch
        return act == "C3.silent" or self._is_closed(world, number, conn)

    def _is_closed(self, world: World, number: int, conn: Conn) -> bool:
        """Tell whether an owner has hung up on a shim, or may just be doing so."""
        i = find_inc(world.state, conn.to)
        if conn.shut_down or i < 0 or conn.to in world.parted:
            return True
        over = not self.ends_told and self._is_over(conn.to, number)
        return over or world.state.procs[i].pc > SERVE

    def _told(self, world: World, event: Event, c: int) -> Iterator[World]:
        found: list[State] = []

        def out(label: Label, after: State) -> None:
            if label[0] == event["act"]:
                found.append(after)

        client.shim_steps(self.model, world.state, c, out)
        for after in found:
            if after.shims[c].epoch == event.get("epoch", after.shims[c].epoch):
                yield attrs.evolve(world, state=after)


def _observed(event: Event, before: Proc, after: Proc) -> bool:
    """Compare what an event says with what the step would have shown."""
    act = event["act"]
    if "epoch" in event and event["epoch"] != after.epoch:
        return False
    reason = "failed" if act == "X0.away" else act[3:]
    if act in ("X0.idle", "X0.failed", "X0.away") and after.life[2] not in (reason, "upgrade"):
        return False
    if act == "X6.exit" and "status" in event:
        return bool(event["status"]) == (before.life[2] == "failed")
    return True


def problems_of(events: Iterable[Event], *, ends_told: bool = False) -> list[str]:
    """Return what is wrong with a trace, nothing for a good one."""
    try:
        Follower(events, ends_told=ends_told).run()
    except Mismatch as error:
        return [f"trace: {error}"]
    return []


def read_trace(path: Path | str) -> list[Event]:
    """Return the events of a file; a line that a kill or a full disk cut short is none."""
    events = []
    for line in Path(path).read_text().splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def main() -> int:
    events = read_trace(sys.argv[1])
    problems = problems_of(events)
    print("\n".join(problems) or f"{len(events)} events, each a step of the model")
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
