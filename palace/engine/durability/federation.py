"""The owner's tools about other palaces: remotes, what they offer, and what is decided upon it.

A pull is made by a command, in a process of its own that reads what another palace says; here its
batches are taken, one call and one group each.  What it gives is checked as if the other palace had
sent it.
"""

import json
from collections.abc import Callable, Mapping

import attrs

from palace.engine.durability.answering import answered
from palace.engine.durability.candidate_room import fit
from palace.engine.durability.groups import CallGroups
from palace.engine.stores.candidates import (
    CANDIDATE,
    REMOTE,
    Candidates,
    Remote,
    Size,
    candidate_of,
    remote_of,
    row_of_candidate,
    row_of_remote,
)
from palace.engine.stores.own_rows import Row
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import is_number, is_text, is_word
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import (
    ACCEPTED,
    BATCH_OFFERS,
    DRAWER,
    FACT,
    NOT_COMPARED,
    NUMBER_MAX,
    STATUSES,
    Batch,
    Candidate,
    Offer,
    Place,
    Stale,
    Unacceptable,
    accepted,
    dismissed,
    key_of,
    position_fields,
    read_item,
    read_position,
    take,
)
from palace.protocol.request import ToolCall
from palace.protocol.wire import identity_of
from palace.protocol.workspaces import checked_id, checked_line

Json = dict[str, object]
REMOTES_MAX = 64
SCOPES_MAX = 100  # wings of one remote
KNOWN_PAGE = 5000
LIST_MAX = 500
LIST_BYTES = 1 << 20  # of a page, after which no further candidate is begun
SEARCHED_MAX = 5000  # candidates that are looked at for a page
QUERY_CHARS_MAX = 1000
SHOWN_CHARS = 500  # of each text in a list; `palace_candidate_show` has all of it
REMOVED_MAX = 500  # candidates that go in one turn
ORIGINS_MAX = 64


@attrs.frozen(eq=False)
class FederationTools:
    """Answers calls of `protocol.tools.FEDERATION_TOOLS` for one palace; threads share one.

    `palace` is its own identity.
    """

    store: Candidates
    groups: CallGroups
    kernel: Kernel
    palace: str

    def answer(self, call: ToolCall, *, read_only: bool) -> Json:
        """Return the reply to a call as JSON-RPC; raises nothing for what was asked."""
        answer = self._answers[call.name]
        return answered(call, answer, self.groups, self.store.path, read_only=read_only)

    @property
    def _answers(self) -> Mapping[str, Callable[[Mapping[str, object]], Json]]:
        return {
            "palace_remote_list": self._list,
            "palace_remote_add": self._add,
            "palace_remote_remove": self._remove,
            "palace_remote_fold": self._fold,
            "palace_candidate_known": self._known,
            "palace_candidate_list": self._candidates,
            "palace_candidate_show": self._show,
            "palace_candidate_decide": self._decide,
        }

    # Remotes.

    def _list(self, _arguments: Mapping[str, object]) -> Json:
        found = ((_shown(one), one.name) for one in self.store.remotes())
        return {
            "remotes": [{**told, "undecided": self.store.undecided(name)} for told, name in found]
        }

    def _add(self, arguments: Mapping[str, object]) -> Json:
        known = {remote.name: remote for remote in self.store.remotes()}
        remote = Remote(
            name=checked_id(arguments.get("name")),
            address=checked_line(arguments.get("address"), "a palace's address"),
            wings=_wings(arguments.get("wings", [])),
            kinds=_kinds(arguments.get("kinds", [])),
            token_file=_path(arguments.get("token_file", "")),
            created_at=self.kernel.utc_text(),
        )
        if remote.name in known:
            raise RemoteRefused(
                f"There is a remote {remote.name} already, at {known[remote.name].address}. "
                f"Choose another name, or remove that: palace remote remove {remote.name}"
            )
        if len(known) >= REMOTES_MAX:
            raise RemoteRefused(f"There are {REMOTES_MAX} remotes, which is as many as it takes.")
        self.store.put(self.groups, REMOTE, remote.name, row_of_remote(remote))
        return {"remote": _shown(remote)}

    def _remove(self, arguments: Mapping[str, object]) -> Json:
        """Remove some of a remote's candidates; once there are none left, the remote as well.

        While there are some left it stands at its beginning, since nobody may go on: the next pull
        offers all of them again, and one that is under way is told to stop.
        """
        remote = self._remote(arguments)
        found = [key for key, _ in self.store.known("", REMOVED_MAX, remote.name)]
        if found:
            self.store.put_all(self.groups, CANDIDATE, dict.fromkeys(found))
        more = len(found) == REMOVED_MAX
        anew = attrs.evolve(remote, place=Place(step=remote.place.step + 1))
        self.store.put(self.groups, REMOTE, remote.name, row_of_remote(anew) if more else None)
        return {"removed": len(found), "more": more}

    def _remote(self, arguments: Mapping[str, object]) -> Remote:
        name = checked_id(arguments.get("remote"))
        found = self.store.read(REMOTE, [name]).get(name)
        if found is None:
            raise RemoteRefused(
                f"There is no remote {name}. See which there are: palace remote list"
            )
        return remote_of(found["row"])

    # What they offer.

    def _fold(self, arguments: Mapping[str, object]) -> Json:
        """Take a batch over, or say that it comes too late; the answer has the new place."""
        remote = self._met(self._remote(arguments), arguments)
        batch = _batch(arguments)
        known = self.store.of(remote.name, [offer.entity for offer in batch.offers])
        try:
            taken = take(remote.place, batch, known)
        except Stale:
            return {"stale": True}
        except Unacceptable as problem:
            raise RemoteRefused(f"What {remote.name} says can't be taken: {problem}.") from None
        fitted = fit(taken.changes, known, self._size(remote))
        rows: dict[str, Row | None] = {}
        for entity, candidate in fitted.changes.items():
            rows[key_of(remote.name, entity)] = _row(remote, candidate)
        if rows:
            self.store.put_all(self.groups, CANDIDATE, rows)
        moved = attrs.evolve(remote, place=taken.place, pulled_at=self.kernel.utc_text())
        self.store.put(self.groups, REMOTE, remote.name, row_of_remote(moved))
        self.store.sizes[remote.name] = (taken.place.step, fitted.size)
        return {"remote": _shown(moved), "changed": len(rows), "left_out": fitted.left_out}

    def _size(self, remote: Remote) -> Size:
        """Return how much is kept of a remote: counted once, and then with each batch.

        What was counted is of one step, and so of no batch that was taken back since.
        """
        step, size = self.store.sizes.get(remote.name, (-1, Size()))
        return size if step == remote.place.step else self.store.size(remote.name)

    def _met(self, remote: Remote, arguments: Mapping[str, object]) -> Remote:
        """Return a remote as the palace that it is now; raises RemoteRefused for another one."""
        palace = identity_of(_ascii(arguments.get("palace")))
        if not palace:
            raise RemoteRefused(f"{remote.address} is no palace: it has no identity.")
        if palace == self.palace:
            raise RemoteRefused(f"{remote.address} is this very palace, or a copy of it.")
        was = arguments.get("was", [])
        if not isinstance(was, list) or len(was) > ORIGINS_MAX:
            raise RemoteRefused("A palace was no list of others before.")
        if remote.palace and remote.palace != palace and remote.palace not in was:
            raise RemoteRefused(
                f"Another palace is at {remote.address} now, and none of what it says was taken. "
                f"If it is to take the other one's place: palace remote remove {remote.name}; "
                f"palace remote add {remote.name} {remote.address}"
            )
        for other in self.store.remotes():
            if other.name != remote.name and other.palace == palace:
                raise RemoteRefused(f"{remote.address} is the palace of the remote {other.name}.")
        return attrs.evolve(remote, palace=palace)

    def _known(self, arguments: Mapping[str, object]) -> Json:
        """Return what is known of a remote and not gone, in parts."""
        remote, after = self._remote(arguments), _after(arguments)
        rows = list(self.store.known(after, KNOWN_PAGE, remote.name))
        listed = [[one.kind, one.ident, one.digest] for _, one in rows if not one.gone]
        return {"known": listed, "next": rows[-1][0] if len(rows) == KNOWN_PAGE else ""}

    # Candidates.

    def _candidates(self, arguments: Mapping[str, object]) -> Json:
        """Return a page of candidates, those of a remote or a status alone where one is named.

        With a query, those that hold all of its words: of one that is here as it was accepted
        nothing is kept but where, so that is found among our own memories.
        """
        name, status = arguments.get("remote", ""), arguments.get("status", "")
        if status not in ("", *STATUSES) or not is_text(name, 64):
            raise RemoteRefused(f"A candidate's status is one of {', '.join(STATUSES)}.")
        words = _words(arguments.get("query", ""))
        most = SEARCHED_MAX if words else LIST_MAX
        found: list[Json] = []
        last, size, is_more = "", 0, False
        rows = self.store.page(_after(arguments), most + 1, str(name))
        for number, (key, row) in enumerate(rows):
            if number == most or len(found) == LIST_MAX or size >= LIST_BYTES:
                is_more = True
                break
            last = key
            if words and not _holds(row, words):
                continue
            one = _told(key, row)
            found.append(one)
            size += len(json.dumps(one))
        return {
            "candidates": [one for one in found if status in ("", one["status"])],
            "next": last if is_more else "",
        }

    def _show(self, arguments: Mapping[str, object]) -> Json:
        key, row = self._named(arguments)
        return {"candidate": _told(key, row, whole=True)}

    def _decide(self, arguments: Mapping[str, object]) -> Json:
        """Note what was decided upon a candidate, if it still is what it was then."""
        key, row = self._named(arguments)
        candidate, local = candidate_of(row), arguments.get("local", "")
        if arguments.get("digest") != candidate.digest:
            raise RemoteRefused(
                f"{key} has changed meanwhile. Look at it again: palace candidates show {key}"
            )
        if not is_word(local, 256):
            raise RemoteRefused("What was made of a candidate is named by a line.")
        if local and (candidate.gone or candidate.status == ACCEPTED):
            raise RemoteRefused(f"{key} is {candidate.status}: there is nothing to accept.")
        after = accepted(candidate, str(local)) if local else dismissed(candidate)
        remote = str(row["remote"])
        self.store.sizes.pop(remote, None)
        made = None if after is None else row_of_candidate(remote, after)
        self.store.put(self.groups, CANDIDATE, key, made)
        return {
            "candidate": key,
            "status": after.status if after is not None else "gone",
            "before": [one for one in candidate.local.splitlines() if one != local],
        }

    def _named(self, arguments: Mapping[str, object]) -> tuple[str, Row]:
        key = arguments.get("key")
        if not is_word(key, 64):
            raise RemoteRefused("A candidate is named by its key: palace candidates list")
        found = self.store.read(CANDIDATE, [str(key)]).get(str(key))
        if found is None:
            raise RemoteRefused(f"There is no candidate {key}: palace candidates list")
        return str(key), found["row"]


def _row(remote: Remote, candidate: Candidate | None) -> Row | None:
    return None if candidate is None else row_of_candidate(remote.name, candidate)


def _shown(remote: Remote) -> Json:
    return {
        "name": remote.name,
        "address": remote.address,
        "palace": remote.palace,
        "wings": list(remote.wings),
        "kinds": list(remote.kinds),
        "token_file": remote.token_file,
        "position": position_fields(remote.place.position),
        "step": remote.place.step,
        "pulled_at": remote.pulled_at,
    }


def _told(key: str, row: Row, *, whole: bool = False) -> Json:
    candidate = candidate_of(row)
    says = dict(candidate.says or {})
    is_cut = False
    if not whole:
        says.pop("vector", None)
        is_cut = any(len(text) > SHOWN_CHARS for text in says.values())
        says = {name: text[:SHOWN_CHARS] for name, text in says.items()}
    return {
        "key": key,
        "remote": row["remote"],
        "kind": candidate.kind,
        "status": candidate.status,
        "says": says,
        "cut": is_cut,
        "digest": candidate.digest,
        "local": candidate.local.splitlines(),
        "at": position_fields(candidate.at),
    }


# What is refused, before anything is changed.


def _wings(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) > SCOPES_MAX:
        raise RemoteRefused(f"A remote has a list of up to {SCOPES_MAX} wings.")
    return tuple(checked_line(one, "a wing") for one in given)


def _kinds(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or any(one not in (DRAWER, FACT) for one in given):
        raise RemoteRefused(f"A remote offers {DRAWER}, {FACT}, or both.")
    return tuple(given)


def _words(given: object) -> list[str]:
    if not is_text(given, QUERY_CHARS_MAX):
        raise RemoteRefused(f"What is searched for has up to {QUERY_CHARS_MAX} characters.")
    return str(given).casefold().split()


def _holds(row: Row, words: list[str]) -> bool:
    """Tell whether a candidate's texts hold all of these words, as parts of longer ones, too."""
    says = candidate_of(row).says or {}
    told = [text for name, text in says.items() if name not in NOT_COMPARED]
    text = "\n".join(told).casefold()
    return all(word in text for word in words)


def _path(given: object) -> str:
    return checked_line(given, "a token's file") if given else ""


def _after(arguments: Mapping[str, object]) -> str:
    after = arguments.get("after", "")
    if not is_text(after, 64):
        raise RemoteRefused("A page begins behind a candidate's key.")
    return str(after)


def _ascii(given: object) -> bytes:
    return given.encode() if isinstance(given, str) and given.isascii() else b""


def _batch(arguments: Mapping[str, object]) -> Batch:
    step, upto, given = (arguments.get(name) for name in ("step", "upto", "offers"))
    if not is_number(step, NUMBER_MAX) or not isinstance(step, int):
        raise RemoteRefused("A batch has the number of the one before.")
    if not isinstance(given, list) or len(given) > BATCH_OFFERS:
        raise RemoteRefused(f"A batch has up to {BATCH_OFFERS} offers.")
    try:
        offers = [read_item(one) for one in given]
        at = None if upto is None else read_position(upto)
    except Unacceptable as problem:
        raise RemoteRefused(f"A batch can't be taken: {problem}.") from None
    if not all(isinstance(one, Offer) for one in offers):
        raise RemoteRefused("A batch has offers, and nothing else.")
    return Batch(step=step, offers=tuple(one for one in offers if isinstance(one, Offer)), upto=at)
