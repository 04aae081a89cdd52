"""Stock's mesh: whether a palace that has peers goes on agreeing with them."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.kernel.durations import span
from palace.ownership.mesh_file import STOCKS_PORT, peers_of, peers_path, read_mesh
from palace.protocol.errors import ConfigError
from palace.protocol.wire import identity_of

LATE_ROUNDS = 4  # that a peer may take before it counts as late


def check_mesh(found: Diagnostics) -> Iterator[Finding]:
    """Yield what keeps the events of this palace and of its peers from being the same."""
    if found.config is None or not found.exists or found.foreign is not None:
        return
    path = peers_path(found.paths.root)
    if found.config.mesh == "off":
        if found.kernel.file_id(path) is not None:
            yield Finding(
                level=NOTE,
                code="mesh_off",
                text=f"{path} names peers, and the settings say mesh = off: nobody is pulled from.",
                remedy="To take part again: palace config set mesh=auto; palace stop",
            )
        return
    try:
        peers = peers_of(found.paths.root, found.kernel)
    except ConfigError as error:
        yield Finding(
            level=ERROR,
            code="peers_unreadable",
            text=f"{error}",
            remedy=f"Correct {path}, or remove it: the broker reads it again by itself",
        )
        return
    if not peers:
        return
    if found.config.http is False:
        yield Finding(
            level=WARNING,
            code="mesh_unreachable",
            text="This palace has peers, and they can't pull from it: the settings say http = "
            "false, and they ask over HTTP.",
            remedy="Let it listen: palace config set http=true; palace stop",
        )
    told = (found.status or {}).get("mesh")
    if told is not None:
        yield from _served(found, told)
    elif found.status is None and not found.is_refused and found.holder is None:
        yield Finding(
            level=WARNING,
            code="mesh_pauses",
            text=f"This palace has peers ({', '.join(peer.name for peer in peers)}), and no broker "
            "runs: nothing is pulled, and nobody can pull from here, until the next request.",
            remedy="Keep one running: palace config set idle_s=0; palace service install. For now: "
            "palace start",
        )


def _served(found: Diagnostics, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what a broker says of the mesh."""
    if told["problem"]:
        yield Finding(
            level=ERROR,
            code="mesh_stands_still",
            text=f"Nothing is pulled from peers: {told['problem']}",
            remedy="Correct what it names; the broker tries again by itself",
        )
        return
    yield from _found(found, told)
    late = [peer for peer in told["peers"] if not _is_well(peer, told)]
    for peer in told["peers"]:
        if peer["forked"]:
            yield _forked(peer)
    for peer in late:
        yield _late(found, peer)
    if not late and not any(peer["forked"] for peer in told["peers"]) and told["interval_s"]:
        text = f"{len(told['peers'])} peers, the same events as all of them"
        yield Finding(level=OK, code="mesh", text=text)
    if not told["interval_s"]:
        yield Finding(
            level=NOTE,
            code="mesh_pulls_nothing",
            text="MEMPALACE_SYNC_INTERVAL is 0: peers are answered, and nothing is pulled.",
            remedy='To pull: palace config set environment.MEMPALACE_SYNC_INTERVAL="15"',
        )
    elif found.config is not None and found.config.idle_s:
        yield Finding(
            level=NOTE,
            code="mesh_idles",
            text=f"The broker leaves after {span(found.config.idle_s)} without a request, of peers "
            "or others, and the mesh pauses until the next one.",
            remedy="To keep it: palace config set idle_s=0; palace service install",
        )


def _found(found: Diagnostics, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what keeps peers from asking this palace: no token, or another port than theirs."""
    identity = identity_of(found.kernel.read_hint(found.paths.palace_id, 200)) or ""
    try:
        kept = read_mesh(told["token_file"], identity, found.kernel)
    except ConfigError:  # which is the broker's problem, and told as such
        return
    http = (found.status or {}).get("http") or {}
    port = urlsplit(http.get("url") or "").port
    if port is None:  # it doesn't listen, or not yet: other checks say so
        return
    wanted = kept.port or STOCKS_PORT
    why = "" if kept.token else f"{told['token_file']} holds no token that they could show"
    if port != wanted:
        why = (
            f"they look for it at port {wanted}, and its broker listens at {port}: that one was "
            "taken, or peers.json came while the broker ran"
        )
    if why:
        yield Finding(
            level=WARNING,
            code="mesh_unfound",
            text=f"Peers can't pull from this palace: {why}.",
            remedy="See that nobody else has the port, and start anew: palace stop; palace start",
        )


def _is_well(peer: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Tell whether this palace knew all that a peer knows, lately, or hasn't asked it yet."""
    if not peer["agreed"]:
        return False
    if peer["error"] or peer["behind"]:
        return False
    patience_s = LATE_ROUNDS * told["interval_s"]
    if peer["converged_s"] is None:
        return peer["forked"] or told["since_s"] is None or told["since_s"] <= patience_s
    return not told["interval_s"] or peer["forked"] or peer["converged_s"] <= patience_s + 60


def _forked(peer: Mapping[str, Any]) -> Finding:
    return Finding(
        level=ERROR,
        code="mesh_forked",
        text=f"The peer {peer['name']} has events of this palace that this palace hasn't: it was "
        "restored from a backup, or is a copy of another one. What it files now under the same "
        "numbers is not taken over there.",
        remedy="Let one of them have another identity: stop this broker for good (palace stop "
        "--hold), and see docs/operating.md, The mesh",
    )


def _late(found: Diagnostics, peer: Mapping[str, Any]) -> Finding:
    if not peer["agreed"]:
        return Finding(
            level=WARNING,
            code="mesh_not_agreed",
            text=f"peers.json names {peer['name']} at {peer['url']}, and you have not agreed to "
            "that address: it is not pulled from, since others may write to a palace.",
            remedy=f"Look at it and agree: palace mesh --trust --palace {found.paths.root}",
        )
    since = peer["converged_s"]
    when = "not since this broker began" if since is None else f"last {span(since)} ago"
    why = peer["error"] or "it takes long"
    return Finding(
        level=WARNING,
        code="mesh_behind",
        text=f"This palace lacks events of the peer {peer['name']}, or can't know: it had all of "
        f"them {when}. {why[:1].upper()}{why[1:]}.",
        remedy=f"See that {peer['url']} answers, and that peers.json has its token; the broker "
        "asks again by itself",
    )
