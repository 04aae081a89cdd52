"""The point of no refusal: what is admitted, and what of it may run now.

Theory of operation.  Each session has a queue, and sessions take turns: a client that floods its
own queue delays only itself.  Of a session, queries overlap with each other, while a mutation
waits for what came before it and holds up what comes after it, so that a client which pipelines
dependent calls sees what it would see from a serial server.  Long-polls hold nothing up.  A call
that was cancelled while it runs no longer counts for its session's order.

The writer lane runs one *batch* at a time: one mutation, or several that may be stored together,
of as many sessions and with different keys, all started in one `take_ready`.

Before `offer` says ADMITTED a request can be refused; after it, it ends in a reply or in an
explicit "outcome unknown".

Rule for this file: pure; which call runs next is decided only here.
"""

import enum
from collections import deque
from collections.abc import Mapping

import attrs

from palace.protocol.batch_window import BatchWindow
from palace.protocol.request import ToolCall
from palace.protocol.tools import Lane, Tool


class Offer(enum.Enum):
    ADMITTED = "admitted"
    SESSION_FULL = "session_full"  # its own backlog: wait; no other session is at fault
    FULL = "full"  # all sessions' backlog: wait for a while, then say Busy
    DRAINING = "draining"


@attrs.define(eq=False, kw_only=True)
class Job:
    """One admitted tool call.

    `maybe_ran`: an earlier owner may have begun it.  `cancelled`: its client no longer wants the
    reply.  `group`: what it must not share with others of its batch, "" if it runs alone.
    """

    session: str
    ordinal: int
    request: ToolCall
    admitted_s: float = 0.0
    began_s: float = 0.0
    deadline_s: float = float("inf")
    maybe_ran: bool = False
    cancelled: bool = False
    group: str = ""
    tool: Tool = attrs.field(init=False)  # admission asks for it a dozen times for each call

    def __attrs_post_init__(self) -> None:
        self.tool = self.request.tool

    @property
    def key(self) -> tuple[str, int]:
        return self.session, self.ordinal

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def exclusive(self) -> bool:
        """Tell whether it keeps its session's other calls from overlapping with it."""
        return self.tool.lane in (Lane.WRITER, Lane.BULK)


@attrs.define(eq=False)
class _Queue:
    waiting: deque[Job] = attrs.field(factory=deque)
    shared: int = 0  # running readers
    exclusive: int = 0  # running writers that still count for the order


@attrs.define(eq=False, kw_only=True)
class Admission:
    """All queues of one owner.

    Capacities are numbers of jobs; the writer's is how many a batch may hold.
    """

    capacity: Mapping[Lane, int]
    queue_depth_max: int
    session_depth_max: int
    _queues: dict[str, _Queue] = attrs.field(factory=dict)
    _turns: deque[str] = attrs.field(factory=deque)  # sessions with waiting jobs, next first
    _running: dict[tuple[str, int], Job] = attrs.field(factory=dict)
    _in_lane: dict[Lane, int] = attrs.field(factory=lambda: dict.fromkeys(Lane, 0))
    _waiting: int = 0
    _batch: list[Job] = attrs.field(factory=list)  # the writer lane's running, or last one
    _forming: bool = False
    window: BatchWindow = attrs.field(factory=BatchWindow)
    held: bool = False  # something would have started, but its batch waits for others
    ready: bool = False
    model_pending: bool = False  # calls that embed wait; others pass them as order allows
    draining: bool = False

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def running(self) -> tuple[Job, ...]:
        return tuple(self._running.values())

    def in_lane(self, lane: Lane) -> int:
        return self._in_lane[lane]

    @property
    def busy(self) -> bool:
        """Tell whether anything is asked for; an abandoned long-poll is not."""
        return bool(self._waiting) or any(
            not (job.cancelled and job.tool.lane is Lane.POLL) for job in self._running.values()
        )

    def offer(self, job: Job) -> Offer:
        """Admit a job, or say why it must wait."""
        if self.draining:
            return Offer.DRAINING
        queue = self._queues.get(job.session)
        if queue is not None and len(queue.waiting) >= self.session_depth_max:
            return Offer.SESSION_FULL
        if self._waiting >= self.queue_depth_max:
            return Offer.FULL
        if queue is None:
            queue = self._queues[job.session] = _Queue()
        if not queue.waiting:
            self._turns.append(job.session)
        queue.waiting.append(job)
        self._waiting += 1
        self.window.came(job.session)
        return Offer.ADMITTED

    def take_ready(self, now_s: float = 0.0) -> list[Job]:
        """Return the jobs that start now, in order; they count as running from here on.

        Those of the writer lane are one batch.  `held` says whether to ask again at
        `window.until_s`.
        """
        started: list[Job] = []
        self.held = False
        if not self.ready:
            return started
        patient = self.window.until_s(now_s) > now_s
        self._forming = False
        progress = True
        while progress:
            progress = False
            for session in tuple(self._turns):  # a session that can't start keeps its turn
                job = self._startable(self._queues[session], patient=patient)
                if job is None:
                    continue
                self._start(job, now_s)
                started.append(job)
                progress = True
        return started

    def finish(self, job: Job, now_s: float = 0.0) -> None:
        """Note that a running job has ended."""
        del self._running[job.key]
        self._in_lane[job.tool.lane] -= 1
        if job.tool.lane is Lane.WRITER and not self._in_lane[Lane.WRITER]:
            sessions = [member.session for member in self._batch]
            for session in sessions:
                if session in self._queues and self._queues[session].waiting:
                    self.window.came(session)  # before the batch even began
            self.window.ended(sessions, now_s)
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

    def is_running(self, session: str, ordinal: int) -> bool:
        return (session, ordinal) in self._running

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

    def withdraw(self, *, only: Lane | None = None) -> list[Job]:
        """Remove and return what has not started, or what of one lane (a drain hands it back)."""
        jobs = [job for queue in self._queues.values() for job in queue.waiting]
        if only is not None:
            jobs = [job for job in jobs if job.tool.lane is only]
        for job in jobs:
            self._remove(job)
        self.held = self.held and self._waiting > 0
        return jobs

    def _startable(self, queue: _Queue, *, patient: bool) -> Job | None:
        if queue.exclusive:
            return None
        job = self._next(queue)
        if job is None:
            return None
        lane = job.tool.lane
        if self._in_lane[lane] >= self.capacity[lane]:
            return None
        if job.exclusive and queue.shared:
            return None
        if lane is Lane.WRITER and not self._fits(job, patient=patient):
            return None
        return job

    def _fits(self, job: Job, *, patient: bool) -> bool:
        """Tell whether a job may begin a batch, or join the one that forms."""
        if not self._in_lane[Lane.WRITER]:
            if job.group and patient:
                self.held = True
                return False
            return True
        return (
            self._forming
            and bool(job.group)
            and all(member.group not in ("", job.group) for member in self._batch)
        )

    def _next(self, queue: _Queue) -> Job | None:
        """Return the first job, or the first behind those that nothing has to wait for.

        These are long-polls that find their lane full, and queries that wait for the model; the
        latter still come before any change.
        """
        full = self._in_lane[Lane.POLL] >= self.capacity[Lane.POLL]
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
            if not self._in_lane[Lane.WRITER]:
                self._batch = []
                self._forming = True
                self.window.began(now_s)
            self._batch.append(job)
        queue = self._queues[job.session]
        queue.waiting.remove(job)
        self._waiting -= 1
        self._turns.remove(job.session)
        if queue.waiting:
            self._turns.append(job.session)
        self._running[job.key] = job
        self._in_lane[job.tool.lane] += 1
        if job.exclusive:
            queue.exclusive += 1
        elif job.tool.lane is Lane.READER:
            queue.shared += 1

    def _leave_order(self, job: Job) -> None:
        queue = self._queues[job.session]
        if job.exclusive:
            queue.exclusive -= 1
        elif job.tool.lane is Lane.READER:
            queue.shared -= 1

    def _remove(self, job: Job) -> None:
        queue = self._queues[job.session]
        queue.waiting.remove(job)
        self._waiting -= 1
        if not queue.waiting:
            self._turns.remove(job.session)
        self._forget_if_empty(job.session)

    def _forget_if_empty(self, session: str) -> None:
        queue = self._queues[session]
        runs = any(key[0] == session for key in self._running)
        if not queue.waiting and not runs:
            del self._queues[session]
