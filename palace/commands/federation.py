"""`palace remote`, `palace pull` and `palace candidates`: what other palaces know.

A pull reads the other palace's journal in this process, as `palace history` reads one, and has the
broker take it over batch by batch.  It may die between any two: what was taken stays, and the next
one goes on from there.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from palace.canary.lifecycle_log import LifecycleLog
from palace.commands.agent import ask_broker
from palace.commands.sources import HTTPS, Asked, checked_address, read_source, token_in
from palace.kernel.causes import cause_text
from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line
from palace.protocol.errors import PalaceError, RemoteRefused
from palace.protocol.federation import (
    CANDIDATES_BYTES_MAX,
    CANDIDATES_MAX,
    UNDECIDED,
    Batch,
    Entity,
    Item,
    Place,
    Unacceptable,
    batches,
    digest_of,
    item_fields,
    position_fields,
    read_position,
)
from palace.protocol.feed_lines import Header
from palace.protocol.wire import identity_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

Json = dict[str, Any]
NONE_YET = "There is no remote. Add the first: palace remote add NAME DIR"
ALL_DECIDED = "There is nothing to decide. See all candidates: palace candidates list --all"
NONE_HOLDS = "No candidate holds all of these words. What was accepted is among your own memories."
SHOWN_CHARS = 100
EVENT = "federation-pull"  # in the lifecycle log


@attrs.frozen
class Owner:
    """Asks the broker of the palace that pulls."""

    paths: Paths
    environment: ShimEnvironment

    def ask(self, tool: str, /, **arguments: Any) -> Json:
        return ask_broker(self.paths, self.environment, f"palace_{tool}", **arguments)

    def remotes(self, name: str = "") -> list[Json]:
        """Return all remotes, or the one of a name; raises RemoteRefused where there is none."""
        found: list[Json] = self.ask("remote_list")["remotes"]
        named = [remote for remote in found if name in ("", remote["name"])]
        if name and not named:
            raise RemoteRefused(f"There is no remote {name}. See palace remote list.")
        return named

    def known(self, remote: str) -> Iterator[tuple[Entity, str]]:
        """Yield the candidates of a remote that are there and not gone, each with its digest."""
        for told in self._pages("candidate_known", remote=remote):
            yield from (((kind, ident), digest) for kind, ident, digest in told["known"])

    def candidates(self, remote: str, status: str = "", query: str = "") -> Iterator[Json]:
        for told in self._pages("candidate_list", remote=remote, status=status, query=query):
            yield from told["candidates"]

    def _pages(self, tool: str, **arguments: Any) -> Iterator[Json]:
        told = self.ask(tool, **arguments)
        yield told
        while told["next"]:
            told = self.ask(tool, **arguments, after=told["next"])
            yield told


# Remotes.


@attrs.frozen(kw_only=True)
class NewRemote:
    """What a remote is added with; `token_file` is for https alone."""

    name: str
    address: str
    wings: list[str]
    kinds: list[str]
    token_file: str = ""


def add_remote(owner: Owner, new: NewRemote) -> str:
    """Register a palace to pull from; return what is told of it."""
    place = checked_address(new.address)
    is_https = place.startswith(HTTPS)
    if is_https != bool(new.token_file):
        raise RemoteRefused(
            "A share at https:// has a token, in a file: --token-file FILE. Another address has "
            "none."
        )
    if is_https:
        token_in(new.token_file)
    told = owner.ask("remote_add", **(attrs.asdict(new) | {"address": place}))["remote"]
    return f"{told['name']} is added. See what it knows: palace pull {told['name']}"


def remove_remote(owner: Owner, name: str) -> str:
    """Forget a remote and its candidates; return what is told of it."""
    many, more = 0, True
    while more:
        told = owner.ask("remote_remove", remote=name)
        many, more = many + told["removed"], told["more"]
    return f"{name} is removed, and {many} candidates of it. What was accepted stays."


def remotes_text(owner: Owner, *, as_json: bool) -> str:
    """Return all remotes, one a line."""
    found = owner.remotes()
    if as_json:
        return "\n".join(json.dumps(one) for one in found)
    return "\n".join(map(_remote_line, found)) or NONE_YET


def _remote_line(remote: Mapping[str, Any]) -> str:
    pulled = f"pulled {remote['pulled_at']}" if remote["pulled_at"] else "never pulled"
    return one_line(f"{remote['name']}  {remote['address']}  {pulled}")


# Pulling.


@attrs.define
class Pulled:
    """What became of a pull of one or all remotes: what is told, and of each that failed why."""

    told: list[str] = attrs.field(factory=list)
    failed: list[PalaceError | OSError] = attrs.field(factory=list)


def pull(owner: Owner, name: str, *, is_trial: bool = False) -> Pulled:
    """Take over what remotes, or one of them, say that is new; each has a line in lifecycle.log.

    With `is_trial` only say what would change.  One that can't be read keeps none of the others
    from being read.
    """
    done, log = Pulled(), LifecycleLog(owner.paths.root, Kernel())
    work = _foreseen if is_trial else _pulled
    for remote in owner.remotes(name):
        try:
            told, fields = work(owner, remote)
        except (PalaceError, OSError) as problem:
            done.failed.append(_of(remote, problem))
            # By its kind alone: the text may be another machine's.
            name_of = problem.name if isinstance(problem, PalaceError) else type(problem).__name__
            fields = {"state": "failed", "reason": name_of}
        else:
            done.told.append(told)
        if not is_trial:
            log.note(EVENT, {"remote": remote["name"], **fields})
    if not done.told and not done.failed:
        done.told.append(NONE_YET)
    return done


def _of(remote: Json, problem: PalaceError | OSError) -> PalaceError | OSError:
    """Return a problem that names the remote that has it."""
    if isinstance(problem, PalaceError):
        return type(problem)(f"{remote['name']}: {problem.message}")
    return RemoteRefused(f"{remote['name']} was not pulled: {cause_text(problem)}")


Logged = dict[str, str]


def _pulled(owner: Owner, remote: Json) -> tuple[str, Logged]:
    """Pull from one remote; return what is told of it, and what is logged."""
    name, changed, left_out = remote["name"], 0, 0
    with _read(owner, remote) as read:
        for batch in batches(read.items, read.place, lambda: dict(owner.known(name))):
            told = owner.ask("remote_fold", **_arguments(name, read.source, batch))
            if told.get("stale"):
                return f"{name}: another pull is under way, and goes on.", {"state": "overtaken"}
            changed, left_out = changed + told["changed"], left_out + told["left_out"]
    waiting = sum(one["undecided"] for one in owner.remotes(name))
    text = f"{name}: {changed} changed, {waiting} to decide: palace candidates list"
    counts = {"changed": changed, "left_out": left_out, "damaged": sum(read.damaged)}
    logged = {"state": "ok", **{key: str(count) for key, count in counts.items()}}
    return "\n".join((text, *_lacks(remote, counts["damaged"], left_out))), logged


def _foreseen(owner: Owner, remote: Json) -> tuple[str, Logged]:
    """Say what a pull from a remote would change."""
    name = remote["name"]
    known = dict(owner.known(name))
    then = dict(known)
    with _read(owner, remote) as read:
        for batch in batches(read.items, read.place, lambda: then):
            for offer in batch.offers:
                if offer.says is None:
                    then.pop(offer.entity, None)
                else:
                    then[offer.entity] = digest_of(offer.says)
    new, gone = len(then.keys() - known.keys()), len(known.keys() - then.keys())
    other = sum(then[one] != digest for one, digest in known.items() if one in then)
    text = (
        f"{name}: {new} are new there, {other} changed, {gone} gone. Nothing was taken over. To "
        f"see them as candidates: palace pull {name}"
    )
    return "\n".join((text, *_lacks(remote, sum(read.damaged), 0))), {}


@attrs.frozen
class _Reading:
    """What a remote says; once its items are read, `damaged` counts what was passed over."""

    source: Header
    items: Iterator[Item]
    place: Place
    damaged: list[int]


@contextmanager
def _read(owner: Owner, remote: Json) -> Iterator[_Reading]:
    """Yield what a remote says since it was read last; what can't be taken is refused by name."""
    place = Place(position=read_position(remote["position"]), step=remote["step"])
    asked = Asked(remote, place.position, owner.paths, owner.environment)
    try:
        said = read_source(asked)
        source = next(said)
        assert isinstance(source, Header), "what stands there comes first"
        _check_is_another(source, remote, owner.paths)
        items = (item for item in said if not isinstance(item, Header))
        yield _Reading(source, items, place, asked.damaged)
    except Unacceptable as problem:
        raise RemoteRefused(
            f"What {remote['name']} says can't be taken from some point on: {problem}."
        ) from None


def _check_is_another(source: Header, remote: Json, ours: Paths) -> None:
    """Refuse our own palace before all of it is read; whoever takes its batches refuses it, too."""
    if source.palace == identity_of(Kernel().read_hint(ours.palace_id, 200)):
        raise RemoteRefused(f"{remote['address']} is this very palace, or a copy of it.")


def _lacks(remote: Json, damaged: int, left_out: int) -> Iterator[str]:
    """Yield what was not taken, and why."""
    name = remote["name"]
    if damaged:
        yield (
            f"{name}: {damaged} records of its journal are damaged, and were passed over. What "
            "they said may be missing here until it says it again: palace doctor there"
        )
    if left_out:
        yield (
            f"{name}: {left_out} left out, since as much is kept of it as there may be: "
            f"{CANDIDATES_MAX} candidates, {CANDIDATES_BYTES_MAX >> 20} MiB. Have it offer less: "
            f"palace remote remove {name}; palace remote add {name} DIR --wing WING"
        )


def _arguments(name: str, source: Header, batch: Batch) -> Json:
    return {
        "remote": name,
        "palace": source.palace,
        "was": list(source.was),
        "step": batch.step,
        "offers": [item_fields(offer) for offer in batch.offers],
        "upto": None if batch.upto is None else position_fields(batch.upto),
    }


# Candidates.


def candidates_text(owner: Owner, remote: str, status: str, *, every: bool, as_json: bool) -> str:
    """Return candidates, one a line: those that somebody has to decide on, unless it is said."""
    found = [
        one
        for one in owner.candidates(remote, status)
        if every or status or one["status"] in UNDECIDED
    ]
    return _lines(found, as_json=as_json) or ("" if as_json else ALL_DECIDED)


def found_text(owner: Owner, query: str, remote: str, *, as_json: bool) -> str:
    """Return the candidates that hold all words of a query, one a line."""
    found = _lines(owner.candidates(remote, query=query), as_json=as_json)
    return found or ("" if as_json else NONE_HOLDS)


def _lines(found: Iterable[Json], *, as_json: bool) -> str:
    return "\n".join(json.dumps(one) if as_json else _line(one) for one in found)


def _line(one: Mapping[str, Any]) -> str:
    text = _text_of(one["says"]) or f"(accepted as {', '.join(one['local'])})"
    return one_line(f"{one['key']}  {one['status']:<9}  {one['remote']}  {text[:SHOWN_CHARS]}")


def _text_of(says: Mapping[str, str]) -> str:
    if "text" in says:
        return f"{says['wing']}/{says['room']}: {says['text']}"
    return " ".join(says[name] for name in ("subject", "predicate", "object") if name in says)


def show_text(owner: Owner, key: str) -> str:
    """Return all that a candidate says, as JSON: it is another's text."""
    return json.dumps(owner.ask("candidate_show", key=key)["candidate"], indent=2)


def accept(owner: Owner, key: str, *, wing: str, room: str) -> str:
    """File what a candidate says as the owner's, wherever this is run; return what is told of it.

    Never as a workspace's: its drawers are memories of namespaces, of which a wing names one, and
    the wing is the other palace's.
    """
    told = owner.ask("candidate_show", key=key)["candidate"]
    seen = {"key": key, "digest": told["digest"]}
    done = owner.ask("candidate_accept", **seen, wing=wing, room=room)
    filed = ", ".join(done["local"])
    if done["existing"]:
        return f"{key} was accepted before, as {filed}. There is nothing to accept."
    before = ", ".join(done["before"])
    still = f" What it said before is still here: {before}." if before else ""
    return f"{key} is {done['status']}, as {filed}.{still}"


def dismiss(owner: Owner, key: str) -> str:
    """Have a candidate not shown until it says something else; return what is told of it."""
    told = owner.ask("candidate_show", key=key)["candidate"]
    done = owner.ask("candidate_dismiss", key=key, digest=told["digest"])
    return f"{key} is {done['status']}."
