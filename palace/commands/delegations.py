"""`palace delegations`: what agents have asked of each other, and what has become of it."""

import json
from collections.abc import Mapping
from typing import Any

from palace.commands.agent import ask_broker
from palace.kernel.output import one_line, say
from palace.protocol.delegations import DISPATCHED, IN_PROGRESS, QUEUED, STUCK
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

IN_FLIGHT = (QUEUED, DISPATCHED, IN_PROGRESS, STUCK)
GOAL_CHARS = 60
_HEADING = "Goal:\n"  # as mempalace's task_create begins a body


def print_delegations(
    paths: Paths, environment: ShimEnvironment, *, stuck: bool, every: bool, as_json: bool
) -> int:
    """Print tasks, one a line: those in flight and stuck, the stuck ones alone, or every one."""
    asked: dict[str, Any] = {} if every else {"states": [STUCK] if stuck else list(IN_FLIGHT)}
    told = ask_broker(paths, environment, "palace_delegation_list", **asked)
    if as_json:
        for task in told["tasks"]:
            say(json.dumps(task))
        return 0
    for task in told["tasks"]:
        say(one_line(_line(task)))
    if told.get("more"):
        say(f"There are {told['more']} older ones.")
    if not told["tasks"]:
        say("No task is stuck." if stuck else "No task is in flight." if not every else "No task.")
    return 0


def _line(task: Mapping[str, Any]) -> str:
    whom = task["worker"] or task["callee"] or "anybody"
    goal = task["goal"].removeprefix(_HEADING).strip().split("\n", 1)[0][:GOAL_CHARS]
    why = f": {task['detail'][:GOAL_CHARS]}" if task["state"] == STUCK else ""
    head = f"{task['state']:<11} {task['id']}  {task['caller']} -> {whom}"
    return f"{head}  since {task['changed_at']}  {goal}{why}"
