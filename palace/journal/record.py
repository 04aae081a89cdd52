"""One record of the journal: a line of JSON that says one thing about the palace.

A record is written as a newline, the JSON object, a checksum as its last member, and a newline:
what a crash leaves of it costs this record and no other.  Its payload is the complete entity after
the change (vectors included), so that records can be read alone, in order of `seq`, and twice.

| field | meaning |
|---|---|
| `v` | 1 |
| `seq` | position in the journal, from 1, without gaps; the only order there is |
| `epoch` | of the owner that wrote it; never falls |
| `ts` | the wall clock, for people |
| `writer` | the owner's incarnation |
| `key` | the call it belongs to: `SESSION:ORDINAL`, or a name of our own |
| `step` | counts the storage operations of one key |
| `action` | one of ACTIONS |
| `kind`, `id` | which entity; both "" in control records |
| `payload` | the entity, or what a control record says |
| `deleted` | the entity is gone; the payload is null |
| `before` | the entity before the change, null where there was none; only in `put` and `delete` |
| `was` | the code that a record had before a purge; only where one has changed it |
| `by` | the key that authenticates it |
| `after` | the code of the record before it; a segment's header has that of its first record |
| `code` | the keyed hash of all that stands before it (palace/protocol/keyring.py) |
| `crc` | CRC-32 of all that stands before it, in hexadecimal |

A segment's header names the palace that it is of (`origin`), a checkpoint's last line those that
its records are of: a restored palace has another identity in mid-journal.  What ends a call says
in its payload for whom it was made (author.py).

The four before the last are missing where a palace is served without a key, and from records of
earlier versions, which ignore them in turn.
"""

import json
import zlib
from typing import Any

import attrs

from palace.journal.schema import problem_of
from palace.protocol.decoding import decode_json
from palace.protocol.keyring import ANYBODYS, CODE_BYTES, ID_BYTES, Key, Keyring

VERSION = 1

# Entities.
PUT = "put"
DELETE = "delete"
UNDO = "undo"  # a change is taken back: the entity as it was
ADOPT = "adopt"  # found in the palace, not written by us
# Control.
OUTCOME = "outcome"  # a call has ended; the payload holds its reply
UNIT = "unit"  # what this key did so far stays, whatever becomes of the rest
ABORT = "abort"  # what this key did is taken back
SEGMENT = "segment"  # first in a file: what a reader of this file alone must know
STATE = "state"  # the projections hold everything up to here, and look like this
ATTEMPT = "attempt"  # taking something back has begun
LEAVE = "leave"  # its owner was told to leave: what is cut off from here on did not end it
CHECKPOINT = "checkpoint"  # last in a checkpoint's file
PURGED = "purged"  # what stood here was taken out on purpose
QUARANTINE = "quarantine"  # a key that is not tried again: it ended owners

# The key of entities that are adopted while calls are served.  They stand in the stores as the last
# fingerprints say, unlike what another program has changed since then.
ADOPTION = "adoption"

CHANGES = frozenset({PUT, DELETE})
ENTITIES = frozenset({PUT, DELETE, UNDO, ADOPT})
ACTIONS = ENTITIES | {
    OUTCOME,
    UNIT,
    ABORT,
    SEGMENT,
    STATE,
    ATTEMPT,
    LEAVE,
    CHECKPOINT,
    PURGED,
    QUARANTINE,
}

Entity = tuple[str, str]  # kind and id
Json = Any  # a JSON value: its writer knows its shape
JsonObject = dict[str, Any]
Payload = object  # an entity as JSON, opaque to all but its store; None is its absence

# Begin what is said of a line that a crash has cut off, of one with a right checksum that says what
# no palace writes, and of one that this palace's owner didn't write.
TORN = "torn: "
OVERLONG = b"a line that is too long to be read"  # what is read in its place
FOREIGN = "not a record of palace: "
NOT_OURS = "not a record of this palace's owner: "

FIRST = "0" * 2 * CODE_BYTES  # stands for the code of the record before the first

_CRC = b',"crc":"'
_TAIL = len(_CRC) + 8 + 2  # `,"crc":"01234567"}`
_BY, _AFTER, _CODE = b',"by":"', b',"after":"', b',"code":"'
_CODE_SIZE = len(_CODE) + 2 * CODE_BYTES + 1
_SEAL_SIZE = len(_BY) + 2 * ID_BYTES + 1 + len(_AFTER) + 2 * CODE_BYTES + 1 + _CODE_SIZE


class BrokenRecord(ValueError):
    """A line that is no record: torn, damaged, or of a later version."""


@attrs.frozen(kw_only=True)
class Draft:
    """What a record says, before it has a place in the journal."""

    action: str
    key: str = ""
    step: int = 0
    kind: str = ""
    id: str = ""
    payload: Json = None
    deleted: bool = False
    before: Payload = None

    @property
    def entity(self) -> Entity:
        return self.kind, self.id


@attrs.frozen(kw_only=True)
class Record(Draft):
    """A record in its place; `link` is what the next one's `after` has to be, "" for anything."""

    seq: int
    epoch: int
    ts: str
    writer: str
    by: str = ""
    after: str = ""
    link: str = ""


@attrs.frozen(kw_only=True)
class Stamp:
    """What all records of one owner share."""

    epoch: int
    writer: str
    keys: Keyring = ANYBODYS
    origin: str = ""  # the palace's identity


@attrs.frozen
class Authentication:
    """What a line says of who wrote it: the key, the record before it, its code; "" for none."""

    by: str = ""
    after: str = ""
    code: str = ""


def encode(draft: Draft, seq: int, stamp: Stamp, ts: str, after: str = FIRST) -> bytes:
    """Return the bytes of one record; raises TypeError for a payload that is no JSON.

    `after` is the code of the record before it.
    """
    fields: JsonObject = {
        "v": VERSION,
        "seq": seq,
        "epoch": stamp.epoch,
        "ts": ts,
        "writer": stamp.writer,
        "key": draft.key,
        "step": draft.step,
        "action": draft.action,
        "kind": draft.kind,
        "id": draft.id,
        "payload": draft.payload,
        "deleted": draft.deleted,
    }
    if draft.action in CHANGES:
        fields["before"] = draft.before
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    return seal(body if stamp.keys.own is None else authenticate(body, stamp.keys.own, after))


def authenticate(body: bytes, key: Key, after: str) -> bytes:
    """Return a record's JSON text with its code, which takes the place of another key's."""
    text = b'%b%b%b"%b%b"' % (
        plain(body)[:-1],
        *(_BY, key.id.encode()),
        *(_AFTER, after.encode()),
    )
    return b'%b%b%b"}' % (text, _CODE, key.code(text).encode())


def plain(body: bytes) -> bytes:
    """Return a record's JSON text without its code."""
    return body[: -_SEAL_SIZE - 1] + b"}" if _sealed_at(body) > 0 else body


def _sealed_at(body: bytes) -> int:
    """Return where a JSON text's code begins, 0 where it has none."""
    at = len(body) - 1 - _SEAL_SIZE
    if at < 2 or body[at : at + len(_BY)] != _BY or body[-2:] != b'"}':
        return 0
    after = at + len(_BY) + 2 * ID_BYTES + 1
    code = len(body) - 1 - _CODE_SIZE
    is_whole = body[after : after + len(_AFTER)] == _AFTER and body[code:].startswith(_CODE)
    return at if is_whole else 0


def authentication(body: bytes) -> Authentication:
    """Return what a record's JSON text says of who wrote it; nothing of it is proven."""
    at = _sealed_at(body)
    if not at:
        return Authentication()
    by = at + len(_BY)
    after = by + 2 * ID_BYTES + 1 + len(_AFTER)
    code = len(body) - 2 - 2 * CODE_BYTES
    spans = (by, 2 * ID_BYTES), (after, 2 * CODE_BYTES), (code, 2 * CODE_BYTES)
    return Authentication(
        *(body[start : start + size].decode("ascii", "replace") for start, size in spans)
    )


def told_of(line: bytes) -> Authentication:
    """Return what a whole line says of who wrote it; its checksum is not looked at."""
    line = line.strip(b"\n")
    return authentication(line[: len(line) - _TAIL] + b"}")


def seal(body: bytes) -> bytes:
    """Return a record's line for its JSON text without a checksum."""
    return b'\n%b,"crc":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def decode(line: bytes, keys: Keyring = ANYBODYS) -> Record:
    """Read one line (newlines excluded); raises BrokenRecord, also for one that isn't ours."""
    if line == OVERLONG:
        raise BrokenRecord(f"{FOREIGN}it is longer than any line may be")
    try:
        body = unseal(line)
        fields = _fields_of(body)
        problem = problem_of(fields)
        if problem:
            raise BrokenRecord(f"{FOREIGN}{problem}")
        told = authentication(body)
        problem = keys.problem(told.by, told.code, body[: -1 - _CODE_SIZE], fields["seq"])
        if problem:
            raise BrokenRecord(f"{NOT_OURS}{problem}")
        return Record(
            seq=fields["seq"],
            epoch=fields["epoch"],
            ts=fields["ts"],
            writer=fields["writer"],
            key=fields["key"],
            step=fields["step"],
            action=fields["action"],
            kind=fields["kind"],
            id=fields["id"],
            payload=fields["payload"],
            deleted=fields["deleted"],
            before=fields.get("before"),
            by=told.by,
            after=told.after,
            link=fields.get("was", told.code) if told.by else "",
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BrokenRecord):
            raise
        raise BrokenRecord(f"not a record: {repr(error)[:200]}") from None


def fields_of(line: bytes) -> JsonObject:
    """Return the object in a line of this version; raises ValueError, BrokenRecord among them."""
    return _fields_of(unseal(line))


def _fields_of(body: bytes) -> JsonObject:
    fields = decode_json(body.decode("utf-8", "surrogatepass"))
    if not isinstance(fields, dict):
        raise BrokenRecord("not a record: it is no object")
    if fields.get("v") != VERSION:
        raise BrokenRecord(f"version {repr(fields.get('v'))[:40]}: written by a newer palace")
    return fields


def unseal(line: bytes) -> bytes:
    """Return a line's JSON text without its checksum, which is checked; raises BrokenRecord."""
    at = len(line) - _TAIL
    if at < 2 or line[at : at + len(_CRC)] != _CRC or not line.endswith(b'"}'):
        raise BrokenRecord(f"{TORN}it does not end as a record does")
    body = line[:at] + b"}"
    if b"%08x" % zlib.crc32(body) != line[at + len(_CRC) : -2]:
        raise BrokenRecord("its checksum is wrong")
    return body
