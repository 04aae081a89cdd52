"""The broker: one nursery tree from the lock to the last reply.

    lanes                   outlive the sessions: admitted work is finished
      sessions              outlive accepting: replies are sent
        accepting           listener, signals, clocks, the engine's load

Indentation is lifetime, and teardown is the reverse of opening.
"""

import logging
import signal
import socket
from collections.abc import Callable
from functools import partial

import attrs
import trio

from palace.broker import endpoint as endpoints
from palace.broker.connections import serve_connection
from palace.broker.endpoint import Endpoint
from palace.broker.lanes import Lanes
from palace.broker.lock import Owner
from palace.broker.session import Session
from palace.broker.watchdog import Watchdog
from palace.config import Config
from palace.engine.api import Engine, Reply
from palace.engine.mempalace import load_error
from palace.host import Host
from palace.protocol import jsonrpc
from palace.protocol.admission import Admission, Job
from palace.protocol.errors import DeadlineExceeded, OutcomeUnknown, PalaceError
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.lifecycle import Drain, EngineState, Lifecycle, Reason
from palace.protocol.tools import Kind, Lane
from palace.transport.unix import accept_nowait, accept_one

CLOCK_S = 0.25
UPGRADE_CHECK_S = 2.0
CLOSE_S = 60.0
ABANDONED_S = 60.0  # how long a session without a connection keeps its replies
LAST_WORDS_S = 2.0  # to flush replies after the grace

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False)
class Counters:
    requests: int = 0
    replies: int = 0
    busy: int = 0
    refused: int = 0
    connections: int = 0


@attrs.define(eq=False, kw_only=True)
class Broker:
    """Everything one owner shares between its tasks; no task outlives `serve`."""

    owner: Owner
    config: Config
    engine: Engine
    host: Host
    endpoint: Endpoint | None
    mode: str
    catalogue: Catalogue | None
    admission: Admission
    lifecycle: Lifecycle
    lanes: Lanes
    sessions: dict[str, Session] = attrs.field(factory=dict)
    counters: Counters = attrs.field(factory=Counters)
    failure: PalaceError | None = None
    draining: trio.Event = attrs.field(factory=trio.Event)
    started_s: float = 0.0
    last_error: str = ""
    mourners: list[socket.socket] = attrs.field(factory=list)  # closed by the process's end
    _room: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    async def serve(
        self,
        *,
        direct: socket.socket | None = None,
        on_serving: Callable[[], None] = lambda: None,
    ) -> int:
        """Serve until a reason to leave has come; return the exit code.

        `direct` is the connection of the one client that this owner is a child of.
        `on_serving` is called once, when connections are accepted and the record says so.
        """
        self.started_s = trio.current_time()
        self.lifecycle.begin(self.started_s)
        endpoints.publish(self.owner, self.endpoint, self.host, mode=self.mode)
        async with trio.open_nursery() as lanes:
            self.lanes.start(lanes, self.finish)
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._load)
                    accepting.start_soon(self._watch_signals)
                    accepting.start_soon(self._watch_clock)
                    accepting.start_soon(self._watch_upgrade)
                    lanes.start_soon(self._watchdog().serve)
                    if direct is not None:
                        sessions.start_soon(partial(serve_connection, self, direct, direct=True))
                    if self.endpoint is not None:
                        accepting.start_soon(self._accept, self.endpoint.socket, sessions)
                    on_serving()
                    await self.draining.wait()
                    accepting.cancel_scope.cancel()
                self._hang_up(sessions)
                await self._end_sessions(sessions)
            await self._close_engine()
            lanes.cancel_scope.cancel()
        assert self.lifecycle.drain is not None
        return 70 if self.lifecycle.drain.reason is Reason.FAILED else 0

    # Requests.

    def note_activity(self) -> None:
        self.counters.requests += 1
        self.lifecycle.active(trio.current_time())

    async def wait_for_room(self) -> None:
        """Return when a queue may have become shorter."""
        await self._room.park()

    def start_ready(self) -> None:
        """Hand to the lanes what may run now."""
        if self.failure is not None:
            self._answer_waiting(self.failure)
            return
        started = self.admission.take_ready()
        for job in started:
            session = self.sessions.get(job.session)
            self.lanes.run(job, read_only=session is not None and session.read_only)
        if started:  # the queue became shorter
            self._room.unpark_all()

    def finish(self, job: Job, reply: Reply) -> None:
        """Take a lane's result: the reply goes out, and others may start."""
        self.admission.finish(job)
        session = self.sessions.get(job.session)
        if reply.outdated:
            self.stop(Reason.UPGRADE)
        if session is not None and job.ordinal in session.jobs:
            if reply.outdated and self._hand_back(session, [job]):
                pass
            else:
                self._settle(session, job, None if job.cancelled else reply.payload)
        self.start_ready()

    def cancel(self, session: Session, ordinal: int) -> None:
        """Drop a call that hasn't started, or the reply of one that has."""
        job = self.admission.cancel(session.id, ordinal)
        if job is not None and not self.admission.is_running(session.id, ordinal):
            self._settle(session, job, None)
            self._room.unpark_all()
        self.start_ready()

    def _settle(self, session: Session, job: Job, payload: bytes | None) -> None:
        del session.jobs[job.ordinal]
        key = jsonrpc.id_key(jsonrpc.request_id(job.message))
        if session.ids.get(key) == job.ordinal:
            del session.ids[key]
        self.counters.replies += 1
        session.reply(job.ordinal, payload)
        session.note_settled()

    def fail(self, job: Job, problem: PalaceError) -> None:
        """Answer a job that will not run (or whose end will not be seen) with an error."""
        session = self.sessions.get(job.session)
        if session is not None and job.ordinal in session.jobs:
            ident = jsonrpc.request_id(job.message)
            self._settle(session, job, jsonrpc.encode(jsonrpc.failure(ident, problem)))

    def _answer_waiting(self, problem: PalaceError) -> None:
        for job in self.admission.withdraw():
            self.fail(job, problem)
        self._room.unpark_all()

    def _hand_back(self, session: Session, jobs: list[Job]) -> bool:
        """Give unrun jobs back to their shim, which sends them to the next owner."""
        if session.stream is None or not session.closing:
            return False
        for job in jobs:
            session.jobs.pop(job.ordinal, None)
        session.goodbye(self._reason(), [job.ordinal for job in jobs])
        return True

    def _reason(self) -> str:
        return self.lifecycle.drain.reason.value if self.lifecycle.drain else ""

    # Leaving.

    def stop(self, reason: Reason, *, grace_s: float | None = None, text: str = "") -> None:
        """Begin to drain, unless that has begun; one step, so nobody can slip in between."""
        drain = self.lifecycle.stop(reason, grace_s=grace_s, text=text)
        if drain is not None:
            self._drain(drain)

    def _drain(self, drain: Drain) -> None:
        logger.info("leaving: %s %s", drain.reason.value, drain.text)
        endpoints.unpublish(self.owner, self.endpoint, self.host)
        self.admission.draining = True
        back: dict[str, list[Job]] = {}
        for job in self._unbegun(drain):
            back.setdefault(job.session, []).append(job)
        for session in self.sessions.values():
            session.closing = True
            jobs = back.get(session.id, [])
            if not self._hand_back(session, jobs):
                session.note_settled()
        self._room.unpark_all()
        self.draining.set()

    def _unbegun(self, drain: Drain) -> list[Job]:
        """Return the admitted jobs that are better begun by the next owner."""
        jobs: list[Job] = []
        if self.lifecycle.engine is EngineState.LOADING:
            jobs += self.admission.withdraw()
        elif drain.reason is Reason.UPGRADE:
            jobs += self.admission.withdraw(only_mutations=True)
        for job in self.admission.running:
            if job.tool.lane is Lane.POLL:  # waits for minutes, and may be asked again
                self.admission.cancel(job.session, job.ordinal)
                jobs.append(job)
        return jobs

    def _hang_up(self, sessions: trio.Nursery) -> None:
        """X3 and X4: tell whoever still waits in the backlog, then stop listening."""
        if self.endpoint is None:
            return
        while (sock := accept_nowait(self.endpoint.socket)) is not None:
            sessions.start_soon(serve_connection, self, sock)
        trio.lowlevel.notify_closing(self.endpoint.socket)
        self.endpoint.socket.close()

    async def _end_sessions(self, sessions: trio.Nursery) -> None:
        """Wait for admitted work for as long as the grace lasts, then name what is left."""
        assert self.lifecycle.drain is not None
        with trio.move_on_after(self.lifecycle.drain.grace_s):
            for session in tuple(self.sessions.values()):
                await session.settled.wait()
        for job in self.admission.withdraw():
            owner = self.sessions.get(job.session)
            if owner is None or not self._hand_back(owner, [job]):
                self.fail(job, OutcomeUnknown("The broker left before this was begun: repeat it."))
        for job in self.admission.running:
            self.fail(job, _unfinished(job))
        sessions.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S

    async def _close_engine(self) -> None:
        """X5; a store that is still in use, or won't close, is left as after a crash."""
        if self.lifecycle.engine is not EngineState.READY:
            return
        if any(job.tool.lane is not Lane.POLL for job in self.admission.running):
            logger.warning("leaving while a call still runs: the store is not closed")
            return
        with trio.move_on_after(CLOSE_S):
            await trio.to_thread.run_sync(self.engine.close, abandon_on_cancel=True)

    # Tasks that end when draining begins.

    async def _accept(self, listener: socket.socket, sessions: trio.Nursery) -> None:
        while True:
            try:
                sock = await accept_one(listener)
            except OSError as error:  # EMFILE, ENFILE, ENOMEM: those connected go on
                logger.warning("accept failed: %s", error)
                await trio.sleep(0.1)
                continue
            sessions.start_soon(serve_connection, self, sock)

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                self.stop(Reason.STOP, text=signal.Signals(number).name)

    async def _watch_clock(self) -> None:
        while True:
            await trio.sleep(CLOCK_S)
            now_s = trio.current_time()
            self._give_up_late_jobs(now_s)
            if not self.host.same_file(self.owner.lock_fd, self.owner.paths.lock):
                self.stop(Reason.MOVED, text="the palace was moved or its lock file replaced")
            self._forget_lost_sessions(now_s)
            drain = self.lifecycle.tick(now_s, busy=self.admission.busy)
            if drain is not None:
                self._drain(drain)

    def _give_up_late_jobs(self, now_s: float) -> None:
        late = self.admission.expire(now_s)
        for job in late:
            text = (
                f"{job.name} waited {self.config.queue_wait_s:.0f} s and was not begun. Ask again."
            )
            self.fail(job, DeadlineExceeded(text))
        if late:
            self._room.unpark_all()

    def _forget_lost_sessions(self, now_s: float) -> None:
        for session in tuple(self.sessions.values()):
            lost = session.stream is None and now_s - session.lost_s >= ABANDONED_S
            if lost and not session.jobs:
                del self.sessions[session.id]

    async def _watch_upgrade(self) -> None:
        while True:
            await trio.sleep(UPGRADE_CHECK_S)
            if self.lifecycle.engine is not EngineState.READY:
                continue
            change = await trio.to_thread.run_sync(self.engine.replaced)
            if change:
                self.stop(Reason.UPGRADE, text=change)

    def _watchdog(self) -> Watchdog:
        return Watchdog(
            limit_s=self.config.watchdog_s,
            progress=self.engine.progress,
            writing=lambda: any(job.tool.kind is not Kind.QUERY for job in self.admission.running),
        )

    async def _load(self) -> None:
        """B9: open the store, off the loop; calls wait in admission meanwhile."""
        try:
            catalogue = await trio.to_thread.run_sync(self.engine.load, abandon_on_cancel=True)
        except Exception as error:
            logger.exception("the engine could not be loaded")
            self.failure = load_error(error)
            self.last_error = self.failure.message
            self.lifecycle.load_failed(self.failure.message, trio.current_time())
            self._answer_waiting(self.failure)
            return
        self.catalogue = catalogue
        self.lifecycle.loaded(trio.current_time())
        logger.info("ready: mempalace %s", catalogue.engine_version)
        await self._keep_catalogue(catalogue)
        for session in self.sessions.values():
            self._answer_early(session, catalogue)
        self.admission.ready = True
        self.start_ready()

    async def _keep_catalogue(self, catalogue: Catalogue) -> None:
        path, text = self.owner.paths.catalogue, catalogue.to_json()
        try:
            if self.host.read_file(path) != text:
                await trio.to_thread.run_sync(self.host.write_durable, path, text)
        except OSError as error:  # a cache: shims then answer from the shipped one
            logger.warning("the tool catalogue was not kept: %s", error)

    def _answer_early(self, session: Session, catalogue: Catalogue) -> None:
        for ordinal, message in session.early:
            reply = jsonrpc.inline_reply(message, catalogue, read_only=session.read_only)
            session.reply(ordinal, None if reply is None else jsonrpc.encode(reply))
        session.early.clear()


def _unfinished(job: Job) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"The broker had to leave while {job.name} was still running: it may or may not have been "
        "carried out. Look before you repeat it."
    )
