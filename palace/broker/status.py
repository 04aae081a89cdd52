"""What an owner says of itself: the snapshot behind `palace status`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from palace import __version__
from palace.protocol.tools import Lane

if TYPE_CHECKING:
    from palace.broker.broker import Broker
    from palace.broker.session import Session


def status_of(broker: Broker) -> dict[str, Any]:
    """Return a JSON-ready snapshot; durations are seconds, no memory contents."""
    now_s = trio.current_time()
    admission = broker.admission
    return {
        "palace": broker.owner.paths.root,
        "palace_id": broker.owner.palace_id,
        "pid": os.getpid(),
        "version": __version__,
        "epoch": broker.owner.epoch,
        "incarnation": broker.owner.incarnation,
        "mode": broker.mode,
        "degraded": "direct" if broker.mode == "direct" else "",
        "up_s": round(now_s - broker.started_s, 3),
        "idle_s": round(broker.lifecycle.idle_for_s(now_s), 3),
        "idle_exit_s": broker.config.idle_s,
        "endpoint": broker.endpoint.path if broker.endpoint else "",
        "log": broker.owner.paths.log,
        "graph": broker.config.graph,
        "engine": {
            "state": broker.lifecycle.engine.value,
            "version": broker.catalogue.engine_version if broker.catalogue else "",
            "doing": broker.engine.loading_text(),
            "failure": broker.lifecycle.failure,
        },
        "queue": {"waiting": admission.waiting, "max": admission.queue_depth_max},
        "lanes": {
            lane.value: {"running": admission.in_lane(lane), "max": admission.capacity[lane]}
            for lane in Lane
        },
        "requests": broker.counters.requests,
        "busy_refusals": broker.counters.busy,
        "last_error": broker.last_error,
        "sessions": [_session(session, now_s) for session in broker.sessions.values()],
    }


def _session(session: Session, now_s: float) -> dict[str, Any]:
    return {
        "session": session.id[:8],
        "client": session.client,
        "pid": session.pid,
        "read_only": session.read_only,
        "since_s": round(now_s - session.since_s, 3),
        "requests": session.requests,
        "in_flight": len(session.jobs),
        "connected": session.stream is not None,
    }
