"""Taking a memory out of the journal's files for good: the one place where history is rewritten.

Each file that mentions the entity is replaced by a copy without it, its seqs unchanged.  All
recorded replies go, too, since any of them may quote it; a shim that asks for one again is answered
with "outcome unknown".

Theory of operation.  Files are replaced one by one, each durably, so that a purge can die between
any two of them.  It is then done again from the start: a file that was replaced already is left as
it is.  A record that was taken out keeps its seq and its id, so that a purge which is done again
still knows that replies must go, in the files that it had not reached.
"""

import json
from collections.abc import Iterator

from palace.journal.record import (
    FIRST,
    OUTCOME,
    PURGED,
    SEGMENT,
    BrokenRecord,
    JsonObject,
    Record,
    authenticate,
    decode,
    fields_of,
    seal,
)
from palace.journal.schema import header_problem, object_of
from palace.journal.segment import ARCHIVE, read_lines
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS, Keyring

PURGED_REPLY = "purged"


def purge_journal(
    directory: str, kernel: Kernel, ids: frozenset[str], keys: Keyring = ANYBODYS
) -> int:
    """Rewrite every file that mentions one of the ids; return how many records were taken out."""
    paths = list(_files(directory, kernel))
    # Asked of all files before the first is replaced: one without a record of the entity may still
    # hold replies that quote it.
    known = any(record.id in ids for path in paths for record in _records(path, kernel, keys))
    return sum(_rewrite(path, kernel, ids, keys, blank=known) for path in paths)


def _files(directory: str, kernel: Kernel) -> Iterator[str]:
    for place in (directory, f"{directory}/{ARCHIVE}"):
        for name in sorted(kernel.list_directory(place)):
            if name.endswith(".jsonl"):
                yield f"{place}/{name}"
            elif name.endswith(".tmp"):
                kernel.unlink(f"{place}/{name}")


def _records(path: str, kernel: Kernel, keys: Keyring) -> Iterator[Record]:
    for _, line in read_lines(path, kernel):
        try:
            yield decode(line, keys)
        except BrokenRecord:
            continue


def _rewrite(path: str, kernel: Kernel, ids: frozenset[str], keys: Keyring, *, blank: bool) -> int:
    kept: list[bytes] = []
    taken = 0
    changed = False
    for _, line in read_lines(path, kernel):
        new, is_entity = _without(line, ids, keys, blank=blank)
        taken += is_entity
        changed |= new != line
        if new is not None:
            kept.append(b"\n%b\n" % new)
    if changed:
        kernel.write_durable(path, b"".join(kept))
    return taken


def _without(
    line: bytes, ids: frozenset[str], keys: Keyring, *, blank: bool
) -> tuple[bytes | None, bool]:
    """Return a line without what must go (None: one that isn't ours, and could hold anything)."""
    try:
        record = decode(line, keys)
    except BrokenRecord:
        return None, False
    fields = fields_of(line)
    is_entity = record.id in ids and record.action != PURGED
    if is_entity:
        fields |= {"action": PURGED, "payload": None, "deleted": True}
        fields.pop("before", None)
    elif record.action == OUTCOME and blank:
        fields["payload"] = {**object_of(fields["payload"]), "reply": PURGED_REPLY}
    elif record.action == SEGMENT and blank and header_problem(record.payload):
        return None, False
    elif record.action == SEGMENT and blank:
        fields["payload"] = _header_without(record.payload, ids)
    else:
        return line, False
    return _line(fields, record, keys), is_entity


def _line(fields: JsonObject, record: Record, keys: Keyring) -> bytes:
    """Return a changed record's line; the next one still stands after the code that it had."""
    for name in ("by", "after", "code"):
        fields.pop(name, None)
    if record.link:
        fields["was"] = record.link
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    text = body.encode("utf-8", "surrogatepass")
    if keys.own is not None:
        text = authenticate(text, keys.own, record.after or FIRST)
    return seal(text).strip(b"\n")


def _header_without(header: JsonObject, ids: frozenset[str]) -> JsonObject:
    replies = {
        session: [epoch, forgotten, [[ordinal, PURGED_REPLY] for ordinal, _ in texts]]
        for session, (epoch, forgotten, texts) in header["replies"].items()
    }
    still_open = {
        key: [change for change in changes if change[3] not in ids]
        for key, changes in header["open"].items()
    }
    return {
        **header,
        "open": still_open,
        "touched": [entry for entry in header["touched"] if entry[1] not in ids],
        "replies": replies,
    }
