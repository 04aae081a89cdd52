"""The lanes: where admitted calls run, in worker threads of the engine.

Each lane is a queue and as many threads as the lane is wide; the writer lane is as wide as a batch.
Admission never starts more than fit.

The threads are our own and kept, since a call handed over by `trio.to_thread` costs about 100
microseconds more (docs/decisions/0008).
"""

import queue
import threading
from collections.abc import Callable

import attrs
import outcome
import trio

from palace.engine.api import Call, Engine, Reply, Told
from palace.protocol.admission import Job
from palace.protocol.tools import Lane

Finish = Callable[[Job, outcome.Outcome[Reply]], None]


@attrs.define(eq=False)
class _Workers:
    """The threads of one lane; they end at a None in their queue, or with the process."""

    calls: "queue.SimpleQueue[Callable[[], None] | None]" = attrs.field(factory=queue.SimpleQueue)
    threads: int = 0

    def submit(self, call: Callable[[], None], *, name: str, running: int) -> None:
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
    """Runs jobs; `finish` is called in the loop with each job's outcome.

    `start` comes first and `end` last; what still runs then is left to the end of the process.
    """

    engine: Engine
    readers: int
    polls: int
    batch_max: int = 1
    _finish: Finish | None = None
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
        }

    def start(self, finish: Finish) -> None:
        """Remember the loop that this is called in, and whom to tell."""
        self._token = trio.lowlevel.current_trio_token()
        self._finish = finish

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

    def when_durable(self, seq: int, told: Told) -> None:
        """Call `told` in the loop once the engine says that `seq` is durable, or can't be."""
        self.engine.when_durable(seq, lambda problem: self._soon(told, problem))

    def _call(self, job: Job, call: Call) -> None:
        assert self._finish is not None
        self._soon(self._finish, job, outcome.capture(self.engine.call, call))

    def _soon(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            return  # the owner has left: its clients were told so
