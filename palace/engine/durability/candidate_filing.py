"""What is decided upon a candidate: it becomes ours by stock's own tool, or is not shown any more.

Both happen within the call that decides, as one group of the journal: the drawer or the fact is
there and the candidate says so, or neither.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from palace.engine.durability.answering import RefusedByStock
from palace.engine.durability.groups import CallGroups
from palace.engine.stores.candidates import (
    CANDIDATE,
    Candidates,
    candidate_of,
    row_of_candidate,
)
from palace.engine.stores.own_rows import Row
from palace.journal.offering import TAKEN
from palace.protocol.decoding import decode_json, is_text, is_word
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import (
    ACCEPTED,
    NAME_CHARS_MAX,
    Candidate,
    accepted,
    dismissed,
)

Json = dict[str, object]
# Carries a call of stock's out within the one that this thread runs: its name and its arguments;
# returns its reply as JSON-RPC.
File = Callable[[str, Json], Json]
ERROR_CHARS = 300  # of what stock says of a filing that fails


@attrs.frozen(kw_only=True)
class Filing:
    """The call of stock's by which a candidate becomes ours; `ident` is where its reply has it."""

    tool: str
    arguments: Json
    ident: str


def named_in(store: Candidates, arguments: Mapping[str, object]) -> tuple[str, Row]:
    """Return the candidate that is asked for, by its key; raises RemoteRefused."""
    key = arguments.get("key")
    if not is_word(key, 64):
        raise RemoteRefused("A candidate is named by its key: palace candidates list")
    found = store.read(CANDIDATE, [str(key)]).get(str(key))
    if found is None:
        raise RemoteRefused(f"There is no candidate {key}: palace candidates list")
    return str(key), found["row"]


def filing_of(row: Row, arguments: Mapping[str, object]) -> Filing:
    """Return how a candidate is filed, where its decider wants it; raises RemoteRefused.

    It says whom it is from, so that it is never offered on.
    """
    candidate = candidate_of(row)
    says = candidate.says or {}
    if not says:
        raise RemoteRefused(f"It is {candidate.status}: there is nothing to accept.")
    mark = f"{TAKEN}{row['remote']}"
    if "text" not in says:
        return Filing(
            tool="mempalace_kg_add", arguments={**says, "source_file": mark}, ident="triple_id"
        )
    where = {name: _place(arguments, name) or says[name] for name in ("wing", "room")}
    return Filing(
        tool="mempalace_add_drawer",
        arguments={**where, "content": says["text"], "added_by": mark},
        ident="drawer_id",
    )


@attrs.frozen
class Decisions:
    """What is decided upon one palace's candidates; threads share one."""

    candidates: Candidates
    groups: CallGroups
    file: File

    def accept(self, arguments: Mapping[str, object]) -> Json:
        """File what a candidate says as ours, once: one that is here already is what it is.

        Raises RemoteRefused where it says something else than its decider has seen, and where it
        can't be filed; RefusedByStock.
        """
        key, row, candidate = self._seen(arguments)
        if candidate.status == ACCEPTED:
            return _told(key, candidate, ACCEPTED, existing=True)
        filing = filing_of(row, arguments)
        with self._or_nothing(f"{key} was not filed, and nothing was changed. See palace doctor."):
            made = self._filed(key, filing)
            after = accepted(candidate, made)
            self._put(row, key, after)
        return _told(key, after, after.status, existing=False)

    def foreseen(self, arguments: Mapping[str, object]) -> Filing | None:
        """Return how a candidate's text will be filed, None where it isn't; raises nothing."""
        try:
            _, row, candidate = self._seen(arguments)
            filing = filing_of(row, arguments)
        except (RemoteRefused, sqlite3.Error, OSError):  # it is met again, and said
            return None
        is_text = filing.tool == "mempalace_add_drawer" and candidate.status != ACCEPTED
        return filing if is_text else None

    def dismiss(self, arguments: Mapping[str, object]) -> Json:
        """Have a candidate not shown until it says something else; raises RemoteRefused."""
        key, row, candidate = self._seen(arguments)
        after = dismissed(candidate)
        self._put(row, key, after)
        return _told(key, after or candidate, after.status if after is not None else "gone")

    def _seen(self, arguments: Mapping[str, object]) -> tuple[str, Row, Candidate]:
        """Return a candidate that says what its decider has seen."""
        key, row = named_in(self.candidates, arguments)
        candidate = candidate_of(row)
        if arguments.get("digest") != candidate.digest:
            raise RemoteRefused(
                f"{key} has changed meanwhile, or this is not its digest. Nothing was done: look "
                "at it again."
            )
        return key, row, candidate

    def _put(self, row: Row, key: str, after: Candidate | None) -> None:
        remote = str(row["remote"])
        self.candidates.sizes.pop(remote, None)
        made = None if after is None else row_of_candidate(remote, after)
        self.candidates.put(self.groups, CANDIDATE, key, made)

    def _filed(self, key: str, filing: Filing) -> str:
        """File it; return what it is called here."""
        reply = self.file(filing.tool, filing.arguments)
        if "error" in reply:
            raise RefusedByStock(reply)
        said = _said(reply)
        made = said.get(filing.ident)
        if not made or not is_word(made, 256):
            why = str(said.get("error") or said.get("reason") or "mempalace doesn't say why")
            raise RemoteRefused(f"{key} can't be filed: {why[:ERROR_CHARS]}. Nothing was changed.")
        return str(made)

    @contextmanager
    def _or_nothing(self, why: str) -> Iterator[None]:
        """Have what this call has changed taken back where it ends by an error."""
        try:
            yield
        except BaseException as error:
            group = self.groups.current()
            if group is not None and group.changed:
                self.groups.fail(error.message if isinstance(error, RemoteRefused) else why)
            raise


def _place(arguments: Mapping[str, object], name: str) -> str:
    place = arguments.get(name, "")
    if not is_text(place, NAME_CHARS_MAX):
        raise RemoteRefused(f"A {name} is a text of up to {NAME_CHARS_MAX} characters.")
    return str(place)


def _said(reply: Json) -> Mapping[str, object]:
    """Return what a tool of stock's says, nothing where that is no object."""
    result = reply.get("result")
    content = result.get("content") if isinstance(result, dict) else None
    first = content[0] if isinstance(content, list) and content else {}
    said = decode_json(first["text"]) if "text" in first else {}
    return said if isinstance(said, dict) else {}


def _told(key: str, candidate: Candidate, status: str, *, existing: bool | None = None) -> Json:
    """Return what became of a candidate; none of its text, since replies are journalled."""
    local = candidate.local.splitlines()
    told: Json = {"candidate": key, "status": status}
    if existing is None:
        return {**told, "local": local}
    return {**told, "local": local[-1:], "before": local[:-1], "existing": existing}
