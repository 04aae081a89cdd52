"""Watching over tasks: one that is over its deadline, or whose worker died, ends with an event.

So whoever waits for that task (`mempalace_event_wait`) is woken.  Only tasks are watched whose
request asks for it.  It is no activity: a broker that nobody uses leaves, and what happens while
there is none is no silence of anybody's.  But whoever is there and works on such a task uses it.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import trio

from palace.broker.state import BrokerState
from palace.broker.telemetry.redaction import redacted
from palace.broker.telemetry.telemetry import HttpCounters
from palace.kernel.wall import wall_s
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import EngineState

if TYPE_CHECKING:
    from palace.broker.mesh.asking import Asking
    from palace.protocol.task_watch import Watch

LOOK_S = 60.0
CLIENT = "palace tasks"
CALL_VERDICTS = 32  # others' changes come between two calls

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False)
class TaskWatch:
    """One owner's; `serve` runs until cancelled, `nursery` ends what it has begun to write.

    `clock` is the wall's, and `monotonic` goes back never.
    """

    state: BrokerState
    nursery: trio.Nursery
    clock: Callable[[], float] = wall_s
    monotonic: Callable[[], float] = trio.current_time
    _watch: "Watch | None" = None  # None: no log of events was ever seen
    _seen: object = None  # of the log, when nothing in it was to be watched
    _looked_s: float = 0.0
    _end: dict[str, Any] | None = None  # of the log, when it was read last

    async def serve(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            if self.state.lifecycle.engine is not EngineState.READY:
                continue
            try:
                await self.look()
            except PalaceError as error:  # this palace can't be asked now: the next look may
                logger.warning("tasks were not looked at: %s", error.message)
            except Exception as error:
                # The boundary: a fault in watching must not end the broker.
                logger.exception("watching over tasks failed")
                self.state.telemetry.note_error(f"watching over tasks failed: {redacted(error)}")

    async def look(self) -> list[str]:
        """Look once, and end what is stuck; return the ids of those tasks. Raises PalaceError."""
        changed = self._changed()
        if changed == self._seen:  # None: there is no log
            return []
        from palace.broker.task_claims import heard_of
        from palace.protocol.task_watch import Changes, Watch, Watched

        self._watch = self._watch or Watch(counts_absent=bool(self.state.services.died))
        asking = self._asking()
        told = await asking.ask("palace_task_watched", since=self._end)
        self._end = told.get("end")
        changes = Changes(
            tasks=tuple(Watched(**one) for one in told["tasks"]),
            gone=tuple(told.get("gone", ())),
            whole=told.get("whole", True),
        )
        notes = self.state.telemetry.tasks
        looked_s, self._looked_s = self._looked_s, trio.current_time()
        sessions = heard_of(self.state.services, self.state.sessions, self._watch, looked_s)
        present = set(sessions)
        heard = {*notes.heard, *present}
        if any(map(self._watch.worker_of, present)):
            self.state.lifecycle.active(trio.current_time())
        notes.heard.clear()
        verdicts = self._watch.look(
            changes, heard=heard, monotonic_s=self.monotonic(), wall_s=self.clock()
        )
        notes.watched = len(self._watch)
        self._seen = None if notes.watched else changed
        ended: list[str] = []
        for start in range(0, len(verdicts), CALL_VERDICTS):
            part = [attrs.asdict(one) for one in verdicts[start : start + CALL_VERDICTS]]
            ended += (await asking.ask("palace_task_stuck", verdicts=part))["tasks"]
        notes.ended += len(ended)
        if ended:
            logger.info("%d tasks that were stuck have ended", len(ended))
        return ended

    def _changed(self) -> Any:
        """Return what changes with the log of events, None where there is none."""
        services = self.state.services
        path = f"{services.ownership.paths.root}/logstream.sqlite3"
        signature = services.kernel.signature(path)
        if signature is None:
            return None
        return signature, services.kernel.signature(f"{path}-wal")

    def _asking(self) -> "Asking":
        from palace.broker.http.sessions import HttpSessions
        from palace.broker.mesh.asking import Asking

        counters = HttpCounters(token_file="")
        sessions = HttpSessions(state=self.state, counters=counters, nursery=self.nursery)
        return Asking(sessions, client=CLIENT)
