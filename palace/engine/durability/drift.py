"""Comparing the stores with the journal, entity by entity."""

import attrs

from palace.engine.durability.translation import Source
from palace.engine.stores.palace_stores import Stores
from palace.engine.stores.projection import same
from palace.journal.replay import Progress


@attrs.frozen(kw_only=True)
class Drift:
    """How one kind of entity differs."""

    kind: str
    missing: int
    foreign: int
    different: int
    example: str


def find_drift(stores: Stores, known: Source, progress: Progress) -> list[Drift]:
    """Return the kinds in which stores and journal differ; opens every store."""
    found = []
    for store in stores.all:
        store.read_fingerprint()
        kinds = {*store.kinds(), *(kind for kind in known.kinds() if store.owns(kind))}
        for number, kind in enumerate(sorted(kinds)):
            progress(f"comparing {kind}", number / len(kinds))
            ours = set(known.ids(kind))
            there: set[str] = set()
            different: list[str] = []
            for ident, payload in store.scan(kind):
                there.add(ident)
                if ident in ours and not same(payload, known.payload((kind, ident))):
                    different.append(ident)
            missing, foreign = sorted(ours - there), sorted(there - ours)
            if missing or foreign or different:
                drift = Drift(
                    kind=kind,
                    missing=len(missing),
                    foreign=len(foreign),
                    different=len(different),
                    example=[*missing, *foreign, *different][0],
                )
                found.append(drift)
    return found
