"""What palace/protocol/federation.py makes of a state of the model: the code itself, remembered.

Everything here is a function of what it is given, so each question is asked of it once.
"""

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import attrs

from palace.engine.durability.candidate_room import fit
from palace.engine.stores.candidates import Size, says_of
from palace.protocol.federation import (
    DRAWER,
    START,
    Batch,
    Candidate,
    Entity,
    Gap,
    Item,
    Offer,
    Place,
    Position,
    Read,
    Stale,
    Unacceptable,
    Version,
    Whole,
    accepted,
    batches,
    digest_of,
    dismissed,
    take,
)
from tests.model.federation_state import BEGIN, At, Cand, Ours, Pull, put
from tests.model.federation_state import Item as Coded

MOST = 1  # offers of a batch


class Part(NamedTuple):
    """A batch."""

    step: int
    offers: tuple[Coded, ...]
    upto: At | None


class Taken(NamedTuple):
    cursor: At
    step: int
    candidates: tuple[Cand | None, ...]


class _ReadOn(Exception):
    """There may be more than was read."""


class _Ask(Exception):
    """It is to be asked what is known."""


def says(text: int) -> Mapping[str, str]:
    return {"text": f"text {text} {'.' * text}", "wing": "w", "room": "r"}  # a later one is longer


_digest = lru_cache(maxsize=None)(lambda text: digest_of(says(text)))


def position(at: At) -> Position:
    if at == BEGIN:
        return START
    return Position(version=Version(*at), writer=f"w{at[0]}", origin="there")


def _at(given: Position) -> At:
    return given.version.epoch, given.version.seq


def entity(number: int) -> Entity:
    return DRAWER, str(number)


def decoded(coded: Coded) -> Item:
    """Return an item as the code has it."""
    told: Any = coded
    if told[0] == "gap":
        return Gap()
    if told[0] == "offer":
        _, number, at, text = told
        content = says(text) if text else None
        return Offer(kind=DRAWER, ident=str(number), at=position(at), says=content)
    return (Read if told[0] == "read" else Whole)(position(told[1]))


def _coded(offer: Offer) -> Coded:
    text = int(offer.says["text"].split()[1]) if offer.says else 0
    return ("offer", int(offer.ident), _at(offer.at), text)


# The puller.


@cache
def next_part(pull: Pull, entities: int, most: int = MOST) -> Part | str:
    """Return the batch that a pull comes to next, or what it does before it has one."""
    place = Place(position=position(pull.place[0]), step=pull.place[1])
    kept = {item[1] for item in pull.items if item[0] == "keep"}  # by a broken protocol alone

    def read() -> Iterator[Item]:
        yield from (decoded(item) for item in pull.items if item[0] != "keep")
        if not pull.is_read:
            raise _ReadOn

    def known() -> list[Entity]:
        if pull.asked < entities:
            raise _Ask
        return [entity(number) for number in pull.known if number not in kept]

    made = batches(read(), place, known, most)
    try:
        for _ in range(pull.done):
            next(made)
        batch = next(made, None)
    except _ReadOn:
        return "read"
    except _Ask:
        return "known"
    except Unacceptable:
        return "refused"
    if batch is None:
        return "end"
    upto = None if batch.upto is None else _at(batch.upto)
    return Part(batch.step, tuple(map(_coded, batch.offers)), upto)


# What takes it.


def _candidate(number: int, one: Cand) -> Candidate:
    return Candidate(
        kind=DRAWER,
        ident=str(number),
        at=position(one.at),
        digest=_digest(one.text) if one.text else "",
        says=says(one.text) if one.shown else None,
        decided=_digest(one.decided) if one.decided else "",
        local="\n".join(map(str, one.local)),
        gone=one.gone,
    )


def _cand(one: Candidate | None, texts: Mapping[str, int]) -> Cand | None:
    if one is None:
        return None
    return Cand(
        at=_at(one.at),
        text=texts[one.digest],
        shown=one.says is not None,
        decided=texts[one.decided],
        local=tuple(map(int, one.local.splitlines())),
        gone=one.gone,
    )


def _texts(*numbers: int) -> dict[str, int]:
    return {"": 0} | {_digest(number): number for number in numbers if number}


@cache
def taken(ours: Ours, part: Part, room: int = 0, broken: str = "") -> Taken | str:
    """Return what taking a batch makes of us, or why it isn't taken."""
    place = Place(position=position(ours.cursor), step=ours.step)
    known = {
        entity(n): _candidate(n, one) for n, one in enumerate(ours.candidates) if one is not None
    }
    offers = tuple(one for one in map(decoded, part.offers) if isinstance(one, Offer))
    if broken == "decisions_forgotten":
        known = {e: attrs.evolve(one, decided="", local="") for e, one in known.items()}
    if broken == "no_versions":
        known = {e: attrs.evolve(one, at=START) for e, one in known.items()}
    step = ours.step if broken == "no_steps" else part.step
    upto = None if part.upto is None else position(part.upto)
    try:
        made = take(place, Batch(step=step, offers=offers, upto=upto), known)
    except Stale:
        return "stale"
    except Unacceptable:
        return "refused"
    changes = made.changes
    if room:
        changes = _fitted(changes, known, room, broken)
    texts = _texts(
        *(number for one in ours.candidates if one for number in (one.text, one.decided)),
        *(int(str(offer[3])) for offer in part.offers),
    )
    candidates = ours.candidates
    for (_, ident), one in changes.items():
        made_of = _cand(one, texts)
        was = ours.candidates[int(ident)]
        if broken == "no_versions" and made_of is not None and was and made_of.at == BEGIN:
            made_of = made_of._replace(at=was.at)
        candidates = put(candidates, int(ident), made_of)
    return Taken(_at(made.place.position), made.place.step, candidates)


def _fitted(
    changes: Mapping[Entity, Candidate | None],
    known: Mapping[Entity, Candidate],
    room: int,
    broken: str,
) -> Mapping[Entity, Candidate | None]:
    """Return what is made of changes where no more than so many texts fit."""
    each = len(says_of(_candidate(0, Cand(BEGIN, 1, shown=True))))
    size = Size(len(known), sum(len(says_of(one)) for one in known.values()))
    fitted = fit(changes, known, size, Size(room, room * each)).changes
    if broken == "old_text_stays":
        return {e: changes[e] for e in fitted if changes[e] == fitted[e] or e not in known}
    return fitted


@cache
def decided(number: int, one: Cand, local: int) -> Cand | None:
    """Return a candidate that was accepted as something, or (0) dismissed."""
    candidate = _candidate(number, one)
    made = accepted(candidate, str(local)) if local else dismissed(candidate)
    return _cand(made, _texts(one.text, one.decided))
