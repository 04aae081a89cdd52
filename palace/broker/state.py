"""One owner's parts, each the only one of its kind; the parts themselves don't know this value."""

import attrs

from palace.broker.leaving import Leaving
from palace.broker.memory import ClientMemory
from palace.broker.scheduling import Scheduler
from palace.broker.services import Services
from palace.broker.sessions import Sessions
from palace.broker.telemetry.telemetry import Telemetry
from palace.broker.watch import Watch
from palace.protocol.budget import Budget
from palace.protocol.lifecycle import Lifecycle
from palace.protocol.tools import Lane

RESERVE = 16


@attrs.define(eq=False)
class ConnectionLimit:
    """How many connections of all kinds are open, and how many may be for clients.

    More would take the descriptors that the engine needs.  `reserve` more may be open for a moment:
    a broker that is full can still be looked at and stopped, and says to others that it is full.
    """

    limit: int = 512
    open: int = 0
    reserve: int = RESERVE

    @property
    def full_text(self) -> str:
        return (
            f"{self.limit} connections are open, as many as this broker may have: end an agent, or "
            "allow more open files (ulimit -n) and restart the broker (palace stop)."
        )


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
    connections: ConnectionLimit
    memory: ClientMemory

    @property
    def budgets(self) -> list[Budget]:
        """Return what all clients share and how it is used (palace/protocol/budget.py)."""
        admission = self.scheduler.admission
        shared = (Lane.READER, Lane.POLL, Lane.LONG, Lane.LARGE)
        lanes = [admission.slots[lane].parties for lane in shared]
        return [
            self.sessions.budget,
            self.memory.budget,
            admission.places.parties,
            *lanes,
            *self.telemetry.budgets,
        ]
