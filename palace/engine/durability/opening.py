"""Opening an owner's journal: is it the palace's own, and is it whole, by what is remembered."""

import logging

from palace.engine.durability.meeting import meet_journal
from palace.engine.durability.owned import OwnedPalace
from palace.journal.journal import Journal
from palace.journal.origin import begun_in
from palace.journal.segment import list_segments
from palace.kernel.causes import why_closed
from palace.ownership.lock import replaced_meanwhile
from palace.protocol.errors import StoreUnavailable
from palace.settings.config import NEVER

logger = logging.getLogger("palace.journal")


def open_journal(palace: OwnedPalace) -> Journal:
    """Open the journal of an owned palace, or begin it; call it before any store is open.

    Raises JournalBroken, StoreUnavailable where the store can't be written, and LockReplaced where
    the palace's directory is replaced meanwhile.
    """
    _check_store(palace)
    meet_journal(palace)
    _miss_journal(palace)
    journal = Journal.open(
        palace.paths.journal,
        palace.kernel,
        palace.stamp,
        fsyncs=palace.config.journal_fsync != NEVER,
    )
    _check_in_place(journal, palace)
    _compare_with_memory(journal, palace)
    return journal


def _check_store(palace: OwnedPalace) -> None:
    """Refuse a database that can't be written: stock's words for it would be of another cause."""
    store = palace.paths.store
    if palace.kernel.file_id(store) is not None and not palace.kernel.writable(store):
        why, remedy = why_closed(store)
        raise StoreUnavailable(f"{store} can't be written by this user: {why}. {remedy}")


def _miss_journal(palace: OwnedPalace) -> None:
    """Notice that a palace has lost its journal whole, before it gets a new one.

    What its stores hold is taken into that.  What they lack, and what it had answered, is gone: a
    line that is sent again may be of it.
    """
    memory, directory = palace.memory, palace.paths.journal
    if memory is None or not memory.served.seq or list_segments(directory, palace.kernel):
        return
    if not memory.in_place():  # what has none is not the palace
        return
    last = memory.served.seq
    logger.error("the journal is gone, and records up to %d were written: see palace doctor", last)
    palace.kernel.make_directory(directory)
    Journal.note_lost(directory, palace.kernel)
    memory.served.seq, memory.served.unjournalled = 0, True
    memory.note_lost(1, last)


def _check_in_place(journal: Journal, palace: OwnedPalace) -> None:
    """Refuse a journal that lies in a directory which took the place of the palace's own.

    Looked at again after it was opened: it was opened by its name, and other programs rename the
    directory at any moment.  What was opened or begun there is nothing of the palace's.
    """
    memory = palace.memory
    if memory is None:
        return
    if not memory.in_place():
        journal.close()
        raise replaced_meanwhile(palace.paths)
    segments = list_segments(journal.directory, palace.kernel, archived=True)
    memory.note_begun(begun_in(segments, palace.kernel, palace.stamp.keys))


def _compare_with_memory(journal: Journal, palace: OwnedPalace) -> None:
    """Notice a journal that ends before the last record that was acknowledged from it.

    An older copy of the palace's files was put back, by whatever means: what is missing is in none
    of its stores, and a line that is sent again may be of it.
    """
    memory = palace.memory
    if memory is None or journal.is_new or journal.seq >= memory.served.seq:
        return
    first, last = journal.seq + 1, memory.served.seq
    logger.error(
        "the journal ends with record %d, and records up to %d were written: an older copy of the "
        "palace's files was put back; see palace doctor",
        journal.seq,
        last,
    )
    journal.tail.forget_sessions(palace.stamp.epoch)
    journal.roll()  # its header keeps the horizon
    memory.served.seq = journal.seq
    memory.note_lost(memory.served.lost_from or first, last)
