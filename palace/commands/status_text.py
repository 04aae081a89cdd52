"""The text of `palace status`."""

from collections.abc import Iterator
from typing import Any

from palace.commands.deaths import death_text
from palace.kernel.durations import span
from palace.kernel.output import one_line
from palace.settings.stock_config import CHROMA

_SESSIONS_MAX = 20  # shown; palace status --json has all
_ERRORS_MAX = 3


def status_text(status: dict[str, Any]) -> str:
    """Return a broker's status (docs/reference/status.md) as a screen of text."""
    rows = [
        ("palace", status["palace"]),
        ("owner", _owner(status)),
        ("reached at", _reached(status)),
        ("HTTP", _http(status.get("http"))),
        ("engine", _engine(status)),
        ("journal", _journal(status["journal"])),
        ("queue", f"{status['queue']['waiting']} of {status['queue']['max']} waiting"),
        ("served", _served(status)),
        ("idle", _idle(status)),
        ("graph", status["graph"]),
        ("log", status["log"]),
        *_workspaces(status),
        *_mesh(status),
        *_tasks(status),
        *_deaths(status),
    ]
    if status["degraded"]:
        rows.insert(1, ("degraded", f"{status['degraded']}: this owner is its client's child"))
    if reading := status.get("reading"):
        rows.insert(5, ("queries", _reading(reading)))
    rows[1:1] = [("notice", notice) for notice in status["notices"]]
    lines = [f"{name:<11} {value}" for name, value in rows]
    lines += [f"{'stores':<11} {text}" for text in _stores(status["journal"].get("stores") or {})]
    lines += _lanes(status)
    for error in status["errors"][:_ERRORS_MAX]:
        times = f", {error['times']} times" if error["times"] > 1 else ""
        lines.append(f"{'error':<11} {span(error['ago_s'])} ago{times}: {error['text']}")
    sessions = status["sessions"]
    lines.append(f"sessions    {len(sessions)}")
    lines += [f"            {_session(session)}" for session in sessions[:_SESSIONS_MAX]]
    if len(sessions) > _SESSIONS_MAX:
        lines.append(f"            and {len(sessions) - _SESSIONS_MAX} more: palace status --json")
    return "\n".join(one_line(line) for line in lines)  # clients choose their names


def _deaths(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield whether deaths are noticed, and the last one; an older broker tells neither."""
    problem = status.get("canary", {}).get("problem")
    if problem:
        yield "canary", f"none: {problem}"
    if last := status.get("deaths", {}).get("last"):
        about = {key: value for key, value in last.items() if key != "epoch"}
        yield "deaths", f"{status['deaths']['count']}, the last {death_text(last['epoch'], about)}"


def _workspaces(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield who works here, where anybody is registered; an older broker doesn't tell."""
    if told := status.get("workspaces"):
        text = f"{told['active']}, {told['confined']} of them confined; {told['tokens']} tokens"
        customs = told["custom_namespaces"]
        plugins = told.get("plugin_tokens")
        text += f", {plugins} for plugins" if plugins else ""
        yield "workspaces", text + (f", {customs} custom namespaces" if customs else "")
    if plugin := status["journal"].get("plugin"):
        yield "plugin", _plugin(plugin)


def _plugin(plugin: dict[str, Any]) -> str:
    """Say which server holds namespaces, or why none does."""
    if plugin["problem"]:
        return f"half configured: {plugin['problem']}"
    if not plugin["counts"]:
        return f"{plugin['address']}, prepared and not asked: memory_cutover is off"
    away = f"; it doesn't answer, and is asked again in {span(plugin['wait_s'])}"
    holds = f"{plugin['address']}, holds {', '.join(plugin['kinds'])} namespaces"
    return holds + (away if plugin["wait_s"] else "")


def _mesh(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how each peer is, where there is any; an older broker doesn't tell."""
    told = status.get("mesh") or {"problem": "", "peers": ()}
    if told["problem"]:
        yield "mesh", f"stands still: {told['problem']}"
    for peer in told["peers"]:
        yield "mesh", f"{peer['name']}: {_peer(peer)}"


def _tasks(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how many tasks of agents are watched, where any is; an older broker doesn't tell."""
    told = status.get("tasks") or {"watched": 0, "stuck": 0}
    if told["watched"] or told["stuck"]:
        text = f"{told['watched']} watched, {told['stuck']} given up by this broker"
        yield "tasks", text + ": palace delegations"


def _peer(peer: dict[str, Any]) -> str:
    if not peer["agreed"]:
        return f"{peer['url']} is not agreed to, so it is not pulled from: palace mesh"
    when = peer["converged_s"]
    since = "not since this broker began" if when is None else f"{span(when)} ago"
    text = f"the same events {since}, {peer['events']} taken over"
    text += "; it has events of this palace that this palace lacks" if peer["forked"] else ""
    return text + (f"; {peer['error']}" if peer["error"] else "")


def _owner(status: dict[str, Any]) -> str:
    return (
        f"pid {status['pid']} of {status['user']}, epoch {status['epoch']}, up "
        f"{span(status['up_s'])} (since {status['since']}), palace {status['version']}"
    )


def _reached(status: dict[str, Any]) -> str:
    ways = [status["endpoint"] or "its own client's pipe only"]
    ways += [f"{name} {status[name]}" for name in ("listen", "bridge") if status[name]]
    return ", ".join(ways)


def _engine(status: dict[str, Any]) -> str:
    engine = status["engine"]
    memory = f", {status['memory_bytes'] / (1 << 20):.0f} MiB"
    if engine["state"] == "ready":
        model = engine.get("model", {}).get("text", "")
        without = f"; nothing can be embedded yet: {model}" if model else ""
        alone = engine.get("outlives", "")
        last = f"; no other broker could serve ({alone})" if alone else ""
        backend = engine.get("backend") or CHROMA
        kept = "" if backend == CHROMA else f", drawers in {backend}"
        return f"mempalace {engine['version']}, ready{memory}{kept}{without}{last}"
    if engine["state"] == "failed":
        return f"failed: {engine['failure']}"
    return f"{engine['state']}: {engine['doing']}{memory}"


def _reading(reading: dict[str, Any]) -> str:
    """Say what answers while another program has the stores."""
    since = f"since {reading['since']}"
    if not reading["of"]:
        if reading["problem"]:
            return f"refused {since}, since no copy can be made: {reading['problem']}"
        return f"answered from a copy {since}, which the first query makes"
    text = f"answered from a copy {since}; it is of {reading['of']}, {span(reading['age_s'])} old"
    text += ", and the palace has changed since then" if reading["behind"] else ""
    text += f"; it may lack memories: {reading['lacks']}" if reading["lacks"] else ""
    text += f"; no newer one can be made: {reading['problem']}" if reading["problem"] else ""
    return text


def _http(http: dict[str, Any] | None) -> str:
    if http is None:
        return "off"
    if not http["url"]:
        return "not yet"
    contract = f", memory contract at {http['contract']}" if http.get("contract") else ""
    if http.get("tls"):
        contract += f", and at {http['tls']} (certificate {http['certificate']})"
    return f"{http['url']}, {http['sessions']} sessions, token in {http['token_file']}{contract}"


def _journal(journal: dict[str, Any]) -> str:
    if journal["journal"] == "off":
        return "off: a change interrupted by a crash has an unknown outcome"
    if "seq" not in journal:
        return str(journal["journal"])
    behind = journal["seq"] - journal["durable_seq"]
    text = f"record {journal['seq']}, " + (f"{behind} not yet durable" if behind else "all durable")
    if journal.get("fsync") == "never":
        text += ", since journal_fsync = never"
    if journal["journal"] != "on":
        text = f"{journal['journal']}: {text}"
    if journal.get("held"):
        text += f"; {', '.join(journal['held'])} lacks what it holds, see palace doctor"
    adoption = journal.get("adoption")
    if adoption:
        text += f"; {adoption['done']} of {adoption['total']} entries taken over"
        text += f", not going on: {adoption['problem']}" if adoption["problem"] else " so far"
    if journal.get("broken_lines"):
        text += f"; {journal['broken_lines']} lines are no records, see palace doctor"
    if journal["quarantined"]:
        text += f"; {journal['quarantined']} calls are quarantined, see palace doctor"
    return text


def _stores(stores: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with stores, and what was brought back; nothing where all are whole."""
    for one in stores.get("damaged", ()):
        yield f"DAMAGED: {one['text']}; see palace doctor"
    if stores.get("trouble"):
        yield f"DAMAGED: {stores['trouble']}; see palace doctor"
    for one in stores.get("healed", ()):
        yield f"brought back: {one['text']}"
    for text in stores.get("mended", ()):
        yield f"written back: {text}"


def _served(status: dict[str, Any]) -> str:
    rates = status["rates"]
    return (
        f"{status['requests']} requests, {status['calls']} calls: {rates['10s']:.1f}/s over 10 s, "
        f"{rates['60s']:.1f}/s over 1 min; {status['busy_refusals']} refused as busy"
    )


def _lanes(status: dict[str, Any]) -> list[str]:
    lines = ["lanes       running   most   p50 ms   p95 ms"]
    for name, lane in status["lanes"].items():
        took = [f"{ms:.1f}" if ms is not None else "-" for ms in (lane["p50_ms"], lane["p95_ms"])]
        running = f"{lane['running']}/{lane['max']}"
        lines.append(f"  {name:<9} {running:>7} {lane['widest']:>6} {took[0]:>8} {took[1]:>8}")
    batches = status["batches"]
    if batches["count"]:
        mean = batches["calls"] / batches["count"]
        lines[1] += f"   {batches['count']} batches of {mean:.1f}"
    return lines


def _idle(status: dict[str, Any]) -> str:
    limit = status["idle_exit_s"]
    leaves = f"leaves after {span(limit)}" if limit else "never leaves by itself"
    return f"{span(status['idle_s'])}; {leaves}"


def _session(session: dict[str, Any]) -> str:
    name = session["client"] or "a client"
    name += f" of guest {session['guest']}" if session.get("guest") else ""
    name += f" as {session['workspace']}" if session.get("workspace") else ""
    marks = " read-only" if session["read_only"] else ""
    marks += "" if session["connected"] else " (not connected)"
    return (
        f"{session['session']} {name}, pid {session['pid']}, {session['requests']} requests, "
        f"{session['in_flight']} in flight, for {span(session['since_s'])}, idle "
        f"{span(session['idle_s'])}{marks}"
    )
