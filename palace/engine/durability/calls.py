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

from palace.engine.api import Call, DurableCallback, Reply
from palace.engine.durability import refusals
from palace.engine.durability.adoption import ONE_GO, Adoption
from palace.engine.durability.backends import check_backend
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
from palace.engine.durability.presence import StoreFiles
from palace.engine.durability.recovery import Recovery
from palace.engine.durability.swap import Exchange
from palace.engine.stores.chroma_api import ChromaApi
from palace.engine.stores.health import WHOLE_AT_OPENING, note_refusals
from palace.engine.stores.palace_stores import Stores, build_stores, migrate
from palace.engine.stores.register import NAME as REGISTER
from palace.engine.stores.seams import install_seams
from palace.journal.author import Author
from palace.journal.journal import Journal, SyncCallback
from palace.journal.purge import PURGED_REPLY
from palace.journal.record import ADOPT, STATE, Draft, JsonObject
from palace.journal.replay import Progress
from palace.ownership.data_locks import outside_files
from palace.protocol import jsonrpc
from palace.protocol.errors import (
    Forbidden,
    InvalidMemory,
    JournalFailed,
    PalaceError,
    StoreUnavailable,
)
from palace.protocol.policy import ALL, DEFAULT, Policy, shows_own
from palace.protocol.principals import OWNER, UNKNOWN_PRINCIPAL, is_confined, refusal_of
from palace.protocol.request import translated
from palace.protocol.resend import Trace, Verdict, judge
from palace.protocol.resolver import Tree
from palace.protocol.tools import FILE_TEXTS, OWN_TOOLS, OWNER_TOOLS, SHOW_DRAWERS, Kind
from palace.settings.config import DUAL, NEVER

if TYPE_CHECKING:
    from palace.engine.durability.own_tools import OpenStore, OwnTools

SWEEP = "palace_sweep"  # which forgets memories, and is own_tools' therefore

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
    files: StoreFiles | None = None  # None: another engine's stores, or what is damaged was left
    examiner: Examiner | None = None
    adoption: Adoption | None = None  # None: nothing had to be adopted
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
            return ""
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
        return self.examiner.suspicion if self.examiner is not None else ""

    def _trouble(self) -> str:
        return self._suspicion() or (self.files.trouble() if self.files is not None else "")

    def answer(self, call: Call, dispatch: Callable[[], Reply]) -> Reply:
        """Dispatch a call as one group, or repeat what the journal knows of it."""
        if call.tool.kind is Kind.QUERY or not call.session:
            reply, doubt = dispatch(), self.examiner.doubt if self.examiner is not None else ""
            if doubt and call.request.name in SHOW_DRAWERS:
                reply = attrs.evolve(reply, payload=refusals.with_note(reply.payload, doubt))
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
        workspace = call.principal.workspace if call.principal is not None else ""
        # What the gate lets through is there whole, with its audit, or not at all.
        author = Author(call.client, workspace)
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
        return call.principal.workspace != recorded

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
            kept=not is_open and not forgotten,
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

            kernel = self.journal.kernel
            self._own = OwnTools(
                self.stores.register, self.groups, kernel, self.open_store(), self.policy
            )
        return self._own

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
        self.journal.close()


class JournalledEngine:
    """What an engine answers through its journal; `_memory` is None while there is none.

    For engines to inherit from (palace/engine/api.py has the contract).
    """

    _memory: DurableCalls | None = None
    _leaves: bool = False

    def remember(self, memory: DurableCalls) -> None:
        """Answer through a journal that has been opened; nothing is taken back before this."""
        self._memory = memory
        if self._leaves:  # it was told before there was a journal to say it in
            memory.journal.leave()

    def workspaces(self) -> Tree | None:
        memory = self._memory
        if memory is None or REGISTER in memory.health.left_names:
            return None
        if memory.owner is None:
            return Tree()
        return memory.owner.register.tree()

    def not_permitted(self, call: Call) -> Forbidden | None:
        """Say why whoever calls may not, as the tree is now."""
        is_owner = call.principal == OWNER
        if is_owner and call.tool.kind is Kind.QUERY:
            return None  # at once: this is asked at each call
        tree = self.workspaces()
        if is_owner:
            return self._reserved(tree or Tree(), call)
        if call.principal is None or tree is None:
            return Forbidden(UNKNOWN_PRINCIPAL)
        text = refusal_of(tree, call.principal, call.request.name)
        if text:
            return Forbidden(text)
        return None if is_confined(tree, call.principal) else self._reserved(tree, call)

    def refuse(self, call: Call, problem: PalaceError) -> Reply:
        """Return the reply to a call that may not run now."""
        memory = self._memory
        verdict = refusals.unjournalled(call) if memory is None else memory.verdict_to_tell(call)
        return refusals.turned_away(call, problem, verdict)

    def _reserved(self, tree: Tree, call: Call) -> Forbidden | None:
        """Say why a plain tool may not write what only the gate may."""
        if not tree.workspaces or call.tool.kind is Kind.QUERY:
            return None
        from palace.memory.reserved import refused_write

        text = refused_write(call.request.name, call.request.arguments)
        return Forbidden(text) if text else None

    def answer_own(self, call: Call) -> JsonObject | None:
        """Return the reply to a call of palace's own tools, or of a confined session; else None.

        Where there is no workspace there are no tools for them: stock says so.
        """
        name, principal = call.request.name, call.principal
        if name in OWNER_TOOLS:
            return self._answer_owner(call)
        if principal is None or (principal == OWNER and name not in OWN_TOOLS):
            return None
        tree = self.workspaces()
        if self._memory is None or tree is None:
            return None
        if not is_confined(tree, principal) and (
            name not in OWN_TOOLS or not shows_own(self._memory.policy.own_tools, tree)
        ):
            return None
        own = self._memory.own_tools()
        if own is None:
            return None
        return own.answer(principal, call.request, read_only=call.read_only)

    def cleanly(self, call: Call, answer: Callable[[Call], Reply]) -> Reply:
        """Answer a call as the owner lets it be filed: where they said so, without secrets."""
        policy = self._memory.policy if self._memory is not None else DEFAULT
        if policy.redact != ALL or call.request.name not in FILE_TEXTS:
            return answer(call)
        from palace.memory.redact import redacted_values

        try:
            message = {**call.message, "params": redacted_values(call.message["params"])}
        except InvalidMemory as problem:
            return self.refuse(call, problem)
        return answer(attrs.evolve(call, request=translated(call.request, message)))

    def showing(self, call: Call) -> "OwnTools | None":
        """Return what knows memories, for a tool of stock's that shows some; None where none is."""
        tree = self.workspaces() if call.request.name in SHOW_DRAWERS else None
        if self._memory is None or tree is None or not tree.workspaces:
            return None
        return self._memory.own_tools()

    def _answer_owner(self, call: Call) -> JsonObject:
        own = self._memory.own_tools() if call.request.name == SWEEP and self._memory else None
        if own is not None:
            return own.answer(OWNER, call.request, read_only=call.read_only)
        if self._memory is not None and self._memory.owner is not None:
            return self._memory.owner.answer(call.request, read_only=call.read_only)
        text = (
            "Workspaces are kept by palace's journal, and this palace has none open: "
            "palace status says why. To begin one: palace config set journal=on"
        )
        return jsonrpc.failure(call.request.id, StoreUnavailable(text))

    def when_durable(self, seq: int, callback: DurableCallback) -> None:
        assert self._memory is not None, "a reply has a seq only where there is a journal"
        self._memory.when_durable(seq, callback)

    def acknowledge(self, session: str, upto: int) -> None:
        if self._memory is not None:
            self._memory.journal.acknowledge(session, upto)

    def recorded(self, session: str, ordinal: int) -> bytes | None:
        text = self._memory.journal.reply(session, ordinal) if self._memory is not None else None
        if text is None or text == PURGED_REPLY:
            return None
        return text.encode("utf-8", "surrogatepass") or None

    def resumes(self) -> bool:
        return self._memory is not None

    def end_session(self, session: str) -> None:
        if self._memory is not None:
            self._memory.journal.end_session(session)

    def leave(self) -> None:
        self._leaves = True
        if self._memory is not None:
            self._memory.journal.leave()

    def adopt(self) -> int:
        return self._memory.adopt() if self._memory is not None else 0

    def adopts(self) -> bool:
        adoption = self._memory.adoption if self._memory is not None else None
        return adoption is not None and adoption.is_under_way

    def is_in_place(self) -> bool:
        return self._memory is None or self._memory.journal.is_in_place()

    def save(self, target: str) -> bool:
        return self._memory is not None and self._memory.journal.save_to(target) > 0


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
    check_backend(palace, journal.tail.baseline)
    stores = build_stores(paths, palace.config, kernel, open_chroma)
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
    stores.register.epoch = palace.stamp.epoch
    memory.owner = OwnerTools(stores.register, groups, kernel)
    if not health.left:
        memory.files = StoreFiles(stores, kernel)
        memory.examiner = Examiner(
            stores=stores, paths=paths, journal=journal, calls=memory.work, dual=dual
        )
    return memory
