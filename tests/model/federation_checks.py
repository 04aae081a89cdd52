"""What must hold of what other palaces know here.

| F1 | a candidate says what the journal there said at the candidate's own version |
| F2 | what was decided here, and what was made of it, only a decision changes |
| F3 | a record that the cursor has passed was taken: what it says is here, what it removes is not |
| F4 | what was purged there is not shown, once its mark was passed; a pull after it passes it |
| F5 | a batch is no larger than it may be |
| F6 | a pull that ends well has passed all that was there when it began |

Damaged records are an excuse for F1 and F3; so is a purge that is undone, by an earlier state that
is put back, before it has left its mark.  What is left out for lack of room is one for F3.
"""

from tests.model.federation_state import At, Cand, Live, Pull, Scope, State


def took(after: State, before: State, offers: int, most: int) -> State:
    """Look at a batch that was taken."""
    if offers > most:
        return after._replace(bad="F5 a batch is too large")
    for e, (was, now) in enumerate(zip(before.ours.candidates, after.ours.candidates, strict=True)):
        if was is None or was == now:
            continue
        kept = now if now is not None else Cand(was.at, 0, shown=False)
        if (was.local or now) and (was.local, was.decided) != (kept.local, kept.decided):
            return after._replace(bad=f"F2 a pull changes what was decided upon {e}")
    return after


def ended(s: State, p: Pull) -> State:
    """Look at a pull that has just ended well."""
    was_there = p.owes[1] <= s.journal.end and s.journal.at(p.owes[1]) == p.owes
    if was_there and s.ours.cursor < p.owes:
        return s._replace(bad=f"F6 a pull has ended at {s.ours.cursor}, and not at {p.owes}")
    return s


def violation(s: State, scope: Scope) -> str:
    """Return what is wrong with a state, "" for nothing."""
    if s.bad:
        return s.bad
    known = dict(s.said)
    for e, one in enumerate(s.ours.candidates):
        problem = _problem(s, scope, known, e, one)
        if problem:
            return problem
    return ""


def _problem(s: State, scope: Scope, known: dict[At, Live], e: int, one: Cand | None) -> str:
    cursor, gone = s.ours.cursor, {text: mark for text, _, mark in s.purged}
    text = one.text if one is not None and not one.gone else 0
    if one is not None and one.shown and text in gone and cursor >= gone[text]:
        return f"F4 candidate {e} shows what was purged"
    if one is not None:
        if one.local != s.ours.filed[e] or one.decided != s.ours.decided[e]:
            return f"F2 {e} is {one}, and {s.ours.filed[e]}, {s.ours.decided[e]} was decided"
        if one.gone and one.shown:
            return f"F1 {e} is gone, and shows a text"
        if text and e not in s.lost and known.get(one.at, ())[e : e + 1] != (text,):
            return f"F1 {e} says {text} as of {one.at}, and it said {known.get(one.at)}"
    elif s.ours.filed[e]:
        return f"F2 {e} was accepted, and nothing says so"
    if cursor not in known:
        return f"F3 the cursor is at {cursor}, where nothing was said"
    is_rewritten = any(of == e and mark > cursor for _, of, mark in s.purged)
    if is_rewritten or e in s.lost or text in _expected(s, known, e):
        return ""
    if not text and (scope.room or known[cursor][e] in gone):
        return ""
    return f"F3 {e} says {text} at {cursor}, and the journal there {_expected(s, known, e)}"


def _expected(s: State, known: dict[At, Live], e: int) -> set[int]:
    """Return what an entity may say: as of the cursor, or as of what was told ahead of it."""
    cursor, ahead = s.ours.cursor, s.ours.ahead[e]
    expected = {known[cursor][e]}
    if ahead > cursor and ahead in known:
        expected.add(known[ahead][e])
    return expected
