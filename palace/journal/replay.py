"""Replaying: every live entity, as the journal knows it.

Records are read in order, the newest checkpoint first; the last word on an entity counts.  Nothing
but places and hashes is kept in memory (about 300 bytes an entity), payloads are read again when
they are asked for.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b

import attrs

from palace.journal.origin import Origin, origins_told
from palace.journal.record import (
    CHECKPOINT,
    ENTITIES,
    NOT_OURS,
    STATE,
    Entity,
    Payload,
    Record,
)
from palace.journal.schema import object_of
from palace.journal.segment import (
    DIGITS,
    SUFFIX,
    Broken,
    Place,
    Segment,
    list_segments,
    number_of,
    read_at,
    read_segment,
    read_since,
)
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS, CODE_BYTES, Keyring

PREFIX = "checkpoint-"
_MIXED = f"{NOT_OURS}lines were removed, added or exchanged in this checkpoint"
_UNFINISHED = "it does not hold what its last line says of it"
UNSTABLE = frozenset({"vector", "schema"})

Progress = Callable[[str, float], None]


def no_progress(_stage: str, _fraction: float) -> None:
    return


def digest_of(payload: object) -> int:
    """Return 64 bits that stand for a payload; the order of its keys doesn't count.

    Left out is what a store changes by itself: the last bit of a vector that Chroma normalizes,
    and a collection's list of known metadata keys.
    """
    if isinstance(payload, dict):
        payload = {key: value for key, value in payload.items() if key not in UNSTABLE}
    text = json.dumps(payload, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big")


@attrs.frozen
class Live:
    """Where an entity's newest payload stands, and its digest."""

    place: Place
    digest: int
    seq: int


@attrs.define(eq=False)
class Replay:
    """The journal's last word on each entity, in the order in which they first appeared."""

    kernel: Kernel
    keys: Keyring = ANYBODYS
    live: dict[Entity, Live] = attrs.field(factory=dict)
    seq: int = 0
    broken: list[Broken] = attrs.field(factory=list)
    gaps: list[tuple[int, int]] = attrs.field(factory=list)  # first and last seq that are missing
    origins: list[Origin] = attrs.field(factory=list)  # of what a checkpoint holds

    def follow(self, record: Record) -> None:
        """Note a record's place in the order; what lies between it and the last is missing."""
        if record.seq > self.seq + 1:
            self.gaps.append((self.seq + 1, record.seq - 1))
        self.seq = max(self.seq, record.seq)

    def take(self, place: Place, record: Record) -> None:
        if record.action == STATE and object_of(record.payload).get("whole"):
            self.gaps.clear()  # what was missing was taken over from the stores
        if record.action not in ENTITIES:
            return
        if record.deleted:
            self.live.pop(record.entity, None)
        else:
            self.live[record.entity] = Live(place, digest_of(record.payload), record.seq)

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.live}

    def ids(self, kind: str) -> list[str]:
        return [ident for known, ident in self.live if known == kind]

    def payload(self, entity: Entity) -> Payload:
        return read_at(self.live[entity].place, self.kernel, self.keys).payload

    def payloads(self, kind: str) -> Iterator[tuple[str, Payload]]:
        """Yield a kind's entities with their payloads, file after file."""
        for entity, live in list(self.live.items()):
            if entity[0] == kind:
                yield entity[1], read_at(live.place, self.kernel, self.keys).payload


def checkpoint_path(directory: str, seq: int) -> str:
    return f"{directory}/{PREFIX}{seq:0{DIGITS}d}{SUFFIX}"


def newest_checkpoint(directory: str, kernel: Kernel) -> tuple[str, int] | None:
    """Return the newest checkpoint's path and the seq up to which it speaks."""
    numbers = (number_of(name, PREFIX) for name in kernel.list_directory(directory))
    newest = max((number for number in numbers if number is not None), default=None)
    return None if newest is None else (checkpoint_path(directory, newest), newest)


def replay(
    directory: str,
    kernel: Kernel,
    progress: Progress = no_progress,
    upto: int | None = None,
    keys: Keyring = ANYBODYS,
) -> Replay:
    """Read the newest checkpoint and all segments after it, those after `upto` left out.

    Where that checkpoint is not as it was written, the segments that it replaced are read.
    """
    while True:
        state = Replay(kernel, keys)
        start = newest_checkpoint(directory, kernel)
        is_whole = start is None or _take_checkpoint(state, *start)
        since = state.seq + 1
        found_segments = list_segments(directory, kernel, archived=not is_whole)
        # A checkpoint that was made in between has moved segments away before they were listed,
        # which would look like a gap.
        if newest_checkpoint(directory, kernel) == start:
            break
    segments = [segment for segment in found_segments if segment.reaches(since)]
    numbers, path = {segment.path: number for number, segment in enumerate(segments)}, ""
    for place, found in read_since(segments, kernel, since, keys):
        if place.path != path:
            path = place.path
            progress("reading the journal", numbers[path] / len(segments))
        if isinstance(found, Broken):
            state.broken.append(found)
        elif upto is None or found.seq <= upto:
            state.follow(found)
            state.take(place, found)
    if start is not None and state.seq < start[1] and not is_whole:
        state.gaps.append((state.seq + 1, start[1]))
    return state


class CheckpointLines:
    """The lines of one checkpoint, counted: each was written by an owner, or it is damaged.

    That they belong together is what the last line says: how many there are, and what comes of
    their codes.
    """

    def __init__(self, upto: int, keys: Keyring) -> None:
        self._upto = upto
        self._is_open = keys.own is None or upto <= keys.floor
        self._codes = blake2b(digest_size=CODE_BYTES)
        self._count = 0
        self._told: Mapping[str, object] = {}

    def add(self, record: Record) -> bool:
        """Take the next line; tell whether it is one of an entity's."""
        if record.action == CHECKPOINT:
            self._told = object_of(record.payload)
            return False
        self._codes.update(record.link.encode())
        self._count += 1
        return True

    @property
    def origins(self) -> list[Origin]:
        return origins_told(self._told)

    @property
    def problem(self) -> str:
        """Return why the lines don't belong together, "" where they do."""
        told = self._told
        if told.get("upto") != self._upto or told.get("entities") != self._count:
            return _UNFINISHED if self._is_open else _MIXED
        if not self._is_open and told.get("lines") != self._codes.hexdigest():
            return _MIXED
        return ""


def problem_of_checkpoint(path: str, upto: int, kernel: Kernel, keys: Keyring) -> str:
    """Return what is wrong with a checkpoint's lines taken together, "" for nothing."""
    lines = CheckpointLines(upto, keys)
    for _, found in read_segment(Segment(path=path, first=0, end=None), kernel, keys):
        if isinstance(found, Record):
            lines.add(found)
    return lines.problem


def _take_checkpoint(state: Replay, path: str, upto: int) -> bool:
    """Take over what a checkpoint holds; return False, and nothing, if it isn't as it was written.

    Nothing that it says counts then, its name included: one that names a later record than the
    last would hide what is written next.
    """
    lines = CheckpointLines(upto, state.keys)
    segment = Segment(path=path, first=0, end=None)
    for place, found in read_segment(segment, state.kernel, state.keys):
        if isinstance(found, Broken):
            state.broken.append(found)
        elif lines.add(found):
            state.take(place, found)
    if problem := lines.problem:
        state.live.clear()
        state.broken.append(Broken(place=Place(path=path, offset=0, length=0), why=problem))
        return False
    state.seq, state.origins = upto, lines.origins
    return True
