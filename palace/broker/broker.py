"""The broker: one nursery tree from the lock to the last reply.

    watching                outlives the sessions: a stuck writer is noticed to the end
      sessions              outlive accepting: replies are sent
        accepting           listener, signals, clocks, the engine's load

The lanes' threads run beside it; sessions wait for them, so admitted work is finished.

Indentation is lifetime, and teardown is the reverse of opening.
"""

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from palace.broker import holdings
from palace.broker.connections import adopt, serve_socket
from palace.broker.displacement import Displacement
from palace.broker.endpoint import Endpoint
from palace.broker.http.listener import HttpListener
from palace.broker.mesh.rounds import MeshRounds
from palace.broker.principals import catalogue_for
from palace.broker.reading import Reading
from palace.broker.services import Services
from palace.broker.state import BrokerState
from palace.broker.sweeping import Sweeping
from palace.broker.task_watch import TaskWatch
from palace.broker.watch import Holding, Lost, PublishedFile
from palace.broker.watchdog import Watchdog
from palace.engine.hosting.degraded import load_error
from palace.ownership import record
from palace.ownership.lock import FENCE, Fence, mempalace_lock_path
from palace.ownership.owners import read_way
from palace.protocol.errors import LockFailed, PalaceError, StoreOwned
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.lifecycle import EngineState, Reason
from palace.transport.accepting import accept_forever
from palace.transport.unix import accept_nowait, accept_one

if TYPE_CHECKING:
    from palace.broker.guests import Guests

CLOCK_S = 0.25
UPGRADE_CHECK_S = 2.0
LISTEN_AGAIN_S = 5.0
FENCE_POLL_S = 0.1
STAYS_S = 3.0  # for a session of stock's that is just being closed
READ_AFTER_S = 1.0  # a command of stock's may be done by then
FENCE_LOOK_S = 1.0  # how often to look who holds it: another process may by now
ADOPT_S = 60.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # each is a stop
LAST_WORDS_S = 2.0  # to flush replies after the grace

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False)
class Broker:
    """Runs the tasks of one owner; none of them outlives `serve`."""

    state: BrokerState
    guests: "Guests | None" = None
    http: HttpListener | None = None
    fence: Fence | None = None
    reading: Reading | None = None  # answers queries until the fence is taken
    displacement: Displacement = attrs.field(init=False)
    _record: PublishedFile = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        state = self.state
        self.displacement = Displacement(services=state.services, lifecycle=state.lifecycle)
        self._record = holdings.record_file(state.services.ownership, state.services.kernel)

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
        # Before a client can see that it serves: a signal would end it without a word.
        with ExitStack() as until_leaving:
            signals = until_leaving.enter_context(trio.open_signal_receiver(*SIGNALS))
            await self._prepare()
            return await self._serve_clients(direct, on_serving, signals, until_leaving)

    async def _serve_clients(
        self,
        direct: socket.socket | None,
        on_serving: Callable[[], None],
        signals: AsyncIterator[int],
        until_leaving: ExitStack,
    ) -> int:
        scheduler, leaving = self.state.scheduler, self.state.leaving
        async with trio.open_nursery() as watching:
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._load)
                    accepting.start_soon(self._watch_signals, signals)
                    accepting.start_soon(self._watch_clock)
                    accepting.start_soon(self._watch_upgrade)
                    accepting.start_soon(self._adopt_now_and_then)
                    accepting.start_soon(Sweeping(self.state).serve)
                    accepting.start_soon(MeshRounds(self.state, sessions).serve)
                    accepting.start_soon(TaskWatch(self.state, sessions).serve)
                    watching.start_soon(self._watchdog().serve)
                    watching.start_soon(scheduler.serve_batches)
                    watching.start_soon(scheduler.progress.serve)
                    if direct is not None:
                        sessions.start_soon(partial(serve_socket, self.state, direct, direct=True))
                    self._accept(accepting, sessions)
                    self._watch(sessions)
                    on_serving()
                    await leaving.begun.wait()
                    accepting.cancel_scope.cancel()
                # Signals do again what they did before: a second SIGTERM cuts a drain short.  That
                # is a death like any other: nothing acknowledged is lost.
                until_leaving.close()
                leaving.hang_up(partial(self._serve, sessions))
                await leaving.tell_journal()
                if self.guests is not None:
                    await self.guests.close()
                if self.http is not None:
                    await self.http.hang_up()
                await leaving.finish_work()
                sessions.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S
            if self.displacement.is_displaced() and not self.displacement.whole_elsewhere():
                self._try_to_save()  # it was moved first, or its files were removed one by one
            self.displacement.note_seq()
            await leaving.close_engine()
            scheduler.end()
            watching.cancel_scope.cancel()
        return leaving.exit_code

    def _watch(self, sessions: trio.Nursery) -> None:
        """Look after what this owner holds by now; later there is more."""
        services, watch = self.state.services, self.state.watch
        watch.add(
            Holding(
                name="palace",
                path=services.ownership.paths.root,
                is_ours=lambda: not self.displacement.has_been_displaced(),
                renew=self._leave_place,
                patience_s=float("inf"),
            )
        )
        for holding in holdings.held_by(services.ownership, services.kernel):
            watch.add(holding)
        watch.add(self._record.holding("broker.json"))
        endpoint = services.endpoint
        if endpoint is not None:
            retire = partial(self._retire, sessions)
            root = services.ownership.paths.root
            watch.add(holdings.socket_holding(endpoint, root, services.kernel, retire=retire))

    def _retire(self, sessions: trio.Nursery, listener: socket.socket) -> None:
        """Serve those who still found an old socket, and close it."""
        while (sock := accept_nowait(listener)) is not None:
            self._serve(sessions, sock)
        trio.lowlevel.notify_closing(listener)
        listener.close()

    async def _prepare(self) -> None:
        """Do all that may fail, and publish, before the first nursery."""
        state, services = self.state, self.state.services
        state.telemetry.started_s = trio.current_time()
        state.telemetry.since = services.kernel.utc_text()
        state.lifecycle.begin(state.telemetry.started_s)
        self.displacement.begin()
        state.scheduler.withhold = self._withholds
        state.scheduler.note_promise = self.displacement.note_first_promise
        self.guests = self._make_guests()
        if self.guests is not None:
            await self.guests.listen()
        self.http = HttpListener.of(state)
        if self.http is not None:
            state.telemetry.http = self.http.counters
            state.leaving.withdraw = self.http.withdraw
        if self.fence is not None and not self.fence.taken:
            self._note_waiting(self.fence.problem(), refusing=False)  # before a client can ask
        # Owners that leave withdraw theirs.
        left_behind = record.read_record(services.ownership.paths, services.kernel)
        services.died = left_behind.epoch if left_behind is not None else 0
        services.life.serving()
        self._publish()
        state.scheduler.start(state.leaving.stop, state.watch.look_soon)

    def _make_guests(self) -> "Guests | None":
        if not self.state.services.config.listen:
            return None
        from palace.broker.guests import Guests  # TLS and websockets: only for those who want it

        return Guests.of(self.state)

    def _publish(self, *, again: bool = False) -> None:
        services = self.state.services
        remote = self.guests.remote if self.guests is not None else None
        endpoint = services.endpoint
        socket_path = endpoint.path if endpoint is not None else ""
        published = record.publish(
            services.ownership,
            socket_path,
            services.kernel,
            mode=services.mode,
            remote=remote,
            again=again,
        )
        self._record.data = published.encode()

    # Tasks that end when draining begins.

    def _accept(self, accepting: trio.Nursery, sessions: trio.Nursery) -> None:
        """Let clients in by all ways that there are; each is served in `sessions`."""
        endpoint = self.state.services.endpoint
        if endpoint is not None:
            accepting.start_soon(self._accept_shims, endpoint, sessions)
        if self.guests is not None:
            accepting.start_soon(self._accept_guests, self.guests, sessions)
        if self.http is not None:
            accepting.start_soon(self.http.serve, sessions)

    async def _accept_shims(self, endpoint: Endpoint, sessions: trio.Nursery) -> None:
        take = partial(self._serve, sessions)
        while True:
            try:
                accept = partial(accept_one, endpoint.socket)
                await accept_forever(accept, take, logger, self.state.connections.is_full)
            except trio.ClosedResourceError:
                continue  # its name was removed, and another one has been bound

    def _serve(self, sessions: trio.Nursery, sock: socket.socket) -> None:
        sessions.start_soon(serve_socket, self.state, sock)

    async def _accept_guests(self, guests: "Guests", sessions: trio.Nursery) -> None:
        """Let guests in; where their address is taken (by an owner that leaves, say) try again."""
        while guests.remote is None:
            await trio.sleep(LISTEN_AGAIN_S)
            if await guests.listen():
                self._publish(again=True)
        await guests.accept(sessions)

    async def _watch_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self.state.leaving.stop(Reason.STOP, text=signal.Signals(number).name)

    async def _watch_clock(self) -> None:
        leaving = self.state.leaving
        while True:
            await trio.sleep(CLOCK_S)
            now_s = trio.current_time()
            self.state.scheduler.give_up_late(now_s)
            self.state.scheduler.look_at_model()
            self.state.memory.look()
            self.displacement.tick(now_s)
            self.state.watch.look(now_s)
            self.state.sessions.forget_lost(now_s)
            self._look_at_life(now_s)
            self.state.heartbeat.tick(now_s)
            leaving.tick(now_s)

    def _look_at_life(self, now_s: float) -> None:
        services = self.state.services
        services.life.tick(now_s)
        if services.config.memory_plugin:
            services.life.look_at_server(services.engine.status().get("plugin"))

    def _withholds(self, recorded: bool, lately: bool) -> bool:
        """Tell whether a reply may not leave.  Then this owner leaves before another call begins.

        Even if the directory is back a moment later: what was not answered waits for the next one.
        What is recorded in a journal that lies elsewhere, whole, is as lasting as before.
        """
        if not self.displacement.has_been_displaced(lately=lately):
            if recorded:
                self.displacement.note_first_promise()
            return False
        self.state.watch.look(trio.current_time())
        return not (recorded and self.displacement.is_whole)

    def _leave_place(self) -> None:
        """Leave a directory that is not where it was: in peace, or at once with what it held.

        Raises Lost in the first case, and OSError where the disk takes no copy: the process lives
        on then, since it has the only one, and tries again with the next look.
        """
        state = self.state
        root = self.displacement.whole_elsewhere()
        if root == state.services.ownership.paths.root:
            raise Lost("it was away for a moment, while something was to be answered")
        if root:
            self.displacement.note_moved(root)
            raise Lost(f"it was moved to {root}")
        self._save_and_end()

    def _save_and_end(self) -> None:
        """End the process with the journal saved: to clients it is a death, and nothing is lost.

        One step of the loop, so that no reply leaves meanwhile.  Raises OSError.
        """
        self.displacement.save()
        self.state.leaving.unpublish()
        self.state.services.life.left("displaced")
        os._exit(0)

    def _try_to_save(self) -> None:
        try:
            self._save_and_end()
        except OSError as error:
            logger.critical("the journal of a replaced palace can't be saved: %s", error)

    async def _watch_upgrade(self) -> None:
        while True:
            await trio.sleep(UPGRADE_CHECK_S)
            if self.state.lifecycle.engine is not EngineState.READY:
                continue
            change = await trio.to_thread.run_sync(self.state.services.engine.replaced)
            if change:
                self.state.leaving.stop(Reason.UPGRADE, text=change)

    async def _adopt_now_and_then(self) -> None:
        """Journal what other programs write, while nothing runs that would have to wait for it."""
        while True:
            await trio.sleep(ADOPT_S)
            if not self.state.scheduler.admission.busy:
                await adopt(self.state)

    def _writes(self) -> bool:
        return self.state.scheduler.writes

    def _loads(self) -> bool:
        return self.state.lifecycle.engine is EngineState.LOADING

    def _watchdog(self) -> Watchdog:
        engine = self.state.services.engine
        return Watchdog(
            limit_s=self.state.services.config.watchdog_s,
            progress=lambda: (engine.progress(), engine.loading_text()),
            writing=self._writes,
            loading=self._loads,
            claim=self.state.services.life.claim,
        )

    async def _load(self) -> None:
        """B9: open the store, off the loop; calls wait in admission meanwhile."""
        state, services = self.state, self.state.services
        await self._wait_for_fence()
        ownership = services.ownership
        if not services.kernel.same_file(ownership.lock_fd, ownership.paths.lock):
            return  # the watch ends this broker: what is there now is not ours to open
        services.kernel.trace("B9.open")  # before it: an owner that dies in there may have it open
        try:
            catalogue = await trio.to_thread.run_sync(services.engine.load, abandon_on_cancel=True)
        except Exception as error:
            logger.exception("the engine could not be loaded")
            failure = load_error(error)
            state.telemetry.note_error(failure.message)
            services.kernel.trace("B9.fail")
            away = _way_round(failure, services)
            if away:
                state.leaving.stop(Reason.AWAY, text=failure.message, away=away)
                return
            state.lifecycle.load_failed(failure.message, trio.current_time())
            state.scheduler.engine_failed(failure)
            return
        catalogue = catalogue.served(extras=services.config.mcp_extras)
        services.catalogue = catalogue
        self._watch_engine()
        state.lifecycle.loaded(trio.current_time())
        services.kernel.trace("B9.ready")
        logger.info("ready: mempalace %s", catalogue.engine_version)
        await self._keep_catalogue(catalogue)
        state.sessions.answer_early(partial(catalogue_for, services))
        state.scheduler.engine_ready()
        if self.http is not None:
            self.http.engine_ready.set()

    async def _wait_for_fence(self) -> None:
        """B4, where stock had its lock: one wait for all calls, and none for those that come late.

        What has waited for `mempalace_lock_wait_s` in all is told which process holds it, sooner
        where that is no command that ends by itself; the broker itself goes on trying, and serves
        as soon as the holder has ended.  Queries are answered from a copy meanwhile.
        """
        fence, state = self.fence, self.state
        if fence is None or _taken(fence) is True:
            return
        wait_s = state.services.config.mempalace_lock_wait_s
        began_s = look_s = trio.current_time()
        while (taken := _taken(fence)) is not True:
            now_s = trio.current_time()
            if now_s >= look_s:
                problem: PalaceError
                if isinstance(taken, LockFailed):
                    problem = taken
                else:
                    problem = await trio.to_thread.run_sync(fence.problem)
                stays = await trio.to_thread.run_sync(fence.holder_stays)
                patience_s = min(wait_s, STAYS_S) if stays else wait_s
                if stays or now_s >= began_s + READ_AFTER_S:
                    self._begin_reading()
                self._note_waiting(problem, refusing=now_s >= began_s + patience_s)
                look_s = now_s + FENCE_LOOK_S
            await trio.sleep(FENCE_POLL_S)
        state.scheduler.failure = None
        state.lifecycle.waits("")
        await self._end_reading()
        for holding in holdings.locks_of(state.services.ownership, state.services.kernel):
            state.watch.add(holding)

    def _begin_reading(self) -> None:
        scheduler = self.state.scheduler
        if self.reading is not None and not scheduler.admission.reading:
            self.reading.begin()
            scheduler.begin_reading(self.reading.answer, self.reading.report)

    async def _end_reading(self) -> None:
        if self.reading is not None:
            await self.state.scheduler.end_reading()
            await trio.to_thread.run_sync(self.reading.close)

    def _note_waiting(self, problem: PalaceError, *, refusing: bool) -> None:
        lifecycle = self.state.lifecycle
        if lifecycle.waiting != problem.message:
            logger.warning("waiting: %s", problem.message)
        lifecycle.waits(problem.message, refusing=refusing)
        if refusing:
            self.state.scheduler.engine_failed(problem)

    async def _keep_catalogue(self, catalogue: Catalogue) -> None:
        services = self.state.services
        path, text = services.ownership.paths.catalogue, catalogue.to_json()
        try:
            if services.kernel.read_file(path) != text:
                await trio.to_thread.run_sync(services.kernel.write_durable, path, text)
        except OSError as error:  # a cache: shims then answer from the shipped one
            logger.warning("the tool catalogue was not kept: %s", error)
            return
        file = PublishedFile(path=path, kernel=services.kernel, data=text, judge=lambda _: text)
        self.state.watch.add(file.holding("broker.tools.json", vital=False))

    def _watch_engine(self) -> None:
        """Look after what the engine has taken by itself."""
        services = self.state.services
        for holding in holdings.engine_file(services.ownership, services.kernel):
            self.state.watch.add(holding)
        if "held_lock" not in services.config.adjustments_off:
            return
        path = mempalace_lock_path(services.ownership.paths, {"HOME": services.home})
        if services.kernel.file_id(path) is not None:
            text = f"{path} was moved or replaced. {holdings.STOP_FIRST}"
            self.state.watch.add(holdings.name_of(FENCE, path, services.kernel, text=text))


def _way_round(failure: PalaceError, services: Services) -> str:
    """Return the palace that clients are carried to, since it has what this one lacks, else ""."""
    palace = failure.palace if isinstance(failure, StoreOwned) else ""
    way = read_way(services.owners_directory, palace, services.kernel) if palace else None
    return palace if way is not None else ""


def _taken(fence: Fence) -> bool | LockFailed:
    """Take mempalace's lock; return why not, where even trying failed: for want of a descriptor."""
    try:
        return fence.take()
    except LockFailed as error:
        return error
