"""The desk: what all tasks of an owner share, and every step that a request or a drain takes.

Nothing here waits for a client; a decision to leave and the unpublishing that follows from it are
one step of the loop.
"""

import logging
import socket
from typing import TYPE_CHECKING, Any

import attrs
import outcome
import trio

from palace.broker import endpoint as endpoints
from palace.broker.endpoint import Endpoint
from palace.broker.lanes import Lanes
from palace.broker.session import Session
from palace.broker.telemetry.histograms import Histograms
from palace.broker.telemetry.meter import Meter, Troubles
from palace.broker.telemetry.redacted import described
from palace.engine.api import Call, Engine, Reply
from palace.engine.batch import Batch
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Owner
from palace.protocol import jsonrpc
from palace.protocol.admission import Admission, Job
from palace.protocol.errors import DeadlineExceeded, OutcomeUnknown, PalaceError
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.lifecycle import Drain, EngineState, Lifecycle, Reason
from palace.protocol.tools import Kind, Lane
from palace.settings.config import Config

if TYPE_CHECKING:
    from palace.broker.http.service import Web

ABANDONED_S = 60.0  # how long a session without a connection keeps its replies

logger = logging.getLogger("palace.broker")

HANDING_BACK = (Reason.UPGRADE, Reason.FAILED)  # what waits is better begun by the next owner


@attrs.define(eq=False)
class Counters:
    requests: int = 0
    replies: int = 0
    busy: int = 0
    refused: int = 0
    connections: int = 0


@attrs.define(eq=False, kw_only=True)
class Desk:
    """The state of one owner.  `mourners` are sockets that the process's end shall close.

    `home` is where stock looks for servers; "": it isn't told.
    """

    owner: Owner
    config: Config
    engine: Engine
    kernel: Kernel
    endpoint: Endpoint | None
    mode: str
    catalogue: Catalogue | None
    admission: Admission
    lifecycle: Lifecycle
    lanes: Lanes
    sessions: dict[str, Session] = attrs.field(factory=dict)
    counters: Counters = attrs.field(factory=Counters)
    histograms: Histograms = attrs.field(factory=Histograms)
    home: str = ""
    web: "Web | None" = None
    failure: PalaceError | None = None
    connections_max: int = 512  # more would take the descriptors that the engine needs
    open_connections: int = 0
    draining: trio.Event = attrs.field(factory=trio.Event)
    started_s: float = 0.0
    since: str = ""  # UTC, for people
    meter: Meter = attrs.field(factory=Meter)
    troubles: Troubles = attrs.field(factory=Troubles)
    place: str = attrs.field(init=False)  # whose files this process sees
    mourners: list[socket.socket] = attrs.field(factory=list)
    _finished: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _room: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _held: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def __attrs_post_init__(self) -> None:
        self.place = self.kernel.place()

    def trouble(self, text: str) -> None:
        """Keep an error for `palace status`; the text quotes no memory."""
        self.troubles.note(text, trio.current_time())

    # Requests.

    def note_activity(self) -> None:
        self.counters.requests += 1
        self.lifecycle.active(trio.current_time())

    async def wait_for_room(self) -> None:
        """Return when a queue may have become shorter."""
        await self._room.park()

    async def wait_for_calls(self) -> None:
        """Return when nothing but long-polls runs, cancelled calls included."""
        while any(job.tool.lane is not Lane.POLL for job in self.admission.running):
            await self._finished.park()

    def start_ready(self) -> None:
        """Hand to the lanes what may run now."""
        if self.failure is not None:
            self.answer_waiting(self.failure)
            return
        now_s = trio.current_time()
        started = self.admission.take_ready(now_s)
        batch = self._batch([job for job in started if job.group])
        running = self.admission.in_lane
        for job in started:
            call = self._call(job, batch if job.group else None)
            job.began_s = now_s
            self.meter.began(job.tool.lane, running(job.tool.lane))
            self.lanes.run(job, call, running=running(job.tool.lane))
        if started:  # the queue became shorter
            self._room.unpark_all()
        if self.admission.held:
            self._held.unpark_all()

    async def wait_for_batch(self) -> None:
        """Return when a batch that waited for others may begin without them."""
        while not self.admission.held:
            await self._held.park()
        await trio.sleep_until(self.admission.gather.until_s(trio.current_time()))

    def _batch(self, jobs: list[Job]) -> Batch | None:
        if not jobs:
            return None
        self.meter.batch(len(jobs))
        return self.engine.batch([_message(job) for job in jobs])

    def _call(self, job: Job, batch: Batch | None) -> Call:
        session = self.sessions.get(job.session)
        return Call(
            message=_message(job),
            session=job.session,
            ordinal=job.ordinal,
            read_only=session is not None and session.read_only,
            maybe_ran=job.maybe_ran,
            epoch=session.epoch if session is not None else 0,
            batch=batch,
        )

    def finish(self, job: Job, result: outcome.Outcome[Reply]) -> None:
        """Take a lane's result: others may start, and the reply goes out once it is durable."""
        self.admission.finish(job, trio.current_time())
        if isinstance(result, outcome.Error):
            logger.error("%s failed in the engine", job.name, exc_info=result.error)
            self.trouble(f"{job.name} failed in the engine: {described(result.error)}")
            self.fail(job, OutcomeUnknown(f"{job.name} failed in the engine: {result.error!r}."))
        else:
            self._finish(job, result.unwrap())
        self._finished.unpark_all()
        self.start_ready()

    def _finish(self, job: Job, reply: Reply) -> None:
        if reply.outdated:
            self.stop(Reason.UPGRADE)
        elif reply.stuck:
            self.stop(Reason.FAILED, text="a change could not be taken back: the next owner does")
        session = self.sessions.get(job.session)
        if session is None or job.ordinal not in session.jobs:
            return
        if reply.seq:
            self.lanes.when_durable(reply.seq, lambda problem: self._deliver(job, reply, problem))
        elif not (reply.outdated and self.hand_back(session, [job])):
            self._settle(session, job, reply.payload)

    def _deliver(self, job: Job, reply: Reply, problem: PalaceError | None) -> None:
        if problem is not None:
            self.trouble(problem.message)
            text = f"{job.name} was carried out, but that may not be lasting. {problem.message}"
            self.fail(job, OutcomeUnknown(text))
            return
        session = self.sessions.get(job.session)
        if session is not None and job.ordinal in session.jobs:
            self._settle(session, job, reply.payload)

    def leave(self, session: Session) -> None:
        """Forget a session that has nothing to come; its outcomes only if its shim has them all.

        The end of a connection says nothing of that: a shim may have given up waiting for WELCOME.
        """
        self.sessions.pop(session.id, None)
        self.admission.gather.came(session.id)
        if session.acknowledged >= session.next_ordinal:
            self.engine.end_session(session.id)

    def cancel(self, session: Session, ordinal: int) -> None:
        """Drop a call that hasn't started, or the reply of one that has."""
        job = self.admission.cancel(session.id, ordinal)
        if job is not None and ordinal in session.jobs:
            self._settle(session, job, None)
            self._room.unpark_all()
        self.start_ready()

    def _settle(self, session: Session, job: Job, payload: bytes | None) -> None:
        del session.jobs[job.ordinal]
        key = jsonrpc.id_key(jsonrpc.request_id(job.message))
        if session.ids.get(key) == job.ordinal:
            del session.ids[key]
        self.counters.replies += 1
        now_s = trio.current_time()
        self.admission.gather.replied(session.id, now_s)
        self.meter.settled(job.tool.lane, job.admitted_s, now_s)
        if not job.cancelled:
            self.histograms.note(job.tool.lane, now_s - job.admitted_s)
        session.reply(job.ordinal, payload)
        session.note_settled()

    def fail(self, job: Job, problem: PalaceError) -> None:
        """Answer a job that will not run (or whose end will not be seen) with an error."""
        session = self.sessions.get(job.session)
        if session is not None and job.ordinal in session.jobs:
            ident = jsonrpc.request_id(job.message)
            reply = jsonrpc.failure(ident, refusal_of(job, problem))
            self._settle(session, job, jsonrpc.encode(reply))

    def answer_waiting(self, problem: PalaceError) -> None:
        for job in self.admission.withdraw():
            self.fail(job, problem)
        self._room.unpark_all()

    def hand_back(self, session: Session, jobs: list[Job]) -> bool:
        """Give unrun jobs back to their shim, which sends them to the next owner.

        Of those that an earlier owner may have begun it isn't said that they did not run: the next
        owner asks the journal.
        """
        if not session.closing:
            return False
        for job in jobs:
            session.jobs.pop(job.ordinal, None)
        session.goodbye(self._reason(), [job.ordinal for job in jobs if not job.maybe_ran])
        return True

    def _reason(self) -> str:
        return self.lifecycle.drain.reason.value if self.lifecycle.drain else ""

    def give_up_late_jobs(self, now_s: float) -> None:
        late = self.admission.expire(now_s)
        for job in late:
            text = (
                f"{job.name} waited {self.config.queue_wait_s:.0f} s and was not begun. Ask again."
            )
            self.fail(job, DeadlineExceeded(text))
        if late:
            self._room.unpark_all()

    def forget_lost_sessions(self, now_s: float) -> None:
        for session in tuple(self.sessions.values()):
            lost = session.stream is None and now_s - session.lost_s >= ABANDONED_S
            if lost and not session.jobs:
                del self.sessions[session.id]

    def answer_early(self, session: Session, catalogue: Catalogue) -> None:
        for ordinal, message in session.early:
            reply = jsonrpc.inline_reply(message, catalogue, read_only=session.read_only)
            session.reply(ordinal, None if reply is None else jsonrpc.encode(reply))
        session.early.clear()

    # Leaving.

    def stop(self, reason: Reason, *, grace_s: float | None = None, text: str = "") -> None:
        """Begin to drain, unless that has begun; one step, so nobody can slip in between."""
        drain = self.lifecycle.stop(reason, grace_s=grace_s, text=text)
        if drain is not None:
            self.drain(drain)

    def drain(self, drain: Drain) -> None:
        logger.info("leaving: %s %s", drain.reason.value, drain.text)
        self.kernel.trace(f"X0.{drain.reason.value}")
        try:
            endpoints.unpublish(self.owner, self.endpoint, self.kernel)
        except OSError as error:  # hints that stay behind mislead nobody: the lock decides
            logger.warning("record and socket were not removed: %s", error)
        self._withdraw()
        self.kernel.trace("X2.goodbye")  # before a shim can read its goodbye
        self.admission.draining = True
        back: dict[str, list[Job]] = {}
        for job in self._unbegun(drain):
            back.setdefault(job.session, []).append(job)
        for session in self.sessions.values():
            session.closing = True
            self.hand_back(session, back.get(session.id, []))
        self._room.unpark_all()
        self.draining.set()

    def _withdraw(self) -> None:
        try:
            if self.web is not None:
                self.web.withdraw()
        except OSError as error:  # stock looks whether its pid lives
            logger.warning("serverinfo.json was not removed: %s", error)

    def _unbegun(self, drain: Drain) -> list[Job]:
        """Return the admitted jobs that are better begun by the next owner.

        An outdated engine refuses changes, and a query must not overtake the change before it.
        """
        jobs: list[Job] = []
        if self.lifecycle.engine is EngineState.LOADING or drain.reason in HANDING_BACK:
            jobs += self.admission.withdraw()
        jobs += self.admission.withdraw(only=Lane.POLL)  # they wait for minutes
        for job in self.admission.running:
            if job.tool.lane is Lane.POLL:  # and may be asked again
                self.admission.cancel(job.session, job.ordinal)
                jobs.append(job)
        return jobs


def _message(job: Job) -> dict[str, Any]:
    assert isinstance(job.message, dict), "admission takes tool calls"
    return job.message


def refusal_of(job: Job, problem: PalaceError) -> PalaceError:
    """Return what a refused job is answered with: "not done" is only said of what never ran."""
    if job.tool.kind is Kind.QUERY or not job.maybe_ran or isinstance(problem, OutcomeUnknown):
        return problem
    return OutcomeUnknown(
        f"An earlier broker ended while {job.name} was under way: it may or may not have been "
        f"carried out, and was not begun again. {problem.message}"
    )
