"""What stock's mesh says on the wire, checked before anything of it is believed.

Palaces of several machines agree upon one log of events by pulling: each asks its peers which
author's events they know up to which number (a *version vector*), and fetches what it lacks, in
each author's order (mempalace 3.11: logsync.py).  An author's highest number is all that says what
is known, so an event that was skipped would be missing for ever: what can't be taken as it is ends
the pull of that author, at that event, and is said.

A peer has a token and is otherwise a stranger: shapes, sizes and numbers are bounded here, no more
tightly than stock bounds what it makes itself.

Pure.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode, urlsplit

import attrs

from palace.protocol.decoding import is_number, is_text, is_word

PEERS_MAX = 64
ORIGINS_MAX = 1024  # authors in one vector
PROFILES_MAX = 64
PROFILE_BYTES_MAX = 4096
PAGE_EVENTS = 100  # that are asked for at once
PAGE_BYTES_MAX = 32 << 20  # of any answer: an artifact of 4 MiB, each character of it escaped
FOLD_EVENTS = 32  # that are taken over at once: other changes wait for so long
FOLD_BYTES = 4 << 20
SERVED_BYTES = 4 << 20  # of a page of events that we serve; one event may be more

SEQ_MAX = (1 << 53) - 1  # beyond it JSON's readers differ
ROUTING_CHARS_MAX = 256
BODY_BYTES_MAX = 256 << 10
METADATA_BYTES_MAX = 64 << 10
ARTIFACT_BYTES_MAX = 4 << 20
ARTIFACTS_MAX = 1024  # of one event

_REQUIRED = ("id", "type", "stream", "room", "from_agent", "created_at", "origin_replica", "hlc")
_OPTIONAL = ("topic", "to_agent", "correlation_id", "branch", "base_commit", "status")
_OF_ARTIFACT = ("id", "kind", "sha256", "created_by", "created_at")
_DEFAULT_PORTS = {"http": 80, "https": 443}

Json = dict[str, Any]


class Unacceptable(ValueError):
    """What somebody else has written, and can't be taken; the text says why."""


@attrs.frozen(kw_only=True)
class MeshPeer:
    """One entry of peers.json; `url` is as it stands there."""

    name: str
    url: str
    token: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class Target:
    """Where a peer is asked; `prefix` is what its URL's path begins with."""

    secure: bool
    host: str
    port: int
    authority: str
    prefix: str


def read_peers(decoded: object) -> tuple[MeshPeer, ...]:
    """Return the peers of a decoded peers.json; raises ValueError that says what is wrong."""
    listed = decoded.get("peers") if isinstance(decoded, dict) else None
    if not isinstance(listed, list):
        raise Unacceptable("it has no list of peers")
    if len(listed) > PEERS_MAX:
        raise Unacceptable(f"it names {len(listed)} peers, and {PEERS_MAX} are the most")
    return tuple(_numbered_peer(number, one) for number, one in enumerate(listed, 1))


def _numbered_peer(number: int, entry: object) -> MeshPeer:
    """Return a peer; what is wrong with it is told without its url, in which a token may stand."""
    try:
        return _peer(entry)
    except Unacceptable as error:
        raise Unacceptable(f"entry {number}: {error}") from None


def _peer(entry: object) -> MeshPeer:
    if not isinstance(entry, dict) or not entry.get("url"):
        raise Unacceptable("every peer needs a url")
    url, token = entry["url"], entry.get("token") or ""
    name = entry.get("name") or url
    if not (is_word(name, ROUTING_CHARS_MAX) and is_word(url) and is_word(token)):
        raise Unacceptable("a peer's name, url and token are texts of one line")
    if not token.isascii():
        raise Unacceptable("a peer's token is ASCII")
    target_of(url)
    return MeshPeer(name=name, url=url, token=token)


def target_of(url: str) -> Target:
    """Return where a peer's URL leads; raises Unacceptable for what is no plain http(s) address.

    Its text quotes nothing of the URL: somebody may have put a token into it.
    """
    if not url.isascii() or " " in url:
        raise Unacceptable("a peer's url is ASCII, without blanks")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host.encode("idna")  # as the resolver will: a label has 63 characters at most
    except ValueError:  # whose words quote it
        raise Unacceptable("a peer's url is no http:// or https:// address") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise Unacceptable("a peer's url is no http:// or https:// address")
    if parts.username is not None or parts.query or parts.fragment:
        raise Unacceptable("a peer's url holds no user, query or fragment")
    return Target(
        secure=parts.scheme == "https",
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        authority=parts.netloc,
        prefix=parts.path.rstrip("/"),
    )


def path_of(target: Target, path: str, **query: object) -> str:
    """Return what is asked of a peer, as it stands in a request."""
    return f"{target.prefix}{path}" + (f"?{urlencode(query)}" if query else "")


# What a peer answers.


@attrs.frozen(kw_only=True)
class Vector:
    """What a peer says of itself: its name, what it knows, and profiles for those who look."""

    replica: str
    tops: Mapping[str, int]
    profile: Json | None = None
    profiles: Mapping[str, Json] = attrs.field(factory=dict)


def read_vector(decoded: object) -> Vector:
    """Return a peer's version vector; raises ValueError."""
    fields = decoded if isinstance(decoded, dict) else {}
    tops = fields.get("version_vector")
    if not isinstance(tops, dict):
        raise Unacceptable("its version vector is none")
    if len(tops) > ORIGINS_MAX:
        raise Unacceptable(f"its version vector has more than {ORIGINS_MAX} authors")
    for origin, top in tops.items():
        if not _is_routing(origin) or not is_number(top, SEQ_MAX):
            raise Unacceptable("its version vector names an author or a number that is none")
    replica = fields.get("replica_id")
    return Vector(
        replica=replica if isinstance(replica, str) and _is_routing(replica) else "?",
        tops=tops,
        profile=_profile(fields.get("profile")),
        profiles=_profiles(fields.get("profiles")),
    )


def _profile(value: object) -> Json | None:
    """Return a profile that is small enough to be kept, None for any other."""
    return value if isinstance(value, dict) and _is_short(value, PROFILE_BYTES_MAX) else None


def _profiles(value: object) -> dict[str, Json]:
    listed = list(value.items())[:PROFILES_MAX] if isinstance(value, dict) else []
    kept = ((origin, _profile(profile)) for origin, profile in listed if _is_routing(origin))
    return {origin: profile for origin, profile in kept if profile is not None}


def read_page(decoded: object, origin: str, after: int) -> list[Json]:
    """Return the events of a page that can be taken, in their author's order.

    Raises ValueError where the first one can't.  Each has to come after the one before, so that a
    peer can't lead round in a circle.
    """
    events = decoded.get("events") if isinstance(decoded, dict) else None
    if not isinstance(events, list):
        raise Unacceptable("its page of events is none")
    taken: list[Json] = []
    for event in events:
        try:
            checked = _checked_event(event, origin)
            if checked["origin_seq"] <= after:
                raise Unacceptable(f"event {checked['origin_seq']} comes after {after}")
        except Unacceptable:
            if taken:  # which may be kept: what is wrong is met again by the next page
                return taken
            raise
        after = checked["origin_seq"]
        taken.append(checked)
    return taken


def _checked_event(event: object, origin: str) -> Json:
    if not isinstance(event, dict):
        raise Unacceptable("an event is no object")
    if any(not is_line(event.get(name)) or not event[name] for name in _REQUIRED):
        raise Unacceptable("an event lacks what each has")
    if any(not is_line(event.get(name)) for name in _OPTIONAL if event.get(name) is not None):
        raise Unacceptable("an event's fields are none")
    if event["origin_replica"] != origin:
        raise Unacceptable(f"an event of another author than {origin} is among its events")
    if not is_number(event.get("origin_seq"), SEQ_MAX) or not event["origin_seq"]:
        raise Unacceptable("an event has no number")
    body, metadata = event.get("body") or "", event.get("metadata") or {}
    if not _is_plain(body, BODY_BYTES_MAX) or "\0" in body:
        raise Unacceptable(f"the text of event {event['origin_seq']} is none, or too long")
    if not _are_metadata(metadata):
        raise Unacceptable(f"the metadata of event {event['origin_seq']} are none, or too long")
    artifacts = event.get("artifact_ids") or []
    if not isinstance(artifacts, list) or len(artifacts) > ARTIFACTS_MAX:
        raise Unacceptable(f"the artifacts of event {event['origin_seq']} are no list of names")
    if not all(_is_routing(one) for one in artifacts):
        raise Unacceptable(f"the artifacts of event {event['origin_seq']} are no list of names")
    kept = {name: event.get(name) for name in (*_REQUIRED, *_OPTIONAL, "origin_seq")}
    return {**kept, "body": body, "metadata": metadata, "artifact_ids": artifacts}


def read_artifact(decoded: object, ident: str) -> Json:
    """Return the artifact that was asked for; raises ValueError for any other."""
    artifact = decoded.get("artifact") if isinstance(decoded, dict) else None
    if not isinstance(artifact, dict):
        raise Unacceptable(f"it has no artifact {ident}")
    if any(not is_line(artifact.get(name)) or not artifact[name] for name in _OF_ARTIFACT):
        raise Unacceptable(f"artifact {ident} lacks what each has")
    if artifact["id"] != ident:
        raise Unacceptable(f"another artifact came for {ident}")
    content, metadata = artifact.get("content"), artifact.get("metadata") or {}
    origin = artifact.get("origin_replica")
    if not isinstance(content, str) or not _is_plain(content, ARTIFACT_BYTES_MAX) or not content:
        raise Unacceptable(f"the content of artifact {ident} is none, or too long")
    if sha256(content.encode()).hexdigest() != artifact["sha256"]:
        raise Unacceptable(f"the content of artifact {ident} is not what its digest says")
    if not _are_metadata(metadata):
        raise Unacceptable(f"the metadata of artifact {ident} are none, or too long")
    if origin is not None and not _is_routing(origin):
        raise Unacceptable(f"the author of artifact {ident} is none")
    kept = {name: artifact[name] for name in _OF_ARTIFACT}
    return {**kept, "content": content, "metadata": metadata, "origin_replica": origin}


def is_line(value: object) -> bool:
    """Tell whether a value is a text as stock's routing fields hold them."""
    return (
        is_text(value, ROUTING_CHARS_MAX)
        and isinstance(value, str)
        and not any(char < " " or char == "\x7f" for char in value)
        and _is_plain(value, 4 * ROUTING_CHARS_MAX)
    )


def _is_routing(value: object) -> bool:
    return is_line(value) and bool(value)


def _are_metadata(value: object) -> bool:
    return isinstance(value, dict) and _is_short(value, METADATA_BYTES_MAX)


def _is_short(value: Json, bytes_max: int) -> bool:
    try:
        return _is_plain(json.dumps(value, ensure_ascii=False), bytes_max)
    except RecursionError:  # it was read where there was more room on the stack
        return False


def _is_plain(text: object, bytes_max: int) -> bool:
    """Tell whether a text has so many bytes at most; half a surrogate pair has none."""
    if not isinstance(text, str) or len(text) > bytes_max:
        return False
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False


# What is lacking, and in which parts it is taken.


def lacking(mine: str, known: Mapping[str, int], tops: Mapping[str, int]) -> list[str]:
    """Return the authors of whom a peer knows more; nobody knows more of us than we do."""
    return sorted(
        origin for origin, top in tops.items() if origin != mine and top > known.get(origin, 0)
    )


def is_forked(mine: str, known: Mapping[str, int], tops: Mapping[str, int]) -> bool:
    """Tell whether a peer knows events of ours that we don't: this palace was put back, or copied.

    `known` has to have been read after `tops` was said: what we serve is durable.
    """
    return tops.get(mine, 0) > known.get(mine, 0)


def parts_of(events: Iterable[Json]) -> Iterable[list[Json]]:
    """Divide a page into parts that are taken over each at once."""
    part: list[Json] = []
    size = 0
    for event in events:
        more = len(event["body"])
        if part and (len(part) == FOLD_EVENTS or size + more > FOLD_BYTES):
            yield part
            part, size = [], 0
        part.append(event)
        size += more
    if part:
        yield part
