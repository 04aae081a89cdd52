"""Were a store's missing rows deleted, or lost?  Chroma numbers each change, deletions included."""

from palace.engine.stores.chroma import Chroma
from palace.engine.stores.drawers import COLLECTION
from palace.engine.stores.projection import Projection
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.record import CHANGES, UNDO, Entity, Json, Record


def is_accounted_for(journal: Journal, projection: Projection, then: Json) -> bool:
    """Tell whether all numbers that Chroma has given since a baseline are known to be writes.

    Then no other program can have deleted anything.  What can be seen to have a number is a write.
    Of what can't be seen any more, our own count: what belongs to no open group was written, and so
    was what takes it back.  Where more is counted than was given, it counts for lost: what is
    missing is never taken for deleted.
    """
    if not isinstance(projection, Chroma):
        return False
    given, seen = projection.writes_since(then)
    numbered = set(seen)
    ours: list[Entity] = []
    since = journal.tail.baseline_seq + 1
    for found in read_from(journal.directory, journal.kernel, since, keys=journal.keys):
        if not isinstance(found, Record) or found.action not in {*CHANGES, UNDO}:
            continue
        was_written = found.key not in journal.tail.open or found.entity in numbered
        if was_written and found.kind != COLLECTION and projection.owns(found.kind):
            ours.append(found.entity)
    return given <= len(seen) + len(ours) - len(numbered.intersection(ours))
