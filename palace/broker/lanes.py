"""The lanes: where admitted calls run, in worker threads of the engine.

Each lane is a queue and as many threads as the lane is wide; the writer lane is as wide as a batch.
Admission never starts more than fit.

The threads are our own and kept, since a call handed over by `trio.to_thread` costs about 100
microseconds more (docs/decisions/0008).
"""

import queue
import threading
from collections.abc import Callable
from functools import partial

import attrs
import outcome
import trio

from palace.engine.api import Call, Engine, Reply
from palace.protocol.admission import Job
from palace.protocol.errors import PalaceError
from palace.protocol.tools import Lane

LARGE_WIDTH = 2
REMOTE_WIDTH = 8
LONG_WIDTH = 2  # they take turns with each other, too, and one more runs for a party without any

Finish = Callable[[Job, outcome.Outcome[Reply]], None]
Deliver = Callable[[Job, Reply, PalaceError | None], None]


@attrs.define(eq=False)
class _Workers:
    """The threads of one lane; they end at a None in their queue, or with the process."""

    calls: "queue.SimpleQueue[Callable[[], None] | None]" = attrs.field(factory=queue.SimpleQueue)
    threads: int = 0

    def submit(self, call: Callable[[], None], *, name: str, running: int) -> None:
        # A thread for each running call: a member of a batch that had to wait in the queue would
        # keep the others at their meeting point for ever.  Only the loop counts, so without a lock.
        if running > self.threads:  # grown on demand: most palaces never need them all
            self.threads += 1
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        self.calls.put(call)

    def _serve(self) -> None:
        while (call := self.calls.get()) is not None:
            call()

    def end(self) -> None:
        for _ in range(self.threads):
            self.calls.put(None)
        self.threads = 0


@attrs.define(eq=False)
class Lanes:
    """Runs jobs, and tells the loop twice of one that has changed the palace.

    `finish` is called with each job's outcome, since its lane is free; `deliver` with a reply that
    has a `seq`, once the engine says that this is durable, or can't be.  `start` comes first and
    `end` last; what still runs then is left to the end of the process.  `substitute` answers in the
    place of an engine that isn't loaded.
    """

    engine: Engine
    readers: int
    polls: int
    batch_max: int = 1
    substitute: Callable[[Call], Reply] | None = None
    _finish: Finish | None = None
    _deliver: Deliver | None = None
    _token: trio.lowlevel.TrioToken | None = None
    _workers: dict[Lane, _Workers] = attrs.field(
        factory=lambda: {lane: _Workers() for lane in Lane}
    )

    def capacity(self) -> dict[Lane, int]:
        """Return how many jobs each lane runs at once."""
        return {
            Lane.WRITER: self.batch_max,
            Lane.READER: self.readers,
            Lane.POLL: self.polls,
            Lane.BULK: 1,
            Lane.LONG: LONG_WIDTH,
            Lane.LARGE: LARGE_WIDTH,
            Lane.REMOTE: REMOTE_WIDTH,
        }

    def start(self, *, finish: Finish, deliver: Deliver) -> None:
        """Remember the loop that this is called in, and what to call there."""
        self._token = trio.lowlevel.current_trio_token()
        self._finish = finish
        self._deliver = deliver

    def run(self, job: Job, call: Call, *, running: int) -> None:
        """Run a job that admission has started; `running` counts it and its lane's others."""
        lane = job.tool.lane
        self._workers[lane].submit(
            lambda: self._call(job, call),
            name=f"palace-{lane.value}",
            running=running,
        )

    def end(self) -> None:
        """Let idle threads end."""
        for workers in self._workers.values():
            workers.end()

    # In a lane's thread.

    def _call(self, job: Job, call: Call) -> None:
        assert self._finish is not None
        self._soon(self._finish, job, outcome.capture(self._answer, job, call))

    def _answer(self, job: Job, call: Call) -> Reply:
        reply = (self.substitute or self.engine.call)(call)
        if reply.seq:
            # Asked for here, so that the loop is not on the way to the disk.  And before the loop
            # hears of the call's end: it may then close the engine, which could no longer be asked.
            self.engine.when_durable(reply.seq, partial(self._durable, job, reply))
        return reply

    # In any thread.

    def _durable(self, job: Job, reply: Reply, problem: PalaceError | None) -> None:
        assert self._deliver is not None
        self._soon(self._deliver, job, reply, problem)

    def _soon(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            return  # the owner has left: its clients were told so
