"""The first meeting of an owner and a journal: what is found there is trusted, once.

| what the owner finds | what becomes of it |
|---|---|
| no journal | nothing: what is written is authenticated from the first record on |
| records without codes, of an earlier version | they are sealed with the owner's key |
| codes of another owner's keys | they stay, since that owner may come back; all up to the last \
record counts, as it was found, and nothing after it |

A palace whose keys the owner has lost is met again.  One that was put in the place of a palace
whose keys are known is not trusted: its journal is set aside (palace/journal/aside.py).
"""

import logging

from palace.engine.durability.owned import OwnedPalace
from palace.journal.journal import read_tail
from palace.journal.record import told_of
from palace.journal.reseal import reseal
from palace.journal.segment import list_segments, read_lines
from palace.kernel.kernel import Kernel
from palace.protocol.errors import UnsafePalace
from palace.protocol.keyring import ANYBODYS

logger = logging.getLogger("palace.journal")


def meet_journal(palace: OwnedPalace) -> None:
    """Decide what a new key's owner makes of the journal; call it with the journal closed."""
    keys, kernel, directory = palace.keys, palace.kernel, palace.paths.journal
    if keys is None or keys.is_settled or keys.ring.own is None:
        return
    segments = list_segments(directory, kernel)
    floor = 0
    if keys_in(directory, kernel) - {key.id for key in keys.ring.keys}:
        floor = read_tail(segments, kernel, ANYBODYS).seq
        logger.warning("the journal was written with keys that are not known here: palace trust")
    elif segments:
        logger.info("sealing the journal")
        reseal(directory, kernel, ANYBODYS, keys.ring.own)
    try:
        keys.settle(floor)
    except (OSError, UnsafePalace):
        logger.exception("the keys of the journal could not be written")


def keys_in(directory: str, kernel: Kernel) -> set[str]:
    """Return the keys with which the newest segment was written, "" left out."""
    segments = list_segments(directory, kernel)
    found = (
        {told_of(line).by for _, line in read_lines(segments[-1].path, kernel)}
        if segments
        else set()
    )
    return found - {""}
