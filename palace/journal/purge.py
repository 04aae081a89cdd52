"""Taking memories out of the journal's files for good: the one place where history is rewritten.

Each file that mentions one of them is replaced by a copy without it, its seqs unchanged: what stood
there becomes a record that says no more than that, since an id can be made of what it names.  All
recorded replies go, too, since any of them may quote it; a shim that asks for one again is answered
with "outcome unknown".  Earlier states of other entities, which are replaced by later ones, go
where they hold words of what is purged.

Theory of operation.  Files are replaced one by one, each durably, so that a purge can die between
any two of them.  It is then done again from the start: a file that was replaced already is left as
it is.  The files without a record of the entities come first: while any file is left to do, so is
one that says that the replies of all have to go.
"""

import json
from collections.abc import Callable, Iterator

import attrs

from palace.journal.record import (
    ENTITIES,
    FIRST,
    OUTCOME,
    PURGED,
    SEGMENT,
    BrokenRecord,
    Draft,
    Entity,
    Json,
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


def _holds_nothing(_data: bytes) -> bool:
    return False


@attrs.frozen(kw_only=True)
class Going:
    """What goes: entities, and what earlier states of others hold of them.

    `holds` is asked of JSON.  Records whose seqs are in `live` are the last word on their entity,
    which stays: `holds` is not asked of their payloads.  `under_way`: the replies go in any case.
    """

    entities: frozenset[Entity]
    holds: Callable[[bytes], bool] = _holds_nothing
    live: frozenset[int] = frozenset()
    under_way: bool = False


def purge_journal(directory: str, kernel: Kernel, going: Going, keys: Keyring = ANYBODYS) -> int:
    """Rewrite every file that holds what goes; return how many records were taken out."""
    told = {path: _tells(path, kernel, going, keys) for path in _files(directory, kernel)}
    work = _Purge(kernel, going, keys, blank=going.under_way or any(told.values()))
    return sum(work.rewrite(path) for path in sorted(told, key=lambda path: told[path]))


def purge_mark() -> Draft:
    """Return what says at the journal's end that earlier records were changed.

    Whoever follows the journal has read them before, and reads them no more.
    """
    return Draft(action=PURGED, payload={"purge": True})


def is_purge_mark(record: Record) -> bool:
    return record.action == PURGED and object_of(record.payload).get("purge") is True


def _files(directory: str, kernel: Kernel) -> Iterator[str]:
    for place in (directory, f"{directory}/{ARCHIVE}"):
        for name in sorted(kernel.list_directory(place)):
            if name.endswith(".jsonl"):
                yield f"{place}/{name}"
            elif name.endswith(".tmp"):
                kernel.unlink(f"{place}/{name}")


def _tells(path: str, kernel: Kernel, going: Going, keys: Keyring) -> bool:
    """Tell whether a file has a record of what goes."""
    return any(record.entity in going.entities for record in _records(path, kernel, keys))


def _records(path: str, kernel: Kernel, keys: Keyring) -> Iterator[Record]:
    for _, line in read_lines(path, kernel):
        try:
            yield decode(line, keys)
        except BrokenRecord:
            continue


def json_of(value: Json) -> bytes:
    """Return a value as the journal writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


@attrs.frozen
class _Purge:
    kernel: Kernel
    going: Going
    keys: Keyring
    blank: bool = attrs.field(kw_only=True)

    def rewrite(self, path: str) -> int:
        kept: list[bytes] = []
        taken = 0
        changed = False
        for _, line in read_lines(path, self.kernel):
            new, is_taken = self._without(line)
            taken += is_taken
            changed |= new != line
            if new is not None:
                kept.append(b"\n%b\n" % new)
        if changed:
            self.kernel.write_durable(path, b"".join(kept))
        return taken

    def _without(self, line: bytes) -> tuple[bytes | None, bool]:
        """Return a line without what goes (None: one that isn't ours, and could hold anything)."""
        try:
            record = decode(line, self.keys)
        except BrokenRecord:
            return None, False
        fields = fields_of(line)
        taken = record.action != PURGED and self._goes(record)
        if taken or (record.action == PURGED and record.entity in self.going.entities):
            # Its id as well, which earlier versions kept.
            blank = {"action": PURGED, "kind": "", "id": "", "payload": None, "deleted": True}
            fields |= blank
            fields.pop("before", None)
        elif record.action in ENTITIES and self._in_json(record.before):
            fields["before"] = None  # no group is open any more: nothing is taken back to it
        elif record.action == OUTCOME and self.blank:
            fields["payload"] = {**object_of(fields["payload"]), "reply": PURGED_REPLY}
        elif record.action == SEGMENT and self.blank and header_problem(record.payload):
            return None, False
        elif record.action == SEGMENT and self.blank:
            fields["payload"] = self._header(record.payload)
        else:
            return line, False
        return self._line(fields, record), taken

    def _goes(self, record: Record) -> bool:
        if record.entity in self.going.entities:
            return True
        is_earlier = record.action in ENTITIES and record.seq not in self.going.live
        return is_earlier and self._in_json(record.payload)

    def _in_json(self, payload: Json) -> bool:
        return payload is not None and self.going.holds(json_of(payload))

    def _line(self, fields: JsonObject, record: Record) -> bytes:
        """Return a changed record's line; the next one still stands after the code that it had."""
        for name in ("by", "after", "code"):
            fields.pop(name, None)
        if record.link:
            fields["was"] = record.link
        text = json_of(fields)
        if self.keys.own is not None:
            text = authenticate(text, self.keys.own, record.after or FIRST)
        return seal(text).strip(b"\n")

    def _header(self, header: JsonObject) -> JsonObject:
        replies = {
            session: [epoch, forgotten, [[ordinal, PURGED_REPLY] for ordinal, _ in texts]]
            for session, (epoch, forgotten, texts) in header["replies"].items()
        }
        still_open = {
            key: [change for change in changes if not self._is_told(*change[2:6])]
            for key, changes in header["open"].items()
        }
        new = {**header, "open": still_open, "replies": replies}
        new["touched"] = self._touched(header["touched"])
        if isinstance(header.get("so_far"), dict):
            so_far = header["so_far"]
            new["so_far"] = {**so_far, "touched": self._touched(so_far["touched"])}
        return new

    def _touched(self, entries: list[list[Json]]) -> list[list[Json]]:
        return [entry for entry in entries if not self._is_told(*entry)]

    def _is_told(self, kind: str, ident: str, *payloads: Json) -> bool:
        return (kind, ident) in self.going.entities or any(map(self._in_json, payloads))
