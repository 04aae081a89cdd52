"""What an owner says of itself: the snapshot behind `palace status`."""

import os
from typing import Any

import trio

from palace import __version__
from palace.broker.desk import Desk
from palace.broker.session import Session
from palace.protocol.tools import Lane


def status_of(desk: Desk) -> dict[str, Any]:
    """Return a JSON-ready snapshot; durations are seconds, no memory contents."""
    now_s = trio.current_time()
    admission = desk.admission
    return {
        "palace": desk.owner.paths.root,
        "palace_id": desk.owner.palace_id,
        "pid": os.getpid(),
        "version": __version__,
        "epoch": desk.owner.epoch,
        "incarnation": desk.owner.incarnation,
        "mode": desk.mode,
        "degraded": "direct" if desk.mode == "direct" else "",
        "up_s": round(now_s - desk.started_s, 3),
        "idle_s": round(desk.lifecycle.idle_for_s(now_s), 3),
        "idle_exit_s": desk.config.idle_s,
        "endpoint": desk.endpoint.path if desk.endpoint else "",
        "http": desk.web.status() if desk.web else None,
        "log": desk.owner.paths.log,
        "graph": desk.config.graph,
        "engine": {
            "state": desk.lifecycle.engine.value,
            "version": desk.catalogue.engine_version if desk.catalogue else "",
            "doing": desk.engine.loading_text(),
            "failure": desk.lifecycle.failure,
        },
        "journal": desk.engine.status(),
        "queue": {"waiting": admission.waiting, "max": admission.queue_depth_max},
        "lanes": {
            lane.value: {"running": admission.in_lane(lane), "max": admission.capacity[lane]}
            for lane in Lane
        },
        "requests": desk.counters.requests,
        "batches": {"count": desk.counters.batches, "calls": desk.counters.batched},
        "busy_refusals": desk.counters.busy,
        "last_error": desk.last_error,
        "sessions": [_session(session, now_s) for session in desk.sessions.values()],
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
