"""What palace's own tools for tasks are asked, and by whom: arguments as values, checked.

Stock's tools believe whoever calls them: `from_agent` is an argument.  Here a confined session
speaks as its workspace and as nobody else, is shown the tasks that it has given or been given, and
gives tasks to those alone who read something that it may write: so it has no way to anybody that
it didn't have.  All others name themselves, as by stock's tools.

A task that is named, by an id or by an idempotency key, is asked for once: the id of a task with a
key follows from its caller and that key, so that nothing has to be kept or searched.

Pure.
"""

import hashlib
import re
from collections.abc import Mapping

import attrs

from palace.protocol.delegations import (
    AGENT,
    DEADLINE_S_MAX,
    SILENCE_S_MAX,
    SILENCE_S_MIN,
    STATES,
    Delegation,
)
from palace.protocol.errors import Forbidden, InvalidMemory
from palace.protocol.resolver import Tree, readable, writable

TASK_TOOLS = frozenset({"palace_delegate", "palace_heartbeat", "palace_delegations"})
DEADLINE_S, SILENCE_S = 21_600.0, 600.0
TEXT_CHARS_MAX = 100_000  # of a goal, and of a definition of done; as a memory's
NOTE_CHARS_MAX = 4096
NAME_CHARS_MAX = 256  # as stock's routing fields
KEY_CHARS_MAX = 200
ID_DIGITS = 24
BY_KEY = "task_key_"  # begins the ids that keys make: nobody else can ask for one before
LIMIT, LIMIT_MAX = 20, 100
CLAIMED = "claimed"
STATUSES = (CLAIMED, "ready", "blocked", "failed")
_REASONED = frozenset({"blocked", "failed"})  # which nobody can act on without why
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")

Arguments = Mapping[str, object]


@attrs.frozen(kw_only=True)
class Speaker:
    """Who calls: a session of `workspace`, "" for the owner.  `tree` is as it is at the call."""

    tree: Tree
    workspace: str = ""
    confined: bool = False

    def name_in(self, arguments: Arguments) -> str:
        """Return the name under which it speaks; raises InvalidMemory and Forbidden."""
        said = arguments.get("from_agent")
        name = self.workspace if said is None else _line(said, "from_agent")
        if self.confined and name != self.workspace:
            raise Forbidden(
                f"This session speaks as the workspace {self.workspace}, and as nobody else. "
                "Nothing was done; leave from_agent out."
            )
        if not name:
            raise InvalidMemory("from_agent must say who you are")
        if name == AGENT:
            raise Forbidden(f"{AGENT} is what palace itself speaks as. Nothing was done.")
        return name

    def may_give_to(self, callee: str) -> bool:
        """Tell whether what it writes to somebody reaches nobody whom it couldn't reach."""
        mine = frozenset(writable(self.tree, self.workspace))
        return not self.confined or not mine.isdisjoint(readable(self.tree, callee))

    def sees(self, task: Delegation) -> bool:
        """Tell whether it may know of a task."""
        return not self.confined or self.workspace in (task.caller, task.callee)


@attrs.frozen(kw_only=True)
class Order:
    """A task to be asked for; `id` is "" where it has no name of its caller's."""

    caller: str
    callee: str
    project: str
    goal: str
    done: str
    branch: str
    base_commit: str
    id: str = ""
    deadline_s: float = DEADLINE_S
    silence_s: float = SILENCE_S

    @property
    def metadata(self) -> dict[str, object]:
        return {"palace": {"deadline_s": self.deadline_s, "silence_s": self.silence_s}}


def ordered(arguments: Arguments, speaker: Speaker) -> Order:
    """Return what `palace_delegate` is asked for; raises InvalidMemory and Forbidden."""
    texts = ("project", "to_agent", "goal", "done", "branch", "base_commit")
    names = (*texts, "from_agent", "deadline_s", "silence_s", "idempotency_key", "delegation_id")
    _check_names(arguments, *names)
    caller = speaker.name_in(arguments)
    callee = _line(arguments.get("to_agent"), "to_agent")
    if not speaker.may_give_to(callee):
        raise Forbidden(
            f"The workspace {speaker.workspace} may give tasks to those alone who read something "
            f"that it may write, and {callee!a} is none of these. Nothing was done."
        )
    return Order(
        caller=caller,
        callee=callee,
        project=_line(arguments.get("project"), "project"),
        goal=_text(arguments.get("goal"), "goal", TEXT_CHARS_MAX),
        done=_text(arguments.get("done"), "done", TEXT_CHARS_MAX),
        branch=_line(arguments.get("branch"), "branch"),
        base_commit=_line(arguments.get("base_commit"), "base_commit"),
        id=_id_for(arguments, caller),
        deadline_s=_seconds(arguments, "deadline_s", DEADLINE_S, (1.0, DEADLINE_S_MAX)),
        silence_s=_seconds(arguments, "silence_s", SILENCE_S, (SILENCE_S_MIN, SILENCE_S_MAX)),
    )


def _id_for(arguments: Arguments, caller: str) -> str:
    key, ident = arguments.get("idempotency_key"), arguments.get("delegation_id")
    if key is not None and ident is not None:
        raise InvalidMemory("a task has an idempotency_key or a delegation_id, and not both")
    if ident is not None:
        if checked_task(ident, "delegation_id").startswith(BY_KEY):
            raise InvalidMemory(f"delegation_id may not begin with {BY_KEY}: keys make such ids")
        return str(ident)
    if key is None:
        return ""
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARS_MAX:
        raise InvalidMemory(f"idempotency_key must be a text of 1 to {KEY_CHARS_MAX} characters")
    return id_of_key(caller, key)


def id_of_key(caller: str, key: str) -> str:
    """Return the id of the task that a caller knows by a key."""
    named = f"{len(caller)}:{caller}{key}".encode("utf-8", "surrogatepass")
    return f"{BY_KEY}{hashlib.sha256(named).hexdigest()[:ID_DIGITS]}"


def checked_task(ident: object, name: str = "id") -> str:
    if not isinstance(ident, str) or not _ID.fullmatch(ident):
        raise InvalidMemory(
            f"{name} must be 1 to 128 ASCII letters, digits and -_.: and begin with a letter or "
            "digit"
        )
    return ident


@attrs.frozen(kw_only=True)
class Sign:
    """What a worker says of its task; `status` and `note` are "" where it is just still at it."""

    id: str
    agent: str
    status: str = ""
    note: str = ""

    @property
    def says_nothing(self) -> bool:
        return not self.status and not self.note


def signed(arguments: Arguments, speaker: Speaker) -> Sign:
    """Return what `palace_heartbeat` is told; raises InvalidMemory and Forbidden."""
    _check_names(arguments, "id", "from_agent", "status", "note")
    status, note = arguments.get("status"), arguments.get("note")
    if status is not None and status not in STATUSES:
        raise InvalidMemory(f"status must be one of {', '.join(STATUSES)}")
    sign = Sign(
        id=checked_task(arguments.get("id")),
        agent=speaker.name_in(arguments),
        status=str(status or ""),
        note="" if note is None else _text(note, "note", NOTE_CHARS_MAX),
    )
    if sign.status in _REASONED and not sign.note:
        raise InvalidMemory(f"whoever says {sign.status} says why, in note")
    return sign


def refusal_of_sign(sign: Sign, task: Delegation | None, speaker: Speaker) -> str:
    """Say why an agent may not say something of a task now, "" where it may."""
    if task is None or not speaker.sees(task):
        return f"there is no task {sign.id} of yours"
    if sign.status != CLAIMED:
        if task.worker == sign.agent:
            return ""
        whose = f"{task.worker} works" if task.worker else "nobody works"
        return f"{whose} on {task.id}, and not {sign.agent}: claim it first (status: claimed)"
    if task.worker not in ("", sign.agent):
        return f"{task.worker} works on {task.id} already"
    is_for_all = task.callee in ("", "*") and not speaker.confined
    return "" if is_for_all or task.callee == sign.agent else f"{task.id} is for {task.callee}"


@attrs.frozen(kw_only=True)
class Listing:
    """Which tasks are asked for; "" and () are any."""

    id: str = ""
    agent: str = ""
    states: tuple[str, ...] = ()
    limit: int = LIMIT


def listing(arguments: Arguments, speaker: Speaker) -> Listing:
    """Return what `palace_delegations` is asked for; raises InvalidMemory."""
    _check_names(arguments, "id", "agent", "states", "limit")
    states, limit, agent = (arguments.get(name) for name in ("states", "limit", "agent"))
    states = [] if states is None else states
    if not isinstance(states, list) or any(state not in STATES for state in states):
        raise InvalidMemory(f"states must be a list of some of {', '.join(STATES)}")
    limit = LIMIT if limit is None else limit
    if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
        raise InvalidMemory(f"limit must be a whole number from 1 to {LIMIT_MAX}")
    ident = arguments.get("id")
    asked = "" if agent is None else _line(agent, "agent")
    return Listing(
        id="" if ident is None else checked_task(ident),
        agent=speaker.workspace if speaker.confined else asked,
        states=tuple(dict.fromkeys(states)),
        limit=limit,
    )


def _check_names(arguments: Arguments, *known: str) -> None:
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise InvalidMemory(
            f"there is no argument {unknown[0][:60]!a} here. It takes {', '.join(known)}"
        )


def _line(value: object, name: str) -> str:
    text = _text(value, name, NAME_CHARS_MAX).strip()
    if not text.isprintable():
        raise InvalidMemory(f"{name} must be one line of text")
    return text


def _text(value: object, name: str, most: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidMemory(f"{name} must be a text that is not empty")
    if len(value) > most:
        raise InvalidMemory(f"{name} has {len(value)} characters, and may have {most}")
    if "\x00" in value:
        raise InvalidMemory(f"{name} must not hold NUL characters")
    return value


def _seconds(arguments: Arguments, name: str, default: float, bounds: tuple[float, float]) -> float:
    value = arguments.get(name)
    if value is None:
        return default
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidMemory(f"{name} must be a number of seconds from {low:.0f} to {high:.0f}")
    return float(value)
