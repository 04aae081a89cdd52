"""Calls that survive a death: each is one group of changes, and is answered once.

A call is dispatched inside a group (groups.py), and its reply is recorded as the group's outcome.
When a client sends a call again because its owner died, the journal says what became of it: a
recorded reply is repeated, an unfinished call was taken back and runs again.
"""

import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs

from palace.engine.api import Call, Reply
from palace.engine.durability import refusals
from palace.engine.durability.adoption import ONE_GO, Adoption
from palace.engine.durability.backends import check_backend, find_tables
from palace.engine.durability.beside import Note, read_note
from palace.engine.durability.checkpointer import Checkpointer
from palace.engine.durability.examiner import Examiner
from palace.engine.durability.gated import guard_of
from palace.engine.durability.groups import CallContext, CallGroups
from palace.engine.durability.healing import Health, heal_stores
from palace.engine.durability.opening import open_journal
from palace.engine.durability.outsiders import adopt_outsiders
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.owner_tools import OwnerTools
from palace.engine.durability.plugin import (
    COPY_OPEN_S,
    PluginSettings,
    announce,
    open_elsewhere,
    plugin_settings,
    problem_of,
    told_of,
)
from palace.engine.durability.presence import StoreFiles
from palace.engine.durability.recovery import Recovery
from palace.engine.durability.swap import Exchange
from palace.engine.stores.chroma_api import ChromaApi
from palace.engine.stores.health import WHOLE_AT_OPENING, note_refusals
from palace.engine.stores.palace_stores import Stores, build_stores, migrate
from palace.engine.stores.seams import install_seams
from palace.journal.author import Author
from palace.journal.journal import Journal, SyncCallback
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import ADOPT, STATE, Draft, JsonObject
from palace.journal.replay import Progress
from palace.ownership.data_locks import outside_files
from palace.protocol.errors import (
    JournalFailed,
)
from palace.protocol.policy import DEFAULT, Policy
from palace.protocol.principals import OWNER, is_confined
from palace.protocol.resend import Trace, Verdict, judge
from palace.protocol.tools import SHOW_DRAWERS, SHOWN_TO_PEERS, Kind
from palace.settings.config import DUAL, NEVER

if TYPE_CHECKING:
    from palace.engine.durability.candidate_agents import AgentTools
    from palace.engine.durability.candidate_filing import File
    from palace.engine.durability.federation import FederationTools
    from palace.engine.durability.own_tools import OpenStore, OwnTools
    from palace.engine.stores.pgvector import PgVector

# Each look at a name lets go of the interpreter's lock.  With four busy clients the threads then
# take turns ten times a call rather than four, and 1,400 calls a second are answered, not 1,900.
LOOK_S = 0.02

logger = logging.getLogger("palace.journal")


@attrs.define(eq=False)
class DurableCalls:
    """One palace's journal and stores, open.  From `open_durable_calls`; `close` ends it."""

    journal: Journal
    stores: Stores
    groups: CallGroups
    recovery: Recovery
    checkpointer: Checkpointer
    health: Health = attrs.field(factory=Health)
    owner: OwnerTools | None = None  # None: this engine keeps no register
    open_store: Callable[[], "OpenStore"] | None = None  # None: nor memories of namespaces
    policy: Policy = DEFAULT
    plugin: PluginSettings | None = None  # None: no server holds namespaces in this one's place
    plugin_problem: str = ""  # of the settings that name it
    files: StoreFiles | None = None  # None: another engine's stores, or what is damaged was left
    examiner: Examiner | None = None
    adoption: Adoption | None = None  # None: nothing had to be adopted
    tables: "PgVector | None" = None  # of a server, which another palace may have the right to
    looks: int = 0
    _whole_s: float = -LOOK_S  # when all files were last found
    _own: "OwnTools | None" = None

    def recover(self, one_go: int = ONE_GO) -> None:
        """Bring journal and stores together (palace/engine/durability/recovery.py); may take long.

        Of what is to be adopted no more than `one_go` entities: see `go_on_adopting`.
        A damaged store is left without it: its calls are journalled all the same, but no closing
        record holds fingerprints, so that the next owner recovers from the last ones there are.
        """
        self.journal.fingerprints = self.recovery.fingerprints
        self.recovery.run()
        self.trouble()
        if self.journal.tail.adopting is not None:
            self.adoption = Adoption(
                journal=self.journal,
                projections=self.stores.all,
                listed=self.recovery.listed,
                calls=lambda: self.looks,
                on_whole=self.checkpointer.start,
                one_go=one_go,
            )
        if self.adoption is None or self.adoption.in_one_go(self.recovery.progress):
            self.checkpointer.start()
        if self.examiner is not None:
            self.examiner.start()

    def work(self) -> int:
        """Return a number that changes while anything is done here."""
        return self.looks + (self.adoption.done if self.adoption is not None else 0)

    def go_on_adopting(self) -> None:
        """Adopt the rest beside the calls; stock has the stores open by now.

        Only then is a checkpoint made: the journal must not be moved while it is read.
        """
        if self.adoption is not None and self.journal.tail.adopting is not None:
            self.adoption.start()

    def trouble(self, *, shared: bool = False) -> str:
        """Return what has become of a file that is open, "" for nothing.

        Lists and small files that are gone are written back on the way.  `shared`: what was found
        within `LOOK_S` will do, for a call that changes nothing and reads open databases alone.
        """
        if self.files is None:
            return self.lost()
        self.looks += 1
        now_s = self.journal.kernel.monotonic()
        if shared and now_s - self._whole_s < LOOK_S:
            return self._suspicion()
        for kept in self.stores.kept_whole:
            kept.keep_whole()
        trouble = self._trouble()
        if not trouble:
            self._whole_s = now_s
        return trouble

    def _suspicion(self) -> str:
        return self.lost() or (self.examiner.suspicion if self.examiner is not None else "")

    def lost(self) -> str:
        """Return why nothing may be written to a server's tables any more, "" where it may."""
        return self.tables.lost() if self.tables is not None else ""

    def _trouble(self) -> str:
        return self._suspicion() or (self.files.trouble() if self.files is not None else "")

    def answer(self, call: Call, dispatch: Callable[[], Reply]) -> Reply:
        """Dispatch a call as one group, or repeat what the journal knows of it."""
        if call.tool.kind is Kind.QUERY or not call.session:
            reply, doubt = dispatch(), self.examiner.doubt if self.examiner is not None else ""
            if doubt and call.request.name in SHOW_DRAWERS:
                reply = attrs.evolve(reply, payload=refusals.with_note(reply.payload, doubt))
            if call.request.name in SHOWN_TO_PEERS:  # a power cut takes back nothing that left
                reply = attrs.evolve(reply, seq=self.journal.seq)
            return reply
        verdict = self._verdict(call)
        if verdict is Verdict.REPEAT:
            if self._is_anothers(call):
                return refusals.made_for_another(call)
            text = self.journal.reply(call.session, call.ordinal) or ""
            if text == PURGED_REPLY:
                return refusals.refused(call, Verdict.UNKNOWN)
            return Reply(payload=text.encode("utf-8", "surrogatepass") or None)
        if verdict is not Verdict.RUN:
            return refusals.refused(call, verdict)
        who = call.principal.signature if call.principal is not None else ""
        # What the gate lets through is there whole, with its audit, or not at all.
        author = Author(call.client, who)
        non_atomic = call.tool.non_atomic and not self._is_confined(call)
        with self.groups.group(call.key, non_atomic=non_atomic, author=author) as group:
            reply = dispatch()
        if call.maybe_ran and call.tool.non_atomic:
            reply = attrs.evolve(
                reply, payload=refusals.with_note(reply.payload, refusals.RUN_AGAIN)
            )
        try:
            text = (reply.payload or b"").decode("utf-8", "surrogatepass")
            seq = self.groups.commit(group, text)
        except JournalFailed as error:
            return attrs.evolve(refusals.failure(call, error), stuck=self.groups.stuck)
        return attrs.evolve(reply, seq=seq, stuck=self.groups.stuck)

    def verdict_to_tell(self, call: Call) -> Verdict:
        """Return what would become of a call, as far as whoever asks may know."""
        verdict = self._verdict(call)
        if verdict is not Verdict.REPEAT:
            return verdict
        is_purged = self.journal.reply(call.session, call.ordinal) == PURGED_REPLY
        return Verdict.UNKNOWN if is_purged or self._is_anothers(call) else verdict

    def _verdict(self, call: Call) -> Verdict:
        return judge(call.tool.kind, maybe_ran=call.maybe_ran, trace=self._trace(call))

    def _is_anothers(self, call: Call) -> bool:
        """Tell whether a recorded reply was made for somebody else than who asks for it now.

        What was the owner's is told to whoever isn't confined: a session that began before its
        directory was a workspace's is that workspace with the next broker (decision 47).
        """
        recorded = self.journal.reply_for(call.session, call.ordinal)
        if call.principal is None:
            return True
        if not recorded:
            return call.principal.confined or self._is_confined(call)
        return call.principal.signature != recorded

    def _is_confined(self, call: Call) -> bool:
        principal = call.principal
        if principal is None or self.owner is None or principal == OWNER:
            return False
        return is_confined(self.owner.register.tree(), principal)

    def _trace(self, call: Call) -> Trace:
        if not call.maybe_ran:
            return Trace()
        known = self.journal.reply(call.session, call.ordinal)
        # One that is still open was not taken back, since a store is damaged.
        is_open = call.key in self.journal.tail.open
        forgotten = self.journal.is_forgotten(call.session, call.ordinal, call.epoch)
        return Trace(
            kept=not (is_open or forgotten or call.elsewhere),
            recorded=known is not None,
            crashes=0 if call.tool.non_atomic else self.journal.crashes(call.key),
        )

    def adopt(self) -> int:
        """Take over what other programs wrote beside this owner; return how many entities.

        While the palace itself is adopted that is left for later: all of it would look new.
        """
        if self.journal.tail.adopting is not None:
            return 0
        recovery = self.recovery
        held = recovery.held if recovery.dual else None
        return adopt_outsiders(self.journal, self.stores.beside, held)

    def when_durable(self, seq: int, callback: SyncCallback) -> None:
        def on_sync(problem: JournalFailed | None) -> None:
            if problem is None:
                self.journal.kernel.failpoint("reply")
            callback(problem)

        self.journal.when_synced(seq, on_sync)

    def own_tools(self) -> "OwnTools | None":
        """Return what answers palace's own tools, imported once one is called.

        What finds secrets takes some 100 ms to import, which no other palace should wait for.
        """
        if self._own is None and self.open_store is not None:
            from palace.engine.durability.own_tools import OwnTools

            plugin = self.plugin
            counts = plugin is not None and plugin.counts
            self._own = OwnTools(
                *(self.stores.register, self.groups, self.journal.kernel, self.open_store()),
                policy=self.policy,
                elsewhere=open_elsewhere(plugin) if plugin is not None and counts else None,
                server=open_elsewhere(plugin, open_s=COPY_OPEN_S) if plugin is not None else None,
            )
        return self._own

    def federation(self, file: "File") -> "FederationTools":
        """Return what answers the tools about other palaces, imported once one is called.

        `file` files what is accepted by stock's own tools.
        """
        from palace.engine.durability.federation import FederationTools

        stamp, kernel = self.journal.stamp, self.journal.kernel
        return FederationTools(self.stores.candidates, self.groups, kernel, stamp.origin, file)

    def candidate_tools(self, file: "File") -> "AgentTools":
        """Return what answers agents' tools for candidates, as `federation` does."""
        from palace.engine.durability.candidate_agents import AgentTools
        from palace.engine.durability.candidate_filing import Decisions

        return AgentTools(Decisions(self.stores.candidates, self.groups, file))

    def status(self) -> JsonObject:
        return {
            "journal": "dual" if self.recovery.dual else "on",
            "held": sorted(self.recovery.held),
            "seq": self.journal.seq,
            "durable_seq": self.journal.durable,
            "fsync": "mutation" if self.journal.fsyncs else NEVER,
            "quarantined": len(self.journal.tail.quarantined),
            "broken_lines": self.journal.tail.broken,
            "adoption": self.adoption.as_json() if self.adoption is not None else None,
            "plugin": told_of(
                self.plugin_problem,
                self.plugin,
                self._own.elsewhere if self._own is not None else None,
            ),
            "stores": {**self.health.as_json(), **self._seen_since()},
        }

    def _seen_since(self) -> JsonObject:
        """Return what became of the stores' files while they were open; waits for no lock."""
        return {
            "trouble": self._trouble(),
            "mended": [problem for kept in self.stores.kept_whole for problem in kept.mended],
        }

    def close(self) -> None:
        """Take over what stock wrote beside the seams, and make everything durable."""
        if self.adoption is not None:
            self.adoption.end()
        self.checkpointer.end()
        if self.examiner is not None:
            self.examiner.end()
        changes = self.stores.files.changes()
        if changes:
            drafts = [
                Draft(action=ADOPT, kind=change.kind, id=change.id, payload=change.after)
                for change in changes
            ]
            self.journal.append(drafts)
            self.stores.files.applied(changes)
            self.journal.close_key("", STATE)
        is_settled = not self.groups.stuck and not self.journal.tail.open
        self.journal.close()
        if self.stores.milvus is not None:
            self.stores.milvus.leave()
        if self.tables is not None:
            from palace.engine.stores.pgvector import release_tables

            release_tables(self.tables.root, settled=is_settled)


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
    exchange = Exchange(paths, palace.config.graph, kernel)
    if exchange.is_begun:
        with palace.alone_with(outside_files(paths, palace.config)):
            exchange.finish()
        logger.warning("an interrupted rebuild was carried through")
    journal = open_journal(palace)
    check_backend(palace, journal.tail)
    stores = build_stores(paths, palace.config, kernel, open_chroma)
    if stores.pgvector is not None:
        find_tables(journal.tail, stores.pgvector)
        stores.pgvector.claim()
    dual = palace.config.journal == DUAL
    health = heal_stores(palace, journal, stores, progress)
    migrate(stores, besides=health.left_names)
    if stores.register.exists() or stores.register.name in (journal.tail.baseline or {}):
        stores.register.keep_older_away()
    recovery = Recovery(
        journal=journal, projections=stores.all, progress=progress, dual=dual, own=stores.own
    )
    recovery.noted = read_note(paths, kernel) or Note()
    try:
        if not health.left:
            recovery.scan()
    except sqlite3.DatabaseError:  # in a part of a store that wasn't looked at
        before = health
        health = heal_stores(palace, journal, stores, progress, WHOLE_AT_OPENING)
        health = attrs.evolve(health, healed=(*before.healed, *health.healed))
        if not health.left:
            recovery.scan()
    groups = CallGroups(journal, context=context or CallContext())
    groups.guard = guard_of(stores.register)
    groups.suspect = partial(note_refusals, stores)
    install_seams(stores, groups)
    checkpointer = Checkpointer(journal=journal)
    memory = DurableCalls(journal, stores, groups, recovery, checkpointer, health)
    config = palace.config
    memory.policy = Policy(redact=config.redact, wrap=config.wrap, own_tools=config.own_tools)
    memory.plugin, memory.plugin_problem = plugin_settings(config), problem_of(config)
    announce(config)
    stores.register.epoch = palace.stamp.epoch
    memory.owner = OwnerTools(stores.register, groups, kernel)
    memory.tables = stores.pgvector
    if not health.left:
        memory.files = StoreFiles(stores, kernel)
        memory.examiner = Examiner(
            stores=stores, paths=paths, journal=journal, calls=memory.work, dual=dual
        )
    return memory
