"""Candidates as they are told, page by page, to commands and to agents."""

import json
from collections.abc import Iterable, Mapping

import attrs

from palace.engine.stores.candidates import Candidates, candidate_of
from palace.engine.stores.own_rows import Row
from palace.protocol.decoding import is_text
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import STATUSES, position_fields

Json = dict[str, object]
LIST_MAX = 500
LIST_BYTES = 1 << 20  # of a page, after which no further candidate is begun
SEARCHED_MAX = 5000  # candidates that are looked at for a page
QUERY_CHARS_MAX = 1000
SHOWN_CHARS = 500  # of each text in a list; whoever names a candidate gets all of it


@attrs.frozen(kw_only=True)
class Wanted:
    """Which candidates a page has: at most `limit` behind the key `after`.

    Those of a remote ("" for any), of these statuses, that hold all these words.
    """

    after: str
    remote: str
    statuses: frozenset[str]
    words: tuple[str, ...]
    limit: int = LIST_MAX

    def has(self, row: Row) -> bool:
        """Tell whether a candidate is wanted."""
        return candidate_of(row).status in self.statuses and _holds(row, self.words)


def wanted_in(
    arguments: Mapping[str, object],
    *,
    otherwise: Iterable[str] = STATUSES,
    limit: int = LIST_MAX,
) -> Wanted:
    """Return what is asked for; raises RemoteRefused.

    Without a status it is one of `otherwise`.  With a query, those that hold all of its words: of
    one that is here as it was accepted nothing is kept but where, so that is found among our own
    memories.
    """
    name, status = arguments.get("remote", ""), arguments.get("status", "")
    if status not in ("", *STATUSES) or not is_text(name, 64):
        raise RemoteRefused(f"A candidate's status is one of {', '.join(STATUSES)}.")
    return Wanted(
        after=after_in(arguments),
        remote=str(name),
        statuses=frozenset([str(status)] if status else otherwise),
        words=_words(arguments.get("query", "")),
        limit=limit,
    )


def page(store: Candidates, wanted: Wanted) -> tuple[list[Json], str]:
    """Return candidates, and the key behind which there may be more, "" for none."""
    most = SEARCHED_MAX if wanted.words or len(wanted.statuses) < len(STATUSES) else LIST_MAX
    found: list[Json] = []
    last, size = "", 0
    for number, (key, row) in enumerate(store.page(wanted.after, most + 1, wanted.remote)):
        if number == most or len(found) == wanted.limit or size >= LIST_BYTES:
            return found, last
        last = key
        if wanted.has(row):
            one = told(key, row)
            found.append(one)
            size += len(json.dumps(one))
    return found, ""


def told(key: str, row: Row, *, whole: bool = False) -> Json:
    """Return what is told of a candidate; what it says is another's text."""
    candidate = candidate_of(row)
    says = dict(candidate.says or {})
    is_cut = False
    if not whole:
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


def after_in(arguments: Mapping[str, object]) -> str:
    """Return the key behind which a page begins; raises RemoteRefused."""
    after = arguments.get("after", "")
    if not is_text(after, 64):
        raise RemoteRefused("A page begins behind a candidate's key.")
    return str(after)


def _words(given: object) -> tuple[str, ...]:
    if not is_text(given, QUERY_CHARS_MAX):
        raise RemoteRefused(f"What is searched for has up to {QUERY_CHARS_MAX} characters.")
    return tuple(str(given).casefold().split())


def _holds(row: Row, words: Iterable[str]) -> bool:
    """Tell whether a candidate's texts hold all of these words, as parts of longer ones, too."""
    text = "\n".join((candidate_of(row).says or {}).values()).casefold()
    return all(word in text for word in words)
