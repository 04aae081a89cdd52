"""A palace's journal and stores together, as the engine uses them."""

import json
import logging
import sqlite3
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs

from palace.engine.api import Call, Reply, Told
from palace.engine.durability.checkpointer import Keeper
from palace.engine.durability.durable import Durable
from palace.engine.durability.recovery import Recovery
from palace.engine.durability.swap import finish_swap
from palace.engine.stores.palace_stores import Stores, build_stores, migrate
from palace.engine.stores.seams import install_seams
from palace.journal.journal import Journal
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import ADOPT, STATE, Draft, Stamp
from palace.journal.replay import Progress
from palace.kernel.kernel import Kernel
from palace.protocol import jsonrpc
from palace.protocol.errors import JournalFailed, OutcomeUnknown, PalaceError, Quarantined
from palace.protocol.resend import Trace, Verdict, judge
from palace.protocol.tools import Kind
from palace.settings.config import Config
from palace.settings.paths import Paths

RUN_AGAIN = (
    "palace: the broker ended while this was under way before; it was run again from its start."
)

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False)
class Memory:
    """Answers calls through the journal.  Made by `open_memory`; `close` ends it."""

    journal: Journal
    stores: Stores
    durable: Durable
    recovery: Recovery
    keeper: Keeper

    def recover(self) -> None:
        """Bring journal and stores together (palace/engine/durability/recovery.py); may take long.

        Without it, which a damaged store is left to, calls are journalled, and nothing is said of
        what the stores look like: the next owner does it.
        """
        self.journal.look = self.stores.looks
        self.recovery.run()
        self.keeper.start()

    def answer(self, call: Call, dispatch: Callable[[], Reply]) -> Reply:
        """Dispatch a call as one group, or repeat what the journal knows of it."""
        if call.tool.kind is Kind.QUERY or not call.session:
            return dispatch()
        verdict = judge(call.tool.kind, maybe_ran=call.maybe_ran, trace=self._trace(call))
        if verdict is Verdict.REPEAT:
            text = self.journal.reply(call.session, call.ordinal) or ""
            if text == PURGED_REPLY:
                return refused(call, Verdict.UNKNOWN)
            return Reply(payload=text.encode("utf-8", "surrogatepass") or None)
        if verdict is not Verdict.RUN:
            return refused(call, verdict)
        with self.durable.group(call.key, units=call.tool.units) as group:
            reply = dispatch()
        if call.maybe_ran and call.tool.units:
            reply = attrs.evolve(reply, payload=_noted(reply.payload))
        try:
            text = (reply.payload or b"").decode("utf-8", "surrogatepass")
            seq = self.durable.commit(group, text)
        except JournalFailed as error:
            return attrs.evolve(_failure(call, error), stuck=self.durable.stuck)
        return attrs.evolve(reply, seq=seq, stuck=self.durable.stuck)

    def _trace(self, call: Call) -> Trace:
        if not call.maybe_ran:
            return Trace()
        known = self.journal.reply(call.session, call.ordinal)
        return Trace(
            kept=not self.journal.is_forgotten(call.session, call.ordinal, call.epoch),
            recorded=known is not None,
            crashes=0 if call.tool.units else self.journal.crashes(call.key),
        )

    def when_durable(self, seq: int, told: Told) -> None:
        def tell(problem: JournalFailed | None) -> None:
            if problem is None:
                self.journal.kernel.pass_point("reply")
            told(problem)

        self.journal.when_synced(seq, tell)

    def status(self) -> dict[str, Any]:
        return {
            "journal": "on",
            "seq": self.journal.seq,
            "durable_seq": self.journal.synced,
            "quarantined": len(self.journal.tail.quarantined),
        }

    def close(self) -> None:
        """Take over what stock wrote beside the seams, and make everything durable."""
        self.keeper.end()
        changes = self.stores.files.changes()
        if changes:
            drafts = [
                Draft(action=ADOPT, kind=change.kind, id=change.id, payload=change.after)
                for change in changes
            ]
            self.journal.append(drafts)
            self.stores.files.applied(changes)
            self.journal.close_key("", STATE)
        self.journal.close()


def open_memory(
    place: tuple[Paths, Config, Kernel],
    stamp: Stamp,
    server: ModuleType,
    progress: Progress,
) -> Memory:
    """Open the journal and look at the stores; call it before any store is open.

    Raises JournalBroken and StoreCorrupt.
    """
    paths, config, kernel = place
    if finish_swap(paths.root, kernel):
        logger.warning("an interrupted rebuild was carried through")
    journal = Journal.open(paths.journal, kernel, stamp)

    def api() -> Any:
        return server._get_client()._server  # noqa: SLF001

    stores = build_stores(paths, config, kernel, api)
    migrate(stores)
    recovery = Recovery(journal=journal, projections=stores.all, progress=progress)
    try:
        recovery.look()
    except sqlite3.DatabaseError as error:  # stock's own check will say so to every call
        logger.error("the store is damaged: %s. Bring it back: palace rebuild --stop", error)  # noqa: TRY400
    durable = Durable(journal)
    install_seams(stores, durable)
    return Memory(journal, stores, durable, recovery, Keeper(journal=journal))


def refused(call: Call, verdict: Verdict) -> Reply:
    """Return the reply to a call that is not run again."""
    name = jsonrpc.params_of(call.message).get("name")
    if verdict is Verdict.QUARANTINE:
        return _failure(
            call,
            Quarantined(
                f"{name} was under way when two brokers died, so it is not tried again by itself. "
                "What it changed was taken back, or is named by `palace doctor`. Ask anew if you "
                "think that it is harmless."
            ),
        )
    return _failure(
        call,
        OutcomeUnknown(
            f"The broker ended while {name} was under way: it may or may not have been carried "
            "out. Look before you repeat it."
        ),
    )


def _failure(call: Call, problem: PalaceError) -> Reply:
    ident = jsonrpc.request_id(call.message)
    return Reply(payload=jsonrpc.encode(jsonrpc.failure(ident, problem)))


def _noted(payload: bytes | None) -> bytes | None:
    """Add to a tool's result that it ran a second time."""
    message = json.loads(payload or b"null")
    result = message.get("result") if isinstance(message, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("content"), list):
        return payload
    result["content"].append({"type": "text", "text": RUN_AGAIN})
    return jsonrpc.encode(message)
