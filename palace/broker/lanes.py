"""The lanes: where admitted calls run, each in a worker thread of the engine.

The writer lane is one consumer of one bounded channel, so that mutations run in the order in which
admission started them.  Readers and long-polls have limiters of their own; admission never starts
more than fit.
"""

from collections.abc import Callable
from functools import partial

import attrs
import trio

from palace.engine.api import Engine, Reply
from palace.protocol.admission import Job
from palace.protocol.tools import Lane

Finish = Callable[[Job, Reply], None]


@attrs.define(eq=False)
class Lanes:
    """Runs jobs; `finish` is called in the loop with each job's reply."""

    engine: Engine
    readers: int
    polls: int
    _nursery: trio.Nursery | None = None
    _finish: Finish | None = None
    _writes: trio.MemorySendChannel[tuple[Job, bool]] | None = None
    _limiters: dict[Lane, trio.CapacityLimiter] = attrs.field(factory=dict)

    def capacity(self) -> dict[Lane, int]:
        """Return how many jobs each lane runs at once."""
        return {Lane.WRITER: 1, Lane.READER: self.readers, Lane.POLL: self.polls, Lane.BULK: 1}

    def start(self, nursery: trio.Nursery, finish: Finish) -> None:
        """Start the writer; every task of the lanes lives in `nursery`."""
        self._nursery = nursery
        self._finish = finish
        self._limiters = {lane: trio.CapacityLimiter(n) for lane, n in self.capacity().items()}
        self._writes, writes = trio.open_memory_channel[tuple[Job, bool]](1)
        nursery.start_soon(self._serve_writer, writes)

    def run(self, job: Job, *, read_only: bool) -> None:
        """Run a job that admission has started."""
        assert self._nursery is not None
        assert self._writes is not None
        if job.tool.lane is Lane.WRITER:
            self._writes.send_nowait((job, read_only))  # never full: admission starts one at a time
        else:
            self._nursery.start_soon(self._run, job, read_only)

    async def _serve_writer(self, writes: trio.MemoryReceiveChannel[tuple[Job, bool]]) -> None:
        async for job, read_only in writes:
            await self._run(job, read_only)

    async def _run(self, job: Job, read_only: bool) -> None:
        assert self._finish is not None
        call = partial(self.engine.call, job.message, read_only=read_only)  # type: ignore[arg-type]
        # Abandoned on cancel: at the very end of the grace the process leaves without its threads.
        reply = await trio.to_thread.run_sync(
            call, limiter=self._limiters[job.tool.lane], abandon_on_cancel=True
        )
        self._finish(job, reply)
