"""Remotes, and what they say as candidates: `candidates.sqlite3` (palace/protocol/federation.py).

A file of its own: what other palaces say is much, and nobody's rights hang on it.  A palace without
a remote has none, and no fingerprint of it in its journal.
"""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from palace.engine.stores.own_rows import OwnRows, Row, file_of
from palace.engine.stores.projection import Change
from palace.engine.stores.rows import Table
from palace.journal.record import Json, JsonObject
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.settings.paths import Paths

# Imported where there is a remote, or one is asked after.
if TYPE_CHECKING:
    from palace.protocol.federation import Candidate, Entity, Place, Position

NAME = "candidates"
REMOTE, CANDIDATE = "palace:remote", "palace:candidate"
TABLES = (
    Table(kind=REMOTE, name="remote", key=("name",)),
    Table(kind=CANDIDATE, name="candidate", key=("key",)),
)
_SCHEMA = """
CREATE TABLE remote (
    name TEXT PRIMARY KEY, address TEXT, palace TEXT, scope TEXT, epoch INTEGER, seq INTEGER,
    writer TEXT, origin TEXT, step INTEGER, created_at TEXT, pulled_at TEXT);
CREATE TABLE candidate (
    key TEXT PRIMARY KEY, remote TEXT, kind TEXT, ident TEXT, epoch INTEGER, seq INTEGER,
    writer TEXT, origin TEXT, digest TEXT, says TEXT, decided TEXT, local TEXT, gone INTEGER);
CREATE INDEX candidate_remote ON candidate (remote);
"""

# Of what was accepted, how much says something else now, or is gone.
CONFLICTS = "SELECT count(*) FROM candidate WHERE local != '' AND digest != decided"
_UNDECIDED = "SELECT count(*) FROM candidate WHERE remote = ? AND (gone OR digest != decided)"
# How many remotes there are, and candidates that somebody has to decide upon.
REMOTES = (
    "SELECT (SELECT count(*) FROM remote), "
    "(SELECT count(*) FROM candidate WHERE gone OR digest != decided)"
)
_SIZE = (
    "SELECT count(*), coalesce(sum(length(CAST(says AS BLOB))), 0) FROM candidate WHERE remote = ?"
)
_WHERE = "WHERE key > ? AND (? = '' OR remote = ?) ORDER BY key LIMIT ?"
_PAGE = "SELECT * FROM candidate "
_KNOWN = "SELECT key, kind, ident, digest, gone FROM candidate "


def _nowhere() -> "Place":
    from palace.protocol.federation import Place

    return Place()


@attrs.frozen
class Known:
    """A candidate that is there."""

    kind: str
    ident: str
    digest: str
    gone: bool


@attrs.frozen
class Size:
    """How many candidates a remote has, and how much they say."""

    many: int = 0
    bytes: int = 0


@attrs.frozen(kw_only=True)
class Remote:
    """A palace that is pulled from; `palace` is its identity, "" before it was met.

    `token_file` names the file with the token that one at https:// is shown.
    """

    name: str
    address: str
    palace: str = ""
    wings: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    token_file: str = ""
    place: "Place" = attrs.field(factory=_nowhere)
    created_at: str = ""
    pulled_at: str = ""


@attrs.define(eq=False, kw_only=True)
class Candidates(OwnRows):
    """One palace's remotes and candidates.  From `open_candidates`; threads share one.

    `sizes` are those of remotes as they were at a step, for whoever counts on from there.
    """

    sizes: dict[str, tuple[int, Size]] = attrs.field(factory=dict, init=False)
    _has_remotes: bool | None = attrs.field(default=None, init=False)  # None: look at the file

    def has_remotes(self) -> bool:
        """Tell whether any palace is pulled from; whoever lists tools asks it each time."""
        found = self._has_remotes
        if found is None:
            self._has_remotes = found = self.count(REMOTE) > 0
        return found

    def applied(self, changes: Iterable[Change]) -> None:
        listed = list(changes)
        super().applied(listed)
        if any(_is_of_their_number(change) for change in listed):
            self._has_remotes = None

    def read_fingerprint(self) -> JsonObject | None:
        super().read_fingerprint()
        self._has_remotes = None
        return self.fingerprint()

    def remotes(self) -> list[Remote]:
        """Return all remotes, by name."""
        found = (remote_of(payload["row"]) for _, payload in self.scan(REMOTE))
        return sorted(found, key=lambda remote: remote.name)

    def of(self, remote: str, entities: "Iterable[Entity]") -> "dict[Entity, Candidate]":
        """Return a remote's candidates among these."""
        from palace.protocol.federation import key_of

        keys = {key_of(remote, entity): entity for entity in entities}
        found = self.read(CANDIDATE, keys)
        return {keys[key]: candidate_of(payload["row"]) for key, payload in found.items()}

    def page(self, after: str, most: int, remote: str = "") -> Iterator[tuple[str, Row]]:
        """Yield so many rows of candidates behind a key, in the order of keys.

        They are read one by one, since each may be large: whoever has enough stops.
        """
        if not self.exists():
            return
        with self._open() as connection:
            for row in connection.execute(_PAGE + _WHERE, [after, remote, remote, most]):
                yield str(row["key"]), dict(row)

    def known(self, after: str, most: int, remote: str) -> Iterator[tuple[str, Known]]:
        """Yield which candidates there are, as `page` does, and nothing of what they say."""
        if not self.exists():
            return
        with self._open() as connection:
            rows = connection.execute(_KNOWN + _WHERE, [after, remote, remote, most])
            for key, kind, ident, digest, gone in rows:
                yield str(key), Known(kind, ident, digest, bool(gone))

    def size(self, remote: str) -> Size:
        """Return how much is kept of a remote; reads all that it says."""
        return Size(*self._one(_SIZE, remote))

    def undecided(self, remote: str) -> int:
        """Return how many candidates of a remote somebody has to decide upon."""
        return self._one(_UNDECIDED, remote)[0]

    def _one(self, query: str, remote: str) -> tuple[int, ...]:
        if not self.exists():
            return (0, 0)
        with self._open() as connection:
            return tuple(connection.execute(query, [remote]).fetchone())


def _is_of_their_number(change: Change) -> bool:
    """Tell whether a remote is added or removed: each batch of a pull changes one, too."""
    return change.kind == REMOTE and (change.before is None or change.after is None)


def remote_of(row: Row) -> Remote:
    """Return a row of the table as what it says."""
    from palace.protocol.federation import Place

    scope = decode_json(row["scope"])
    return Remote(
        name=row["name"],
        address=row["address"],
        palace=row["palace"],
        wings=tuple(scope["wings"]),
        kinds=tuple(scope["kinds"]),
        token_file=scope.get("token_file", ""),
        place=Place(position=_position(row), step=row["step"]),
        created_at=row["created_at"],
        pulled_at=row["pulled_at"],
    )


def row_of_remote(remote: Remote) -> Row:
    """Return a remote as a row of the table."""
    scope: dict[str, Json] = {"wings": list(remote.wings), "kinds": list(remote.kinds)}
    if remote.token_file:
        scope["token_file"] = remote.token_file
    return {
        "name": remote.name,
        "address": remote.address,
        "palace": remote.palace,
        "scope": json.dumps(scope),
        **_columns(remote.place.position),
        "step": remote.place.step,
        "created_at": remote.created_at,
        "pulled_at": remote.pulled_at,
    }


def candidate_of(row: Row) -> "Candidate":
    """Return a row of the table as what it says."""
    from palace.protocol.federation import Candidate

    return Candidate(
        kind=row["kind"],
        ident=row["ident"],
        at=_position(row),
        digest=row["digest"],
        says=decode_json(row["says"]) if row["says"] else None,
        decided=row["decided"],
        local=row["local"],
        gone=bool(row["gone"]),
    )


def says_of(candidate: "Candidate") -> str:
    """Return what a candidate says as it is kept, "" for nothing."""
    return json.dumps(dict(candidate.says), ensure_ascii=False) if candidate.says else ""


def row_of_candidate(remote: str, candidate: "Candidate") -> Row:
    """Return a candidate as a row of the table."""
    from palace.protocol.federation import key_of

    return {
        "key": key_of(remote, (candidate.kind, candidate.ident)),
        "remote": remote,
        "kind": candidate.kind,
        "ident": candidate.ident,
        **_columns(candidate.at),
        "digest": candidate.digest,
        "says": says_of(candidate),
        "decided": candidate.decided,
        "local": candidate.local,
        "gone": 1 if candidate.gone else 0,
    }


def _position(row: Row) -> "Position":
    from palace.protocol.federation import Position, Version

    version = Version(row["epoch"], row["seq"])
    return Position(version=version, writer=row["writer"], origin=row["origin"])


def _columns(at: "Position") -> dict[str, Json]:
    version = at.version
    told = {"epoch": version.epoch, "seq": version.seq}
    return {**told, "writer": at.writer, "origin": at.origin}


def open_candidates(paths: Paths, kernel: Kernel) -> Candidates:
    """Return a palace's candidates; nothing is opened yet."""
    return Candidates(
        name=NAME,
        tables=TABLES,
        **file_of(paths.candidates, _SCHEMA, kernel),
        keep_older_away=lambda: None,  # they leave alone what they don't know
    )
