"""The point of no refusal: what is admitted, and what of it may run now.

Theory of operation.  Each session has a queue, and parties (budget.py) take turns, as do the
sessions of one party: a client that floods its own queue, or has many sessions, delays only itself.
A full lane, and a full queue, have a reserve for parties that hold much less than another does.
While others are about, a party has no more of the readers than its equal part, and a *crowd*, a
party that asks for more than an agent with a few helpers, has small batches and rests (company.py).

Changes go in another order than queries: a party that has had much of the writer's time lately is
put back behind those that had little (writer_time.py), a few helpers of one each for itself.

Of a session, queries overlap with each other, while a mutation waits for what came before it and
holds up what comes after it, so that a client which pipelines dependent calls sees what it would
see from a serial server.  Long-polls hold nothing up.  A call that was cancelled while it runs no
longer counts for its session's order.

The writer lane runs one *batch* at a time: one mutation, or several that may be stored together,
of as many sessions and with different keys, all started in one `take_ready`.

Before `offer` says ADMITTED a request can be refused; after it, it ends in a reply or in an
explicit "outcome unknown".

Rule for this file: pure; which call runs next is decided only here.
"""

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs

from palace.protocol.batch_window import BatchWindow
from palace.protocol.budget import Shares
from palace.protocol.company import Company
from palace.protocol.queue import Group, Queue
from palace.protocol.request import ToolCall
from palace.protocol.tools import Kind, Lane, Tool

_EXCLUSIVE = (Lane.WRITER, Lane.BULK, Lane.LONG, Lane.LARGE)
CROWD = 4  # calls of one party at once: more of them are a crowd's
CROWDS_BATCH = 2  # each takes the longer, the more are embedded


class Offer(enum.Enum):
    ADMITTED = "admitted"
    SESSION_FULL = "session_full"  # its own backlog: wait; no other session is at fault
    FULL = "full"  # all sessions' backlog: wait for a while, then say Busy
    DRAINING = "draining"


@attrs.define(eq=False, kw_only=True)
class Job:
    """One admitted tool call.

    `maybe_ran`: an earlier owner may have begun it.  `cancelled`: its client no longer wants the
    reply.  `stopping`: its client would have it end before it is done, where it can.
    `group`: what it must not share with others of its batch, "" if it runs alone.
    `own`: the broker's own work, for which no client waits.
    """

    session: str
    ordinal: int
    request: ToolCall
    party: str = ""  # "": its session is one
    admitted_s: float = 0.0
    began_s: float = 0.0
    deadline_s: float = float("inf")
    maybe_ran: bool = False
    cancelled: bool = False
    stopping: bool = False
    group: str = ""
    own: bool = False
    # What follows from the above; admission asks for it a dozen times for each call.
    key: tuple[str, int] = attrs.field(init=False)
    tool: Tool = attrs.field(init=False)
    exclusive: bool = attrs.field(init=False)  # its session's other calls must not overlap with it
    shared: bool = attrs.field(init=False)  # its session's queries may

    def __attrs_post_init__(self) -> None:
        self.key = self.session, self.ordinal
        self.tool = self.request.tool
        lane, is_query = self.tool.lane, self.tool.kind is Kind.QUERY
        self.exclusive = lane in _EXCLUSIVE or (lane is Lane.REMOTE and not is_query)
        self.shared = lane is Lane.READER or (lane is Lane.REMOTE and is_query)
        self.party = self.party or self.session

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def readable(self) -> bool:
        """Tell whether a copy of the stores can answer it: nothing would ever happen in one."""
        return self.tool.kind is Kind.QUERY and self.tool.lane is not Lane.POLL


@attrs.define(eq=False, kw_only=True)
class Admission:
    """All queues of one owner.

    Capacities are numbers of jobs; the writer's is how many a batch may hold.  `slots` are the
    budgets of the lanes, `places` is that of the queue.  `put_back_s` tells how much later than
    others a party's next change is due.
    """

    capacity: Mapping[Lane, int]
    queue_depth_max: int
    session_depth_max: int
    put_back_s: Callable[[str], float] = lambda _party: 0.0
    slots: dict[Lane, Shares] = attrs.field(init=False)
    places: Shares = attrs.field(init=False)
    _asked: dict[str, int] = attrs.field(factory=dict)  # waiting party -> since which turn
    _turn: int = 0
    _due_s: dict[str, float] = attrs.field(factory=dict)  # party -> when its next change is due
    _queues: dict[str, Queue[Job]] = attrs.field(factory=dict)
    _turns: deque[str] = attrs.field(factory=deque)  # sessions with waiting jobs, next first
    _running: dict[tuple[str, int], Job] = attrs.field(factory=dict)
    _batch: list[Job] = attrs.field(factory=list)  # the writer lane's running, or last one
    _forming: bool = False
    _now_s: float = 0.0
    _refused: set[tuple[str, Lane]] = attrs.field(factory=set)  # parties' new calls, in this pass
    window: BatchWindow = attrs.field(factory=BatchWindow)
    company: Company = attrs.field(factory=Company)
    held: bool = False  # something would have started: its batch waits, or its party has its part
    wake_s: float = float("inf")  # when to ask again what may start, where something is held
    choked: set[str] = attrs.field(factory=set)  # sessions whose replies aren't read: no more begin
    ready: bool = False
    reading: bool = False  # while not ready: what a copy of the stores can answer may run
    model_pending: bool = False  # calls that embed wait; others pass them as order allows
    draining: bool = False

    def __attrs_post_init__(self) -> None:
        self.slots = {
            lane: Shares.of(f"{lane.value}_slots", width, reserve=_reserve(lane, width))
            for lane, width in self.capacity.items()
        }
        depth = self.queue_depth_max
        self.places = Shares.of("waiting_calls", depth, reserve=(depth + 1) // 2)

    @property
    def waiting(self) -> int:
        return self.places.parties.held

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._running.values())

    def in_lane(self, lane: Lane) -> int:
        return self.slots[lane].parties.held

    @property
    def busy(self) -> bool:
        """Tell whether anything is asked for; an abandoned long-poll is not, nor our own work."""
        return bool(self.waiting) or any(
            not (job.own or (job.cancelled and job.tool.lane is Lane.POLL))
            for job in self._running.values()
        )

    def offer(self, job: Job) -> Offer:
        """Admit a job, or say why it must wait."""
        if self.draining:
            return Offer.DRAINING
        queue = self._queues.get(job.session)
        if queue is not None and len(queue.waiting) >= self.session_depth_max:
            return Offer.SESSION_FULL
        if not self.places.has_room(job.party, job.session):
            return Offer.FULL
        if queue is None:
            queue = self._queues[job.session] = Queue(job.session, job.party)
        self.places.take(job.party, job.session)
        if self.places.parties.of(job.party) == 1:
            self._ask(job.party)
        if not queue.waiting:
            self._turns.append(job.session)
        queue.append(job)
        self.window.came(job.session)
        return Offer.ADMITTED

    def take_ready(self, now_s: float = 0.0) -> list[Job]:
        """Return the jobs that start now, in order; they count as running from here on.

        Those of the writer lane are one batch.  `held` says whether to ask again at `wake_s`.
        """
        started: list[Job] = []
        self.held = self._forming = False
        self.wake_s = float("inf")
        if not self._turns or not (self.ready or self.reading):
            return started
        self._now_s = now_s
        patient = self.window.until_s(now_s) > now_s
        progress = True
        while progress and self._turns:
            progress = False
            had_turn: set[str] = set()
            self._refused.clear()
            for group in self._in_turn(now_s):  # a session that can't start keeps its turn
                party = group[0].party
                job = None if party in had_turn else self._first(group, patient=patient)
                if job is None:
                    continue
                self._start(job, now_s)
                started.append(job)
                had_turn.add(party)
                progress = True
        return started

    def _ask(self, party: str) -> None:
        """Note that a party waits from now on for its next turn, behind all others, if it waits."""
        self._turn += 1
        if self.places.parties.of(party):
            self._asked[party] = self._turn
        else:
            self._asked.pop(party, None)
            self._due_s.pop(party, None)

    def _in_turn(self, now_s: float) -> Sequence[Sequence[Queue[Job]]]:
        """Return the sessions with waiting jobs, those first whose party has waited longest.

        A party's sessions that ask for the same lane are together: what one of them is refused for
        what its party holds, all are.  Those that wait to change something have the places among
        them by who is due first.
        """
        groups: dict[Group, list[Queue[Job]]] = {}
        queues = self._queues
        for session in self._turns:  # hundreds where a party has many, at each call's begin and end
            queue = queues[session]
            groups.setdefault(queue.group or queue.grouped(), []).append(queue)
        order = sorted(groups, key=lambda key: self._asked[key[0]])
        changing = [key for key in order if key[1]]
        due = iter(
            sorted(changing, key=lambda key: self._note_due(key[0], len(groups[key]), now_s))
        )
        order = [next(due) if key[1] else key for key in order]
        return [groups[key] for key in order]

    def _first(self, group: Sequence[Queue[Job]], *, patient: bool) -> Job | None:
        """Return the first job of these sessions that may start."""
        for queue in group:
            if self._is_refused(queue):
                return None
            job = self._startable(queue, patient=patient)
            if job is not None:
                return job
        return None

    def _note_due(self, party: str, sessions: int, now_s: float) -> float:
        """Return when a party's next change is due, as of when that was first asked.

        Each of its few sessions may have had as much of the writer's time as another's only one.
        """
        due_s = self._due_s.get(party)
        if due_s is None:
            each = sessions if sessions <= CROWD else 1
            due_s = self._due_s[party] = now_s + self.put_back_s(party) / each
        return due_s

    def finish(self, job: Job, now_s: float = 0.0) -> None:
        """Note that a running job has ended."""
        del self._running[job.key]
        self._note(job, now_s)
        self.slots[job.tool.lane].give_back(job.party, job.session)
        if job.tool.lane is Lane.WRITER and not self.in_lane(Lane.WRITER):
            sessions = [member.session for member in self._batch]
            for session in sessions:
                if session in self._queues and self._queues[session].waiting:
                    self.window.came(session)  # before the batch even began
            self.window.ended(sessions, now_s)
        if job.tool.lane in (Lane.WRITER, Lane.READER) and not job.own:
            beside = len(self._batch) if job.tool.lane is Lane.WRITER else 1
            self.company.spent(job.party, job.tool.lane, (now_s - job.began_s) / beside, now_s)
        if job.exclusive:
            self._due_s.pop(job.party, None)  # it asks again now that its time was counted
        if not job.cancelled:
            self._leave_order(job)
        self._forget_if_empty(job.session)

    def cancel(self, session: str, ordinal: int) -> Job | None:
        """Take back a job: removed if it waits, marked if it runs, None if neither."""
        running = self._running.get((session, ordinal))
        if running is not None:
            if not running.cancelled:
                running.cancelled = True
                self._leave_order(running)
            return running
        queue = self._queues.get(session)
        for job in queue.waiting if queue else ():
            if job.ordinal == ordinal:
                self._remove(job)
                job.cancelled = True
                return job
        return None

    def stop(self, session: str, ordinal: int) -> None:
        """Ask a job that runs to end before it is done; its reply comes as any other."""
        running = self._running.get((session, ordinal))
        if running is not None:
            running.stopping = True

    def is_running(self, session: str, ordinal: int) -> bool:
        return (session, ordinal) in self._running

    def is_waiting(self, session: str, ordinal: int) -> bool:
        queue = self._queues.get(session)
        return queue is not None and any(job.ordinal == ordinal for job in queue.waiting)

    def expire(self, now_s: float) -> list[Job]:
        """Remove and return the waiting jobs whose deadline has passed."""
        late = [
            job
            for queue in self._queues.values()
            for job in queue.waiting
            if job.deadline_s <= now_s
        ]
        for job in late:
            self._remove(job)
        return late

    def withdraw(self, *, only: Lane | None = None, keep_readable: bool = False) -> list[Job]:
        """Remove and return what has not started, or what of one lane (a drain hands it back)."""
        jobs = [job for queue in self._queues.values() for job in queue.waiting]
        if keep_readable:
            jobs = [job for job in jobs if not job.readable]
        if only is not None:
            jobs = [job for job in jobs if job.tool.lane is only]
        for job in jobs:
            self._remove(job)
        self.held = self.held and self.waiting > 0
        return jobs

    def _startable(self, queue: Queue[Job], *, patient: bool) -> Job | None:
        if queue.exclusive or queue.session in self.choked:
            return None
        job = self._next(queue)
        if job is None or not (self.ready or job.readable):
            return None
        lane = job.tool.lane
        if not self._has_room(job):
            if not self.slots[lane].sessions.of(job.session):
                self._refused.add((job.party, lane))
            return None
        if job.exclusive and queue.shared:
            return None
        if lane is Lane.WRITER and not self._fits(job, patient=patient):
            return None
        if lane is Lane.READER and self._is_met(job) and self._rests(job):
            return None
        return job

    def _has_room(self, job: Job) -> bool:
        """Tell whether a job's lane has a slot for it, and for its party another one."""
        lane = job.tool.lane
        if not self.slots[lane].has_room(job.party, job.session):
            return False
        held = self.slots[lane].parties.of(job.party)
        if lane is Lane.WRITER:
            return held < CROWDS_BATCH or self._is_alone(job) or not self._is_crowd(job)
        if lane is Lane.READER:
            each = self.company.share(job.party, self.capacity[lane], self._now_s)
            if held >= each:  # a batch's end is told by itself; that the others have gone is not
                return self._hold(self.company.next_leaves_s(job.party, self._now_s))
        return True

    def _is_alone(self, job: Job) -> bool:
        return self.company.next_leaves_s(job.party, self._now_s) == float("inf")

    def _is_crowd(self, job: Job) -> bool:
        """Tell whether a party asks for more at once than others would wait for gladly."""
        running = self.slots[job.tool.lane].parties.of(job.party)
        return self.places.parties.of(job.party) + running > CROWD

    def _is_refused(self, queue: Queue[Job]) -> bool:
        """Tell at once, for one of a party's many sessions, what another was told in this pass."""
        lane = queue.waiting[0].tool.lane
        if self.model_pending or (queue.party, lane) not in self._refused:
            return False
        return not self.slots[lane].sessions.of(queue.session)

    def _fits(self, job: Job, *, patient: bool) -> bool:
        """Tell whether a job may begin a batch, or join the one that forms."""
        if not self.in_lane(Lane.WRITER):
            if self._rests(job):
                return False
            if job.group and patient:
                return self._hold(self.window.until_s(self._now_s))
            return True
        if not self._forming:
            self._refused.add((job.party, Lane.WRITER))
            return False
        if self._rests(job) or self._crowds(job):
            return False
        return bool(job.group) and all(one.group not in ("", job.group) for one in self._batch)

    def _is_met(self, job: Job) -> bool:
        """Tell whether somebody else's call runs beside a job."""
        return any(
            other.party != job.party and not other.own and other.tool.lane is not Lane.POLL
            for other in self._running.values()
        )

    def _rests(self, job: Job) -> bool:
        """Tell whether a party that asks for much leaves time to the others."""
        until_s = self.company.rests_until_s(job.party, job.tool.lane, self._now_s)
        if until_s <= self._now_s or not self._is_crowd(job):
            return False
        self._refused.add((job.party, job.tool.lane))
        return not self._hold(until_s)

    def _crowds(self, job: Job) -> bool:
        """Tell whether a batch that somebody else began would take the longer for its party."""
        if self._batch[0].party == job.party or not self._is_crowd(job):
            return False
        self._refused.add((job.party, Lane.WRITER))
        return True

    def _hold(self, until_s: float) -> bool:
        """Let something wait, and return False."""
        self.held, self.wake_s = True, min(self.wake_s, until_s)
        return False

    def _next(self, queue: Queue[Job]) -> Job | None:
        """Return the first job, or the first behind those that nothing has to wait for.

        These are long-polls that find their lane full, and queries that wait for the model; the
        latter still come before any change.
        """
        full = not self.ready or not self.slots[Lane.POLL].has_room(queue.party, queue.session)
        passed = False
        for job in queue.waiting:
            if full and job.tool.lane is Lane.POLL:
                continue
            held = self.model_pending and job.tool.embeds
            if job.exclusive and (held or passed):
                return None
            if not held:
                return job
            passed = True
        return None

    def _start(self, job: Job, now_s: float = 0.0) -> None:
        if job.tool.lane is Lane.WRITER:
            if not self.in_lane(Lane.WRITER):
                self._batch = []
                self._forming = True
                self.window.began(now_s)
            self._batch.append(job)
        queue = self._queues[job.session]
        queue.remove(job)
        job.began_s = now_s
        self.places.give_back(job.party, job.session)
        if job.exclusive:
            self._due_s.pop(job.party, None)
        self._ask(job.party)
        self._turns.remove(job.session)
        if queue.waiting:
            self._turns.append(job.session)
        self._running[job.key] = job
        self._note(job, now_s)
        self.slots[job.tool.lane].take(job.party, job.session)
        if job.exclusive:
            queue.exclusive += 1
        elif job.shared:
            queue.shared += 1

    def _note(self, job: Job, now_s: float) -> None:
        if not job.own:
            self.company.note(job.party, now_s)

    def _leave_order(self, job: Job) -> None:
        queue = self._queues[job.session]
        if job.exclusive:
            queue.exclusive -= 1
        elif job.shared:
            queue.shared -= 1

    def _remove(self, job: Job) -> None:
        queue = self._queues[job.session]
        queue.remove(job)
        self.places.give_back(job.party, job.session)
        if not self.places.parties.of(job.party):
            del self._asked[job.party]
            self._due_s.pop(job.party, None)
        if not queue.waiting:
            self._turns.remove(job.session)
        self._forget_if_empty(job.session)

    def _forget_if_empty(self, session: str) -> None:
        queue = self._queues[session]
        runs = any(key[0] == session for key in self._running)
        if not queue.waiting and not runs:
            del self._queues[session]


def _reserve(lane: Lane, width: int) -> int:
    """Return how many slots a lane has besides, for parties that another one leaves none.

    A batch is of whoever came, and the bulk lane's call yields by itself.
    """
    return 0 if lane in (Lane.WRITER, Lane.BULK) else (width + 1) // 2
