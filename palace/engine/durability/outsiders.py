"""What other programs write beside a running owner, taken into the journal.

mempalace's writer lock guards Chroma alone: stock's `logstream`, `task` and `artifact` write their
SQLite file, `tunnels` its list and `kg` the graph, whoever holds the lock.  Reads see that at
once, and the journal doesn't.  So an owner looks now and then, and before a backup is made.

Theory of operation.  Each of these stores carries a fingerprint of what went through the journal.
Under the store's lock, which keeps our own changes out, it is measured again: where it differs, the
store is compared with the journal entity by entity, as at an opening (recovery.py).  A file that
is gone or emptied is left alone: that is damage, not a change.
"""

import logging
import os

from palace.engine.durability.reconciliation import adopt_beside
from palace.engine.stores.lists import JsonList
from palace.engine.stores.rows import Rows
from palace.journal.journal import Journal
from palace.journal.record import STATE
from palace.protocol.errors import StoreCorrupt

logger = logging.getLogger("palace.journal")


def adopt_outsiders(
    journal: Journal, stores: tuple[Rows | JsonList, ...], held: set[str] | None = None
) -> int:
    """Adopt what other programs have changed in some open stores; return how many entities.

    With `held` no store is written (reconciliation.py).  Raises JournalFailed and sqlite3.Error;
    the stores that come before are then done.
    """
    adopted = 0
    for store in stores:
        with store.lock:
            before = store.fingerprint()
            if not _is_whole(store) or store.read_fingerprint() == before:
                continue
            found = adopt_beside(journal, store, before, held)
        if found:
            name = store.name
            logger.info("%s: another program has changed %d entities: taken over", name, found)
        adopted += found
    if adopted:
        journal.sync(journal.close_key("", STATE))
    return adopted


def _is_whole(store: Rows | JsonList) -> bool:
    """Tell whether a store's file is there and can be read; a list must not have become empty."""
    if not os.path.exists(store.path):
        return False
    if isinstance(store, Rows):
        return True
    try:
        return bool(store.load())
    except StoreCorrupt:
        return False  # another program is writing it, or it is damaged: the next look tells
