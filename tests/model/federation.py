"""Federation: another palace that writes, purges and is put back, pulls of it, and deaths.

A model of its own, whose machines are the code's: `federation_taking` calls the functions of
palace/protocol/federation.py as they are.  The journal there is a list of numbers, and what it
offers is said a second time (`federation_source`), since reading real files in each state would
take years.  A step is one change there, one question to our broker, or one item that is read; all
others, SIGKILL included, may come between any two.  A broker that dies has taken a batch or hasn't,
which is a puller that dies before or after it.
"""

from collections.abc import Callable
from typing import NamedTuple

from tests.model.federation_checks import ended, took
from tests.model.federation_source import Read, live_of, read_on
from tests.model.federation_state import (
    ASKED,
    BEGIN,
    BLANK,
    COPY,
    IDLE,
    LIVE,
    MARK,
    READS,
    Journal,
    Left,
    Ours,
    Pull,
    Rec,
    Scope,
    State,
    put,
)
from tests.model.federation_taking import MOST, Part, Taken, decided, next_part, taken

Label = tuple[str, int]  # a step's name, and the pull or the entity
Out = Callable[[Label, State], None]


class World(NamedTuple):
    """`broken` names a broken protocol, "" is the real one."""

    scope: Scope
    broken: str = ""


def init(scope: Scope) -> State:
    none = (BEGIN,) * scope.entities
    zeros = (0,) * scope.entities
    ours = Ours(
        candidates=(None,) * scope.entities,
        ahead=none,
        decided=zeros,
        filed=((),) * scope.entities,
    )
    return State(
        journal=Journal(),
        ours=ours,
        pulls=(Pull(),) * scope.pullers,
        left=Left(**{name: getattr(scope, name) for name in Left._fields}),
        said=((BEGIN, zeros),),
    )


def next_states(s: State, w: World) -> list[tuple[Label, State]]:
    """Return every step that is possible, and where it leads."""
    steps: list[tuple[Label, State]] = []

    def out(label: Label, after: State) -> None:
        steps.append((label, after))

    _there(s, w, out)
    for n, pull in enumerate(s.pulls):
        _pull(s, w, n, pull, out)
    _decide(s, w, out)
    _undo(s, out)
    return steps


def _less(s: State, what: str) -> Left:
    return s.left._replace(**{what: getattr(s.left, what) - 1})


# The palace there.


def _there(s: State, w: World, out: Out) -> None:
    entities = range(w.scope.entities)
    if s.purging >= 0:
        out(("purge.mark", s.purging), _marked(s, w))
        return
    if s.left.writes:
        for e in entities:
            out(("write", e), _written(s, w, e, s.texts + 1))
            if live_of(s.journal, s.journal.end, w.scope.entities)[e]:
                out(("delete", e), _written(s, w, e, 0))
    if s.left.purges:
        for e in entities:
            if any(one.what == e and one.text > 0 for one in s.journal.records):
                out(("purge", e), _purged(s, w, e))
    _move_files(s, w, out)


def _written(s: State, w: World, e: int, text: int) -> State:
    s = s._replace(texts=max(s.texts, text), left=_less(s, "writes"))
    return _appended(s, w, Rec(s.epoch, e, text))


def _appended(s: State, w: World, record: Rec) -> State:
    journal = s.journal._replace(records=(*s.journal.records, record))
    now = (journal.at(journal.end), live_of(journal, journal.end, w.scope.entities))
    return s._replace(journal=journal, said=(*s.said, now))


def _purged(s: State, w: World, e: int) -> State:
    """Rewrite the files; a purge that dies here is done again, and so nothing else is written."""
    s = s._replace(left=_less(s, "purges"), purging=e)
    mark = (s.epoch, s.journal.end + 1)
    if w.broken == "mark_first":
        return _appended(s, w, Rec(s.epoch, MARK, 0))
    return _rewritten(s, e, mark)


def _rewritten(s: State, e: int, mark: tuple[int, int]) -> State:
    records = tuple(one._replace(text=BLANK) if one.what == e else one for one in s.journal.records)
    gone = tuple((one.text, e, mark) for one in s.journal.records if one.what == e and one.text > 0)
    return s._replace(journal=s.journal._replace(records=records), purged=(*s.purged, *gone))


def _marked(s: State, w: World) -> State:
    if w.broken == "mark_first":
        s = _rewritten(s, s.purging, s.journal.at(s.journal.end))
        here = (s.journal.at(s.journal.end), live_of(s.journal, s.journal.end, w.scope.entities))
        return s._replace(purging=-1, said=(*s.said[:-1], here))
    return _appended(s, w, Rec(s.epoch, MARK, 0))._replace(purging=-1)


def _move_files(s: State, w: World, out: Out) -> None:
    end = s.journal.end
    if s.left.trims and end > s.journal.cut and not s.journal.damaged:
        journal = s.journal._replace(cut=end)
        out(("trim", 0), s._replace(journal=journal, left=_less(s, "trims")))
    if s.left.copies and s.copy != s.journal:
        out(("copy", 0), s._replace(copy=s.journal, left=_less(s, "copies")))
    if s.left.damages:
        for seq in range(s.journal.cut + 1, end):
            if s.journal.records[seq - 1].what != MARK:
                out(("damage", seq), _damaged(s, seq))
    if w.scope.backs and s.backup is None and end:
        out(("backup", 0), s._replace(backup=s.journal))
    if s.left.backs and s.backup is not None:
        out(("back", 0), _put_back(s))


def _damaged(s: State, seq: int) -> State:
    journal = s.journal._replace(damaged=s.journal.damaged | {seq})
    lost = s.lost | {s.journal.records[seq - 1].what}
    return s._replace(journal=journal, lost=lost, left=_less(s, "damages"))


def _put_back(s: State) -> State:
    """An earlier state is put back; its next owner's epoch is later than any before."""
    assert s.backup is not None
    again = {one.text for one in s.backup.records}
    # Of what was purged and is there again, somebody may have read that there is nothing.
    unsaid = {e for text, e, mark in s.purged if text in again and s.ours.cursor < mark}
    return s._replace(
        journal=s.backup,
        epoch=s.epoch + 1,
        purged=tuple(one for one in s.purged if one[0] not in again),
        lost=s.lost | unsaid,
        left=_less(s, "backs"),
    )


# Pulls.


def _pull(s: State, w: World, n: int, p: Pull, out: Out) -> None:
    if p.phase == IDLE:
        if s.left.pulls:
            out(("pull", n), _with(s, n, Pull(phase=ASKED))._replace(left=_less(s, "pulls")))
        return
    if s.left.crashes:
        killed = _with(s, n, Pull())._replace(left=_less(s, "crashes"))
        out(("kill", n), killed)
    if p.phase == ASKED:
        _begin(s, n, out)
        return
    wanted = next_part(p, w.scope.entities, 100 if w.broken == "no_batches" else MOST)
    if wanted == "read":
        out(("read", n), _read(s, w, n, p))
    elif wanted == "known":
        out(("known", n), _asked(s, n, p))
    elif isinstance(wanted, Part):
        _take(s, w, n, p, wanted, out)
    elif wanted == "end":
        out(("pull.end", n), ended(_with(s, n, Pull()), p))
    else:  # no palace says that in that order
        out(("pull.refused", n), _with(s, n, Pull()))


def _with(s: State, n: int, pull: Pull) -> State:
    return s._replace(pulls=put(s.pulls, n, pull))


def _begin(s: State, n: int, out: Out) -> None:
    """Learn from the broker where to go on, and turn to the palace there, or to a copy."""
    place = (s.ours.cursor, s.ours.step)
    pull = Pull(phase=READS, place=place, upto=place[0])
    out(("ask", n), _with(s, n, pull._replace(owes=s.journal.at(s.journal.end))))
    if s.copy is not None:
        out(("ask.copy", n), _with(s, n, pull._replace(source=COPY)))
    if s.left.halves:
        for hole in range(s.journal.cut + 1, s.journal.end + 1):
            half = _with(s, n, pull._replace(hole=hole))
            out(("ask.half", n), half._replace(left=_less(s, "halves")))


def _read(s: State, w: World, n: int, p: Pull) -> State:
    journal = s.journal if p.source == LIVE or s.copy is None else s.copy
    seen = journal._replace(hole=p.hole)
    found: Read = read_on(seen, p.place[0], p.upto, w.scope.entities, w.broken)
    if found is None:  # it is no whole copy, and is refused
        return _with(s, n, Pull())
    items, is_read = found
    upto = p.upto
    if len(items) == 1:
        upto = items[0][1] if items[0][0] == "read" else items[0][2]
    return _with(s, n, p._replace(items=(*p.items, *items), upto=upto, is_read=is_read))


def _asked(s: State, n: int, p: Pull) -> State:
    """Learn whether one more entity is known, and not gone."""
    one = s.ours.candidates[p.asked]
    known = (*p.known, p.asked) if one is not None and not one.gone else p.known
    return _with(s, n, p._replace(asked=p.asked + 1, known=known))


def _take(s: State, w: World, n: int, p: Pull, part: Part, out: Out) -> None:
    """Have the broker take a batch."""
    part = _misled(part, p, w.broken)
    found = taken(s.ours, part, w.scope.room, w.broken)
    if isinstance(found, str):
        out((f"take.{found}", n), _with(s, n, Pull()))
        return
    ours = _made(s.ours, found, part)
    after = _with(s, n, p._replace(done=p.done + 1))
    out(("take", n), took(after._replace(ours=ours), s, len(part.offers), MOST))
    if w.broken == "cursor_first" and s.left.crashes:  # two groups, and a death between
        half = s.ours._replace(cursor=found.cursor, step=found.step)
        dead = _with(s, n, Pull())._replace(ours=half, left=_less(s, "crashes"))
        out(("take.half", n), dead)


def _misled(part: Part, p: Pull, broken: str) -> Part:
    """Return the batch that a broken puller makes of it."""
    if broken == "cursor_in_gap" and part.upto is None:
        return part._replace(upto=p.items[-1][1])
    if broken == "cursor_ahead" and part.upto is not None:
        return part._replace(upto=(part.upto[0], part.upto[1] + 1))
    return part


def _made(ours: Ours, found: Taken, part: Part) -> Ours:
    cursor, step, candidates = found
    ahead, kept = ours.ahead, ours.decided
    for offer in part.offers:
        _, e, at, _ = offer
        ahead = put(ahead, e, max(ahead[e], at))
        if candidates[e] is None:
            kept = put(kept, e, 0)
    return ours._replace(cursor=cursor, step=step, candidates=candidates, ahead=ahead, decided=kept)


# What is decided here.


def _decide(s: State, w: World, out: Out) -> None:
    """Somebody looks at a candidate, and later accepts or dismisses what was seen."""
    e, seen = s.looked
    if e < 0:
        if s.left.decisions:
            for n, one in enumerate(s.ours.candidates):
                if one is not None and one.text and one.shown:
                    looked = s._replace(looked=(n, one.text), left=_less(s, "decisions"))
                    out(("look", n), looked)
        return
    one = s.ours.candidates[e]
    s = s._replace(looked=(-1, 0))
    is_seen = one is not None and one.text == seen
    if one is None or not (is_seen or (w.broken == "decides_blindly" and one.text)):
        out(("decide.refused", e), s)
        return
    for name, local in (("accept", seen), ("dismiss", 0)):
        after = decided(e, one, local)
        filed = s.ours.filed[e]
        if local and local not in filed:
            filed = (*filed, local)
        ours = s.ours._replace(
            candidates=put(s.ours.candidates, e, after),
            decided=put(s.ours.decided, e, seen),
            filed=put(s.ours.filed, e, filed),
        )
        out((name, e), s._replace(ours=ours))


def _undo(s: State, out: Out) -> None:
    """Our own palace is put back."""
    if s.left.undos and s.before is None and s.ours.step:
        out(("keep", 0), s._replace(before=s.ours))
    if s.left.undos and s.before is not None and s.before != s.ours:
        pulls = tuple(p._replace(owes=BEGIN) for p in s.pulls)  # what they had done is undone
        out(("undo", 0), s._replace(ours=s.before, pulls=pulls, left=_less(s, "undos")))
