"""The palace there, and what its journal offers: palace/journal/offering.py, on records that are
two numbers.  `tests/model/test_federation.py` holds the two against each other.
"""

from tests.model.federation_state import MARK, At, Item, Journal, Live

# What comes of reading on: items, and whether that was all; None: it is no whole copy.
Read = tuple[tuple[Item, ...], bool] | None
GAP = ("gap",)


def live_of(journal: Journal, upto: int, entities: int, *, all_read: bool = True) -> Live:
    """Return what each entity says after a record; `all_read`: also what can't be read."""
    live = [0] * entities
    for seq, record in enumerate(journal.records[:upto], 1):
        is_read = all_read or seq <= journal.cut or journal.is_there(seq)
        if record.what != MARK and is_read:
            live[record.what] = max(record.text, 0)
    return tuple(live)


def goes_on(journal: Journal, since: At, broken: str) -> bool:
    """Tell whether a record that was read last is where it was, or a checkpoint ends there."""
    seq = since[1]
    if not seq:
        return True
    if seq > journal.end or not (journal.is_there(seq) or seq == journal.cut):
        return False
    return broken == "cursor_by_seq" or journal.at(seq) == since


def read_on(journal: Journal, since: At, upto: At, entities: int, broken: str = "") -> Read:
    """Read a journal up to the next offer, or to its end; `since` is where the pull began."""
    if upto == since and not goes_on(journal, since, broken):
        return everything(journal, since, entities, broken)
    is_other = bool(upto[1]) and upto[1] <= journal.end and journal.at(upto[1]) != upto
    if upto[1] > journal.end or (is_other and broken != "cursor_by_seq"):
        return ((("read", upto),), True)  # it was put back meanwhile, and nothing follows on that
    missing = False
    for seq in range(upto[1] + 1, journal.end + 1):
        if not journal.is_there(seq):
            missing = missing or seq not in journal.damaged
            is_last = not any(map(journal.is_there, range(seq, journal.end + 1)))
            is_passed = broken == "last_checkpoint_ignored" and is_last
            if seq <= journal.cut and broken != "checkpoint_ignored" and not is_passed:
                return everything(journal, since, entities, broken)
            continue
        if missing and broken not in ("gap_passed", "checkpoint_ignored"):
            return everything(journal, since, entities, broken)
        record = journal.records[seq - 1]
        if record.what == MARK and broken != "mark_ignored":
            return everything(journal, since, entities, broken)
        is_said = record.text > 0 or (record.text == 0 and broken != "removals_unread")
        if record.what != MARK and is_said:
            at = journal.at(journal.end if broken == "version_of_end" else seq)
            return ((("offer", record.what, at, record.text),), False)
        upto = journal.at(seq)
    return ((("read", upto),), True)


def everything(journal: Journal, since: At, entities: int, broken: str) -> Read:
    """Tell all that there is, as of the journal's end; nothing, where that was read."""
    there = [seq for seq in range(1, journal.end + 1) if journal.is_there(seq)]
    last = max((*there, journal.cut))
    hole = journal.hole
    if journal.cut < hole < last and broken != "half_told":
        return None
    at = journal.at(last)
    if (at[1] <= since[1] if broken == "seq_alone" else at <= since) and broken != "older_told":
        return ((), True)
    live = live_of(journal, last, entities, all_read=False)
    damaged = {journal.records[seq - 1].what for seq in journal.damaged}
    kept = damaged if broken == "damaged_stays" else set()
    if broken == "gone_not_told":
        kept = set(range(entities))
    said = tuple(("offer", e, at, text) for e, text in enumerate(live) if text)
    keeps = tuple(("keep", e) for e in sorted(kept) if not live[e])
    return ((GAP, *said, *keeps, ("whole", at)), True)
