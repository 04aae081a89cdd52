"""What a palace keeps of one remote, without its stores."""

from collections.abc import Iterable

import attrs

from palace.protocol.federation import (
    BATCH_OFFERS,
    Batch,
    Candidate,
    Entity,
    Item,
    Place,
    batches,
    take,
)


@attrs.define
class Puller:
    """Takes over what a source offers, as an owner does."""

    place: Place = attrs.field(factory=Place)
    candidates: dict[Entity, Candidate] = attrs.field(factory=dict)

    def known(self) -> list[Entity]:
        return [entity for entity, one in self.candidates.items() if not one.gone]

    def take(self, batch: Batch) -> None:
        named = {one.entity for one in batch.offers}
        known = {entity: one for entity, one in self.candidates.items() if entity in named}
        taken = take(self.place, batch, known)
        self.place = taken.place
        for entity, candidate in taken.changes.items():
            self.candidates.pop(entity, None)
            if candidate is not None:
                self.candidates[entity] = candidate

    def pull(self, *items: Item) -> list[Batch]:
        return self.read(items)

    def read(self, items: Iterable[Item], most: int = BATCH_OFFERS) -> list[Batch]:
        made = []
        for batch in batches(items, self.place, self.known, most):
            self.take(batch)
            made.append(batch)
        return made
