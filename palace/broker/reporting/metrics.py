"""What an owner tells Prometheus: numbers in its text format, no memory contents."""

from collections.abc import Iterator, Mapping, Sequence

import trio

from palace import __version__
from palace.broker.state import BrokerState
from palace.broker.telemetry.histograms import BOUNDS_S, Histogram
from palace.protocol.lifecycle import EngineState
from palace.protocol.tools import Lane

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(state: BrokerState) -> str:
    """Return all metrics; times are seconds."""
    return "".join(f"{line}\n" for line in _lines(state))


def _lines(state: BrokerState) -> Iterator[str]:
    services, telemetry, admission = state.services, state.telemetry, state.scheduler.admission
    counters = telemetry.counters
    engine = services.catalogue.engine_version if services.catalogue else ""
    built = {"version": __version__, "mempalace": engine}
    yield from _metric("build_info", "gauge", "Versions.", [(built, 1)])
    yield from _one(
        "epoch", "gauge", "Rises with every owner of the palace.", services.ownership.epoch
    )
    up_s = trio.current_time() - telemetry.started_s
    yield from _one("up_seconds", "gauge", "Since this owner serves.", round(up_s, 3))
    states = [({"state": name.value}, int(state.lifecycle.engine is name)) for name in EngineState]
    yield from _metric("engine_state", "gauge", "1 for the state that the engine is in.", states)
    degraded = int(services.mode == "direct")
    yield from _one("degraded", "gauge", "1 where the owner is its client's child.", degraded)
    life = services.life.report()
    text = "Brokers of this palace that have died, as far as is recorded."
    yield from _one("deaths_total", "counter", text, life["deaths"]["ever"])
    watched = int(life["canary"]["state"] == "armed")
    yield from _one("canary_armed", "gauge", "1 where this owner's death would be told.", watched)
    yield from _one("requests_total", "counter", "Lines of clients.", counters.requests)
    yield from _one("replies_total", "counter", "Tool calls answered.", counters.replies)
    yield from _one("busy_total", "counter", "Calls refused in a full queue.", counters.busy)
    yield from _one(
        "connections_total", "counter", "Shims, guests and commands.", counters.connections
    )
    yield from _one("refused_total", "counter", "Connections turned away.", counters.refused)
    yield from _one("connections", "gauge", "Connections, HTTP included.", state.connections.open)
    yield from _one("sessions", "gauge", "Sessions, HTTP included.", len(state.sessions))
    yield from _one("queue_waiting", "gauge", "Calls admitted and not begun.", admission.waiting)
    yield from _one("queue_max", "gauge", "Calls that may wait.", admission.queue_depth_max)
    running = [(_lane(lane), admission.in_lane(lane)) for lane in Lane]
    yield from _metric("lane_running", "gauge", "Calls that run.", running)
    widths = [(_lane(lane), admission.capacity[lane]) for lane in Lane]
    yield from _metric("lane_max", "gauge", "Calls that may run at once.", widths)
    budgets = [({"budget": budget.name}, budget) for budget in state.budgets]
    held = [(labels, budget.held) for labels, budget in budgets]
    yield from _metric("budget_held", "gauge", "What clients hold of what they share.", held)
    limits = [(labels, budget.limit) for labels, budget in budgets]
    yield from _metric("budget_max", "gauge", "What they may hold, all together.", limits)
    shed = [(labels, budget.shed) for labels, budget in budgets]
    text = "How often the client that held most had to give way."
    yield from _metric("budget_shed_total", "counter", text, shed)
    status = services.engine.status()
    yield from _journal(status)
    yield from _memory_server(status.get("plugin"))
    if telemetry.http is not None:
        codes = [({"code": str(code)}, n) for code, n in sorted(telemetry.http.answers.items())]
        yield from _metric("http_answers_total", "counter", "HTTP answers by status.", codes)
    yield from _calls(telemetry.histograms.lanes)


def _journal(status: Mapping[str, object]) -> Iterator[str]:
    """Head and watermark, once the journal is open."""
    for name, text in (
        ("seq", "The journal's last record."),
        ("durable_seq", "The last record that survives a power cut."),
        ("quarantined", "Calls that are not tried again."),
        ("broken_lines", "Lines that were passed over when the journal was opened."),
    ):
        value = status.get(name)
        if isinstance(value, int):
            yield from _one(f"journal_{name}", "gauge", text, value)
    if "seq" not in status:
        return
    adoption = status.get("adoption")
    left = adoption["total"] - adoption["done"] if isinstance(adoption, dict) else 0
    yield from _one("journal_left", "gauge", "Entries that are not in the journal yet.", left)


def _memory_server(told: Mapping[str, object] | None) -> Iterator[str]:
    """How the server is that holds namespaces, where one does."""
    opened = told.get("opened") if told and told.get("counts") else None
    if not told or not isinstance(opened, int):
        return
    text = "1 where the memory server was given up and hasn't answered since."
    yield from _one("memory_server_open", "gauge", text, 1 if told.get("open") else 0)
    text = "How often the memory server was given up for a minute."
    yield from _one("memory_server_opened_total", "counter", text, opened)


def _calls(lanes: Mapping[Lane, Histogram]) -> Iterator[str]:
    name = "palace_call_seconds"
    yield f"# HELP {name} From a call's admission to its reply."
    yield f"# TYPE {name} histogram"
    for lane, histogram in lanes.items():
        below = 0
        for bound_s, count in zip((*BOUNDS_S, "+Inf"), histogram.buckets, strict=True):
            below += count
            yield f"{name}_bucket{_labels(_lane(lane) | {'le': f'{bound_s}'})} {below}"
        yield f"{name}_sum{_labels(_lane(lane))} {histogram.sum_s:.6f}"
        yield f"{name}_count{_labels(_lane(lane))} {histogram.count}"


def _lane(lane: Lane) -> dict[str, str]:
    return {"lane": lane.value}


def _one(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    return _metric(name, kind, text, [({}, value)])


def _metric(
    name: str, kind: str, text: str, values: Sequence[tuple[dict[str, str], float]]
) -> Iterator[str]:
    yield f"# HELP palace_{name} {text}"
    yield f"# TYPE palace_{name} {kind}"
    for labels, value in values:
        yield f"palace_{name}{_labels(labels)} {value}"


def _labels(labels: Mapping[str, str]) -> str:
    """Write labels; their values are ours and need no escapes."""
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
