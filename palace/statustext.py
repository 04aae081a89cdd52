"""The status for people: what `palace status` prints."""

from typing import Any


def status_text(status: dict[str, Any]) -> str:
    """Return a screen of text for a broker's status (palace/broker/status.py has the shape)."""
    engine = status["engine"]
    rows = [
        ("palace", status["palace"]),
        ("owner", f"pid {status['pid']}, epoch {status['epoch']}, up {span(status['up_s'])}"),
        ("reached at", status["endpoint"] or "its own client's pipe only"),
        ("HTTP", _http(status.get("http"))),
        ("engine", _engine(engine)),
        ("journal", _journal(status["journal"])),
        ("queue", f"{status['queue']['waiting']} of {status['queue']['max']} waiting"),
        ("lanes", _lanes(status["lanes"])),
        ("served", f"{status['requests']} requests, {status['busy_refusals']} refused as busy"),
        ("idle", _idle(status)),
        ("graph", status["graph"]),
        ("log", status["log"]),
    ]
    if status["degraded"]:
        rows.insert(1, ("degraded", f"{status['degraded']}: this owner is its client's child"))
    if status["last_error"]:
        rows.append(("last error", status["last_error"]))
    lines = [f"{name:<11} {value}" for name, value in rows]
    lines.append(f"sessions    {len(status['sessions'])}")
    lines += [f"            {_session(session)}" for session in status["sessions"]]
    return "\n".join(lines)


def span(seconds: float) -> str:
    """Return a duration as people say it: 5 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _engine(engine: dict[str, str]) -> str:
    if engine["state"] == "ready":
        return f"mempalace {engine['version']}, ready"
    if engine["state"] == "failed":
        return f"failed: {engine['failure']}"
    return f"loading: {engine['doing']}"


def _http(http: dict[str, Any] | None) -> str:
    if http is None:
        return "off"
    if not http["url"]:
        return "not yet"
    return f"{http['url']}, {http['sessions']} sessions, token in {http['token_file']}"


def _journal(journal: dict[str, Any]) -> str:
    if journal["journal"] == "off":
        return "off: a change that a death interrupts has an unknown outcome"
    if "seq" not in journal:
        return str(journal["journal"])
    behind = journal["seq"] - journal["durable_seq"]
    text = f"record {journal['seq']}" + (f", {behind} not yet durable" if behind else "")
    if journal["quarantined"]:
        text += f"; {journal['quarantined']} calls are quarantined, see palace doctor"
    return text


def _lanes(lanes: dict[str, dict[str, int]]) -> str:
    return ", ".join(f"{name} {lane['running']}/{lane['max']}" for name, lane in lanes.items())


def _idle(status: dict[str, Any]) -> str:
    limit = status["idle_exit_s"]
    leaves = f"leaves after {span(limit)}" if limit else "never leaves by itself"
    return f"{span(status['idle_s'])}; {leaves}"


def _session(session: dict[str, Any]) -> str:
    name = session["client"] or "a client"
    marks = " read-only" if session["read_only"] else ""
    marks += "" if session["connected"] else " (not connected)"
    return (
        f"{session['session']} {name}, pid {session['pid']}, {session['requests']} requests, "
        f"{session['in_flight']} in flight, for {span(session['since_s'])}{marks}"
    )
