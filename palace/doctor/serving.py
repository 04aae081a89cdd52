"""Does a broker answer, is it this palace's, and can it work."""

from collections.abc import Iterator

from palace.client.endpoints import expected_palace_id
from palace.doctor.diagnostics import Diagnostics, name
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.kernel.durations import span
from palace.ownership.holders import HOW_TO_SHOW, hidden_text, maintenance_in
from palace.protocol.errors import BrokerUnreachable, ConfigError, WireError

STUCK_S = 60.0  # a change takes less than a second; only mine and sync take minutes
_LONG = ("bulk", "poll")


def check_serving(found: Diagnostics) -> Iterator[Finding]:
    """Yield what is wrong with the broker that runs, or with what one left behind."""
    if found.foreign is not None:
        return
    if found.status is not None:
        yield from _is_ours(found)
        yield from _engine(found)
        yield from _room(found)
        yield from _queue(found)
        yield from _errors(found)
    elif isinstance(found.silence, ConfigError):  # MEMPALACE_BROKER, in a form that isn't asked
        yield Finding(
            level=NOTE,
            code="named_broker",
            text=f"MEMPALACE_BROKER={found.environment.broker} is used as it stands, with no "
            "fallback.",
            remedy="Try it: palace doctor --boundary",
        )
    elif found.environment.broker:
        yield _named_is_dead(found)
    elif isinstance(found.silence, WireError):
        return  # it speaks another version: palace/doctor/software.py
    elif found.is_refused:
        yield _refusing(found)
    elif found.holder is not None:
        yield _silent(found)
    elif found.record is not None:
        yield Finding(
            level=NOTE,
            code="left_behind",
            text=f"The last broker, pid {found.record.pid} (epoch {found.record.epoch}), was "
            "killed: its record is still there, and misleads no client.",
            remedy="None needed: the next request starts another.",
        )


def _is_ours(found: Diagnostics) -> Iterator[Finding]:
    assert found.status is not None
    status = found.status
    wanted = expected_palace_id(found.kernel, found.paths)
    if (wanted and status["palace_id"] != wanted) or not (wanted or _same_root(found)):
        yield Finding(
            level=ERROR,
            code="wrong_palace",
            text=f"The broker at {found.endpoint} serves another palace: {status['palace']}, and "
            f"not {found.paths.root}. It refuses the clients of this one.",
            remedy="Take MEMPALACE_BROKER out of this environment, or name the palace you mean: "
            f"MEMPALACE_PATH={status['palace']}",
        )
        return
    who = f"pid {status['pid']}, epoch {status['epoch']}, for {span(status['up_s'])}"
    clients = len(status["sessions"])
    yield Finding(level=OK, code="broker", text=f"{who}, {clients} sessions, {found.endpoint}")


def _same_root(found: Diagnostics) -> bool:
    return found.status is not None and found.status["palace"] == found.paths.root


def _engine(found: Diagnostics) -> Iterator[Finding]:
    assert found.status is not None
    engine = found.status["engine"]
    if engine["state"] == "failed":
        yield Finding(
            level=ERROR,
            code="engine_failed",
            text=f"The broker's engine could not be loaded: {engine['failure']}",
            remedy="Correct what it names; the next request then starts another broker. "
            f"More: {found.status['log']}",
        )
    for call in found.status.get("calls_running", ()):
        if call["for_s"] >= STUCK_S and call["lane"] not in _LONG:
            limit_s = found.config.watchdog_s if found.config else 0.0
            yield Finding(
                level=ERROR,
                code="stuck",
                text=f"{call['tool']} has run for {span(call['for_s'])}, and holds up all changes.",
                remedy=f"The watchdog ends the broker after {span(limit_s)} without progress; or "
                f"end it now, nothing acknowledged is lost: kill -9 {found.status['pid']}",
            )


def _room(found: Diagnostics) -> Iterator[Finding]:
    if found.full is None:
        return
    what, how_many = found.full
    limit = "sessions_max in palace.toml" if what == "sessions" else "ulimit -n, open files"
    yield Finding(
        level=ERROR,
        code="broker_full",
        text=f"{how_many} {what} are open, as many as this broker may have: no other agent is "
        "served, and stock's tools are turned away.",
        remedy=f"End an agent, or allow more ({limit}) where brokers are started, and then: "
        "palace stop",
    )


def _queue(found: Diagnostics) -> Iterator[Finding]:
    assert found.status is not None
    queue = found.status["queue"]
    if queue["waiting"] >= queue["max"]:
        yield Finding(
            level=WARNING,
            code="queue_full",
            text=f"{queue['waiting']} requests wait, and no more are let in: others are refused as "
            "busy.",
            remedy="See who asks so much: palace status",
        )


def _errors(found: Diagnostics) -> Iterator[Finding]:
    """Tell the latest of the errors that the broker has counted."""
    assert found.status is not None
    for error in found.status.get("errors", ())[:1]:
        times = f", {error['times']} times" if error["times"] > 1 else ""
        yield Finding(
            level=WARNING,
            code="errors",
            text=f"The broker met an error {span(error['ago_s'])} ago{times}: {error['text']}",
            remedy=f"See what was before it: palace logs -n 20 --palace {found.paths.root}",
        )


def _refusing(found: Diagnostics) -> Finding:
    """Say what a broker says that answers, and not what is asked: ending it is no remedy."""
    if found.is_served:
        text = f"serves you; what it does it tells {found.owner_name} and root alone"
        return Finding(level=OK, code="broker", text=text)
    assert found.silence is not None
    forbidden = found.silence.details["refused"] == "forbidden"
    return Finding(
        level=ERROR,
        code="refused",
        text=f"{found.silence.message.rstrip('.')}.",
        remedy=f"Let {found.owner_name} allow it, with the command named"
        if forbidden
        else "Do what it says, then look again: palace doctor",
    )


def _silent(found: Diagnostics) -> Finding:
    holder = found.holder
    assert holder is not None
    if holder.stopped:
        return Finding(
            level=ERROR,
            code="stopped",
            text=f"The broker is halted by a signal (SIGSTOP, or a debugger): {name(holder)}. It "
            "keeps the lock, so no other can start, and every request waits for it.",
            remedy=f"Let it go on: kill -CONT {holder.pid}. Or end it, nothing acknowledged is "
            f"lost: kill -9 {holder.pid}",
        )
    if command := maintenance_in(holder.title):
        return Finding(
            level=WARNING,
            code="maintenance",
            text=f"`{command}` has the palace for itself: {name(holder)}. No broker can start "
            "until it ends, and calls wait for that, or are refused after a while.",
            remedy=f"Let it finish. It can be ended, too, and begun again later: kill {holder.pid}",
        )
    hidden = hidden_text(holder.pid, found.kernel)
    word = found.silence.message if isinstance(found.silence, BrokerUnreachable) else ""
    return Finding(
        level=ERROR,
        code="silent",
        text=f"The owner does not answer: {name(holder)} holds broker.lock. {hidden} {word}",
        remedy=HOW_TO_SHOW
        if hidden
        else "If it starts or leaves, wait. Else end it, nothing acknowledged is lost: "
        f"kill -9 {holder.pid}",
    )


def _named_is_dead(found: Diagnostics) -> Finding:
    return Finding(
        level=ERROR,
        code="named_broker",
        text=f"MEMPALACE_BROKER={found.environment.broker} is used as it stands, and nothing "
        "answers there; no other broker is looked for.",
        remedy="Take MEMPALACE_BROKER out of this environment, or start that broker.",
    )
