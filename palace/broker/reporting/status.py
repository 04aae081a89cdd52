"""What an owner says of itself: the snapshot behind `palace status` (docs/reference/status.md)."""

import os
from typing import Any

import attrs
import trio

from palace import __version__
from palace.broker.services import Services
from palace.broker.session import LiveSession
from palace.broker.state import BrokerState
from palace.broker.telemetry.telemetry import HttpCounters
from palace.ownership.served import notices
from palace.protocol.admission import Job
from palace.protocol.budget import Budget
from palace.protocol.tools import Lane

TOOL_CHARS_MAX = 60  # a name may be anything that a client says
RUNNING_MAX = 20  # of the calls that run, those that run longest


def status_of(state: BrokerState) -> dict[str, Any]:
    """Return a JSON-ready snapshot; durations are seconds, no memory contents."""
    now_s = trio.current_time()
    services, lifecycle, telemetry = state.services, state.lifecycle, state.telemetry
    ownership, config = services.ownership, services.config
    process = services.kernel.process_of(os.getpid())
    sessions = [_session(session, now_s) for session in state.sessions]
    return {
        "palace": ownership.paths.root,
        "palace_id": ownership.palace_id,
        "notices": _notices(services),
        "pid": os.getpid(),
        "user": process.user if process else "",
        "command": process.title if process else "",
        "memory_bytes": process.memory_bytes if process else 0,
        "version": __version__,
        "epoch": ownership.epoch,
        "incarnation": ownership.incarnation,
        "mode": services.mode,
        "degraded": "direct" if services.mode == "direct" else "",
        "since": telemetry.since,
        "up_s": round(now_s - telemetry.started_s, 3),
        "idle_s": round(lifecycle.idle_for_s(now_s), 3),
        "idle_exit_s": config.idle_s,
        "endpoint": services.endpoint.path if services.endpoint else "",
        "http": _http(telemetry.http),
        "mesh": state.mesh.report(),
        "listen": config.listen,
        "bridge": config.bridge,
        "log": ownership.paths.log,
        "graph": config.graph,
        "engine": {
            "state": lifecycle.engine.value,
            "version": services.catalogue.engine_version if services.catalogue else "",
            "backend": services.backend,
            "doing": lifecycle.waiting or services.engine.loading_text(),
            "failure": lifecycle.failure,
            "outlives": services.engine.outlives(),
            "model": attrs.asdict(services.engine.model()),
        },
        **services.life.report(),
        "reading": state.scheduler.report() if state.scheduler.report is not None else None,
        "journal": services.engine.status(),
        "workspaces": _workspaces(services),
        "tasks": {"watched": telemetry.tasks.watched, "stuck": telemetry.tasks.ended},
        "holdings": state.watch.report(),
        **_work(state, now_s),
        "budgets": [_budget(budget) for budget in state.budgets],
        "last_error": telemetry.errors.last,
        "errors": telemetry.errors.latest(now_s),
        "sessions": sessions,
    }


def _workspaces(services: Services) -> dict[str, Any] | None:
    """Return how many work here, None where that isn't known, or nobody is registered or let in."""
    tree = services.engine.workspaces()
    if tree is None or not (tree.workspaces or tree.plugins):
        return None
    active = [one for one in tree.workspaces.values() if not one.removed]
    return {
        "active": len(active),
        "confined": sum(one.confined or one.uid is not None for one in active),
        "uids": sorted(one.uid for one in active if one.uid is not None),
        "tokens": len(tree.tokens),
        "plugin_tokens": len(tree.plugins),
        "custom_namespaces": len(tree.customs),
    }


def _notices(services: Services) -> list[str]:
    memory = services.ownership.memory
    past = notices(memory.served) if memory is not None else []
    return [*past, *([services.ignored] if services.ignored else [])]


def _work(state: BrokerState, now_s: float) -> dict[str, Any]:
    """Return what is queued, runs, and was done lately."""
    admission, meter = state.scheduler.admission, state.telemetry.meter
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
        "requests": state.telemetry.counters.requests,
        "calls": meter.calls,
        "busy_refusals": state.telemetry.counters.busy,
    }


def _budget(budget: Budget) -> dict[str, Any]:
    return {
        "name": budget.name,
        "held": budget.held,
        "most": budget.heaviest(),
        "max": budget.limit,
        "reserve": budget.reserve,
        "shed": budget.shed,
        "last_shed": budget.last_shed,
    }


def _job(job: Job, now_s: float) -> dict[str, Any]:
    return {
        "tool": job.name[:TOOL_CHARS_MAX],
        "lane": job.tool.lane.value,
        "session": job.session[:8],
        "for_s": round(now_s - job.began_s, 3),
    }


def _session(session: LiveSession, now_s: float) -> dict[str, Any]:
    return {
        "session": session.id[:8],
        "client": session.client,
        "guest": session.guest,
        "workspace": session.principal.workspace if session.principal is not None else "",
        "version": session.hello.version,
        "pid": session.pid,
        "read_only": session.hello.read_only,
        "since_s": round(now_s - session.since_s, 3),
        "idle_s": round(now_s - session.active_s, 3),
        "requests": session.requests,
        "in_flight": len(session.machine.calls),
        "connected": session.stream is not None,
    }


def _http(counters: HttpCounters | None) -> dict[str, Any] | None:
    """Return what is said of HTTP: the token's file, not the token."""
    if counters is None:
        return None
    return {
        "url": counters.url,
        "contract": counters.socket,
        "tls": counters.tls,
        "certificate": counters.certificate,
        "token_file": counters.token_file,
        "connections": counters.connections,
        "sessions": counters.sessions,
        "refused": counters.refused,
    }
