"""Telling clients that asked for it how their calls come on, while there is no reply yet."""

import attrs
import trio

from palace.broker.services import Services
from palace.broker.sessions import Sessions
from palace.protocol import wire
from palace.protocol.admission import Admission, Job
from palace.protocol.lifecycle import EngineState, Lifecycle

TELL_S = 1.0  # between two notes; a call that is answered within it has none


@attrs.define(eq=False, kw_only=True)
class ProgressNotes:
    """The admitted calls whose clients want to know; without any, nothing runs."""

    services: Services
    lifecycle: Lifecycle
    sessions: Sessions
    admission: Admission
    _jobs: dict[tuple[str, int], Job] = attrs.field(factory=dict)
    _wanted: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def watch(self, job: Job) -> None:
        """Tell of a job that has been admitted, if its client asked for it."""
        if job.request.progress_token is not None or job.request.may_be_task:
            self._jobs[job.key] = job
            self._wanted.unpark_all()

    def forget(self, job: Job) -> None:
        """Tell no more of a job: its reply leaves in the same step of the loop."""
        self._jobs.pop(job.key, None)

    async def serve(self) -> None:
        """Tell now and then; runs until cancelled."""
        while True:
            while not self._jobs:
                await self._wanted.park()
            await trio.sleep(TELL_S)
            now_s = trio.current_time()
            for job in self._jobs.values():
                if now_s - job.admitted_s >= TELL_S:
                    self._tell(job, now_s)

    def _tell(self, job: Job, now_s: float) -> None:
        session = self.sessions.get(job.session)
        if session is not None:
            fields = {"ordinal": str(job.ordinal), "text": self.text(job, now_s)}
            session.header(wire.PROGRESS, fields)

    def text(self, job: Job, now_s: float) -> str:
        """Return what keeps a job from being answered."""
        if job.began_s:
            return f"{job.name} has been running for {now_s - job.began_s:.0f} s"
        if self.lifecycle.waiting:
            return f"the palace waits: {self.lifecycle.waiting}"
        if self.lifecycle.engine is EngineState.LOADING:
            return f"the palace is being opened: {self.services.engine.loading_text()}"
        if self.admission.model_pending and job.tool.embeds:
            return f"{job.name} waits for the embedding model: {self.services.engine.model().text}"
        return f"{job.name} waits for its turn ({self.admission.waiting} calls are waiting)"
