"""Does a broker answer, is it this palace's, and can it work."""

from collections.abc import Iterator

from palace.client.endpoints import expected_palace_id
from palace.doctor.diagnostics import Scene, name
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.kernel.durations import span
from palace.protocol.errors import BrokerUnreachable, ConfigError, WireError

STUCK_S = 60.0  # a change takes less than a second; only mine and sync take minutes
_LONG = ("bulk", "poll")


def check_serving(scene: Scene) -> Iterator[Finding]:
    """Yield what is wrong with the broker that runs, or with what one left behind."""
    if scene.foreign is not None:
        return
    if scene.status is not None:
        yield from _is_ours(scene)
        yield from _engine(scene)
        yield from _queue(scene)
    elif isinstance(scene.silence, ConfigError):  # MEMPALACE_BROKER, in a form that isn't asked
        yield Finding(
            level=NOTE,
            code="named_broker",
            text=f"MEMPALACE_BROKER={scene.environment.broker} is used as it stands, with no "
            "fallback.",
            remedy="Try it: palace doctor --boundary",
        )
    elif scene.environment.broker:
        yield _named_is_dead(scene)
    elif isinstance(scene.silence, WireError):
        return  # it speaks another version: palace/doctor/software.py
    elif scene.holder is not None:
        yield _silent(scene)
    elif scene.record is not None:
        yield Finding(
            level=NOTE,
            code="left_behind",
            text=f"The last broker, pid {scene.record.pid} (epoch {scene.record.epoch}), was "
            "killed: its record is still there, and misleads nobody.",
            remedy="None needed: the next request starts another.",
        )


def _is_ours(scene: Scene) -> Iterator[Finding]:
    assert scene.status is not None
    status = scene.status
    wanted = expected_palace_id(scene.kernel, scene.paths)
    if (wanted and status["palace_id"] != wanted) or not (wanted or _same_root(scene)):
        yield Finding(
            level=ERROR,
            code="wrong_palace",
            text=f"The broker at {scene.endpoint} serves another palace: {status['palace']}, and "
            f"not {scene.paths.root}. It refuses the clients of this one.",
            remedy="Take MEMPALACE_BROKER out of this environment, or name the palace you mean: "
            f"MEMPALACE_PATH={status['palace']}",
        )
        return
    who = f"pid {status['pid']}, epoch {status['epoch']}, for {span(status['up_s'])}"
    clients = len(status["sessions"])
    yield Finding(level=OK, code="broker", text=f"{who}, {clients} sessions, {scene.endpoint}")


def _same_root(scene: Scene) -> bool:
    return scene.status is not None and scene.status["palace"] == scene.paths.root


def _engine(scene: Scene) -> Iterator[Finding]:
    assert scene.status is not None
    engine = scene.status["engine"]
    if engine["state"] == "failed":
        yield Finding(
            level=ERROR,
            code="engine_failed",
            text=f"The broker's engine could not be loaded: {engine['failure']}",
            remedy="Correct what it names; the next request then starts another broker. "
            f"More: {scene.status['log']}",
        )
    for call in scene.status.get("calls_running", ()):
        if call["for_s"] >= STUCK_S and call["lane"] not in _LONG:
            limit_s = scene.config.watchdog_s if scene.config else 0.0
            yield Finding(
                level=ERROR,
                code="stuck",
                text=f"{call['tool']} has run for {span(call['for_s'])}, and holds up all changes.",
                remedy=f"The watchdog ends the broker after {span(limit_s)} without progress; or "
                f"end it now, nothing acknowledged is lost: kill -9 {scene.status['pid']}",
            )


def _queue(scene: Scene) -> Iterator[Finding]:
    assert scene.status is not None
    queue = scene.status["queue"]
    if queue["waiting"] >= queue["max"]:
        yield Finding(
            level=WARNING,
            code="queue_full",
            text=f"{queue['waiting']} requests wait, and no more are let in: others are refused as "
            "busy.",
            remedy="See who asks so much: palace status",
        )


def _silent(scene: Scene) -> Finding:
    holder = scene.holder
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
    word = scene.silence.message if isinstance(scene.silence, BrokerUnreachable) else ""
    return Finding(
        level=ERROR,
        code="silent",
        text=f"The owner does not answer: {name(holder)} holds broker.lock. {word}",
        remedy="If it starts or leaves, wait. Else end it, nothing acknowledged is lost: "
        f"kill -9 {holder.pid}",
    )


def _named_is_dead(scene: Scene) -> Finding:
    return Finding(
        level=ERROR,
        code="named_broker",
        text=f"MEMPALACE_BROKER={scene.environment.broker} is used as it stands, and nobody "
        "answers there; no other broker is looked for.",
        remedy="Take MEMPALACE_BROKER out of this environment, or start that broker.",
    )
