"""What the journal says of the present: which groups are open, which replies may be repeated.

The same fold reads the newest segment when a journal is opened, and follows what is appended to it
afterwards.  Pure: it knows records, no files.

Theory of operation.  A key with changes is *open* until an outcome, a unit's end or an abort
closes it; what a dead owner left open is rolled back by the next one.  A closing record that leaves
no group open also holds the stores' fingerprints: the *baseline*.  What was touched since then is
remembered with the state that it had at the baseline, so that a later reader can tell our own
unfinished work from what another program did.

While a palace is being *adopted* the stores hold entities of which the journal says nothing yet, or
something that is out of date.  Closing records then name their fingerprints `so_far`, which an
older palace takes for none, and say since which record the journal tells the truth: what a later
record speaks of is settled, whoever wrote it.
"""

from collections.abc import Iterable

import attrs

from palace.journal.author import Numbers, told_by
from palace.journal.record import (
    ABORT,
    ADOPT,
    ADOPTION,
    ATTEMPT,
    CHANGES,
    ENTITIES,
    LEAVE,
    OUTCOME,
    QUARANTINE,
    SEGMENT,
    STATE,
    UNDO,
    UNIT,
    Draft,
    Entity,
    Json,
    JsonObject,
    Payload,
)
from palace.journal.schema import is_so_far, object_of
from palace.protocol.wire import whole_number

OUTCOMES_MAX = 4096  # of one session: a shim never has more lines unsettled
SESSIONS_MAX = 1000  # with outcomes not acknowledged yet; the oldest go first
# Of all outcomes together.  They are in memory, and in the first record of each segment; a shim
# acknowledges long before.  No session loses its newest one.
OUTCOME_CHARS_MAX = 16 << 20
EPOCHS_KEPT = 1000  # after which the outcomes of a session that never came back are forgotten


MOVING = "moving"  # in a closing record: the store to which the drawers are being moved
HELD = "held"  # in a baseline, beside the stores' names: none of them has this one


@attrs.frozen
class Touched:
    """An entity's payload at the baseline, and now; None where it is absent."""

    baseline: Payload
    now: Payload


@attrs.frozen
class Adopting:
    """An adoption that has not ended.

    What records after `since` speak of is in the journal as it is in the stores; of anything else
    the journal may know nothing.  `total` is how many entities the stores held.
    """

    since: int
    total: int

    def problem(self, known: int) -> str:
        """Say why the journal alone is not enough; it knows so many entities by now."""
        return (
            f"The journal does not hold the whole palace yet: {known} of about {self.total} "
            "entries. A broker takes the others into it beside the calls that it serves, and "
            "palace status shows how far it is. Let one finish (palace start), and ask again."
        )


@attrs.define(eq=False)
class Replies:
    """One session's outcomes by ordinal; those below `forgotten` are not known any more."""

    epoch: int = 0
    forgotten: int = 0
    texts: dict[int, str] = attrs.field(factory=dict)
    whose: dict[int, str] = attrs.field(factory=dict)  # the workspace; the owner's aren't in it
    chars: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.chars = sum(map(len, self.texts.values()))

    def keep(self, ordinal: int, text: str, workspace: str) -> None:
        self.chars += len(text) - len(self.texts.get(ordinal, ""))
        self.texts[ordinal] = text
        self.whose.pop(ordinal, None)
        if workspace:
            self.whose[ordinal] = workspace

    def forget(self, upto: int) -> None:
        self.forgotten = max(self.forgotten, upto)
        self.texts = {ordinal: text for ordinal, text in self.texts.items() if ordinal >= upto}
        self.whose = {ordinal: one for ordinal, one in self.whose.items() if ordinal >= upto}
        self.chars = sum(map(len, self.texts.values()))

    def forget_oldest(self, chars: int) -> None:
        """Forget the oldest until so many characters are gone, or the newest is left alone."""
        upto, freed = self.forgotten, 0
        for ordinal in sorted(self.texts)[:-1]:
            if freed >= chars:
                break
            freed += len(self.texts[ordinal])
            upto = ordinal + 1
        self.forget(upto)


def split_key(key: str) -> tuple[str, int] | None:
    """Return (session, ordinal) of a call's key, None for a key of our own."""
    session, colon, ordinal = key.rpartition(":")
    if not colon or not session:
        return None
    try:
        return session, whole_number(ordinal)
    except ValueError:
        return None


@attrs.define(eq=False)
class Tail:
    """The fold.  `note` takes each record once, in order."""

    seq: int = 0
    epoch: int = 0
    baseline: JsonObject | None = None
    baseline_seq: int = 0
    adopting: Adopting | None = None  # None: the journal is whole, or has no baseline at all
    # What calls changed during the adoption; what that itself has read is left out.
    settled: set[Entity] = attrs.field(factory=set)
    open: dict[str, list[Draft]] = attrs.field(factory=dict)  # key -> its changes, oldest first
    touched: dict[Entity, Touched] = attrs.field(factory=dict)
    replies: dict[str, Replies] = attrs.field(factory=dict)
    attempts: dict[str, int] = attrs.field(factory=dict)  # key -> owners' deaths in it
    tries: dict[str, int] = attrs.field(factory=dict)  # key -> rollbacks not ended
    quarantined: dict[str, str] = attrs.field(factory=dict)  # key -> why
    holders: dict[str, int] = attrs.field(factory=dict)  # key -> epoch of its last owner
    left: set[int] = attrs.field(factory=set)  # epochs of owners that were told to leave
    numbers: Numbers = attrs.field(factory=Numbers)
    # An owner worked without the journal since the baseline: the stores know better.
    paused: bool = False
    # The store that is to keep the drawers instead of the baseline's, "" for none: until the next
    # baseline, either may be in place.
    moving: str = ""
    gaps: int = 0  # of missing records: what is open, and which replies are known, is a guess then
    horizon: int = 0  # sessions last seen in an epoch before this one are not known any more
    # As it was when the journal was opened: the code of record `seq`, the palace that the newest
    # segment is of ("": it doesn't say), how many lines were passed over as no records, and how
    # many of these this palace's owner didn't write.
    link: str = ""
    origin: str = ""
    broken: int = 0
    foreign: int = 0

    def note(self, draft: Draft, seq: int, epoch: int) -> None:
        self.epoch = max(self.epoch, epoch)
        # After a failed fsync a segment repeats records that its header speaks of already.
        if draft.action == SEGMENT or seq <= self.seq:
            return
        self.gaps += seq > self.seq + 1
        self.seq = seq
        if draft.action in ENTITIES:
            self._touch(draft)
        if draft.action in CHANGES:
            self.open.setdefault(draft.key, []).append(draft)
            self.holders[draft.key] = epoch
        elif draft.action in (OUTCOME, UNIT, ABORT, STATE):
            self._close(draft, epoch)
        elif draft.action == ATTEMPT:
            self._attempt(draft.key, epoch)
        elif draft.action == LEAVE:
            self.left = {epoch, *(self.left & set(self.holders.values()))}
        elif draft.action == QUARANTINE:
            self.quarantined[draft.key] = str(draft.payload)

    def is_settled(self, seq: int) -> bool:
        """Tell whether an entity's last record says what its store held when it was written.

        While a palace is adopted, what older records say may be out of date.
        """
        return self.adopting is None or seq > self.adopting.since

    def expect(self, seq: int) -> None:
        """Note that the next record can't have a smaller seq: those before it are missing."""
        if seq > self.seq + 1:
            self.gaps += 1
            self.seq = seq - 1

    def _attempt(self, key: str, epoch: int) -> None:
        """Count the end of the key's last owner, unless that was told to leave."""
        tries = self.tries.get(key, 0)
        if self.holders.get(key) in self.left:
            self.tries[key] = max(tries, 1)
        else:
            self.attempts[key] = self.attempts.get(key, 0) + 1
            self.tries[key] = tries + 1
        self.holders[key] = epoch

    def _touch(self, draft: Draft) -> None:
        if self.baseline is None:  # there is nothing to compare with yet
            return
        if draft.key == ADOPTION:  # it is in the store as the baseline says
            return
        entity = draft.entity
        if self.adopting is not None:
            self.settled.add(entity)
        known = self.touched.get(entity)
        now = None if draft.deleted else draft.payload
        if known is not None:
            self.touched[entity] = Touched(known.baseline, now)
        elif draft.action in CHANGES:
            self.touched[entity] = Touched(draft.before, now)
        else:
            # Neither knows what was before.  The change that an undo takes back was noted already,
            # so this is an adopted entity: the baseline takes it as another program left it.
            assert draft.action in (UNDO, ADOPT)
            self.touched[entity] = Touched(now, now)

    def _close(self, draft: Draft, epoch: int) -> None:
        payload = object_of(draft.payload)
        self.numbers.note(payload)
        self.open.pop(draft.key, None)
        # A rollback that ended is no longer under suspicion; how often the key was interrupted
        # (`attempts`) stays until it has an outcome, since its client sends it again.
        self.tries.pop(draft.key, None)
        self.holders.pop(draft.key, None)
        call = split_key(draft.key)
        if draft.action == OUTCOME:
            self.attempts.pop(draft.key, None)
            if call is not None:
                told = told_by(payload)
                workspace = told[0].workspace if told is not None else ""
                self._keep(call, str(payload.get("reply", "")), workspace, epoch)
        if isinstance(moving := payload.get(MOVING), str):
            self.moving = moving
        if isinstance(at := payload.get("at"), dict):
            self._compare_from_here(at, None)
        elif is_so_far(so_far := payload.get("so_far")):
            adopting = Adopting(so_far["since"], so_far["total"])
            self._compare_from_here(so_far["at"], adopting)

    def _compare_from_here(self, at: Json, adopting: Adopting | None) -> None:
        self.baseline, self.baseline_seq, self.adopting = at, self.seq, adopting
        self.paused, self.moving = False, ""
        self.touched.clear()
        if adopting is None:
            self.settled.clear()

    @property
    def held_back(self) -> frozenset[str]:
        """Return the stores that lack what the journal holds, and were not to be written."""
        told = object_of(self.baseline).get(HELD)
        names = told if isinstance(told, list) else []
        return frozenset(name for name in names if isinstance(name, str))

    def fingerprints_as(self, at: JsonObject) -> JsonObject:
        """Return what a closing record says of the stores' fingerprints."""
        if self.adopting is None:
            return {"at": at}
        return {"so_far": {"at": at, **attrs.asdict(self.adopting)}}

    def _keep(self, call: tuple[str, int], reply: str, workspace: str, epoch: int) -> None:
        session, ordinal = call
        replies = self.replies.setdefault(session, Replies())
        replies.epoch = epoch
        replies.keep(ordinal, reply, workspace)
        if len(replies.texts) > OUTCOMES_MAX:
            replies.forget(min(replies.texts) + 1)
        # All have little: there is nothing to add up with each change.
        share = OUTCOME_CHARS_MAX // SESSIONS_MAX
        if replies.chars > share:
            self._bound_outcomes(share)
        if len(self.replies) > SESSIONS_MAX:
            # The horizon rises with it: an outcome that was dropped must not look like none.
            oldest = min(self.replies, key=lambda name: self.replies[name].epoch)
            self.horizon = max(self.horizon, self.replies.pop(oldest).epoch + 1)

    def _bound_outcomes(self, share: int) -> None:
        """Take from the session that holds most, while all together hold too much.

        Not the newest, nor from one that holds no more than a share: one long reply is no fault.
        """
        while (excess := sum(held.chars for held in self.replies.values()) - OUTCOME_CHARS_MAX) > 0:
            several = (
                held for held in self.replies.values() if len(held.texts) > 1 and held.chars > share
            )
            heaviest = max(several, key=lambda held: held.chars, default=None)
            if heaviest is None:
                return
            heaviest.forget_oldest(excess)

    # Outcomes.

    def reply(self, session: str, ordinal: int) -> str | None:
        """Return the recorded reply of a call, None where none is known."""
        replies = self.replies.get(session)
        return replies.texts.get(ordinal) if replies is not None else None

    def reply_for(self, session: str, ordinal: int) -> str:
        """Return the workspace for which a call's reply was recorded, "" for the owner."""
        replies = self.replies.get(session)
        return replies.whose.get(ordinal, "") if replies is not None else ""

    def is_forgotten(self, session: str, ordinal: int, epoch: int) -> bool:
        """Tell whether an outcome may have been recorded and is not known any more.

        `epoch` is that of the owner to which the session last sent the line, 0 if unknown.
        """
        replies = self.replies.get(session)
        return epoch < self.horizon or (replies is not None and ordinal < replies.forgotten)

    def acknowledge(self, session: str, upto: int) -> None:
        """Forget the outcomes that the session has settled."""
        replies = self.replies.get(session)
        if replies is not None and upto > replies.forgotten:
            replies.forget(upto)

    def end_session(self, session: str) -> None:
        """Forget a session that will never come again."""
        self.replies.pop(session, None)

    def forget_sessions(self, epoch: int) -> None:
        """Forget all outcomes from before an epoch: some of them may be missing."""
        self.replies.clear()
        self.horizon = epoch

    def forget_old_sessions(self, epoch: int) -> None:
        horizon = epoch - EPOCHS_KEPT
        old = [name for name, replies in self.replies.items() if replies.epoch < horizon]
        for name in old:
            del self.replies[name]
        if old:
            self.horizon = max(self.horizon, horizon)

    # A segment's first record, from which a reader starts.

    def header(self) -> JsonObject:
        """Return what a reader that begins here must know."""
        whose = {
            name: list(replies.whose.items())
            for name, replies in self.replies.items()
            if replies.whose
        }
        touched = [[*entity, was.baseline, was.now] for entity, was in self.touched.items()]
        compared = {"at": self.baseline, "at_seq": self.baseline_seq, "touched": touched}
        if self.adopting is not None:
            so_far = {**compared, **attrs.asdict(self.adopting)}
            compared = {"at": None, "at_seq": 0, "touched": [], "so_far": so_far}
        return {
            "seq": self.seq,
            **compared,
            "open": {
                key: [_packed(change) for change in changes] for key, changes in self.open.items()
            },
            "replies": {
                name: [replies.epoch, replies.forgotten, list(replies.texts.items())]
                for name, replies in self.replies.items()
            },
            # Nothing where nobody has a workspace.
            **({"whose": whose} if whose else {}),
            **({MOVING: self.moving} if self.moving else {}),
            "attempts": self.attempts,
            "tries": self.tries,
            "quarantined": self.quarantined,
            "holders": self.holders,
            "left": sorted(self.left),
            "horizon": self.horizon,
            "numbers": self.numbers.last,
            "paused": self.paused,
        }

    @classmethod
    def from_header(cls, payload: JsonObject, seq: int, epoch: int) -> "Tail":
        """Undo `header`, which may speak of records that follow it: those are repetitions."""
        whose = payload.get("whose") or {}
        replies = {
            name: Replies(then, forgotten, dict(texts), dict(whose.get(name, ())))
            for name, (then, forgotten, texts) in payload["replies"].items()
        }
        so_far = payload.get("so_far")
        compared = payload if so_far is None else so_far
        return cls(
            seq=seq if payload.get("seq") is None else payload["seq"],
            epoch=epoch,
            baseline=compared["at"],
            baseline_seq=compared["at_seq"],
            adopting=None if so_far is None else Adopting(so_far["since"], so_far["total"]),
            open={key: [_unpacked(key, c) for c in cs] for key, cs in payload["open"].items()},
            touched={(k, i): Touched(then, now) for k, i, then, now in compared["touched"]},
            replies=replies,
            attempts=dict(payload["attempts"]),
            tries=dict(payload["tries"]),
            quarantined=dict(payload["quarantined"]),
            holders=dict(payload.get("holders") or {}),  # earlier versions told neither
            left=set(payload.get("left") or ()),
            paused=payload.get("paused") is True,
            moving=payload.get(MOVING) or "",
            numbers=Numbers(dict(payload.get("numbers") or {})),
            horizon=payload["horizon"],
        )


def _packed(change: Draft) -> list[Json]:
    return [change.step, change.action, change.kind, change.id, change.payload, change.before]


def _unpacked(key: str, packed: Iterable[Json]) -> Draft:
    step, action, kind, ident, payload, before = packed
    return Draft(
        key=key,
        step=step,
        action=action,
        kind=kind,
        id=ident,
        payload=payload,
        before=before,
        deleted=payload is None,
    )
