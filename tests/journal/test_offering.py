"""What a journal offers to other palaces, and that whoever takes it over has what is there."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from palace.journal.checkpoint import make_checkpoint
from palace.journal.journal import Journal
from palace.journal.offering import ALL, DRAWERS, FACTS, Scope, _named, offers
from palace.journal.purge import Going, purge_journal, purge_mark
from palace.journal.record import ADOPT, DELETE, PUT, STATE, UNDO, Draft, Stamp
from palace.journal.replay import replay
from palace.journal.segment import ARCHIVE, list_segments
from palace.kernel.kernel import Kernel
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import (
    DISMISSED,
    DRAWER,
    FACT,
    NEW,
    START,
    Gap,
    Item,
    Offer,
    Read,
    Whole,
    dismissed,
)
from palace.protocol.keyring import STRANGERS, Key, Keyring
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
            attrs.evolve(fact(source_file="palace:other"), id="taken"),
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
    }, "nor that there is something, which who guesses an id could tell by its name"
    assert texts([one for one in found if getattr(one, "kind", "") == DRAWER]) == ["one"]
    assert len(puller.candidates) == 2
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
    assert texts(pulled(puller, disk, scope)) == ["one"]
    # What was never in it, comes and goes without a word; what leaves it, is gone.
    journal.append([drawer("b", "changed", before=secret.payload, wing="private")])
    journal.append([drawer("b", None, before=secret.payload)])
    assert texts(pulled(puller, disk, scope)) == []
    journal.append([drawer("a", "one", before=drawer("a", "one").payload, wing="private")])
    assert texts(pulled(puller, disk, scope)) == [None]
    assert not puller.candidates


SCOPE = Scope(wings=("w",), kinds=(DRAWER,))


@pytest.mark.parametrize("since_the_beginning", [True, False])
def test_of_what_never_was_in_a_scope_nothing_is_told_whoever_wrote_it(
    since_the_beginning: bool,
) -> None:
    """What another program wrote, and what is taken back, doesn't say what was there before."""
    disk, puller = Disk(), Puller()
    journal = opened(disk)
    journal.append([drawer("a", "one"), drawer("b", "two"), drawer("c", "three")])
    if not since_the_beginning:
        pulled(puller, disk, SCOPE)
    private = drawer("x", "secret", wing="private").payload
    diary = drawer("y", "dear diary", type="diary_entry").payload
    for ident, payload in (("x", private), ("y", diary)):
        journal.append([Draft(action=ADOPT, kind=DRAWERS, id=ident, payload=payload)])
        journal.append([Draft(action=PUT, kind=DRAWERS, id=f"new {ident}", payload=payload)])
        journal.append([Draft(action=UNDO, kind=DRAWERS, id=f"new {ident}", deleted=True)])
        journal.append([Draft(action=ADOPT, kind=DRAWERS, id=ident, deleted=True)])
    assert set(texts(pulled(puller, disk, SCOPE))) <= {"one", "two", "three"}
    assert shown(puller) == ["one", "three", "two"]
    journal.append([Draft(action=ADOPT, kind=DRAWERS, id="a", payload=private)])
    journal.append([Draft(action=ADOPT, kind=DRAWERS, id="b", deleted=True)])
    journal.append([Draft(action=UNDO, kind=DRAWERS, id="c", deleted=True)])
    assert texts(pulled(puller, disk, SCOPE)) == [None, None, None]
    late = Puller()
    pulled(late, disk, SCOPE)
    assert not puller.candidates
    assert not late.candidates


def test_what_a_damaged_record_may_have_shared_is_told_as_a_whole() -> None:
    """Not by a name, which may be of something else, and it doesn't stay as it was either."""
    disk, puller = Disk(), Puller()
    journal = segmented(disk)
    pulled(puller, disk, SCOPE)
    journal.sync(journal.seq)
    damage(disk, 0, 1)
    journal.append([Draft(action=ADOPT, kind=DRAWERS, id="never shared", deleted=True)])
    found = pulled(puller, disk, SCOPE)
    assert [one for one in found if isinstance(one, Whole)]
    told = {one.ident for one in found if isinstance(one, Offer)}
    assert _named("never shared") not in told
    journal.append([Draft(action=ADOPT, kind=DRAWERS, id="f", deleted=True)])
    pulled(puller, disk, SCOPE)
    assert "text f" not in shown(puller)


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
    newcomer = Puller()
    pulled(newcomer, disk)  # who has nothing to go on from, and reads no record either
    assert shown(newcomer) == ["one", "three"]
    journal.append([drawer("a", "four")])
    assert texts(pulled(puller, disk)) == ["four"]
    assert texts(pulled(newcomer, disk)) == ["four"]


def segmented(disk: Disk) -> Journal:
    """Return a journal with three segments: a and b, c and d, e and f."""
    journal = opened(disk)
    for pair in ("ab", "cd", "ef"):
        journal.append([drawer(ident, f"text {ident}") for ident in pair])
        if pair != "ef":
            journal.roll()
    journal.sync(journal.seq)
    return journal


ALL_TEXTS = [f"text {ident}" for ident in "abcdef"]


def without(disk: Disk, *paths: str) -> Disk:
    copy = disk.power_cut(all_kept)
    for path in paths:
        copy.unlink(path)
    return copy


def damage(disk: Disk, number: int, nth: int) -> None:
    """Change a byte of the nth record of a segment."""
    path = list_segments(JOURNAL, disk, archived=True)[number].path
    lines = disk.read(path).split(b"\n\n")
    lines[nth] = lines[nth].replace(b"text", b"tent", 1)
    disk.put(path, b"\n\n".join(lines))


@pytest.mark.parametrize("gone", [[0], [1], [0, 1]])
def test_from_a_half_made_copy_nothing_is_taken(gone: list[int]) -> None:
    disk, puller = Disk(), Puller()
    segmented(disk)
    paths = [list_segments(JOURNAL, disk)[number].path for number in gone]
    with pytest.raises(RemoteRefused, match="is not whole: records"):
        pulled(puller, without(disk, *paths))
    assert puller == Puller()
    pulled(puller, disk)
    assert shown(puller) == ALL_TEXTS


def test_what_is_known_stays_while_a_copy_lacks_the_record_that_was_read_last() -> None:
    disk, puller = Disk(), Puller()
    journal = segmented(disk)
    pulled(puller, disk)
    found = ((entity, dismissed(one)) for entity, one in puller.candidates.items())
    puller.candidates = {entity: one for entity, one in found if one is not None}
    before = (puller.place, dict(puller.candidates))
    journal.roll()
    journal.append([drawer("g", "text g")])
    with pytest.raises(RemoteRefused, match="records 5 to 6"):
        pulled(puller, without(disk, list_segments(JOURNAL, disk)[2].path))
    assert (puller.place, puller.candidates) == before
    pulled(puller, disk)
    assert [one.status for one in puller.candidates.values()] == [DISMISSED] * 6 + [NEW]


def test_a_copy_whose_archive_is_still_to_come_is_refused_until_it_has() -> None:
    disk, puller = Disk(), Puller()
    journal = segmented(disk)
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    archived = disk.list_directory(f"{JOURNAL}/{ARCHIVE}")
    checkpoints = [name for name in disk.list_directory(JOURNAL) if name.startswith("checkpoint")]
    archive = [f"{JOURNAL}/{ARCHIVE}/{name}" for name in archived]
    with pytest.raises(RemoteRefused, match="records 1 to"):
        pulled(puller, without(disk, *archive, *(f"{JOURNAL}/{name}" for name in checkpoints)))
    assert puller == Puller()
    pulled(puller, without(disk, *archive))  # it never comes: the checkpoint says what it said
    assert shown(puller) == ALL_TEXTS


def test_what_was_taken_over_from_the_stores_is_missed_no_more() -> None:
    disk, puller = Disk(), Puller()
    journal = segmented(disk)
    whole = Draft(action=STATE, payload={"whole": True})
    journal.append([drawer("c", "text c"), drawer("d", "text d"), whole])
    pulled(puller, without(disk, list_segments(JOURNAL, disk)[1].path))
    assert shown(puller) == ALL_TEXTS


@pytest.mark.parametrize(("number", "nth"), [(1, 1), (1, 2), (2, 1), (0, 2)])
def test_a_line_that_is_broken_for_good_is_said_and_takes_nothing_with_it(
    number: int, nth: int
) -> None:
    disk, puller, lost = Disk(), Puller(), list[int]()
    journal = segmented(disk)
    pulled(puller, disk)
    journal.append([drawer("g", "text g")])
    damage(disk, number, nth)
    pulled(puller, disk)
    assert shown(puller) == [*ALL_TEXTS, "text g"]
    found = list(offers(JOURNAL, disk, told=lost.append))
    assert isinstance(found[-1], Read)
    assert (len(texts(found)), lost) == (6, [1])
    if nth == 2:  # a purge drops the line, and what the segment lacks then could still come
        return
    # A purge is followed all the same, whatever that line said.
    purge_journal(JOURNAL, disk, Going(entities=frozenset({(DRAWERS, "g")})), KEYS)
    opened(disk, 2).append([purge_mark()])
    pulled(puller, disk)
    assert "text g" not in shown(puller)
    assert len(shown(puller)) == 5


def test_what_a_damaged_line_said_is_taken_where_a_checkpoint_says_it_too() -> None:
    disk, puller, lost = Disk(), Puller(), list[int]()
    journal = segmented(disk)
    assert make_checkpoint(JOURNAL, disk, journal.stamp) is not None
    damage(disk, 0, 1)
    puller.read(offers(JOURNAL, disk, keys=KEYS, told=lost.append))
    assert (shown(puller), lost) == (ALL_TEXTS, [0])


def test_a_line_that_is_too_long_costs_no_more_than_itself() -> None:
    disk, puller, lost = Disk(), Puller(), list[int]()
    long = STRANGERS.line_bytes_max
    opened(disk).append([drawer("a", "one"), drawer("b", "x" * long), drawer("c", "three")])
    puller.read(offers(JOURNAL, disk, keys=STRANGERS, told=lost.append))
    assert (shown(puller), lost) == (["one", "three"], [1])


def test_a_last_line_is_half_copied_where_it_has_no_end_and_else_damaged() -> None:
    disk, puller, lost = Disk(), Puller(), list[int]()
    segmented(disk)
    path = list_segments(JOURNAL, disk)[0].path
    whole = disk.read(path)
    disk.put(path, whole[:-4])
    with pytest.raises(RemoteRefused, match="records 2 to 2"):
        pulled(puller, disk)
    head, end, rest = whole.rpartition(b'"}')
    disk.put(path, head + end.replace(b"}", b"]") + rest)
    puller.read(offers(JOURNAL, disk, keys=KEYS, told=lost.append))
    assert (shown(puller), lost) == ([one for one in ALL_TEXTS if one != "text b"], [1])


@pytest.mark.parametrize("cut", [1, 2])
def test_a_line_that_is_missing_costs_no_more_than_itself(cut: int) -> None:
    disk, puller = Disk(), Puller()
    opened(disk).append([drawer("a", "one"), drawer("b", "two"), drawer("c", "three")])
    path = list_segments(JOURNAL, disk)[-1].path
    lines = disk.read(path).split(b"\n\n")
    del lines[cut]
    disk.put(path, b"\n\n".join(lines))
    assert isinstance(list(offers(JOURNAL, disk, START))[-1], Read)
    puller.read(offers(JOURNAL, disk, START))
    assert len(shown(puller)) == 2


def test_copies_that_are_made_while_it_is_written_come_to_what_is_there(tmp_path: Path) -> None:
    """As rsync makes them: file after file, some of them half written, others gone meanwhile."""
    there, copy, kernel = str(tmp_path / "journal"), tmp_path / "copy", Kernel()
    stamp, ended, puller = Stamp(epoch=1, writer="w", keys=KEYS), threading.Event(), Puller()
    journal = Journal.open(there, kernel, stamp)

    def write(numbers: range) -> None:
        for number in numbers:
            journal.append([drawer(f"{number}", f"text {number}")])
            if number % 20 == 19:
                journal.roll()
            if number % 90 == 89:
                assert make_checkpoint(there, kernel, stamp) is not None

    def write_the_rest() -> None:
        write(range(100, 400))
        ended.set()

    def copy_and_pull() -> None:
        for pattern in ("0*.jsonl", "checkpoint-*", f"{ARCHIVE}/*"):
            copy_files(Path(there), copy, pattern)
            with suppress(RemoteRefused):
                puller.read(offers(str(copy), kernel, puller.place.position))
            # Each is a record: those up to the cursor are here, and no others.
            upto = range(puller.place.position.version.seq)
            assert shown(puller) == sorted(f"text {number}" for number in upto)

    write(range(100))
    copy_and_pull()
    assert puller.place.position.version.seq
    writer = threading.Thread(target=write_the_rest)
    writer.start()
    while not ended.is_set():
        copy_and_pull()
    writer.join()
    journal.close()
    puller.read(offers(there, kernel, puller.place.position))
    assert shown(puller) == sorted(f"text {number}" for number in range(400))


def copy_files(source: Path, target: Path, pattern: str) -> None:
    """Bring a part of a copy up to date, as far as files stay where they are."""
    for path in sorted(source.glob(pattern)):
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

    @rule(
        ident=st.sampled_from("uvabcd"),
        action=st.sampled_from([PUT, UNDO, ADOPT]),
        wing=st.none() | st.sampled_from(["private", "w"]),
    )
    def write_by_others(self, ident: str, action: str, wing: str | None) -> None:
        """Say something that may be for nobody, in ways in which a record may come."""
        wing = "private" if ident in "uv" and wing else wing
        if wing is None and action == PUT:
            action = DELETE
        payload = drawer(ident, f"of {wing}", wing=wing).payload if wing else None
        before = replay(JOURNAL, self.disk, keys=KEYS)
        known: Any = before.payload((DRAWERS, ident)) if (DRAWERS, ident) in before.live else None
        self.journal.append(
            [
                Draft(
                    action=action,
                    kind=DRAWERS,
                    id=ident,
                    payload=payload,
                    deleted=payload is None,
                    before=known if action in (PUT, DELETE) else None,
                )
            ]
        )

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
            self.pulled(self.copies[number % len(self.copies)])

    def pulled(self, disk: Disk) -> None:
        """Pull what one wing has, and hear of nothing that never was in it."""
        found = pulled(self.puller, disk, SCOPE)
        told = {one.ident for one in found if isinstance(one, Offer)}
        assert told.isdisjoint(map(_named, "uv"))

    @rule()
    def pull(self) -> None:
        self.pulled(self.disk)
        self.journal.append([drawer("e", f"{self.journal.seq}")])  # it is the newest there is
        self.pulled(self.disk)
        known = replay(JOURNAL, self.disk, keys=KEYS)
        payloads: list[Any] = [known.payload(entity) for entity in known.live]
        assert shown(self.puller) == sorted(
            one["document"] for one in payloads if one["metadata"]["wing"] == "w"
        )


Pulling.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestPulling = Pulling.TestCase
