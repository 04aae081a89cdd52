"""What an owner says of itself: the snapshot behind `palace status` (docs/reference/status.md)."""

import os
from typing import Any

import trio

from palace import __version__
from palace.broker.desk import Desk
from palace.broker.session import Session
from palace.protocol.admission import Job
from palace.protocol.tools import Lane

TOOL_CHARS_MAX = 60  # a name may be anything that a client says
RUNNING_MAX = 20  # of the calls that run, those that run longest


def status_of(desk: Desk) -> dict[str, Any]:
    """Return a JSON-ready snapshot; durations are seconds, no memory contents."""
    now_s = trio.current_time()
    process = desk.kernel.process_of(os.getpid())
    sessions = [_session(session, now_s) for session in desk.sessions.values()]
    return {
        "palace": desk.owner.paths.root,
        "palace_id": desk.owner.palace_id,
        "pid": os.getpid(),
        "user": process.user if process else "",
        "command": process.title if process else "",
        "memory_bytes": process.memory_bytes if process else 0,
        "version": __version__,
        "epoch": desk.owner.epoch,
        "incarnation": desk.owner.incarnation,
        "mode": desk.mode,
        "degraded": "direct" if desk.mode == "direct" else "",
        "since": desk.since,
        "up_s": round(now_s - desk.started_s, 3),
        "idle_s": round(desk.lifecycle.idle_for_s(now_s), 3),
        "idle_exit_s": desk.config.idle_s,
        "endpoint": desk.endpoint.path if desk.endpoint else "",
        "http": desk.web.status() if desk.web else None,
        "listen": desk.config.listen,
        "bridge": desk.config.bridge,
        "log": desk.owner.paths.log,
        "graph": desk.config.graph,
        "engine": {
            "state": desk.lifecycle.engine.value,
            "version": desk.catalogue.engine_version if desk.catalogue else "",
            "doing": desk.engine.loading_text(),
            "failure": desk.lifecycle.failure,
        },
        "journal": desk.engine.status(),
        **_work(desk, now_s),
        "last_error": desk.troubles.last,
        "errors": desk.troubles.latest(now_s),
        "sessions": sessions,
    }


def _work(desk: Desk, now_s: float) -> dict[str, Any]:
    """Return what is queued, runs, and was done lately."""
    admission, meter = desk.admission, desk.meter
    running = sorted(admission.running, key=lambda job: job.began_s)
    return {
        "queue": {"waiting": admission.waiting, "max": admission.queue_depth_max},
        "lanes": {
            lane.value: {
                "running": admission.in_lane(lane),
                "max": admission.capacity[lane],
                **meter.lane(lane, now_s),
            }
            for lane in Lane
        },
        "batches": {"count": meter.batches, "calls": meter.batched},
        "calls_running": [_job(job, now_s) for job in running[:RUNNING_MAX]],
        "rates": {"10s": meter.rate(now_s, 10), "60s": round(meter.rate(now_s, 60), 3)},
        "requests": desk.counters.requests,
        "calls": meter.calls,
        "busy_refusals": desk.counters.busy,
    }


def _job(job: Job, now_s: float) -> dict[str, Any]:
    return {
        "tool": job.name[:TOOL_CHARS_MAX],
        "lane": job.tool.lane.value,
        "session": job.session[:8],
        "for_s": round(now_s - job.began_s, 3),
    }


def _session(session: Session, now_s: float) -> dict[str, Any]:
    return {
        "session": session.id[:8],
        "client": session.client,
        "version": session.version,
        "pid": session.pid,
        "read_only": session.read_only,
        "since_s": round(now_s - session.since_s, 3),
        "idle_s": round(now_s - session.active_s, 3),
        "requests": session.requests,
        "in_flight": len(session.jobs),
        "connected": session.stream is not None,
    }
