"""What must hold of the right to write a database's tables.

| F1 | no two incarnations commit under one epoch of one timeline |
| F2 | what commits is named by the row |
| F3 | epochs rise strictly within a timeline |
| F4 | what was acknowledged is in the tables, or is written again at its palace's next opening |
| F5 | nobody takes the right over another's open journal |
| F6 | a row that says settled is true |
| F7 | an owner that lost the right, or whose timeline has ended, commits nothing |
| F8 | a living owner keeps the right, unless the server ends its sessions |
| F9 | a palace ends no sessions of another one that has the right |
| F10 | the owner that an unsettled row names is noted in its own directory |
| F11 | somebody who asks gets the right (in the explorer) |

Force is an excuse for F4 and F5, a fail-over for what it lost.
"""

from collections.abc import Sequence

from tests.model.fence_state import LEAVE, LOAD, SERVE, Row, Session, State


def committed(s: State, session: Session) -> State:
    """Look at a commit that has just written to the tables."""
    made = s.made[session.inc - 1]
    pair = (made.epoch, session.inc)
    bad = s.bad
    if made.line != s.line:
        bad = f"F7 incarnation {session.inc} commits in another timeline"
    elif any(epoch == made.epoch and inc != session.inc for epoch, inc in s.wrote):
        bad = f"F1 two incarnations commit in epoch {made.epoch}"
    elif s.tables.row.inc != session.inc:
        bad = f"F2 incarnation {session.inc} commits, and the row names {s.tables.row.inc}"
    elif not session.dead and s.procs[session.dir].lost:
        bad = f"F7 incarnation {session.inc} commits, and knows that it lost the right"
    return s._replace(wrote=tuple(sorted({*s.wrote, pair})), bad=s.bad or bad)


def serves(s: State, d: int) -> State:
    """Look at an owner that is about to serve, or to acknowledge a change."""
    if d in s.owed and s.tables.now < s.journals[d].last:
        return s._replace(bad=s.bad or "F4 what a fail-over lost is not written again")
    return s._replace(owed=tuple(one for one in s.owed if one != d))


def owner_changed(s: State, before: Row, session: Session) -> State:
    """Look at a row that has just been committed."""
    row, bad = s.tables.row, ""
    s = s._replace(forced=s.forced or (session.force and not before.settled))
    if row.epoch <= s.top:
        bad = f"F3 epoch {row.epoch} after {s.top}"
    elif not s.forced and any(
        one.open and one.inc not in s.gone for d, one in enumerate(s.journals) if d != row.place
    ):
        bad = "F5 the right is taken over another palace's open journal"
    elif before.inc and before.place != row.place and not before.settled:
        p = s.procs[before.place]
        is_cut = p.cut or p.lost or p.line != s.line  # by the server, or with it
        if p.inc == before.inc and p.at in (LOAD, SERVE, LEAVE) and not is_cut:
            bad = "F8 the right is taken from an owner that lives"
    return s._replace(top=max(s.top, row.epoch), bad=s.bad or bad)


def sessions_ended(s: State, d: int, ended: Sequence[Session]) -> State:
    """Look at what a palace is about to end."""
    row = s.tables.row
    if row.place != d and any(one.inc == row.inc and row.inc for one in ended):
        return s._replace(bad=s.bad or "F9 a palace ends the sessions of another one")
    return s


def settled(s: State, d: int) -> State:
    """Look at an owner that has just said that its row is settled."""
    if d in s.owed and s.tables.row.place == d:
        return s._replace(bad=s.bad or "F6 the row says settled, and lacks what was acknowledged")
    return s


def violation(s: State) -> str:
    """Return what is wrong with a state, "" for nothing."""
    row = s.tables.row
    if s.bad:
        return s.bad
    if row.inc:
        journal = s.journals[row.place]
        if row.settled and journal.open and journal.inc not in s.gone:
            return "F6 the row says settled over an open journal"
        if not row.settled and row.inc not in s.notes[row.place]:
            return "F10 nobody knows the owner that the row names"
    if s.tables.now < s.acked and not s.forced:
        return "F4 an acknowledged change is gone"
    return ""
