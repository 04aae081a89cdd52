"""Which entities the journal says are there, noted by somebody who reads its records anyway."""

import attrs

from palace.journal.record import ENTITIES, Entity, Record


@attrs.define
class LastWords:
    """The last record of each entity, from files that may be read in any order.

    Cheaper than a replay, which also notes places and hashes: about 200 bytes an entity.  `seq` is
    the last record that was taken; `are_known` is set by the reader once nothing is missing.
    """

    seq: int = 0
    are_known: bool = False
    _last: dict[Entity, int] = attrs.field(factory=dict)  # seq; negative where it is gone

    def take(self, record: Record) -> None:
        """Note a record that counts."""
        if record.action not in ENTITIES:
            return
        if record.seq > abs(self._last.get(record.entity, 0)):
            self._last[record.entity] = -record.seq if record.deleted else record.seq
        self.seq = max(self.seq, record.seq)

    def live(self, since: int) -> dict[str, list[str]]:
        """Return the ids of what is there, by kind; only what records after `since` speak of."""
        found: dict[str, list[str]] = {}
        for (kind, ident), seq in self._last.items():
            if seq > since:
                found.setdefault(kind, []).append(ident)
        return found
