"""What another palace knows, shown here as candidates: a fold that never changes anything of ours.

A *remote* is a palace that is pulled from.  Each of its drawers and facts is a *candidate* here
until somebody accepts or dismisses it.

Theory of operation.  What a remote's journal says of an entity is an *offer*, with a version: the
epoch and the seq of the record that said it.  Both only rise, also in a palace that was put back or
restored, whose owners' epochs are later ones.  Of two offers for one entity the later version
counts, so that reading anything twice changes nothing.

A source is a list of items: offers in the journal's order, and where it has been read up to.  Where
records are gone, where another state was put back, or where something was purged, it says `Gap`,
offers all that there is as of its end, and says `Whole`: what is known here and wasn't offered is
gone there.

Batches are taken one at a time, and only by whoever knows of the one before: each counts up the
remote's `step`.  So of two that pull at once one stops, a batch is taken once, and what is said to
be gone at `Whole` is compared with candidates that nobody changes meanwhile.  The cursor moves with
the batch that holds what it passes.

Rule for this file: pure.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import attrs

from palace.protocol.decoding import is_number, is_text

DRAWER, FACT = "drawer", "fact"
NEW, CHANGED, ACCEPTED, DISMISSED, WITHDRAWN = (
    *("new", "changed", "accepted", "dismissed", "withdrawn"),
)
STATUSES = (NEW, CHANGED, ACCEPTED, DISMISSED, WITHDRAWN)
UNDECIDED = frozenset({NEW, CHANGED, WITHDRAWN})  # somebody has to look at these

BATCH_OFFERS = 200
BATCH_BYTES = 1 << 20
CANDIDATES_MAX = 100_000  # of one remote
CANDIDATES_BYTES_MAX = 256 << 20  # of what one remote's say together
AGENTS_LIMIT, AGENTS_LIMIT_MAX = 10, 50  # candidates that an agent is told of at once
NUMBER_MAX = (1 << 53) - 1  # of a seq or an epoch; beyond it JSON's readers differ
IDENT_CHARS_MAX = 1000
NAME_CHARS_MAX = 256
TEXT_BYTES_MAX = 256 << 10
_KEY_DIGITS = 24

Content = Mapping[str, str]
# What a drawer and a fact are made of: each a text, with its most bytes; the first ones are needed.
_FIELDS: Mapping[str, Mapping[str, int]] = {
    DRAWER: {
        "text": TEXT_BYTES_MAX,
        "wing": NAME_CHARS_MAX,
        "room": NAME_CHARS_MAX,
        "part_of": IDENT_CHARS_MAX,
    },
    FACT: {
        "subject": NAME_CHARS_MAX,
        "predicate": NAME_CHARS_MAX,
        "object": TEXT_BYTES_MAX,
        "valid_from": NAME_CHARS_MAX,
        "valid_to": NAME_CHARS_MAX,
    },
}
_NEEDED = 3


class Unacceptable(ValueError):
    """What a remote says, and no palace says; the text names what is wrong and quotes nothing."""


class Stale(Exception):
    """Another batch was taken since this one's place was read: somebody else pulls."""


@attrs.frozen(order=True)
class Version:
    """When something was said: a later one counts."""

    epoch: int = 0
    seq: int = 0


@attrs.frozen(kw_only=True)
class Position:
    """A record of a remote's journal, by what no other record has; `origin` is its palace."""

    version: Version = Version()
    writer: str = ""
    origin: str = ""


START = Position()


@attrs.frozen(kw_only=True)
class Place:
    """How far a remote was read; `step` counts the batches that were taken."""

    position: Position = START
    step: int = 0


@attrs.frozen(kw_only=True)
class Offer:
    """What a remote says of one entity; `says` nothing: it is gone there."""

    kind: str
    ident: str
    at: Position
    says: Content | None

    @property
    def entity(self) -> tuple[str, str]:
        return self.kind, self.ident


@attrs.frozen
class Gap:
    """From here to `Whole` everything is offered that there is."""


@attrs.frozen
class Read:
    """The journal was read up to here, and holds nothing else for us before."""

    at: Position


@attrs.frozen
class Whole:
    """All that there was here has been offered since `Gap`."""

    at: Position


Item = Offer | Gap | Read | Whole


@attrs.frozen(kw_only=True)
class Batch:
    """Offers that are taken over at once; `upto` is where the cursor moves, None: nowhere."""

    step: int
    offers: tuple[Offer, ...] = ()
    upto: Position | None = None


@attrs.frozen(kw_only=True)
class Candidate:
    """An entity of a remote's, as it is known here.

    `decided` is the digest of what was last accepted or dismissed, "" for nothing; `local` names
    all that was made of it here, one a line, the newest last; "" where it never was accepted.  What
    is `gone` has no content, nor has what is as it was accepted: that stands in our own store.
    """

    kind: str
    ident: str
    at: Position
    digest: str = ""
    says: Content | None = None
    decided: str = ""
    local: str = ""
    gone: bool = False

    @property
    def status(self) -> str:
        if self.gone:
            return WITHDRAWN
        if self.digest == self.decided:
            return ACCEPTED if self.local else DISMISSED
        return CHANGED if self.local else NEW


Entity = tuple[str, str]  # kind and the remote's id


def key_of(remote: str, entity: Entity) -> str:
    """Return what names a candidate here: made of digits, whatever the remote calls it."""
    text = "\0".join((remote, *entity))
    return "cand_" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_DIGITS]


def digest_of(content: Content) -> str:
    """Return what tells two contents apart that mean something else."""
    told = {name: text for name, text in content.items() if text}
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


# What comes from a remote.


def read_content(kind: str, given: object) -> Content:
    """Return a drawer or a fact as it may be kept; raises Unacceptable for anything else."""
    fields = _FIELDS.get(kind)
    if fields is None or not isinstance(given, dict):
        raise Unacceptable("it offers what is neither a drawer nor a fact")
    content: dict[str, str] = {}
    for name, most in fields.items():
        text = given.get(name)
        if text is None:
            text = ""
        if not _is_short(text, most):
            raise Unacceptable(f"the {name} of a {kind} is no text of at most {most} bytes")
        if text:
            content[name] = text
    lacking = [name for name in list(fields)[:_NEEDED] if name not in content]
    if lacking:
        raise Unacceptable(f"a {kind} has no {lacking[0]}")
    return content


def _is_short(text: object, most: int) -> bool:
    """Tell whether a value is a text of so many bytes; half a surrogate pair has none."""
    if not isinstance(text, str) or len(text) > most or "\0" in text:
        return False
    try:
        return len(text.encode()) <= most
    except UnicodeEncodeError:
        return False


def read_position(given: object) -> Position:
    """Return a position of the wire; raises Unacceptable."""
    fields = given if isinstance(given, dict) else {}
    numbers = [fields.get(name) for name in ("epoch", "seq")]
    if not all(is_number(number, NUMBER_MAX) for number in numbers):
        raise Unacceptable(f"a position's epoch and seq are no numbers up to {NUMBER_MAX}")
    writer, origin = fields.get("writer"), fields.get("origin")
    if not is_text(writer, NAME_CHARS_MAX) or not is_text(origin, NAME_CHARS_MAX):
        raise Unacceptable("a position's writer and origin are no short texts")
    epoch, seq = numbers
    assert isinstance(epoch, int)
    assert isinstance(seq, int)
    return Position(version=Version(epoch, seq), writer=str(writer), origin=str(origin))


def position_fields(at: Position) -> dict[str, Any]:
    """Return a position as the wire has it."""
    return {
        "epoch": at.version.epoch,
        "seq": at.version.seq,
        "writer": at.writer,
        "origin": at.origin,
    }


def read_item(given: object) -> Item:
    """Return a decoded line of a feed as what it says; raises Unacceptable."""
    fields = given if isinstance(given, dict) else {}
    if fields.get("gap") is True:
        return Gap()
    for name, made in (("read", Read), ("whole", Whole)):
        if name in fields:
            return made(read_position(fields[name]))
    kind, ident = fields.get("kind"), fields.get("id")
    if not isinstance(ident, str) or not ident or not _is_short(ident, IDENT_CHARS_MAX):
        raise Unacceptable("a line of it names nothing")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise Unacceptable("it offers what is neither a drawer nor a fact")
    content = fields.get("content")
    return Offer(
        kind=kind,
        ident=ident,
        at=read_position(fields.get("at")),
        says=None if content is None else read_content(kind, content),
    )


def item_fields(item: Item) -> dict[str, Any]:
    """Return an item as the wire has it."""
    if isinstance(item, Gap):
        return {"gap": True}
    if isinstance(item, Offer):
        says = None if item.says is None else dict(item.says)
        at = position_fields(item.at)
        return {"kind": item.kind, "id": item.ident, "at": at, "content": says}
    name = "read" if isinstance(item, Read) else "whole"
    return {name: position_fields(item.at)}


# How it is divided.


@attrs.define
class _Pending:
    """What goes into the next batch."""

    step: int
    most: int
    offers: list[Offer] = attrs.field(factory=list)
    size: int = 0

    def add(self, offer: Offer) -> bool:
        """Take one more; tell whether it is enough."""
        self.offers.append(offer)
        self.size += sum(map(len, (offer.says or {}).values()))
        return len(self.offers) >= self.most or self.size >= BATCH_BYTES

    def batch(self, upto: Position | None) -> Batch:
        made = Batch(step=self.step, offers=tuple(self.offers), upto=upto)
        self.offers, self.size = [], 0
        self.step += 1
        return made


def batches(
    items: Iterable[Item],
    place: Place,
    known: Callable[[], Collection[Entity]],
    most: int = BATCH_OFFERS,
) -> Iterator[Batch]:
    """Yield what is to be taken over, in order; each once the one before was taken.

    None has more than `most` offers.  `known` returns the candidates that are there and not gone,
    as they are when it is called.  Raises Unacceptable where what a source says can't be in that
    order; what it said before may be kept.  One that ends within a gap leaves the cursor before it.
    """
    pending = _Pending(place.step, most)
    reached = kept = place.position
    listed: set[Entity] | None = None  # what was offered since a gap
    for item in items:
        if isinstance(item, Gap):
            if pending.offers:
                yield pending.batch(reached)
                kept = reached
            listed = set()
        elif isinstance(item, Offer):
            _check_order(item.at, reached)
            if listed is None:
                reached = item.at
            else:
                listed.add(item.entity)
            if pending.add(item):
                yield pending.batch(reached if listed is None else None)
                kept = reached
        elif isinstance(item, Read):
            if listed is None and item.at.version >= reached.version:
                reached = item.at
        else:
            _check_order(item.at, reached)
            if listed is None:
                raise Unacceptable("it says that all was offered, and it wasn't")
            yield from _without(listed, item.at, pending, known)
            reached = kept = item.at
            listed = None
    if listed is None and reached != kept:
        yield pending.batch(reached)


def _check_order(at: Position, reached: Position) -> None:
    if at.version <= reached.version:
        raise Unacceptable("its records don't come in their order")


def _without(
    listed: set[Entity],
    at: Position,
    pending: _Pending,
    known: Callable[[], Collection[Entity]],
) -> Iterator[Batch]:
    """Yield what was offered last, and that all else is gone; then the cursor is here."""
    if pending.offers:
        yield pending.batch(None)  # and so `known` has it, and nobody else's is taken meanwhile
    for kind, ident in sorted(set(known()) - listed):
        if pending.add(Offer(kind=kind, ident=ident, at=at, says=None)):
            yield pending.batch(None)
    yield pending.batch(at)


# How it is taken over.


@attrs.frozen(kw_only=True)
class Taken:
    """What a batch makes of a remote: its place, and its candidates that change (None: none)."""

    place: Place
    changes: Mapping[Entity, Candidate | None]


def take(place: Place, batch: Batch, known: Mapping[Entity, Candidate]) -> Taken:
    """Return what taking a batch over means; `known` has the candidates that it names.

    Raises Stale where another one was taken meanwhile, Unacceptable for one that would take the
    cursor back or past what it doesn't hold.
    """
    if batch.step != place.step:
        raise Stale
    upto = batch.upto or place.position
    if upto.version < place.position.version:
        raise Unacceptable("it would take the cursor back")
    if batch.upto is not None and any(one.at.version > upto.version for one in batch.offers):
        raise Unacceptable("it holds what comes after its own end")
    found: dict[Entity, Candidate | None] = {}
    for offer in batch.offers:
        before = found[offer.entity] if offer.entity in found else known.get(offer.entity)
        after = fold(before, offer)
        if after != before or offer.entity in found:
            found[offer.entity] = after
    return Taken(place=Place(position=upto, step=place.step + 1), changes=found)


def fold(known: Candidate | None, offer: Offer) -> Candidate | None:
    """Return what an offer makes of a candidate, None where nothing is left to show of it."""
    if known is not None and offer.at.version <= known.at.version:
        return known
    if offer.says is None:
        if known is None or not known.local:
            return None
        return attrs.evolve(known, at=offer.at, gone=True, says=None, digest="")
    digest = digest_of(offer.says)
    if known is not None and known.digest == digest:
        return known  # of a gap, most is known: it is written once
    made = Candidate(
        kind=offer.kind, ident=offer.ident, at=offer.at, digest=digest, says=offer.says
    )
    if known is None:
        return made
    return _settled(attrs.evolve(made, decided=known.decided, local=known.local))


def _settled(candidate: Candidate) -> Candidate:
    is_here = candidate.status == ACCEPTED
    return attrs.evolve(candidate, says=None) if is_here else candidate


# What is decided here.


def accepted(candidate: Candidate, local: str) -> Candidate:
    """Return a candidate of which something was made here; it has to have content.

    What was made of it before stays here, too, so that it is still named.
    """
    before = [one for one in candidate.local.splitlines() if one != local]
    made = "\n".join((*before, local))
    return _settled(attrs.evolve(candidate, decided=candidate.digest, local=made))


def dismissed(candidate: Candidate) -> Candidate | None:
    """Return a candidate that nobody wants as it is, None where nothing is left to show of it.

    One that was accepted before stays what it was here, and counts as accepted.
    """
    if candidate.gone:
        return None
    return _settled(attrs.evolve(candidate, decided=candidate.digest))
