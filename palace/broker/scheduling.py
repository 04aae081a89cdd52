"""Scheduling: from an offered call to its reply.

    offer -> admission -> lane (a thread of the engine's) -> reply, once it is durable

Everything here is one step of the loop, but for the waits that are named so.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import outcome
import trio

from palace.broker.lanes import Lanes
from palace.broker.principals import bound_principal
from palace.broker.progress import ProgressNotes
from palace.broker.services import Services
from palace.broker.session import LiveSession
from palace.broker.sessions import Sessions
from palace.broker.telemetry.redaction import redacted
from palace.broker.telemetry.telemetry import Telemetry
from palace.engine.api import Call, Reply, goes_on
from palace.engine.batch import Batch
from palace.protocol import extras, jsonrpc, modern
from palace.protocol.admission import Admission, Job
from palace.protocol.claims import CLAIMING, is_claim
from palace.protocol.errors import DeadlineExceeded, OutcomeUnknown, PalaceError
from palace.protocol.lifecycle import Lifecycle, Reason
from palace.protocol.request import ExtraCall
from palace.protocol.resend import in_doubt
from palace.protocol.tools import Kind, Lane

logger = logging.getLogger("palace.broker")


class Stop(Protocol):
    """How a part of the broker asks for its end (`Leaving.stop`)."""

    def __call__(self, reason: Reason, *, text: str = "") -> None: ...


def _look_nowhere(_now_s: float) -> None:
    return


@attrs.define(eq=False, kw_only=True)
class Scheduler:
    """Runs admitted calls and answers them.  `failure` is why the engine could not be loaded.

    `withhold` tells whether a reply may not leave, since the directory is not where it was: this
    owner is about to go, and the next one answers.  It is told whether the reply's outcome is
    durable in the journal, wherever that lies now, and whether a look of a moment ago will do.
    """

    services: Services
    lifecycle: Lifecycle
    telemetry: Telemetry
    sessions: Sessions
    admission: Admission
    lanes: Lanes
    progress: ProgressNotes
    failure: PalaceError | None = None
    may_answer: trio.Event = attrs.field(factory=trio.Event)  # set once, by engine or copy
    report: Callable[[], dict[str, Any]] | None = None  # what a copy that answers is like
    withhold: Callable[[bool, bool], bool] = lambda _recorded, _lately: False
    note_promise: Callable[[], None] = lambda: None  # called before a change is answered
    _stop: Stop | None = None
    _handed_on: set[tuple[str, int]] = attrs.field(factory=set)
    _withheld: list[Job] = attrs.field(factory=list)
    _look: Callable[[float], None] = _look_nowhere
    _finished: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _room: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _held: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def start(self, stop: Stop, look: Callable[[float], None] = _look_nowhere) -> None:
        """Let the lanes run in this loop; `stop` is called where the engine can't go on.

        `look` is called with the time before calls begin, and may stop the owner.
        """
        self._stop = stop
        self._look = look
        self.lanes.start(finish=self.finish, deliver=self.deliver)

    # Starting.

    async def wait_for_room(self) -> None:
        """Return when a queue may have become shorter."""
        await self._room.park()

    def admit(self, session: LiveSession, job: Job) -> None:
        """Run, when its turn comes, a job that admission has just taken."""
        session.machine.admit(job.ordinal, job.request)
        self.progress.watch(job)
        self.start_ready()

    def engine_ready(self) -> None:
        """Start what has waited for the engine."""
        self.admission.ready = True
        self.may_answer.set()
        self.admission.model_pending = self.services.engine.model().pending
        self.start_ready()

    def begin_reading(
        self, answer: Callable[[Call], Reply], report: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Let queries be answered by `answer`, in their lanes, while the engine can't be loaded.

        `report` says what it answers from, for `palace status`.
        """
        self.lanes.substitute, self.report = answer, report
        self.admission.reading = True
        self.may_answer.set()
        self.start_ready()

    async def end_reading(self) -> None:
        """Return once none is: those that come now wait for the engine."""
        self.admission.reading = False
        await self.wait_for_calls()
        self.lanes.substitute = self.report = None

    def look_at_model(self) -> None:
        """Start what has waited for the embedding model, once it is there or not to be had."""
        if self.admission.model_pending and not self.services.engine.model().pending:
            self.admission.model_pending = False
            self.start_ready()

    def engine_failed(self, failure: PalaceError) -> None:
        """Answer what has waited for the engine, and what comes later, with its failure."""
        self.failure = failure
        self.start_ready()

    def start_ready(self) -> None:
        """Hand to the lanes what may run now."""
        if self.failure is not None:
            self.answer_waiting(self.failure)
            if not self.admission.reading:
                return
        if not self.admission.waiting:  # as at the end of most calls
            self.admission.held = False
            return
        now_s = trio.current_time()
        self._look(now_s)  # a process that was stopped may have lost its locks meanwhile
        started = self.admission.take_ready(now_s)
        batch = self._batch([job for job in started if job.group])
        for job in started:
            running = self.admission.in_lane(job.tool.lane)
            self.telemetry.meter.began(job.tool.lane, running)
            self.lanes.run(job, self._call(job, batch if job.group else None), running=running)
        if started:  # the queue became shorter
            self._room.unpark_all()
        if self.admission.held:
            self._held.unpark_all()

    async def serve_batches(self) -> None:
        """Start batches that waited for others in vain; runs until cancelled."""
        while True:
            while not self.admission.held:
                await self._held.park()
            with trio.move_on_at(self.admission.wake_s):
                await self._held.park()
                continue  # something else is held, perhaps for less
            self.start_ready()

    def _batch(self, jobs: list[Job]) -> Batch[Any] | None:
        if not jobs:
            return None
        self.telemetry.meter.batch(len(jobs))
        return self.services.engine.batch([job.request.message for job in jobs])

    def _call(self, job: Job, batch: Batch[Any] | None) -> Call:
        session = self.sessions.get(job.session)
        return Call(
            request=job.request,
            session=job.session,
            ordinal=job.ordinal,
            read_only=session is not None and session.hello.read_only,
            maybe_ran=job.maybe_ran,
            epoch=session.hello.epoch if session is not None else 0,
            elsewhere=session is not None and job.ordinal in session.hello.elsewhere,
            client=session.client if session is not None else "",
            party=job.party,
            batch=batch,
            principal=bound_principal(self.services, session),
            is_stopping=(lambda: job.stopping) if job.tool.lane is Lane.BULK else goes_on,
        )

    # Ending.

    def finish(self, job: Job, result: outcome.Outcome[Reply]) -> None:
        """Take a lane's result: others may start; a reply that needs the journal comes later."""
        self.admission.finish(job, trio.current_time())
        if isinstance(result, outcome.Error):
            logger.error("%s failed in the engine", job.name, exc_info=result.error)
            self.telemetry.note_error(f"{job.name} failed in the engine: {redacted(result.error)}")
            self.fail(job, OutcomeUnknown(f"{job.name} failed in the engine: {result.error!r}."))
        else:
            self._finish(job, result.unwrap())
        self._finished.unpark_all()
        self.start_ready()

    def _finish(self, job: Job, reply: Reply) -> None:
        assert self._stop is not None
        if reply.outdated:
            self._stop(Reason.UPGRADE)
        elif reply.reopen:
            self.telemetry.note_error(reply.reopen)
            self._stop(Reason.FAILED, text=reply.reopen)
        elif reply.stuck:
            self._stop(Reason.FAILED, text="a store refused changes: the next owner sees to it")
        session = self._asking(job)
        if session is None or reply.seq or self._withholds(job, recorded=False):
            return
        is_unrun = reply.outdated or bool(reply.reopen)
        if not (is_unrun and self.hand_back(session, [job])):
            self._settle(session, job, reply.payload)

    def deliver(self, job: Job, reply: Reply, problem: PalaceError | None) -> None:
        """Send a reply whose outcome is durable now, or can't be.

        It may come before `finish`, since another thread tells of it: the lane is then still taken,
        which a client can't see.
        """
        if self._withholds(job, recorded=True):
            return
        if problem is not None:
            self.telemetry.note_error(problem.message)
            text = f"{job.name} was carried out, but that may not be lasting. {problem.message}"
            self.fail(job, OutcomeUnknown(text))
            return
        session = self._asking(job)
        if session is not None:
            self._settle(session, job, reply.payload)

    def _withholds(self, job: Job, *, recorded: bool) -> bool:
        """Tell whether a reply stays here: its client asks the next owner, which knows the truth.

        That goes for failures, too, which may come of nothing but the files being elsewhere.
        """
        if not self._may_be_asked_again(job):
            self.note_promise()  # no journal knows what it has changed
            return False
        if not self.withhold(recorded, job.tool.kind is Kind.QUERY):
            return False
        self._withheld.append(job)
        if self.admission.draining:
            self._let_go_of_withheld()
        return True

    def _let_go_of_withheld(self) -> None:
        while self._withheld:
            self._settle_unanswered(self._withheld.pop())

    def _asking(self, job: Job) -> LiveSession | None:
        """Return the session that still waits for a job's reply, if any does."""
        session = self.sessions.get(job.session)
        return session if session is not None and job.ordinal in session.machine.calls else None

    def cancel(self, session: LiveSession, ordinal: int, *, unbegun: bool = False) -> None:
        """Drop a call that hasn't started, or the reply of one that has.

        `unbegun`: a change that has started is only asked to end early, and says how it ended.
        """
        call = session.machine.calls.get(ordinal)
        is_change = call is not None and call.tool.kind is not Kind.QUERY
        if unbegun and is_change and self.admission.is_running(session.id, ordinal):
            self.admission.stop(session.id, ordinal)
            return
        job = self.admission.cancel(session.id, ordinal)
        if job is not None and ordinal in session.machine.calls:
            self._settle(session, job, None)
            self._room.unpark_all()
        self.start_ready()

    def may_abandon(self, session: LiveSession) -> bool:
        """Tell whether none of a session's calls is a change that has begun."""
        return all(
            call.tool.kind is Kind.QUERY or self.admission.is_waiting(session.id, ordinal)
            for ordinal, call in session.machine.calls.items()
        )

    def abandon(self, session: LiveSession) -> None:
        """Drop all calls of a session whose client has left: it sends them again if it returns."""
        for ordinal in tuple(session.machine.calls):
            job = self.admission.cancel(session.id, ordinal)
            session.machine.settle(ordinal)
            if job is not None:
                self.progress.forget(job)
        session.note_settled()
        self._room.unpark_all()

    def _settle(self, session: LiveSession, job: Job, payload: bytes | None) -> None:
        session.machine.settle(job.ordinal)
        self.progress.forget(job)
        if payload is not None and job.name in CLAIMING:
            self._note_claim(session, job, payload)
        now_s = trio.current_time()
        self.admission.window.replied(session.id, now_s)
        self.telemetry.answered(job, now_s)
        if payload is not None and isinstance(job.request, ExtraCall):
            payload = extras.shaped(job.request.asked, payload, modern=job.request.modern)
        if payload is not None and job.request.modern:
            payload = modern.in_modern_form(payload, job.request.id, self.services.catalogue)
        session.reply(job.ordinal, payload)
        if session.is_choked:
            self.admission.choked.add(session.id)
        elif session.machine.dropped:
            self._drop_queries(session)
        session.note_settled()

    def _note_claim(self, session: LiveSession, job: Job, payload: bytes) -> None:
        if is_claim(job.name, job.request.arguments):
            from palace.broker.task_claims import note_claim  # where tasks are claimed alone

            note_claim(session, self.telemetry.tasks, payload)

    def ease(self, session: LiveSession) -> None:
        """Let a session's calls begin again: its replies were read, or its client has gone."""
        if session.id in self.admission.choked:
            self.admission.choked.discard(session.id)
            self.start_ready()

    def _drop_queries(self, session: LiveSession) -> None:
        """Drop the waiting queries of a client that has gone and left more than is kept for it."""
        for ordinal, call in tuple(session.machine.calls.items()):
            if call.tool.kind is Kind.QUERY and self.admission.is_waiting(session.id, ordinal):
                job = self.admission.cancel(session.id, ordinal)
                session.machine.settle(ordinal)
                if job is not None:
                    self.progress.forget(job)

    def fail(self, job: Job, problem: PalaceError) -> None:
        """Answer a job that will not run (or whose end will not be seen) with an error."""
        session = self._asking(job)
        if session is not None:
            reply = jsonrpc.failure(job.request.id, refusal_of(job, problem))
            self._settle(session, job, jsonrpc.encode(reply))

    def answer_waiting(self, problem: PalaceError) -> None:
        """Answer everything that has not begun with an error, but what a copy can answer."""
        for job in self.admission.withdraw(keep_readable=self.admission.reading):
            self.fail(job, problem)
        self._room.unpark_all()

    def give_up_late(self, now_s: float) -> None:
        """Answer what has waited for too long."""
        late = self.admission.expire(now_s)
        for job in late:
            waited_s = self.services.config.queue_wait_s
            text = f"{job.name} waited {waited_s:.0f} s and was not begun. Ask again."
            self.fail(job, DeadlineExceeded(text))
        if late:
            self._room.unpark_all()

    # Leaving.

    def drain(self, *, hand_back_all: bool) -> dict[str, list[Job]]:
        """Admit nothing more; return, by session, what the next owner had better begin.

        Long-polls are among it: they would hold the drain up for minutes, and may be asked again.
        """
        self.admission.draining = True
        hand_back_all = hand_back_all or self.admission.model_pending  # nobody waits for a fetch
        jobs = self.admission.withdraw() if hand_back_all else []
        jobs += self.admission.withdraw(only=Lane.POLL)
        for job in self.admission.running:
            if job.tool.lane is Lane.POLL:
                self.admission.cancel(job.session, job.ordinal)
                jobs.append(job)
        self._let_go_of_withheld()
        unbegun: dict[str, list[Job]] = {}
        for job in jobs:
            unbegun.setdefault(job.session, []).append(job)
        return unbegun

    def end_offers(self) -> None:
        """Let those who wait for room see that none will come."""
        self._room.unpark_all()

    def hand_back(self, session: LiveSession, jobs: list[Job]) -> bool:
        """Give unrun jobs back to their shim, which sends them to the next owner.

        Of those that an earlier owner may have begun it isn't said that they did not run: the next
        owner asks the journal.
        """
        if not session.is_leaving:
            return False
        for job in jobs:
            if job.ordinal in session.machine.calls:
                session.machine.settle(job.ordinal)
                self.progress.forget(job)
        drain = self.lifecycle.drain
        session.goodbye(
            drain.reason.value if drain else "",
            [job.ordinal for job in jobs if not job.maybe_ran],
            away=drain.away if drain else "",
        )
        return True

    def hand_on(self, job: Job) -> None:
        """Leave a running job unanswered if the next owner can decide what has become of it.

        Its shim sends it again as one that may have run, just as if this process had been killed:
        the journal then has its reply, or takes back what it did.
        """
        if not self._may_be_asked_again(job):
            return
        self._handed_on.add(job.key)
        self._settle_unanswered(job)

    def _may_be_asked_again(self, job: Job) -> bool:
        """Tell whether the next owner can decide what has become of a job that has begun."""
        if job.tool.kind is Kind.QUERY:
            return True
        return job.tool.kind is not Kind.EXTERNAL and self.services.engine.resumes()

    def _settle_unanswered(self, job: Job) -> None:
        """Wait for a job's reply no longer: its shim sends it again as one that may have run."""
        self.progress.forget(job)
        session = self._asking(job)
        if session is not None:
            session.machine.settle(job.ordinal)
            session.note_settled()

    async def wait_for_calls(self) -> None:
        """Return when nothing runs but long-polls and what was handed on; cancelled calls count."""
        while any(
            job.tool.lane is not Lane.POLL and job.key not in self._handed_on
            for job in self.admission.running
        ):
            await self._finished.park()

    @property
    def runs_calls(self) -> bool:
        """Tell whether anything but long-polls runs."""
        return any(job.tool.lane is not Lane.POLL for job in self.admission.running)

    @property
    def writes(self) -> bool:
        """Tell whether something runs that may change the palace."""
        return any(job.exclusive for job in self.admission.running)

    @property
    def may_write(self) -> bool:
        """Tell whether something runs that may change the palace, or may still begin to."""
        return self.writes or self.admission.waiting > 0

    def end(self) -> None:
        """Let idle threads end; what still runs is left to the end of the process."""
        self.lanes.end()


def refusal_of(job: Job, problem: PalaceError) -> PalaceError:
    """Return what a refused job is answered with: "not done" is only said of what never ran."""
    if job.tool.kind is Kind.QUERY or not job.maybe_ran or isinstance(problem, OutcomeUnknown):
        return problem
    return in_doubt(job.name, problem)
