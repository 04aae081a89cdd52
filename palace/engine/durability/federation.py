"""The owner's tools about other palaces: remotes, what they offer, and what is decided upon it.

A pull is made by a command, in a process of its own that reads what another palace says; here its
batches are taken, one call and one group each.  What it gives is checked as if the other palace had
sent it.
"""

from collections.abc import Callable, Mapping

import attrs

from palace.engine.durability.answering import answered
from palace.engine.durability.candidate_filing import Decisions, File, named_in
from palace.engine.durability.candidate_pages import after_in, page, told, wanted_in
from palace.engine.durability.candidate_room import fit
from palace.engine.durability.groups import CallGroups
from palace.engine.stores.candidates import (
    CANDIDATE,
    REMOTE,
    Candidates,
    Remote,
    Size,
    remote_of,
    row_of_candidate,
    row_of_remote,
)
from palace.engine.stores.own_rows import Row
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import is_number
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import (
    BATCH_OFFERS,
    DRAWER,
    FACT,
    NUMBER_MAX,
    Batch,
    Candidate,
    Offer,
    Place,
    Stale,
    Unacceptable,
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
REMOVED_MAX = 500  # candidates that go in one turn
ORIGINS_MAX = 64


@attrs.frozen(eq=False)
class FederationTools:
    """Answers calls of `protocol.tools.FEDERATION_TOOLS` for one palace; threads share one.

    `palace` is its own identity, `file` what files by stock's own tools.
    """

    store: Candidates
    groups: CallGroups
    kernel: Kernel
    palace: str
    file: File

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
            "palace_candidate_accept": self._decisions.accept,
            "palace_candidate_dismiss": self._decisions.dismiss,
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
        remote, after = self._remote(arguments), after_in(arguments)
        rows = list(self.store.known(after, KNOWN_PAGE, remote.name))
        listed = [[one.kind, one.ident, one.digest] for _, one in rows if not one.gone]
        return {"known": listed, "next": rows[-1][0] if len(rows) == KNOWN_PAGE else ""}

    # Candidates.

    def _candidates(self, arguments: Mapping[str, object]) -> Json:
        """Return a page of candidates, those of a remote or a status alone where one is named."""
        found, behind = page(self.store, wanted_in(arguments))
        return {"candidates": found, "next": behind}

    def _show(self, arguments: Mapping[str, object]) -> Json:
        return {"candidate": told(*named_in(self.store, arguments), whole=True)}

    @property
    def _decisions(self) -> Decisions:
        return Decisions(self.store, self.groups, self.file)


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


# What is refused, before anything is changed.


def _wings(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) > SCOPES_MAX:
        raise RemoteRefused(f"A remote has a list of up to {SCOPES_MAX} wings.")
    return tuple(checked_line(one, "a wing") for one in given)


def _kinds(given: object) -> tuple[str, ...]:
    if not isinstance(given, list) or any(one not in (DRAWER, FACT) for one in given):
        raise RemoteRefused(f"A remote offers {DRAWER}, {FACT}, or both.")
    return tuple(given)


def _path(given: object) -> str:
    return checked_line(given, "a token's file") if given else ""


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
