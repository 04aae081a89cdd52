"""What is held against a finished run: promises, order, and journal against store."""

import os
from collections import Counter
from typing import Any

from palace.journal.inspect import read_from
from palace.journal.record import PUT, QUARANTINE, UNDO, Record
from palace.journal.replay import digest_of, replay
from palace.kernel.kernel import Kernel
from palace.protocol.errors import OutcomeUnknown
from palace.settings.paths import Paths
from tests.sim.client import CANCELLED, LOST, OK, Client, Op
from tests.sim.engine import store_on_disk

UNKNOWN = OutcomeUnknown.wire_code
Entity = tuple[str, str]
Live = dict[Entity, Any]


def check_promises(
    clients: list[Client], live: Live, notes: dict[str, Any], left: set[str]
) -> list[str]:
    """I7 and I8: acknowledged changes stand once, refused ones don't, others at most once.

    A tool that failed half-way leaves what it did before, as it does in stock: nothing is said of
    those, nor of the nonces that are `left`, unless they were acknowledged.
    """
    problems: list[str] = []
    effects = notes["effects"]
    kept = {op.nonce for client in clients for op in client.ops if op.outcome == OK}
    torn = notes["torn"] | (left - kept)
    parts = Counter(body["nonce"] for (kind, _), body in live.items() if kind == "drawer")
    for client in clients:
        diary = live.get(("diary", client.who), {"entries": []})["entries"]
        tally = live.get(("tally", client.who), {"count": 0})["count"]
        adds = [op for op in client.ops if op.tool == "add_drawer"]
        for op in adds:
            if op.nonce in torn:
                continue
            found, whole = parts[op.nonce], op.arguments["parts"]
            problems += _count(op, found // whole if found % whole == 0 else -1)
        if not torn.intersection(op.nonce for op in adds) and tally != sum(
            parts[op.nonce] > 0 for op in adds
        ):
            problems.append(f"{client.who}'s tally is {tally}")
        for op in client.ops:
            if op.nonce in torn:
                continue
            if op.tool == "diary_write":
                problems += _count(op, parts[op.nonce])
            elif op.tool == "update_drawer":
                problems += _count(op, diary.count(op.nonce))
            elif op.tool == "hook_settings":
                problems += _count(op, effects.count(op.nonce))
        problems += _order(client, diary)
        problems += _reads(client)
    return problems


def _count(op: Op, found: int) -> list[str]:
    if op.outcome == OK:
        fits = found == 1
    elif op.outcome in (LOST, CANCELLED, UNKNOWN, None):
        fits = found in (0, 1)
    else:
        fits = found == 0
    return [] if fits else [f"I7/I8: {op!r} was carried out {found} times"]


def _order(client: Client, diary: list[str]) -> list[str]:
    """Calls of one session that change the same thing are carried out in their order."""
    ops = {op.nonce: op for op in client.ops}
    problems = []
    for life in range(1, client.life + 1):
        numbers = [
            ops[nonce].number
            for nonce in diary
            if ops[nonce].life == life and ops[nonce].outcome != CANCELLED
        ]
        if numbers != sorted(numbers):
            problems.append(f"order: {client.who}'s diary in life {life} says {numbers}")
    return problems


def _reads(client: Client) -> list[str]:
    """A query sees what its session asked for before it, and what was acknowledged before."""
    problems = []
    for query in client.ops:
        if query.tool != "get_drawer" or query.outcome != OK:
            continue
        seen = {*query.answer["drawers"], *query.answer["diary"]}
        for op in client.ops[: query.number - 1]:
            changed = op.outcome == OK and op.tool in ("add_drawer", "diary_write", "update_drawer")
            if changed and op.nonce not in seen:
                problems.append(f"read your writes: {query!r} does not see {op!r}")
    return problems


def check_files(root: str, *, killed: bool) -> list[str]:
    """Journal and store say the same, and nothing is left of the last owner but its files.

    One that its watchdog has `killed` leaves its names, too: the next one would remove them.
    """
    problems = []
    kernel, paths = Kernel(), Paths(root)
    names = (paths.record, f"{root}/broker.sock")
    if not killed and any(os.path.lexists(name) for name in names):
        problems.append("L2: record or socket outlive the last owner")
    journal = replay(paths.journal, kernel)
    live = store_on_disk(root)
    known = {entity: entry.digest for entity, entry in journal.live.items() if entity[0] != "file"}
    there = {entity: digest_of(payload) for entity, payload in live.items()}
    for entity in sorted({*known, *there} - given_up(root)):
        if known.get(entity) != there.get(entity):
            which = "both" if entity in known and entity in there else "one"
            problems.append(f"journal and store differ in {entity} ({which} of them has it)")
    if journal.gaps:
        problems.append(f"the journal has gaps: {journal.gaps}")
    return problems


def live_in(root: str) -> Live:
    """Return what a palace holds: the store's word, and the journal's where it has given up."""
    live = store_on_disk(root)
    lost = given_up(root)
    if lost:
        journal = replay(Paths(root).journal, Kernel())
        for entity in lost:
            live.pop(entity, None)
            if entity in journal.live:
                live[entity] = journal.payload(entity)
    return live


def given_up(root: str) -> set[Entity]:
    """Return entities of which the journal itself says that they were not taken back."""
    records, keys = _left_alone(root)
    found = set()
    for record in records:
        if record.action == UNDO and record.key in keys:
            found.add(record.entity)
        else:  # a later change made both agree again
            found.discard(record.entity)
    return found


def not_taken_back(root: str) -> set[str]:
    """Return the nonces of such changes: they may stay, and later changes build on them."""
    records, keys = _left_alone(root)
    return {
        nonce
        for record in records
        if record.action == PUT and record.key in keys
        for nonce in _nonces(record)
    }


def _left_alone(root: str) -> tuple[list[Record], set[str]]:
    """Return a journal's records, and the keys whose taking back has ended owners."""
    found = read_from(Paths(root).journal, Kernel())
    records = [record for record in found if isinstance(record, Record)]
    return records, {
        record.key
        for record in records
        if record.action == QUARANTINE and str(record.payload).startswith("taking it back")
    }


def _nonces(record: Record) -> set[str]:
    if record.kind == "diary":
        known: Any = record.before
        before = known["entries"] if known else []
        return set(record.payload["entries"]) - set(before)
    return {record.payload["nonce"]} if record.kind == "drawer" else set()
