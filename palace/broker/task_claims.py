"""Which sessions stand for claimed tasks: while one's client is there, its worker is not silent."""

from collections.abc import Iterable, Iterator

from palace.broker.principals import bound_principal
from palace.broker.services import Services
from palace.broker.session import LiveSession
from palace.broker.telemetry.telemetry import TaskNotes
from palace.protocol import wire
from palace.protocol.budget import HTTP
from palace.protocol.claims import CLAIMS_MAX, claim_in, encode_claims
from palace.protocol.principals import Principal, is_confined
from palace.protocol.task_watch import Watch

HEARD_MAX = 10_000  # between two looks


def note_claim(session: LiveSession, notes: TaskNotes, payload: bytes) -> None:
    """Note what a reply tells of a task that its session has claimed; its shim keeps it, too."""
    claim = claim_in(payload)
    if not claim:
        return
    if len(notes.heard) < HEARD_MAX:
        # Until the next look its session may be gone: over HTTP it may be of this request alone,
        # and a worker that dies before an owner's first look was there all the same.
        notes.heard.add(claim)
    if claim in session.claims:
        return
    session.claims[claim] = None
    if len(session.claims) > CLAIMS_MAX:
        del session.claims[next(iter(session.claims))]
    session.header(wire.CLAIMS, {"events": encode_claims(session.claims)})


def heard_of(
    services: Services, sessions: Iterable[LiveSession], watch: Watch, since_s: float
) -> Iterator[str]:
    """Yield the claims whose workers are there: connected, or over HTTP, heard since a time.

    A confined session stands for what its workspace has claimed, whatever it says.
    """
    for session in sessions:
        is_there = session.active_s >= since_s if session.party == HTTP else session.is_connected
        if not session.claims or not is_there:
            continue
        principal = bound_principal(services, session)
        for claim in session.claims:
            if _may_stand_for(services, principal, watch.worker_of(claim)):
                yield claim


def _may_stand_for(services: Services, principal: Principal | None, worker: str) -> bool:
    tree = services.engine.workspaces()
    if principal is None or tree is None:
        return False
    return not is_confined(tree, principal) or principal.workspace == worker
