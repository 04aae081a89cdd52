"""Leaving: from a reason to go to a closed store (steps X0 to X5 of the protocol).

    stop          decide, unpublish, say goodbye: one step of the loop, so that no client can find
                  the palace and meet a broker that no longer takes work
    hang_up       answer the backlog, then stop listening
    finish_work   wait for admitted work as long as the grace lasts, then name what is left
    close_engine  close the store, unless a call still uses it

The order is the promise: a name goes before the work behind it does, and the lock, which is not
released here at all but by the end of the process, goes after the store.
"""

import logging
import socket
from collections.abc import Callable

import attrs
import trio

from palace.broker import endpoint as endpoints
from palace.broker.scheduling import Scheduler
from palace.broker.services import Services
from palace.broker.sessions import Sessions
from palace.protocol.admission import Job
from palace.protocol.errors import OutcomeUnknown, PalaceError
from palace.protocol.lifecycle import Drain, EngineState, Lifecycle, Reason
from palace.transport.unix import accept_nowait

CLOSE_S = 60.0
PATIENCE_S = 5.0  # for work that the next owner can do as well
# What waits is better begun by the next owner; where the locks are lost it must not begin here.
HANDING_BACK = (Reason.UPGRADE, Reason.FAILED, Reason.MOVED)
# What ended the owner isn't known, or the journal may be another's by now.
BLAMING = (Reason.FAILED, Reason.MOVED)
NOTE_S = 2.0

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False, kw_only=True)
class Leaving:
    """One owner's way out.

    `begun` is set once the first reason to leave has come.  `withdraw` removes what else was
    published, and may raise OSError.  `open_to_the_end` are sockets that the process's end closes.
    """

    services: Services
    lifecycle: Lifecycle
    sessions: Sessions
    scheduler: Scheduler
    begun: trio.Event = attrs.field(factory=trio.Event)
    withdraw: Callable[[], None] = lambda: None
    open_to_the_end: list[socket.socket] = attrs.field(factory=list)

    def stop(
        self, reason: Reason, *, grace_s: float | None = None, text: str = "", away: str = ""
    ) -> None:
        """Begin to leave, unless that has begun; one step, so that no request slips in between.

        `away` is the palace that clients are carried to (Reason.AWAY).
        """
        drain = self.lifecycle.stop(reason, grace_s=grace_s, text=text, away=away)
        if drain is not None:
            self._begin(drain)

    def tick(self, now_s: float) -> None:
        """Leave if the clock says so."""
        # An engine that could not be loaded again is not given up for being idle.
        engine = self.services.engine
        busy = self.scheduler.admission.busy or engine.adopts() or bool(engine.outlives())
        drain = self.lifecycle.tick(now_s, busy=busy)
        if drain is not None:
            self._begin(drain)

    def _begin(self, drain: Drain) -> None:
        trace = self.services.kernel.trace
        logger.info("leaving: %s %s", drain.reason.value, drain.text)
        trace(f"X0.{drain.reason.value}")
        self.services.life.leaving(drain.reason.value)
        # Names first: a shim that reads its goodbye looks for the next owner at once, and must not
        # be led back here.
        self.unpublish()
        trace("X2.goodbye")  # before a shim can read its goodbye
        # Then the queue, and only then the goodbyes, which say what the queue still held: a line
        # admitted between the two would be in neither.  An outdated engine refuses changes, and a
        # query must not overtake the change before it, so there everything goes back.
        loading = self.lifecycle.engine in (EngineState.WAITING, EngineState.LOADING)
        unbegun = self.scheduler.drain(hand_back_all=loading or drain.reason in HANDING_BACK)
        for session in self.sessions:
            session.machine.leave()
            self.scheduler.hand_back(session, unbegun.get(session.id, []))
        self.scheduler.end_offers()
        self.begun.set()

    def unpublish(self) -> None:
        """Remove what leads clients here; a name that stays behind misleads none."""
        services = self.services
        try:
            endpoints.unpublish(services.ownership, services.endpoint, services.kernel)
        except OSError as error:  # hints that stay behind mislead no client: the lock decides
            logger.warning("record and socket were not removed: %s", error)
        try:
            self.withdraw()
        except OSError as error:  # stock checks that its pid lives
            logger.warning("serverinfo.json was not removed: %s", error)

    def hang_up(self, serve: Callable[[socket.socket], None]) -> None:
        """X3 and X4: let `serve` tell those who still wait in the backlog, then stop listening."""
        trace, endpoint = self.services.kernel.trace, self.services.endpoint
        if endpoint is None:
            trace("X4.hangup")
            return
        try:
            while (sock := accept_nowait(endpoint.socket)) is not None:
                serve(sock)
        except OSError as error:  # no descriptor left: the kernel hangs up on the rest
            logger.warning("the backlog was not answered: %s", error)
        trace("X4.hangup")  # before the kernel resets those who come too late
        trio.lowlevel.notify_closing(endpoint.socket)
        endpoint.socket.close()

    async def tell_journal(self) -> None:
        """Note that this is no death, while something runs that may have to be cut off.

        Early: after the first signal a second one ends the process.
        """
        assert self.lifecycle.drain is not None
        loading = self.lifecycle.engine is EngineState.LOADING  # it may be taking something back
        if self.lifecycle.drain.reason in BLAMING or not (loading or self.scheduler.may_write):
            return
        try:
            with trio.move_on_after(NOTE_S):
                leave = self.services.engine.leave
                await trio.to_thread.run_sync(leave, abandon_on_cancel=True)
        except PalaceError as error:  # at worst a call is suspected that did no harm
            logger.warning("the journal could not be told of the leave: %s", error)

    async def finish_work(self) -> None:
        """Wait for admitted work for as long as the grace lasts, then name what is left.

        What the next owner can go on with is waited for only shortly: everybody's next call waits
        for that owner meanwhile.
        """
        assert self.lifecycle.drain is not None
        scheduler, grace_s = self.scheduler, self.lifecycle.drain.grace_s
        patience_s = min(grace_s, PATIENCE_S) if self._is_succeeded else grace_s
        cut = not await self._work_ends(patience_s)
        if cut:
            self._hand_on()
            await self._work_ends(grace_s - patience_s)
        self.services.kernel.trace("X4.grace" if cut else "X4.settled")
        for job in scheduler.admission.running:
            scheduler.fail(job, _unfinished(job))

    @property
    def _is_succeeded(self) -> bool:
        """Tell whether an owner may come as soon as this one has gone."""
        drain, services = self.lifecycle.drain, self.services
        assert drain is not None
        on_hold = services.kernel.read_hint(services.ownership.paths.hold) is not None
        return drain.reason in (Reason.STOP, *HANDING_BACK) and not on_hold

    async def _work_ends(self, timeout_s: float) -> bool:
        """Wait for admitted work that has not been handed on; False where it takes too long."""
        with trio.move_on_after(timeout_s) as grace:
            for session in self.sessions:
                await session.settled.wait()
            await self.scheduler.wait_for_calls()
        return not grace.cancelled_caught

    def _hand_on(self) -> None:
        """Leave to the next owner what has not begun, and what its journal can decide."""
        scheduler = self.scheduler
        for job in scheduler.admission.withdraw():
            asking = self.sessions.get(job.session)
            if asking is None or not scheduler.hand_back(asking, [job]):
                text = "The broker left before this was begun: repeat it."
                scheduler.fail(job, OutcomeUnknown(text))
        for job in scheduler.admission.running:
            scheduler.hand_on(job)

    async def close_engine(self) -> None:
        """X5; a store that is still in use, or won't close, is left as after a crash."""
        closed = await self._close()
        self.services.kernel.trace("X5.close" if closed else "X5.abandon")

    async def _close(self) -> bool:
        if self.lifecycle.engine is not EngineState.READY:
            return False
        if self.scheduler.runs_calls:
            logger.warning("leaving while a call still runs: the store is not closed")
            return False
        try:
            with trio.move_on_after(CLOSE_S) as closing:
                await trio.to_thread.run_sync(self.services.engine.close, abandon_on_cancel=True)
        except Exception:
            logger.exception(
                "the store could not be closed: the next owner finds it as after a crash"
            )
            return False
        return not closing.cancelled_caught

    @property
    def exit_code(self) -> int:
        assert self.lifecycle.drain is not None
        return 70 if self.lifecycle.drain.reason in (Reason.FAILED, Reason.AWAY) else 0


def _unfinished(job: Job) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"The broker had to leave while {job.name} was still running: it may or may not have been "
        "carried out. Look before you repeat it."
    )
