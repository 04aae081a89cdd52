"""Calls that survive a death: each is one group of changes, and is answered once.

A call is dispatched inside a group (groups.py), and its reply is recorded as the group's outcome.
When a client sends a call again because its owner died, the journal says what became of it: a
recorded reply is repeated, an unfinished call was taken back and runs again.
"""

import json
import logging
import sqlite3
from collections.abc import Callable

import attrs

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.durability.checkpointer import Checkpointer
from palace.engine.durability.groups import CallContext, CallGroups
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.recovery import Recovery
from palace.engine.durability.swap import finish_swap
from palace.engine.stores.chroma_api import ChromaApi
from palace.engine.stores.palace_stores import Stores, build_stores, migrate
from palace.engine.stores.seams import install_seams
from palace.journal.journal import Journal, SyncCallback
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import ADOPT, STATE, Draft, JsonObject
from palace.journal.replay import Progress
from palace.protocol import jsonrpc
from palace.protocol.errors import JournalFailed, OutcomeUnknown, PalaceError, Quarantined
from palace.protocol.resend import Trace, Verdict, judge
from palace.protocol.tools import Kind

RUN_AGAIN = (
    "palace: the broker ended while this was under way before; it was run again from its start."
)

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False)
class DurableCalls:
    """One palace's journal and stores, open.  From `open_durable_calls`; `close` ends it."""

    journal: Journal
    stores: Stores
    groups: CallGroups
    recovery: Recovery
    checkpointer: Checkpointer

    def recover(self) -> None:
        """Bring journal and stores together (palace/engine/durability/recovery.py); may take long.

        A damaged store is left without it: its calls are journalled all the same, but no closing
        record holds fingerprints, so that the next owner recovers from the last ones there are.
        """
        self.journal.fingerprints = self.stores.fingerprints
        self.recovery.run()
        self.checkpointer.start()

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
        with self.groups.group(call.key, non_atomic=call.tool.non_atomic) as group:
            reply = dispatch()
        if call.maybe_ran and call.tool.non_atomic:
            reply = attrs.evolve(reply, payload=_marked_as_rerun(reply.payload))
        try:
            text = (reply.payload or b"").decode("utf-8", "surrogatepass")
            seq = self.groups.commit(group, text)
        except JournalFailed as error:
            return attrs.evolve(_failure(call, error), stuck=self.groups.stuck)
        return attrs.evolve(reply, seq=seq, stuck=self.groups.stuck)

    def _trace(self, call: Call) -> Trace:
        if not call.maybe_ran:
            return Trace()
        known = self.journal.reply(call.session, call.ordinal)
        return Trace(
            kept=not self.journal.is_forgotten(call.session, call.ordinal, call.epoch),
            recorded=known is not None,
            crashes=0 if call.tool.non_atomic else self.journal.crashes(call.key),
        )

    def when_durable(self, seq: int, callback: SyncCallback) -> None:
        def on_sync(problem: JournalFailed | None) -> None:
            if problem is None:
                self.journal.kernel.failpoint("reply")
            callback(problem)

        self.journal.when_synced(seq, on_sync)

    def status(self) -> JsonObject:
        return {
            "journal": "on",
            "seq": self.journal.seq,
            "durable_seq": self.journal.synced,
            "quarantined": len(self.journal.tail.quarantined),
        }

    def close(self) -> None:
        """Take over what stock wrote beside the seams, and make everything durable."""
        self.checkpointer.end()
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


class JournalledEngine:
    """What an engine answers through its journal; `_memory` is None while there is none.

    For engines to inherit from (palace/engine/api.py has the contract).
    """

    _memory: DurableCalls | None = None

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        assert self._memory is not None, "a reply has a seq only where there is a journal"
        self._memory.when_durable(seq, callback)

    def acknowledge(self, session: str, upto: int) -> None:
        if self._memory is not None:
            self._memory.journal.acknowledge(session, upto)

    def resumes(self) -> bool:
        return self._memory is not None

    def end_session(self, session: str) -> None:
        if self._memory is not None:
            self._memory.journal.end_session(session)


def open_durable_calls(
    palace: OwnedPalace,
    open_chroma: Callable[[], ChromaApi],
    progress: Progress,
    context: CallContext | None = None,
) -> DurableCalls:
    """Open the journal, scan the stores and install the seams; call it before any store is open.

    `open_chroma` opens stock's Chroma; `context` is the one in which the engine keeps what it knows
    of each thread's call.  Raises JournalBroken, StoreCorrupt and StoreUnavailable.
    """
    paths, kernel = palace.paths, palace.kernel
    if finish_swap(paths.root, kernel):
        logger.warning("an interrupted rebuild was carried through")
    journal = Journal.open(paths.journal, kernel, palace.stamp)
    stores = build_stores(paths, palace.config, kernel, open_chroma)
    migrate(stores)
    recovery = Recovery(journal=journal, projections=stores.all, progress=progress)
    try:
        recovery.scan()
    except sqlite3.DatabaseError as error:  # stock's own check will say so to every call
        logger.error("the store is damaged: %s. Bring it back: palace rebuild --stop", error)  # noqa: TRY400
    groups = CallGroups(journal, context=context or CallContext())
    install_seams(stores, groups)
    return DurableCalls(journal, stores, groups, recovery, Checkpointer(journal=journal))


def refused(call: Call, verdict: Verdict) -> Reply:
    """Return the reply to a call that is not run again."""
    name = jsonrpc.params_of(call.message).get("name")
    if verdict is Verdict.QUARANTINE:
        return _failure(
            call,
            Quarantined(
                f"{name} was under way when two brokers died, so it is not tried again by itself. "
                "What it changed was taken back, or is named by `palace doctor`. Ask again if "
                "you think that it is harmless."
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


def _marked_as_rerun(payload: bytes | None) -> bytes | None:
    """Add to a tool's result that it ran a second time."""
    message = json.loads(payload or b"null")
    result = message.get("result") if isinstance(message, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("content"), list):
        return payload
    result["content"].append({"type": "text", "text": RUN_AGAIN})
    return jsonrpc.encode(message)
