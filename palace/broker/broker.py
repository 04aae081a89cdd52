"""The broker: one nursery tree from the lock to the last reply.

    watching                outlives the sessions: a stuck writer is noticed to the end
      sessions              outlive accepting: replies are sent
        accepting           listener, signals, clocks, the engine's load

The lanes' threads run beside it; sessions wait for them, so admitted work is finished.

Indentation is lifetime, and teardown is the reverse of opening.
"""

import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from palace.broker import endpoint as endpoints
from palace.broker.connections import serve_socket
from palace.broker.desk import Desk
from palace.broker.http.service import Web
from palace.broker.watchdog import Watchdog
from palace.engine.hosting.mempalace import load_error
from palace.protocol.admission import Job
from palace.protocol.errors import OutcomeUnknown
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.lifecycle import EngineState, Reason
from palace.protocol.tools import Lane
from palace.transport.unix import accept_nowait, accept_one

if TYPE_CHECKING:
    from palace.broker.guests import Guests

CLOCK_S = 0.25
UPGRADE_CHECK_S = 2.0
LISTEN_AGAIN_S = 5.0
CLOSE_S = 60.0
LAST_WORDS_S = 2.0  # to flush replies after the grace

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False)
class Broker:
    """Runs the tasks of one owner; none of them outlives `serve`."""

    desk: Desk
    guests: "Guests | None" = None
    _root_id: tuple[int, int] | None = None

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
        self.desk.started_s = trio.current_time()
        self.desk.since = self.desk.kernel.utc_text()
        self.desk.lifecycle.begin(self.desk.started_s)
        self._root_id = self.desk.kernel.file_id(self.desk.owner.paths.root)
        self.guests = self._make_guests()
        if self.guests is not None:
            await self.guests.listen()
        self.desk.web = Web.of(self.desk)
        self._publish()
        self.desk.lanes.start(self.desk.finish)
        async with trio.open_nursery() as watching:
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._load)
                    accepting.start_soon(self._watch_signals)
                    accepting.start_soon(self._watch_clock)
                    accepting.start_soon(self._watch_upgrade)
                    watching.start_soon(self._watchdog().serve)
                    watching.start_soon(self._watch_batches)
                    if direct is not None:
                        sessions.start_soon(partial(serve_socket, self.desk, direct, direct=True))
                    if self.desk.endpoint is not None:
                        accepting.start_soon(self._accept, self.desk.endpoint.socket, sessions)
                    if self.guests is not None:
                        accepting.start_soon(self._accept_guests, self.guests, sessions)
                    if self.desk.web is not None:
                        accepting.start_soon(self.desk.web.serve, sessions)
                    on_serving()
                    await self.desk.draining.wait()
                    accepting.cancel_scope.cancel()
                self._hang_up(sessions)
                if self.guests is not None:
                    await self.guests.close()
                if self.desk.web is not None:
                    await self.desk.web.hang_up()
                await self._end_sessions(sessions)
            await self._close_engine()
            self.desk.lanes.end()
            watching.cancel_scope.cancel()
        assert self.desk.lifecycle.drain is not None
        return 70 if self.desk.lifecycle.drain.reason is Reason.FAILED else 0

    def _make_guests(self) -> "Guests | None":
        if not self.desk.config.listen:
            return None
        from palace.broker.guests import Guests  # TLS and websockets: for those alone who want it

        return Guests.of(self.desk)

    def _publish(self, *, again: bool = False) -> None:
        desk = self.desk
        remote = self.guests.remote if self.guests is not None else None
        say = endpoints.write_record if again else endpoints.publish
        say(desk.owner, desk.endpoint, desk.kernel, mode=desk.mode, remote=remote)

    # Leaving.

    def _hang_up(self, sessions: trio.Nursery) -> None:
        """X3 and X4: tell whoever still waits in the backlog, then stop listening."""
        if self.desk.endpoint is None:
            self.desk.kernel.trace("X4.hangup")
            return
        try:
            while (sock := accept_nowait(self.desk.endpoint.socket)) is not None:
                sessions.start_soon(serve_socket, self.desk, sock)
        except OSError as error:  # no descriptor left: the kernel hangs up on the rest
            logger.warning("the backlog was not answered: %s", error)
        self.desk.kernel.trace("X4.hangup")  # before the kernel resets who comes too late
        trio.lowlevel.notify_closing(self.desk.endpoint.socket)
        self.desk.endpoint.socket.close()

    async def _end_sessions(self, sessions: trio.Nursery) -> None:
        """Wait for admitted work for as long as the grace lasts, then name what is left."""
        assert self.desk.lifecycle.drain is not None
        with trio.move_on_after(self.desk.lifecycle.drain.grace_s) as grace:
            for session in tuple(self.desk.sessions.values()):
                await session.settled.wait()
            await self.desk.wait_for_calls()
        self.desk.kernel.trace("X4.grace" if grace.cancelled_caught else "X4.settled")
        for job in self.desk.admission.withdraw():
            owner = self.desk.sessions.get(job.session)
            if owner is None or not self.desk.hand_back(owner, [job]):
                self.desk.fail(
                    job, OutcomeUnknown("The broker left before this was begun: repeat it.")
                )
        for job in self.desk.admission.running:
            self.desk.fail(job, _unfinished(job))
        sessions.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S

    async def _close_engine(self) -> None:
        """X5; a store that is still in use, or won't close, is left as after a crash."""
        closed = await self._closed()
        self.desk.kernel.trace("X5.close" if closed else "X5.abandon")

    async def _closed(self) -> bool:
        if self.desk.lifecycle.engine is not EngineState.READY:
            return False
        if any(job.tool.lane is not Lane.POLL for job in self.desk.admission.running):
            logger.warning("leaving while a call still runs: the store is not closed")
            return False
        try:
            with trio.move_on_after(CLOSE_S) as closing:
                await trio.to_thread.run_sync(self.desk.engine.close, abandon_on_cancel=True)
        except Exception:
            logger.exception(
                "the store could not be closed: the next owner finds it as after a crash"
            )
            return False
        return not closing.cancelled_caught

    # Tasks that end when draining begins.

    async def _accept(self, listener: socket.socket, sessions: trio.Nursery) -> None:
        while True:
            try:
                sock = await accept_one(listener)
            except OSError as error:  # EMFILE, ENFILE, ENOMEM: those connected go on
                logger.warning("accept failed: %s", error)
                await trio.sleep(0.1)
                continue
            sessions.start_soon(serve_socket, self.desk, sock)
            # A whole backlog taken at once would hold its descriptors before one is refused.
            await trio.lowlevel.checkpoint()

    async def _accept_guests(self, guests: "Guests", sessions: trio.Nursery) -> None:
        """Let guests in; where their address is taken (by an owner that leaves, say) try again."""
        while guests.remote is None:
            await trio.sleep(LISTEN_AGAIN_S)
            if await guests.listen():
                self._publish(again=True)
        await guests.accept(sessions)

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                self.desk.stop(Reason.STOP, text=signal.Signals(number).name)

    async def _watch_clock(self) -> None:
        while True:
            await trio.sleep(CLOCK_S)
            now_s = trio.current_time()
            self.desk.give_up_late_jobs(now_s)
            if not self._lock_file_is_ours():
                self.desk.stop(Reason.MOVED, text="the palace was moved or its lock file replaced")
            self.desk.forget_lost_sessions(now_s)
            drain = self.desk.lifecycle.tick(now_s, busy=self.desk.admission.busy)
            if drain is not None:
                self.desk.drain(drain)

    def _lock_file_is_ours(self) -> bool:
        owner, kernel = self.desk.owner, self.desk.kernel
        try:
            return (
                kernel.same_file(owner.lock_fd, owner.paths.lock)
                and kernel.file_id(owner.paths.root) == self._root_id  # its lock may lie elsewhere
            )
        except OSError:  # not even looking is allowed: this is no place to serve from
            return False

    async def _watch_upgrade(self) -> None:
        while True:
            await trio.sleep(UPGRADE_CHECK_S)
            if self.desk.lifecycle.engine is not EngineState.READY:
                continue
            change = await trio.to_thread.run_sync(self.desk.engine.replaced)
            if change:
                self.desk.stop(Reason.UPGRADE, text=change)

    async def _watch_batches(self) -> None:
        while True:
            await self.desk.wait_for_batch()
            self.desk.start_ready()

    def _writes(self) -> bool:
        return any(job.exclusive for job in self.desk.admission.running)

    def _loads(self) -> bool:
        return self.desk.lifecycle.engine is EngineState.LOADING

    def _watchdog(self) -> Watchdog:
        engine = self.desk.engine
        return Watchdog(
            limit_s=self.desk.config.watchdog_s,
            progress=lambda: (engine.progress(), engine.loading_text()),
            writing=self._writes,
            loading=self._loads,
        )

    async def _load(self) -> None:
        """B9: open the store, off the loop; calls wait in admission meanwhile."""
        self.desk.kernel.trace("B9.open")  # before it: an owner that dies in there may have it open
        try:
            catalogue = await trio.to_thread.run_sync(self.desk.engine.load, abandon_on_cancel=True)
        except Exception as error:
            logger.exception("the engine could not be loaded")
            self.desk.failure = load_error(error)
            self.desk.trouble(self.desk.failure.message)
            self.desk.lifecycle.load_failed(self.desk.failure.message, trio.current_time())
            self.desk.kernel.trace("B9.fail")
            self.desk.answer_waiting(self.desk.failure)
            return
        self.desk.catalogue = catalogue
        self.desk.lifecycle.loaded(trio.current_time())
        self.desk.kernel.trace("B9.ready")
        logger.info("ready: mempalace %s", catalogue.engine_version)
        await self._keep_catalogue(catalogue)
        for session in self.desk.sessions.values():
            self.desk.answer_early(session, catalogue)
        self.desk.admission.ready = True
        self.desk.start_ready()
        if self.desk.web is not None:
            self.desk.web.engine_ready.set()

    async def _keep_catalogue(self, catalogue: Catalogue) -> None:
        path, text = self.desk.owner.paths.catalogue, catalogue.to_json()
        try:
            if self.desk.kernel.read_file(path) != text:
                await trio.to_thread.run_sync(self.desk.kernel.write_durable, path, text)
        except OSError as error:  # a cache: shims then answer from the shipped one
            logger.warning("the tool catalogue was not kept: %s", error)


def _unfinished(job: Job) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"The broker had to leave while {job.name} was still running: it may or may not have been "
        "carried out. Look before you repeat it."
    )
