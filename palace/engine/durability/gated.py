"""What of the stores only calls that have passed the gate may change (palace/memory/gate.py)."""

from palace.engine.durability.groups import Guard
from palace.engine.stores.drawers import PREFIX
from palace.engine.stores.projection import Change
from palace.engine.stores.register import Register
from palace.journal.record import Payload


def guard_of(register: Register) -> Guard:
    """Return what keeps memories of namespaces from plain tools, once there are workspaces."""

    def why_not(change: Change) -> str:
        if not change.kind.startswith(PREFIX) or not register.tree().has_memories:
            return ""
        from palace.memory.reserved import refused_record  # needed where there are workspaces only

        return refused_record(_metadata(change.before), _metadata(change.after))

    return why_not


def _metadata(payload: Payload) -> dict[str, object] | None:
    if not isinstance(payload, dict):
        return None
    found = payload.get("metadata")
    return found if isinstance(found, dict) else {}
