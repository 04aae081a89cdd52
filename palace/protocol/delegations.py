"""Who works on what, and who is stuck: a fold over mempalace's own events of tasks.

Theory of operation.  A task is a `task.request` and the events that name it by their correlation
id.  What has become of it follows from these alone, so that nothing else is kept:

    queued, then dispatched (by an ack), then in_progress (claimed), then one of
        completed   ready, applied, a patch or a reply
        failed      failed, blocked, superseded; or never claimed in time
        stuck       claimed, and given up by palace

A state is only ever left forward, a step may be skipped, and the last three are final: what comes
later stays in the log and changes nothing here.  Events are taken in the order of their hybrid
logical clocks, whatever the order of their arrival, so that palaces of a mesh that hold the same
events say the same.

What comes before its request is of no task: whoever knows a task's id beforehand can't say that it
is done before it was asked for.

Rule for this file: pure; times are the caller's.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

REQUEST = "task.request"
STUCK_EVENT = "task.stuck"
AGENT = "palace"  # whose name `task.stuck` comes under

QUEUED = "queued"
DISPATCHED = "dispatched"
IN_PROGRESS = "in_progress"
COMPLETED = "completed"
FAILED = "failed"
STUCK = "stuck"
STATES = (QUEUED, DISPATCHED, IN_PROGRESS, COMPLETED, FAILED, STUCK)
FINAL = frozenset({COMPLETED, FAILED, STUCK})
_RANK = {QUEUED: 0, DISPATCHED: 1, IN_PROGRESS: 2, COMPLETED: 3, FAILED: 3, STUCK: 3}

# What an event says of its task, first by its status, then by its type.
BY_STATUS = {
    "claimed": IN_PROGRESS,
    "ready": COMPLETED,
    "applied": COMPLETED,
    "failed": FAILED,
    "blocked": FAILED,
    "superseded": FAILED,
}
BY_TYPE = {"patch.ready": COMPLETED, "task.reply": COMPLETED, "event.ack": DISPATCHED}

PREVIEW_BYTES = 4096
DEADLINE_S_MAX = 30 * 86_400.0
SILENCE_S_MIN, SILENCE_S_MAX = 60.0, 86_400.0


@attrs.frozen(kw_only=True)
class TaskEvent:
    """One of mempalace's events; `task` is its correlation id, or a request's own id."""

    id: str
    type: str
    task: str
    agent: str
    to: str = ""
    status: str = ""
    at: str = ""
    hlc: str = ""
    origin: str = ""
    body: str = ""
    metadata: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Delegation:
    """What has become of one task.

    `worker` has claimed it by the event `claim`, in the palace `claimed_in`; `sign` is the last
    event of the worker's.  `deadline_at` are seconds of the epoch, and `silence_s` seconds; None
    where the request asks for neither.
    """

    id: str
    request: str
    state: str
    caller: str
    callee: str
    goal: str
    created_at: str
    changed_at: str
    origin: str
    worker: str = ""
    claim: str = ""
    claimed_in: str = ""
    sign: str = ""
    detail: str = ""
    deadline_at: float | None = None
    silence_s: float | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


def preview(text: str) -> str:
    """Return the beginning of a text, 4,096 bytes at most, cut between characters."""
    data = text.encode("utf-8", "replace")
    return data[:PREVIEW_BYTES].decode("utf-8", "ignore")


def fold(events: Iterable[TaskEvent]) -> list[Delegation]:
    """Return the tasks among events, the oldest first; neither order nor repetition matters."""
    tasks: dict[str, dict[str, TaskEvent]] = {}
    for event in events:
        if event.task:
            tasks.setdefault(event.task, {}).setdefault(event.id, event)
    ordered = (sorted(found.values(), key=_order) for found in tasks.values())
    folded = [(found, _folded(found)) for found in ordered]
    told = [(_order(found[0]), one) for found, one in folded if one is not None]
    return [one for _, one in sorted(told, key=lambda pair: pair[0])]


def _order(event: TaskEvent) -> tuple[str, str]:
    return event.hlc, event.id  # two palaces can't have given the same id


def _folded(events: list[TaskEvent]) -> Delegation | None:
    """Return what became of a task whose events these are; None where nobody has asked for it."""
    request = next((event for event in events if event.type == REQUEST), None)
    if request is None:
        return None
    limits = limits_of(request)
    made = Delegation(
        id=request.task,
        request=request.id,
        state=QUEUED,
        caller=request.agent,
        callee=request.to,
        goal=preview(request.body),
        created_at=request.at,
        changed_at=request.at,
        origin=request.origin,
        deadline_at=limits.deadline_at,
        silence_s=limits.silence_s,
    )
    for event in events[events.index(request) + 1 :]:
        if event.type != REQUEST:  # a second one changes nothing
            made = _after(made, event)
    return made


def _after(task: Delegation, event: TaskEvent) -> Delegation:
    state = _target(task, event)
    if _RANK[state] > _RANK[task.state]:
        task = attrs.evolve(task, state=state, changed_at=event.at, detail=preview(event.body))
    if task.state == state == IN_PROGRESS:  # or another one has taken it over
        task = attrs.evolve(task, worker=event.agent, claim=event.id, claimed_in=event.origin)
    if event.agent == task.worker and not task.is_final:
        task = attrs.evolve(task, sign=event.id)
    return task


def _target(task: Delegation, event: TaskEvent) -> str:
    if event.type == STUCK_EVENT:
        return STUCK if task.state == IN_PROGRESS else FAILED
    return BY_STATUS.get(event.status) or BY_TYPE.get(event.type) or QUEUED


@attrs.frozen
class Limits:
    """What a request asks to be watched for."""

    deadline_at: float | None = None
    silence_s: float | None = None


def limits_of(request: TaskEvent) -> Limits:
    """Return what a request asks for; what makes no sense was not asked for."""
    asked = request.metadata.get("palace")
    if not isinstance(asked, Mapping):
        return Limits()
    deadline_s = _within(asked.get("deadline_s"), 0, DEADLINE_S_MAX)
    began_s = seconds_of(request.at)
    return Limits(
        deadline_at=None if deadline_s is None or began_s is None else began_s + deadline_s,
        silence_s=_within(asked.get("silence_s"), SILENCE_S_MIN, SILENCE_S_MAX),
    )


def _within(value: object, low: float, high: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if low <= value <= high else None  # NaN is in no range


def seconds_of(at: str) -> float | None:
    """Return a time of mempalace's in seconds of the epoch, None for what is none."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
