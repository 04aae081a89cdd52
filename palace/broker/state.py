"""One owner's parts, each the only one of its kind; the parts themselves don't know this value."""

import attrs

from palace.broker.heartbeat import Heartbeat
from palace.broker.leaving import Leaving
from palace.broker.memory import ClientMemory
from palace.broker.mesh.part import MeshPart
from palace.broker.open_connections import OpenConnections
from palace.broker.scheduling import Scheduler
from palace.broker.services import Services
from palace.broker.sessions import Sessions
from palace.broker.telemetry.telemetry import Telemetry
from palace.broker.watch import Watch
from palace.protocol.budget import Budget
from palace.protocol.lifecycle import Lifecycle
from palace.protocol.tools import Lane


@attrs.frozen(eq=False, kw_only=True)
class BrokerState:
    """What the handlers of connections are given."""

    services: Services
    lifecycle: Lifecycle
    telemetry: Telemetry
    sessions: Sessions
    scheduler: Scheduler
    leaving: Leaving
    watch: Watch
    connections: OpenConnections
    memory: ClientMemory
    heartbeat: Heartbeat = attrs.field(factory=Heartbeat)
    mesh: MeshPart = attrs.field(factory=MeshPart)

    @property
    def budgets(self) -> list[Budget]:
        """Return what all clients share and how it is used (palace/protocol/budget.py)."""
        admission = self.scheduler.admission
        shared = (Lane.READER, Lane.POLL, Lane.LONG, Lane.LARGE)
        lanes = [admission.slots[lane].parties for lane in shared]
        return [
            self.sessions.budget,
            self.connections.budget,
            self.memory.budget,
            admission.places.parties,
            *lanes,
            *self.telemetry.budgets,
        ]
