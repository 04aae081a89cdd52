"""`palace doctor --boundary`: whose palace this is, and how a shim here reaches its broker.

The ways are numbered as in guest/fallbacks.py, and 0 is this kernel's own: the socket, or a broker
that a shim starts.  A remote one is tried as a shim would, so that ssh may start a broker there.
"""

import json
from _socket import socket
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from typing import Any

import attrs

from palace.client.endpoints import named_socket, probe_hello, socket_candidates
from palace.client.guest.fallbacks import Candidate, Fallbacks
from palace.client.handshake import ABSENT, Conversation, StrangerError, open_socket
from palace.doctor.finding import DATA_ERROR
from palace.kernel.kernel import Kernel
from palace.kernel.output import say
from palace.ownership.claim import find_foreign, own_id, read_claim
from palace.ownership.directory import check_palace
from palace.ownership.guest_file import read_guest_file
from palace.ownership.lock import check_hold
from palace.ownership.record import read_record
from palace.protocol import wire
from palace.protocol.errors import ConfigError, OnHold, UnsafePalace, WireError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site

OWN, NAMED, WSS, SSH, NONE = range(5)
NAMES = ("this kernel", "MEMPALACE_BROKER", "TLS websocket", "ssh", "none")
TRY_S = 60.0
LOCAL_S = 5.0
END_S = 3.0


@attrs.frozen(kw_only=True)
class Way:
    """One way to a broker: where it leads, whether it works now, and what it said.

    `rung` is its number, by the name that it has in the JSON output.
    """

    rung: int
    to: str
    works: bool
    text: str


@attrs.frozen(kw_only=True)
class Boundary:
    """What was found: facts for programs, the ways, and why there is none."""

    facts: dict[str, Any]
    ways: tuple[Way, ...]
    why_not: str = ""

    @property
    def taken(self) -> Way | None:
        """Return the way that a shim here takes."""
        return next((way for way in self.ways if way.works), None)


def explore(paths: Paths, environment: ShimEnvironment) -> Boundary:
    """Look at everything that decides where a shim here finds its broker, and try the ways."""
    site = Site(Kernel(), paths, environment)
    fallbacks = Fallbacks(site)
    foreign = find_foreign(paths, site.kernel, environment.all)
    facts = _facts(site) | {"bridge": fallbacks.bridge(), "ignored": fallbacks.ignored()}
    if environment.broker:
        ways = tuple(_named_way(site, fallbacks))
        why_not = f"MEMPALACE_BROKER={environment.broker} is used as it stands, and leads nowhere."
    elif foreign is None:
        ways = (_own_way(site),)
        why_not = ways[0].text
    else:
        ways = tuple(_remote_ways(site, fallbacks))
        why_not = foreign.text("; ".join(way.text for way in ways) or fallbacks.no_way())
    return Boundary(facts=facts, ways=ways, why_not=why_not)


def _facts(site: Site) -> dict[str, Any]:
    paths, environment, kernel = site.paths, site.environment, site.kernel
    mount = kernel.mount_of(paths.root)
    claim = read_claim(paths, kernel)
    record = read_record(paths, kernel)
    here = own_id(kernel, environment.all)
    guest = read_guest_file(paths, kernel)
    return {
        "palace": paths.root,
        "found_by": paths.found_by,
        "exists": kernel.file_id(paths.root) is not None,
        "mount": {
            "point": mount.point,
            "fs_type": mount.fs_type,
            "source": mount.source,
            "local": mount.is_local,
        },
        "kernel": {
            "boot_id": kernel.boot_id(),
            "in_container": kernel.in_container(),
            "pid_namespace": kernel.pid_namespace(),
            "mount_namespace": kernel.mount_namespace(),
        },
        "owner": claim
        and {
            "host": claim.host,
            "since": claim.since,
            "path": claim.path,
            "here": bool(claim.id) and claim.id == here,
        },
        "guest": guest and {"name": guest.name, "palace": guest.palace},
        "record": record
        and record.public_dict() | {"same_boot": record.boot_id == kernel.boot_id()},
        "lock": paths.lock,
        "broker": environment.broker,
        "no_spawn": environment.no_spawn,
    }


def _own_way(site: Site) -> Way:
    """Look whether a broker answers on this kernel, or could be started here."""
    absent = []
    for path in socket_candidates(site):
        try:
            sock = open_socket(path)
        except OSError as error:
            text = f"nothing listens at {path}: {error.strerror}"
            if error.errno not in ABSENT:
                return Way(rung=OWN, to=path, works=False, text=text)
            absent.append(path)
            continue
        works, text = _try_socket(sock, site, LOCAL_S)
        return Way(rung=OWN, to=path, works=works, text=text or "it hung up")
    obstacle = _obstacle(site.paths, site.environment, site.kernel)
    text = obstacle or "no broker runs; a shim starts one"
    return Way(rung=OWN, to=absent[0], works=not obstacle, text=text)


def _obstacle(paths: Paths, environment: ShimEnvironment, kernel: Kernel) -> str:
    """Return what keeps a shim from starting a broker here, "" where nothing does."""
    if environment.no_spawn:
        return "no broker runs, and PALACE_NO_SPAWN forbids starting one: unset it"
    if find_spec("mempalace") is None:
        return "no broker runs, and none can here without the engine: start one where it is"
    try:
        check_hold(paths, kernel)
        if kernel.file_id(paths.root) is not None:  # else the first broker creates it
            check_palace(paths, kernel)
    except (OnHold, UnsafePalace) as error:
        return error.message
    return ""


def _named_way(site: Site, fallbacks: Fallbacks) -> Iterator[Way]:
    for path in socket_candidates(site):
        try:
            works, text = _try_socket(open_socket(path), site, LOCAL_S)
        except OSError as error:
            works, text = False, f"nothing listens at {path}: {error.strerror}"
        yield Way(rung=NAMED, to=site.environment.broker, works=works, text=text or "it hung up")
    if not named_socket(site.environment):
        for way in _remote_ways(site, fallbacks):
            yield attrs.evolve(way, rung=NAMED)


def _remote_ways(site: Site, fallbacks: Fallbacks) -> Iterator[Way]:
    try:
        candidates = fallbacks.candidates()
    except ConfigError as error:
        yield Way(rung=NONE, to="", works=False, text=error.message)
        return
    for candidate in candidates:
        works, text = _try_candidate(candidate, site, fallbacks)
        number = WSS if candidate.url.startswith("wss://") else SSH
        yield Way(rung=number, to=candidate.url, works=works, text=text)


def _try_candidate(candidate: Candidate, site: Site, fallbacks: Fallbacks) -> tuple[bool, str]:
    tunnel = fallbacks.open(candidate)
    works, text = _try_socket(tunnel.sock, site, min(candidate.patience_s, TRY_S))
    tunnel.join(END_S)
    problem = tunnel.problem.text if tunnel.problem else "it hung up"
    return works, text or problem


def _try_socket(sock: socket, site: Site, patience_s: float) -> tuple[bool, str]:
    """Say hello; return whether WELCOME came, and what was said: "" where it hung up."""
    hello = probe_hello(site.kernel, site.paths, site.kernel.token())
    try:
        with closing(Conversation(sock, site.paths, site.kernel)) as conversation:
            response = conversation.ask(hello, patience_s)
    except StrangerError as error:
        return False, f"{error.strerror}"
    except TimeoutError:
        return False, f"no WELCOME came within {patience_s:.0f} s: it is stopped, or stuck"
    except OSError:
        return False, ""
    except WireError:
        return False, "what answers there is no palace broker"
    if response.kind == wire.WELCOME:
        return True, f"it answers: epoch {response.epoch}"
    return False, f"it refused us: {response.fields.get('text', response.kind)}"


def print_boundary(boundary: Boundary, *, as_json: bool) -> int:
    """Print what was found; return 65 where no way leads to a broker."""
    taken = boundary.taken
    if as_json:
        ways = [attrs.asdict(way) for way in boundary.ways]
        rung = taken.rung if taken else NONE
        why_not = "" if taken else boundary.why_not
        say(json.dumps(boundary.facts | {"ways": ways, "rung": rung, "why_not": why_not}))
        return 0 if taken else DATA_ERROR
    for name, text in _rows(boundary):
        say(f"{name:<14} {text}")
    if taken is None:
        say(f"No way leads to a broker from here. {boundary.why_not}")
        return DATA_ERROR
    say(f"A shim here takes way {taken.rung} ({NAMES[taken.rung]}): {taken.text}.")
    return 0


def _rows(boundary: Boundary) -> Iterator[tuple[str, str]]:
    facts = boundary.facts
    mount, kernel, owner, record = (facts[key] for key in ("mount", "kernel", "owner", "record"))
    there = "" if facts["exists"] else ", not there yet"
    yield "palace", f"{facts['palace']} (from {facts['found_by']}{there})"
    whose = "local: this kernel's" if mount["local"] else "foreign: another kernel's"
    yield "mount", f"{mount['point']}, {mount['fs_type']}, of {mount['source']} ({whose})"
    inside = "in a container" if kernel["in_container"] else "not in a container"
    yield "kernel", f"boot {kernel['boot_id']}, {inside}"
    yield "namespaces", f"{kernel['pid_namespace']} {kernel['mount_namespace']}".strip() or "none"
    yield "owner.json", _owner_text(owner)
    if facts["guest"]:
        yield "guest", f"{facts['guest']['name']}, of the palace {facts['guest']['palace']}"
    yield "record", _record_text(record)
    yield "lock", facts["lock"]
    yield "bridge", facts["bridge"] or "not set"
    if facts["ignored"]:
        yield "ignored", facts["ignored"]
    yield "named broker", facts["broker"] or "MEMPALACE_BROKER is not set"
    for way in boundary.ways:
        works = "works" if way.works else "doesn't work"
        yield f"way {way.rung}", f"{NAMES[way.rung]}, {way.to}: {works}: {way.text}"


def _owner_text(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "none"
    here = "this machine" if owner["here"] else "another machine or user"
    return f"{owner['host'] or 'unreadable'} since {owner['since']}, as {owner['path']}: {here}"


def _record_text(record: dict[str, Any] | None) -> str:
    if record is None:
        return "none: no broker runs, or it can't be read"
    boot = "this boot" if record["same_boot"] else f"another boot, {record['boot_id']}"
    addresses = ", ".join(record["endpoints"]) or "no addresses"
    return (
        f"pid {record['pid']} on {record['host_id']} ({boot}), epoch {record['epoch']}, since "
        f"{record['started_at']}: {addresses}"
    )
