"""How much is kept of one remote: what is beyond that is left out, and it is said.

So a remote that says too much keeps nothing of the others out, and what is gone or purged there
still goes here.

Pure.
"""

from collections.abc import Mapping

import attrs

from palace.engine.stores.candidates import Size, says_of
from palace.protocol.federation import CANDIDATES_BYTES_MAX, CANDIDATES_MAX, Candidate, Entity

MOST = Size(CANDIDATES_MAX, CANDIDATES_BYTES_MAX)

Changes = Mapping[Entity, Candidate | None]


@attrs.frozen(kw_only=True)
class Fitted:
    """The changes that are made, how many weren't as they were said, and the size after them."""

    changes: Changes
    left_out: int
    size: Size


def fit(
    changes: Changes, known: Mapping[Entity, Candidate], size: Size, most: Size = MOST
) -> Fitted:
    """Return what is made of changes to a remote of this size; nothing old stays for a new text.

    What says more than there is room for is no candidate any more; where something was made of it
    here, it stays one without a text.
    """
    made: dict[Entity, Candidate | None] = {}
    left_out = 0
    for entity, wanted in changes.items():
        before, after = known.get(entity), wanted
        if _is_beyond(_grown(size, before, after), size, most):
            left_out += 1
            if before is None:
                continue
            after = attrs.evolve(wanted, says=None) if wanted and wanted.local else None
        size = _grown(size, before, after)
        made[entity] = after
    return Fitted(changes=made, left_out=left_out, size=size)


def _grown(size: Size, before: Candidate | None, after: Candidate | None) -> Size:
    many = (after is not None) - (before is not None)
    return Size(size.many + many, size.bytes + _bytes_of(after) - _bytes_of(before))


def _is_beyond(size: Size, before: Size, most: Size) -> bool:
    """Tell whether it grows beyond the most: what shrinks does no harm, however large it is."""
    too_many = before.many < size.many > most.many
    return too_many or before.bytes < size.bytes > most.bytes


def _bytes_of(candidate: Candidate | None) -> int:
    return len(says_of(candidate).encode()) if candidate is not None else 0
