"""What a purge that is under way takes out, so that one that died can be finished.

It lies in the user's state directory, for this user alone: the palace may be lent to a container,
and whoever could write it there would have a memory of their choice destroyed.  It holds what the
journal holds until the purge is over, and is removed then.
"""

import json
import os
from collections.abc import Mapping

import attrs

from palace.engine.durability.traces import Traces
from palace.journal.record import Entity
from palace.kernel.causes import cause_text
from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.protocol.decoding import decode_json
from palace.protocol.errors import UnsafePalace
from palace.settings.paths import state_dir

BYTES_MAX = 64 << 20


@attrs.frozen
class PurgePlan:
    """The entities that go, and what is looked for."""

    entities: frozenset[Entity]
    traces: Traces


@attrs.frozen
class PlanFile:
    """Where one palace's plan is."""

    palace_id: str
    environ: Mapping[str, str]
    kernel: Kernel

    @property
    def path(self) -> str:
        return f"{_directory(self.environ)}/{self.palace_id}.json"

    def read(self) -> PurgePlan | None:
        """Return the plan of a purge that was not finished, None where there is none."""
        try:
            found = decode_json(self.kernel.read_hint(self.path, BYTES_MAX) or b"")
            return PurgePlan(
                frozenset((str(kind), str(ident)) for kind, ident in found["entities"]),
                Traces(tuple(map(str, found["pieces"])), tuple(map(str, found["vectors"]))),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def write(self, plan: PurgePlan) -> None:
        """Write it, durably; raises UnsafePalace where that can't be."""
        try:
            self._write(plan)
        except OSError as error:
            raise UnsafePalace(
                f"What a purge is about to take out can't be noted in {self.path}: "
                f"{cause_text(error)} Nothing was changed."
            ) from None

    def _write(self, plan: PurgePlan) -> None:
        os.makedirs(state_dir(self.environ), 0o700, exist_ok=True)
        called, remedy = "The directory of purges under way", "Correct or remove it."
        prepare_private(_directory(self.environ), self.kernel, called=called, remedy=remedy)
        fields = {
            "entities": sorted(plan.entities),
            "pieces": plan.traces.pieces,
            "vectors": plan.traces.vectors,
        }
        self.kernel.write_durable(self.path, json.dumps(fields).encode())

    def remove(self) -> None:
        if self.kernel.unlink(self.path):
            self.kernel.sync_directory(_directory(self.environ))


def _directory(environ: Mapping[str, str]) -> str:
    return f"{state_dir(environ)}/purging"
