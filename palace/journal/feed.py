"""A journal for programs that keep a copy of what it says: nothing is missing, or it is said.

Whoever applies the records of a feed in order holds what the journal says, also where records are
gone: a *summary* then tells which ones, and every entity that there is comes after it, as a
checkpoint holds it.  What was known before counts no more, since what was deleted can't be told.
"""

from collections.abc import Generator, Iterator

import attrs

from palace.journal.following import Follower, Position
from palace.journal.inspect import Gap
from palace.journal.record import CHECKPOINT, Record
from palace.journal.replay import newest_checkpoint, problem_of_checkpoint
from palace.journal.segment import Broken, Segment, read_segment


@attrs.frozen(kw_only=True)
class Summary:
    """Records from `first` to `last` are not here, and all entities up to `upto` follow.

    They are `entities`; none follow, and `upto` is 0, where the whole journal comes instead: it is
    not the one that was read before.
    """

    first: int
    last: int
    upto: int
    entities: int


@attrs.frozen
class Snapshot:
    """An entity as a checkpoint holds it: the record that said it last."""

    record: Record


Fed = Record | Gap | Broken | Summary | Snapshot


def go_on(follower: Follower, position: Position | None) -> Iterator[Summary]:
    """Stand behind what was read before; yield a summary where that is another journal's.

    None: nothing was read before.
    """
    if position is None or follower.go_on_from(position):
        return
    if _ends_at(follower, position):  # all that was read was a summary
        follower.skip_to(position.seq + 1)
        follower.position = position
        return
    follower.skip_to(1)
    yield Summary(first=1, last=position.seq, upto=0, entities=0)


def read_feed(follower: Follower) -> Iterator[Fed]:
    """Yield what is new; where records are gone, what the newest checkpoint holds instead."""
    while True:
        # Before the segments: what it covers was in them then, or in the archive.
        before = newest_checkpoint(follower.directory, follower.kernel)
        gap = yield from _until_covered(follower)
        if gap is None:
            if before is None or before[1] < follower.expected:
                return
            gap = Gap(first=follower.expected, last=before[1])
        if (yield from _summary(follower, gap)) is None:
            return


def _until_covered(follower: Follower) -> Generator[Fed, None, Gap | None]:
    """Yield what is new up to a gap that a checkpoint covers; return that."""
    for found in follower.read():
        if isinstance(found, Gap) and _covering(follower, found) is not None:
            return found
        yield found
    return None


def _covering(follower: Follower, gap: Gap) -> tuple[str, int] | None:
    newest = newest_checkpoint(follower.directory, follower.kernel)
    if newest is None or newest[1] < gap.first:
        return None
    is_whole = not problem_of_checkpoint(*newest, follower.kernel, follower.keys)
    return newest if is_whole else None


def _summary(follower: Follower, gap: Gap) -> Generator[Fed, None, int | None]:
    """Yield what a checkpoint holds in a gap's place; return its seq, None where there is none."""
    covering = _covering(follower, gap)
    if covering is None:
        return None
    path, upto = covering
    lines = _lines(follower, path)
    entities = sum(record.action != CHECKPOINT for record in lines)
    yield Summary(first=gap.first, last=upto, upto=upto, entities=entities)
    for record in _lines(follower, path):
        if record.action != CHECKPOINT:
            yield Snapshot(record)
            continue
        follower.skip_to(upto + 1)
        follower.position = Position(seq=upto, epoch=record.epoch, writer=record.writer)
    return upto


def _ends_at(follower: Follower, position: Position) -> bool:
    """Tell whether somebody has read the newest checkpoint, and nothing after it."""
    newest = newest_checkpoint(follower.directory, follower.kernel)
    if newest is None or newest[1] != position.seq:
        return False
    return any(
        record.action == CHECKPOINT and position.is_of(record)
        for record in _lines(follower, newest[0])
    )


def _lines(follower: Follower, path: str) -> Iterator[Record]:
    segment = Segment(path=path, first=0, end=None)
    for _, found in read_segment(segment, follower.kernel, follower.keys):
        if isinstance(found, Record):
            yield found
