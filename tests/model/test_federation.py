"""Pulls from another palace: what must hold does, broken protocols are found, and the palace there
is said twice alike: in numbers, and by the journal's own code.
"""

import os
import re
from pathlib import Path

import attrs
import pytest

from palace.journal.checkpoint import make_checkpoint
from palace.journal.journal import Journal as RealJournal
from palace.journal.offering import DRAWERS, offers
from palace.journal.purge import Going, purge_journal, purge_mark
from palace.journal.record import Stamp
from palace.journal.segment import ARCHIVE, list_segments
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import START, Offer, Position, Read, Whole
from tests.model import federation_checks
from tests.model.federation import World, init, next_states
from tests.model.federation_search import (
    DEEP,
    FLOORS,
    FULL,
    MUTANTS,
    QUICK,
    REDUNDANT,
    STEPS,
    Mutant,
    describe,
    explore,
    run,
)
from tests.model.federation_source import read_on
from tests.model.federation_state import BEGIN, BLANK, MARK, At, Journal, Scope
from tests.model.federation_taking import position, says
from tests.support.disks.memory import ROOT, Disk
from tests.support.stores.exporter import drawer

IS_FULL = os.environ.get("PALACE_MODEL") == "full"
# `just model-check` searches all of them.
SMALL = [scope for scope in QUICK if FLOORS[scope.name] <= 12_000]
DIRECTORY = f"{ROOT}/journal"
SECRET = "what was purged"


@pytest.mark.parametrize("scope", FULL if IS_FULL else SMALL, ids=lambda scope: scope.name)
def test_a_scope_holds(scope: Scope) -> None:
    result = explore(scope)
    assert not result.broken, "\n".join(describe(result))
    assert result.states >= FLOORS[scope.name]
    assert result.reached.keys() <= STEPS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.name}-{mutant.breaks}")
def test_a_broken_protocol_is_found(mutant: Mutant) -> None:
    result = run(mutant)
    assert result.invariant == mutant.breaks, "\n".join(describe(result))


def test_every_broken_protocol_of_the_model_is_searched_and_every_invariant_finds_one() -> None:
    named = {
        name
        for text in map(Path.read_text, Path(__file__).parent.glob("federation*.py"))
        for line in text.splitlines()
        if "broken" in line
        for name in re.findall(r'"([a-z_]{5,})"', line)
    }
    assert named == {mutant.name for mutant in MUTANTS} | REDUNDANT.keys()
    found = set(re.findall(r"^\| (F\d+) \|", str(federation_checks.__doc__), re.MULTILINE))
    assert found == {mutant.breaks for mutant in MUTANTS}


def test_profiles_grow() -> None:
    assert len(QUICK) < len(DEEP) < len(FULL)
    assert sum(FLOORS[scope.name] for scope in FULL) >= 3_000_000


# The palace there, said twice.

TOLD = (
    Scope("purged", writes=2, purges=1),
    Scope("put back", writes=3, backs=1, entities=1),
    Scope("trimmed", writes=2, trims=1),
    Scope("damaged", writes=3, damages=1),
)


def journals(scope: Scope) -> list[Journal]:
    """Return all journals of a scope in which nobody pulls, and those that lack a file."""
    world = World(scope._replace(pulls=0))
    states = [init(world.scope)]
    known = set(states)
    for state in states:
        for _, after in next_states(state, world):
            if after not in known:
                known.add(after)
                states.append(after)
    whole = {state.journal for state in states}
    halves = {
        one._replace(hole=seq)
        for one in whole
        if not one.damaged
        for seq in range(one.cut + 1, one.end + 1)
    }
    return sorted(whole | halves, key=str)


def purge(disk: Disk, blank: set[int]) -> None:
    gone = frozenset((DRAWERS, str(number)) for number in blank)
    purge_journal(DIRECTORY, disk, Going(entities=gone))


def written(told: Journal) -> Disk:
    """Return a journal as files, each record in a file of its own."""
    disk, blank = Disk(), set[int]()
    for seq, record in enumerate(told.records, 1):
        stamp = Stamp(epoch=record.epoch, writer=f"w{record.epoch}", origin="there")
        journal = RealJournal.open(DIRECTORY, disk, stamp)
        if record.what == MARK:
            purge(disk, blank)
            blank.clear()
            journal = RealJournal.open(DIRECTORY, disk, stamp)
            journal.append([purge_mark()])
        else:
            text = SECRET if record.text == BLANK else says(record.text)["text"]
            draft = drawer(str(record.what), text if record.text else None)
            # A change says what was there; of what comes without it, see test_offering.py.
            was = drawer(str(record.what), "what it was").payload if draft.deleted else None
            journal.append([attrs.evolve(draft, before=was)])
            blank |= {record.what} if record.text == BLANK else set()
        journal.sync(seq)
        journal.roll()
        if seq == told.cut:
            assert make_checkpoint(DIRECTORY, disk, stamp) is not None
            for name in disk.list_directory(f"{DIRECTORY}/{ARCHIVE}"):
                disk.unlink(f"{DIRECTORY}/{ARCHIVE}/{name}")
        journal.close()
    if blank:
        purge(disk, blank)
    for segment in list_segments(DIRECTORY, disk, archived=True):
        if segment.first == told.hole:
            disk.unlink(segment.path)
        if segment.first in told.damaged:
            damage(disk, segment.path)
    return disk


def damage(disk: Disk, path: str) -> None:
    """Change the record, which is the file's last line, and keep its length."""
    before, kind, after = disk.read(path).rpartition(b"mempalace_drawers")
    disk.put(path, before + kind[::-1] + after)


def told_by_code(disk: Disk, since: At) -> list[object] | None:
    try:
        found = list(offers(DIRECTORY, disk, position(since)))
    except RemoteRefused:
        return None
    return [item for one in found for item in coded(one)]


def coded(one: object) -> list[object]:
    """Return what an item says, as the model has it."""
    if isinstance(one, Offer):
        return [(at_of(one.at), one.says["text"] if one.says else None)]
    if isinstance(one, Read):
        return [("read", at_of(one.at))] if one.at != START else []
    return [("whole", at_of(one.at))] if isinstance(one, Whole) else ["gap"]


def at_of(given: Position) -> At:
    return given.version.epoch, given.version.seq


def told_by_model(told: Journal, since: At) -> list[object] | None:
    upto, found, is_all = since, list[object](), False
    while not is_all:
        read = read_on(told, since, upto, 2)
        if read is None:
            return None
        items, is_all = read
        for item in items:
            if item[0] == "offer":
                found.append((item[2], says(item[3])["text"] if item[3] else None))
                upto = item[2]
            elif item != ("read", BEGIN):
                found.append("gap" if item[0] == "gap" else item)
    return found


def ordered(found: list[object] | None) -> list[object] | None:
    """Return what was told, in one order where all is told at once: neither of the two has any."""
    return sorted(found, key=str) if found and "gap" in found else found


@pytest.mark.parametrize("scope", TOLD, ids=lambda scope: scope.name)
def test_the_model_and_the_journals_code_say_the_same_of_the_same_records(scope: Scope) -> None:
    seen = 0
    for told in journals(scope):
        disk = written(told)
        ats = {BEGIN, (1, 1), (1, 2), (1, told.end + 1), (1, told.end), (2, told.end)}
        for since in sorted(at for at in ats if at == BEGIN or at[1]):
            by_code, by_model = told_by_code(disk, since), told_by_model(told, since)
            assert ordered(by_code) == ordered(by_model), (told, since)
            seen += 1
    assert seen >= 50
