"""What a journal offers to other palaces, and that whoever takes it over has what is there."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from palace.journal.checkpoint import make_checkpoint
from palace.journal.journal import Journal
from palace.journal.offering import ALL, DRAWERS, FACTS, Scope, offers
from palace.journal.purge import Going, purge_journal, purge_mark
from palace.journal.record import DELETE, PUT, UNDO, Draft, Stamp
from palace.journal.replay import replay
from palace.journal.segment import ARCHIVE, list_segments
from palace.kernel.kernel import Kernel
from palace.protocol.federation import DRAWER, FACT, START, Gap, Item, Offer, Read, Whole
from palace.protocol.keyring import Key, Keyring
from tests.support.disks.memory import ROOT, Disk, all_kept, all_lost
from tests.support.machines.puller import Puller

JOURNAL = f"{ROOT}/journal"
KEYS = Keyring([Key(b"k" * 32)])


def opened(disk: Disk, epoch: int = 1, origin: str = "first") -> Journal:
    stamp = Stamp(epoch=epoch, writer=f"w{epoch}", keys=KEYS, origin=origin)
    return Journal.open(JOURNAL, disk, stamp)


def drawer(ident: str, text: str | None, before: Any = None, **metadata: Any) -> Draft:
    payload = {"document": text, "metadata": {"wing": "w", "room": "r", **metadata}, "vector": ""}
    if text is None:
        return Draft(action=DELETE, kind=DRAWERS, id=ident, deleted=True, before=before)
    return Draft(action=PUT, kind=DRAWERS, id=ident, payload=payload, before=before)


def fact(**row: Any) -> Draft:
    told = {"subject": "alice", "predicate": "works_at", "object": "acme", **row}
    return Draft(action=PUT, kind=FACTS, id="t", payload={"rowid": 1, "row": told})


def texts(found: list[Item]) -> list[str | None]:
    offered = [one for one in found if isinstance(one, Offer)]
    return [one.says["text"] if one.says is not None else None for one in offered]


def pulled(puller: Puller, disk: Disk, scope: Scope = ALL) -> list[Item]:
    found = list(offers(JOURNAL, disk, puller.place.position, scope, KEYS))
    puller.read(found)
    return found


def shown(puller: Puller) -> list[str]:
    return sorted(one.says["text"] for one in puller.candidates.values() if one.says is not None)


# What is offered.


def test_drawers_and_facts_are_offered_and_what_is_the_owners_alone_is_not() -> None:
    disk, puller = Disk(), Puller()
    opened(disk).append(
        [
            drawer("a", "one"),
            fact(valid_from="2026-01-01"),
            drawer("diary", "dear diary", type="diary_entry"),
            drawer("mine", "of a namespace", palace_ns="workspace:lead"),
            drawer("echo", "accepted", added_by="palace:desk"),
            fact(source_file="palace:other"),
            drawer("broken", "no wing", wing=7),
            Draft(action=PUT, kind="palace:token", id="x", payload={"row": {}}),
            Draft(action=PUT, kind="file", id="replica.json", payload="{}"),
        ]
    )
    found = pulled(puller, disk)
    kinds = {(one.kind, tuple(one.says or ())) for one in found if isinstance(one, Offer)}
    assert kinds == {
        (DRAWER, ("text", "wing", "room")),
        (FACT, ("subject", "predicate", "object", "valid_from")),
        (FACT, ()),
        (DRAWER, ()),
    }
    assert shown(puller) == ["one"]
    assert isinstance(found[-1], Read)


def test_nothing_of_an_id_is_told() -> None:
    disk = Disk()
    opened(disk).append(
        [drawer("drawer_secret-wing_1", "t", parent_drawer_id="drawer_secret-wing")]
    )
    assert "secret-wing" not in repr(list(offers(JOURNAL, disk)))


def test_a_scope_hides_other_wings_and_what_leaves_it() -> None:
    disk, puller = Disk(), Puller()
    journal, scope = opened(disk), Scope(wings=("w",), kinds=(DRAWER,))
    secret = drawer("b", "secret", wing="private")
    journal.append([drawer("a", "one"), secret, fact()])
    assert texts(pulled(puller, disk, scope)) == ["one", None]
    # What was never in it, goes without a word; what leaves it, is gone.
    journal.append([drawer("b", None, before=secret.payload)])
    assert texts(pulled(puller, disk, scope)) == []
    journal.append([drawer("a", "one", before=drawer("a", "one").payload, wing="private")])
    assert texts(pulled(puller, disk, scope)) == [None]
    assert not puller.candidates


def test_only_what_is_new_is_offered() -> None:
    disk, puller = Disk(), Puller()
    journal = opened(disk)
    journal.append([drawer("a", "one"), drawer("b", "two")])
    assert texts(pulled(puller, disk)) == ["one", "two"]
    assert texts(pulled(puller, disk)) == []
    undone = {"document": "zero", "metadata": {"wing": "w", "room": "r"}}
    journal.append([Draft(action=UNDO, kind=DRAWERS, id="b", payload=undone)])
    assert texts(pulled(puller, disk)) == ["zero"]
    assert shown(puller) == ["one", "zero"]


def test_a_copy_that_was_cut_in_mid_line_is_read_up_to_there() -> None:
    disk = Disk()
    journal = opened(disk)
    journal.append([drawer("a", "one"), drawer("b", "two"), drawer("c", "three")])
    path = list_segments(JOURNAL, disk)[-1].path
    whole = disk.read(path)
    puller = Puller()
    for cut in range(0, len(whole), 7):
        disk.put(path, whole[:cut])
        pulled(puller, disk)
    disk.put(path, whole)
    pulled(puller, disk)
    assert shown(puller) == ["one", "three", "two"]


def test_an_older_copy_offers_nothing() -> None:
    disk, puller = Disk(), Puller()
    journal = opened(disk)
    journal.append([drawer("a", "one")])
    journal.sync(1)
    older = disk.power_cut(all_kept)
    journal.append([drawer("b", "two")])
    pulled(puller, disk)
    before = puller.place
    assert pulled(puller, older) == []
    assert pulled(puller, Disk()) == []
    assert puller.place == before


def test_after_a_purge_all_is_looked_at_anew() -> None:
    disk, puller = Disk(), Puller()
    journal = opened(disk)
    journal.append([drawer("a", "one"), drawer("b", "secret")])
    pulled(puller, disk)
    purge_journal(JOURNAL, disk, Going(entities=frozenset({(DRAWERS, "b")})), KEYS)
    assert not texts(pulled(puller, disk)), "it isn't told yet"
    opened(disk, 2).append([purge_mark()])
    kinds = [type(one) for one in pulled(puller, disk)]
    assert kinds == [Gap, Offer, Whole]
    assert shown(puller) == ["one"]
    assert [type(one) for one in pulled(puller, disk)] == [Read]


def test_without_its_archive_the_checkpoint_is_offered() -> None:
    disk, puller = Disk(), Puller()
    journal = opened(disk)
    journal.append([drawer("a", "one"), drawer("gone", "two")])
    pulled(puller, disk)
    journal.append([drawer("gone", None), drawer("b", "three")])
    journal.roll()
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    for name in disk.list_directory(f"{JOURNAL}/{ARCHIVE}"):
        disk.unlink(f"{JOURNAL}/{ARCHIVE}/{name}")
    assert isinstance(pulled(puller, disk)[0], Gap)
    assert shown(puller) == ["one", "three"]
    assert texts(pulled(puller, disk)) == []
    journal.append([drawer("a", "four")])
    assert texts(pulled(puller, disk)) == ["four"]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_line_that_is_missing_costs_no_more_than_itself(cut: int) -> None:
    disk, puller = Disk(), Puller()
    opened(disk).append([drawer("a", "one"), drawer("b", "two"), drawer("c", "three")])
    path = list_segments(JOURNAL, disk)[-1].path
    lines = disk.read(path).split(b"\n\n")
    del lines[cut]
    disk.put(path, b"\n\n".join(lines))
    assert isinstance(list(offers(JOURNAL, disk, START))[-1], Whole)
    puller.read(offers(JOURNAL, disk, START))
    assert len(shown(puller)) == 2


def test_copies_that_are_made_while_it_is_written_come_to_what_is_there(tmp_path: Path) -> None:
    """As rsync makes them: file after file, some of them half written, others gone meanwhile."""
    there, copy, kernel = str(tmp_path / "journal"), tmp_path / "copy", Kernel()
    stamp, ended = Stamp(epoch=1, writer="w", keys=KEYS), threading.Event()

    def write() -> None:
        journal = Journal.open(there, kernel, stamp, segment_bytes=4000)
        for number in range(400):
            journal.append([drawer(f"{number % 50}", f"text {number}")])
            if number % 90 == 89:
                make_checkpoint(there, kernel, stamp)
        journal.close()
        ended.set()

    writer, puller, rounds = threading.Thread(target=write), Puller(), 0
    writer.start()
    while not ended.is_set() or not rounds:
        if Path(there).exists():
            copy_files(Path(there), copy)
            puller.read(offers(str(copy), kernel, puller.place.position))
            rounds += 1
    writer.join()
    puller.read(offers(there, kernel, puller.place.position))
    assert shown(puller) == sorted(f"text {number}" for number in range(350, 400))


def copy_files(source: Path, target: Path) -> None:
    """Bring a copy up to date, as far as files stay where they are."""
    for path in sorted(source.rglob("*.jsonl")):
        where = target / path.relative_to(source)
        where.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            where.write_bytes(path.read_bytes())


# In any order.


class Pulling(RuleBasedStateMachine):
    """One puller, of a palace that writes, dies, is purged, put back and restored."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.epoch = 1
        self.journal = opened(self.disk)
        self.earlier = self.disk.power_cut(all_kept)
        self.puller = Puller()
        self.copies: list[Disk] = []

    def reopen(self, disk: Disk, ahead: int = 1, origin: str = "first") -> None:
        self.epoch += ahead
        self.disk = disk
        self.journal = opened(disk, self.epoch, origin)

    @rule(
        written=st.lists(
            st.tuples(st.sampled_from("abcd"), st.none() | st.sampled_from(["one", "two"])),
            max_size=5,
        )
    )
    def write(self, written: list[tuple[str, str | None]]) -> None:
        self.journal.append([drawer(ident, text) for ident, text in written])

    @rule()
    def checkpoint_and_lose_the_archive(self) -> None:
        self.journal.roll()
        make_checkpoint(JOURNAL, self.disk, self.journal.stamp)
        for name in self.disk.list_directory(f"{JOURNAL}/{ARCHIVE}"):
            self.disk.unlink(f"{JOURNAL}/{ARCHIVE}/{name}")

    @rule(ident=st.sampled_from("abcd"))
    def purge(self, ident: str) -> None:
        self.journal.sync(self.journal.seq)
        self.reopen(self.disk.power_cut(all_kept))
        self.journal.roll()
        make_checkpoint(JOURNAL, self.disk, self.journal.stamp)
        purge_journal(JOURNAL, self.disk, Going(entities=frozenset({(DRAWERS, ident)})), KEYS)
        self.reopen(self.disk)
        self.journal.sync(self.journal.append([purge_mark()]))

    @rule()
    def lose_what_was_not_synced(self) -> None:
        self.reopen(self.disk.power_cut(all_lost))

    @rule()
    def back_up(self) -> None:
        self.journal.sync(self.journal.seq)
        self.earlier = self.disk.power_cut(all_kept)

    @rule()
    def restore(self) -> None:
        self.reopen(self.earlier.power_cut(all_kept), 1_000_000, f"restored {self.epoch}")

    @rule()
    def copy(self) -> None:
        self.copies.append(self.disk.power_cut(all_kept))

    @rule(number=st.integers(0, 5))
    def pull_from_a_copy(self, number: int) -> None:
        if self.copies:
            pulled(self.puller, self.copies[number % len(self.copies)])

    @rule()
    def pull(self) -> None:
        pulled(self.puller, self.disk)
        self.journal.append([drawer("e", f"{self.journal.seq}")])  # it is the newest there is
        pulled(self.puller, self.disk)
        known = replay(JOURNAL, self.disk, keys=KEYS)
        payloads: list[Any] = [known.payload(entity) for entity in known.live]
        assert shown(self.puller) == sorted(one["document"] for one in payloads)


Pulling.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestPulling = Pulling.TestCase
