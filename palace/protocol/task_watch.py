"""Which tasks are over their deadline, and which have a worker that says nothing more.

Theory of operation.  A task is watched over only where its request says so, in `metadata`:

    {"palace": {"deadline_s": 21600, "silence_s": 600}}

Silence that nobody could have heard doesn't count: it is what this owner was awake for, with the
palace open, that is counted, from zero with each owner.  So there is one clock of watching for all
tasks, which stands still over a gap, and a task is silent since a moment of that clock.

A look costs what has changed since the last one, and not how many tasks there are: it is told of
the tasks that have other events than before, and takes the first ones of two heaps.  What stands
in the heap of silences is when a task is to be looked at again; when it was heard last is looked
up only then.

Rule for this file: pure; times are the caller's.
"""

import heapq
from collections.abc import Iterable

import attrs

from palace.protocol.delegations import IN_PROGRESS, Delegation

LOOK_S = 60.0  # between two looks, if nothing is in the way
GAP_S = 2 * LOOK_S  # a longer pause was no watching: the machine slept, or the broker hung
GRACE_S = LOOK_S  # of watching before a deadline counts: workers may be coming back, too

SILENT = "silent"
OVERDUE = "overdue"


@attrs.frozen(kw_only=True)
class Watched:
    """A task that is not over, and asks to be watched; `is_heard`: its worker is of this palace."""

    id: str
    sign: str
    in_progress: bool
    is_heard: bool
    deadline_at: float | None
    silence_s: float | None
    worker: str = ""
    claim: str = ""

    @property
    def patience_s(self) -> float | None:
        """Return how long its worker may be silent, None where nobody listens for it."""
        return self.silence_s if self.in_progress and self.is_heard else None


def watched_in(tasks: Iterable[Delegation], replica: str) -> list[Watched]:
    """Return the tasks that the palace `replica` has to watch: those that were asked for there.

    So one palace of a mesh judges a task, and no other palace can have this one end anything.
    """
    return [
        Watched(
            id=task.id,
            sign=task.sign,
            in_progress=task.state == IN_PROGRESS,
            is_heard=task.claimed_in == replica,
            deadline_at=task.deadline_at,
            silence_s=task.silence_s,
            worker=task.worker,
            claim=task.claim,
        )
        for task in tasks
        if not task.is_final
        and task.origin == replica
        and (task.deadline_at is not None or task.silence_s is not None)
    ]


@attrs.frozen(kw_only=True)
class Changes:
    """Tasks that are to be watched as they are now, and those that are not any more.

    `whole`: these are all that are to be watched, whatever was watched before.
    """

    tasks: tuple[Watched, ...] = ()
    gone: tuple[str, ...] = ()
    whole: bool = False


@attrs.frozen(kw_only=True)
class Verdict:
    """A task that is to end, why, and the sign of life that was the last one then."""

    id: str
    sign: str
    why: str
    detail: str


@attrs.define
class _Kept:
    """A watched task, and when it was heard last, by the clock of watching.

    `unheard`: its worker may be there without having come to this owner, so silence is none.
    """

    task: Watched
    since_s: float
    unheard: bool = False


@attrs.define(eq=False)
class Watch:
    """What one owner has seen of the tasks that it watches; not for threads.

    The clock that never goes back may stand still while the machine sleeps; the wall's does not.
    `counts_absent`: the last owner died, so that whoever was connected to it, and is there, comes
    to this one by itself.  After one that left, a worker comes with its next request alone.
    """

    counts_absent: bool = True
    _began: bool = False
    _clock_s: float = 0.0  # of watching
    _awake_s: float = 0.0  # since this owner began, or the last gap
    _last: tuple[float, float] | None = None
    _tasks: dict[str, _Kept] = attrs.field(factory=dict)
    _claims: dict[str, str] = attrs.field(factory=dict)  # the task that each is of
    _deadlines: list[tuple[float, str]] = attrs.field(factory=list)
    _silences: list[tuple[float, str]] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self._tasks)

    def worker_of(self, claim: str) -> str:
        """Return who has claimed a watched task by an event, "" where none was."""
        task = self._tasks.get(self._claims.get(claim, ""))
        return "" if task is None else task.task.worker

    def look(
        self, changes: Changes, *, heard: Iterable[str] = (), monotonic_s: float, wall_s: float
    ) -> list[Verdict]:
        """Return the tasks that are to end now; each is told of again until it has changed.

        `heard` are the claims whose workers are there, though they have filed nothing.
        """
        step_s = self._step(monotonic_s, wall_s)
        self._clock_s += step_s
        self._awake_s = self._awake_s + step_s if step_s else 0.0
        self._take(changes)
        for claim in heard:
            kept = self._tasks.get(self._claims.get(claim, ""))
            if kept is not None:
                kept.since_s, kept.unheard = self._clock_s, False
        overdue = self._overdue(wall_s)
        late = {verdict.id for verdict in overdue}
        return overdue + [one for one in self._silent() if one.id not in late]

    def _step(self, monotonic_s: float, wall_s: float) -> float:
        """Return the seconds of watching since the last look, 0 for the first and for a gap."""
        last, self._last = self._last, (monotonic_s, wall_s)
        if last is None:
            return 0.0
        passed_s = monotonic_s - last[0]
        is_gap = max(passed_s, wall_s - last[1]) > GAP_S
        return 0.0 if is_gap else max(0.0, passed_s)

    def _take(self, changes: Changes) -> None:
        gone = set(changes.gone)
        if changes.whole:
            gone |= self._tasks.keys() - {task.id for task in changes.tasks}
        for ident in gone:
            self._drop(ident)
        for task in changes.tasks:
            self._put(task)
        self._began = True

    def _drop(self, ident: str) -> None:
        kept = self._tasks.pop(ident, None)
        if kept is not None:
            self._claims.pop(kept.task.claim, None)

    def _put(self, task: Watched) -> None:
        kept = self._tasks.get(task.id)
        known = None if kept is None else kept.task
        if kept is None or kept.task.sign != task.sign:
            unheard = bool(task.claim) and not (self._began or self.counts_absent)
            kept = self._tasks[task.id] = _Kept(task, self._clock_s, unheard)
        if known is not None:
            self._claims.pop(known.claim, None)
        kept.task = task
        if task.claim:
            self._claims[task.claim] = task.id
        if task.deadline_at is not None and (
            known is None or known.deadline_at != task.deadline_at
        ):
            heapq.heappush(self._deadlines, (task.deadline_at, task.id))
        patience_s = task.patience_s
        if patience_s is not None and (known is None or known.patience_s != patience_s):
            heapq.heappush(self._silences, (kept.since_s + patience_s, task.id))

    def _overdue(self, wall_s: float) -> list[Verdict]:
        found: dict[str, Verdict] = {}
        late: list[tuple[float, str]] = []
        while self._awake_s >= GRACE_S and self._deadlines and self._deadlines[0][0] <= wall_s:
            deadline_at, ident = heapq.heappop(self._deadlines)
            kept = self._tasks.get(ident)
            if kept is None or kept.task.deadline_at != deadline_at or ident in found:
                continue  # it was another task's, or an earlier one's of that id
            late.append((deadline_at, ident))
            text = f"The deadline was {round(wall_s - deadline_at)} s ago."
            found[ident] = Verdict(id=ident, sign=kept.task.sign, why=OVERDUE, detail=text)
        for entry in late:  # it stays until its end is in the log
            heapq.heappush(self._deadlines, entry)
        return list(found.values())

    def _silent(self) -> list[Verdict]:
        found: list[Verdict] = []
        again: dict[str, float] = {}
        while self._silences and self._silences[0][0] <= self._clock_s:
            _, ident = heapq.heappop(self._silences)
            kept = self._tasks.get(ident)
            patience_s = None if kept is None else kept.task.patience_s
            if kept is None or patience_s is None or ident in again:  # an earlier one's of that id
                continue
            if kept.unheard:
                again[ident] = self._clock_s + patience_s
                continue
            silent_s = self._clock_s - kept.since_s
            again[ident] = kept.since_s + patience_s
            if silent_s >= patience_s:
                text = f"Nothing was heard of its worker for {round(silent_s)} s."
                found.append(Verdict(id=ident, sign=kept.task.sign, why=SILENT, detail=text))
        for ident, due_s in again.items():
            heapq.heappush(self._silences, (due_s, ident))
        return found


def still_holds(verdict: Verdict, task: Delegation | None, replica: str, wall_s: float) -> bool:
    """Tell whether a verdict is true of a task as it is now, when its turn to be written comes."""
    if task is None or task.is_final or task.origin != replica:
        return False
    if verdict.why == OVERDUE:
        return task.deadline_at is not None and wall_s >= task.deadline_at
    return verdict.why == SILENT and task.state == IN_PROGRESS and task.sign == verdict.sign
