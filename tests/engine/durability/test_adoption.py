"""Adoption beside calls: every entity comes into the journal once, whoever dies when."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from palace.engine.durability import adoption
from palace.journal.journal import read_tail
from palace.journal.record import ADOPT, ADOPTION, OUTCOME, STATE
from palace.journal.segment import list_segments
from palace.protocol.errors import JournalFailed
from tests.support.disks.memory import Disk, Stopped, all_kept, all_lost
from tests.support.stores.memory import (
    JOURNAL,
    Entity,
    Life,
    Platter,
    after,
    awake,
    records,
)

MANY = 8
Steps = list[tuple[str, str, Any]]


def full() -> tuple[Platter, Platter]:
    """Return what stock has left: no journal knows it."""
    one, two = Platter(), Platter()
    for number in range(MANY):
        one.set(("a", f"x{number}"), {"n": number})
        two.set(("b", f"y{number}"), {"n": number})
    return one, two


def adopted(life: Life) -> "Counter[Entity]":
    return Counter(record.entity for record in records(life) if record.action == ADOPT)


def is_whole(disk: Disk) -> bool:
    """Tell what the next reader of the journal believes."""
    tail = read_tail(list_segments(JOURNAL, disk), disk)
    return tail.baseline is not None and tail.adopting is None


def steps_of(number: int) -> Steps:
    """Return a call that touches what is adopted, what isn't yet, and what is new."""
    n = number % MANY
    return [
        ("a", f"x{(n + 4) % MANY}", {"call": number}),
        ("b", f"y{n}", None if number % 3 else {"call": number, "again": True}),
        ("a", f"new{number}", {"call": number}),
        ("a", f"x{n}", None if number % 4 == 1 else {"call": number, "twice": True}),
    ]


@attrs.define(eq=False)
class World:
    """What the clients of a palace may rely on, over all lives."""

    expected: dict[Entity, Any]
    calls: int = 0
    under_way: tuple[str, Steps] | None = None

    def call(self, life: Life) -> None:
        self.calls += 1
        key, steps = f"s:{self.calls}", steps_of(self.calls)
        self.under_way = key, steps
        life.journal.sync(life.call(key, *steps))
        self._made(steps)

    def _made(self, steps: Steps) -> None:
        for kind, ident, payload in steps:
            self.expected.pop((kind, ident), None)
            if payload is not None:
                self.expected[kind, ident] = payload
        self.under_way = None

    def woke(self, life: Life) -> None:
        """Ask what became of the call that was under way at the death."""
        if self.under_way is not None:
            key, steps = self.under_way
            session, _, ordinal = key.partition(":")
            if life.journal.reply(session, int(ordinal)) is not None:
                self._made(steps)
        self.under_way = None
        assert life.contents == self.expected


def lived(world: World, life: Life, every: int = 2) -> None:
    """Adopt to the end, with a call after every so many portions."""
    for number, _ in enumerate(life.adoption().portions()):
        assert not is_whole(life.disk)
        if number % every == 0:
            world.call(life)


def check_end(world: World, life: Life) -> None:
    life.check()
    assert life.contents == world.expected
    assert is_whole(life.disk)
    spoken = set()
    for record in records(life):
        if record.action == ADOPT:
            assert record.entity not in spoken, "adopted once, and not after a call spoke of it"
        if record.kind:
            spoken.add(record.entity)
    assert after(life).journal.seq == life.journal.seq, "there was nothing left to do"


def test_a_palace_is_adopted_whole_and_once() -> None:
    life = awake(Disk(), full())
    life.check()

    assert [r.action for r in records(life)] == [STATE] + [ADOPT] * 2 * MANY + [STATE]
    assert life.journal.tail.baseline == {
        "one": life.one.fingerprint(),
        "two": life.two.fingerprint(),
    }
    assert after(life).journal.seq == 2 * MANY + 2


def test_calls_beside_an_adoption_change_what_they_find() -> None:
    life = awake(Disk(), full(), whole=False)
    world = World(life.contents)
    lived(world, life)
    check_end(world, life)
    assert 0 < sum(adopted(life).values()) < 2 * MANY, "calls have journalled the others"
    assert not [r for r in records(life) if r.action == ADOPT and r.key != ADOPTION]


@pytest.mark.parametrize("choose", [all_kept, all_lost])
def test_an_owner_may_die_at_any_call_of_the_kernel_while_it_adopts(choose: Any) -> None:
    for number in range(2000):
        life = awake(Disk(), full(), segment_bytes=3000, whole=False)
        world = World(life.contents)
        life.disk.stop_after(number)
        try:
            lived(world, life, every=4)
        except Stopped:
            pass
        else:
            assert number > 50
            return
        again = after(life, life.disk.power_cut(choose), whole=False)
        world.woke(again)
        lived(world, again, every=4)
        check_end(world, again)
    raise AssertionError("it never came to its end")


def test_many_owners_may_die_while_they_adopt() -> None:
    for seed in range(60):
        chance = random.Random(seed)
        life = awake(Disk(), full(), segment_bytes=2000, whole=False)
        world = World(life.contents)
        while True:
            life.disk.stop_after(chance.randrange(8, 160))
            try:
                lived(world, life, every=chance.choice((1, 2, 5)))
                life.disk.stop_after(None)
                break
            except Stopped:
                disk = life.disk.power_cut(chance.choice((all_kept, all_lost, chance.randint)))
            one, two = life.platters
            life = awake(disk, (one.copy(), two.copy()), life.journal.stamp.epoch + 1, whole=False)
            world.woke(life)
        check_end(world, life)


def _broken_off(portions: int) -> Life:
    life = awake(Disk(), full(), whole=False)
    going = life.adoption().portions()
    for _ in range(portions):
        next(going)
    return life


def test_the_next_owner_goes_on_where_an_adoption_was_broken_off() -> None:
    life = _broken_off(4)
    taken = {ident for _, ident in adopted(life)}
    assert 0 < len(taken) < 2 * MANY

    again = after(life)

    again.check()
    assert not taken & {*again.one.read_ids, *again.two.read_ids}, "it isn't read again"
    assert set(adopted(again).values()) == {1}


def test_what_another_program_does_between_two_halves_of_an_adoption_is_taken_over() -> None:
    life = _broken_off(4)
    life.call("s:1", ("a", "mine", 1))
    (kind, known), *_ = adopted(life)
    left = next(e for e in life.contents if e not in adopted(life) and e != ("a", "mine"))
    life.one.platter.set((kind, known), None)
    life.one.platter.set(("a", "x1"), "theirs")
    life.two.platter.set(left, "theirs, too")
    life.one.platter.set(("a", "new"), "theirs")
    expected = life.contents

    again = after(life)

    assert again.contents == expected
    again.check()


def test_what_a_store_loses_between_two_halves_of_an_adoption_is_written_again() -> None:
    life = _broken_off(4)
    copy = life.one.platter.copy()
    life.call("s:1", ("a", "x7", "changed"), ("a", "mine", 1))
    expected = life.contents
    life.one.platter = copy

    again = after(life)

    assert again.contents == expected
    again.check()


def test_an_unfinished_call_of_an_unadopted_entity_is_taken_back_first() -> None:
    life = _broken_off(1)
    before = life.contents
    with life.durable.group("s:1", non_atomic=False):
        life.set("a", x6="half", x7=None)
        life.set("b", y7="half")

    again = after(life, whole=False)
    assert again.contents == before
    for _ in again.adoption().portions():
        pass
    again.check()


def test_thousands_that_stock_wrote_are_adopted_after_the_first_call() -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x1", 1), ("a", "x2", 1), ("b", "y1", 1))
    for number in range(3, 20):
        life.one.platter.set(("a", f"x{number}"), number)
    life.one.platter.set(("a", "x1"), "changed by stock")
    life.one.platter.set(("a", "x2"), None)

    again = after(life, whole=False)
    assert not is_whole(again.disk)
    seq = again.journal.seq
    again.call("s:2", ("a", "x5", "changed by a call"), ("a", "x2", "made again"))
    for _ in again.adoption().portions():
        pass

    again.check()
    assert again.contents["a", "x1"] == "changed by stock"
    assert again.contents["a", "x2"] == "made again"
    assert ("b", "y1") not in adopted(again), "only what differs is adopted"
    assert ("a", "x5") not in {r.entity for r in records(again, seq + 1) if r.action == ADOPT}


@pytest.mark.parametrize(
    "harm",
    [
        lambda life: setattr(life.one.platter, "birth", 5),
        lambda life: None,
    ],
    ids=["replaced", "unfinished"],
)
def test_what_a_store_may_have_lost_is_never_left_for_later(harm: Callable[[Life], object]) -> None:
    life = awake(Disk())
    life.call("s:1", ("a", "x1", 1), ("b", "y1", 1))
    with life.durable.group("s:2", non_atomic=False):
        life.set("a", x3=3)
    life.call("s:3", ("a", "x1", 3))
    life.one.platter.set(("a", "theirs"), 1)
    harm(life)

    again = after(life, whole=False)

    assert again.journal.tail.adopting is None
    assert again.contents["a", "x1"] == 3
    again.check()


def test_what_a_replaced_store_lacks_is_not_left_for_later() -> None:
    """Nothing of ours is unfinished there: only that it is another store says what it has lost."""
    life = awake(Disk())
    life.call("s:1", ("a", "x1", 1), ("a", "x2", 2))
    del life.one.platter.rows["a", "x2"]
    life.one.platter.set(("a", "theirs"), 1)
    life.one.platter.birth = 5

    again = after(life, whole=False)

    assert again.journal.tail.adopting is None
    assert again.contents == {("a", "x1"): 1, ("a", "x2"): 2, ("a", "theirs"): 1}
    again.check()


def test_a_portion_and_a_call_never_speak_of_one_entity_at_once() -> None:
    """A portion was read; before it is appended, a call comes for the same entity and waits."""
    life = awake(Disk(), full(), whole=False)
    changed, here = threading.Event(), threading.current_thread()
    stock = life.disk.free_bytes

    def change() -> None:
        life.call("s:1", ("a", "x0", "changed"))
        changed.set()

    def asked(path: str) -> int:  # a portion asks for it between reading and appending
        if threading.current_thread() is here and not caller.ident:
            caller.start()
            assert not changed.wait(0.05)
        return stock(path)

    caller = threading.Thread(target=change)
    life.disk.free_bytes = asked  # type: ignore[method-assign]
    going = life.adoption().portions()
    next(going)
    caller.join()
    for _ in going:
        pass
    life.check()
    assert life.contents["a", "x0"] == "changed"


def test_an_older_palace_takes_an_unfinished_adoption_for_none() -> None:
    life = _broken_off(3)
    life.call("s:1", ("a", "x7", 1))
    life.journal.roll()
    header = life.journal.tail.header()
    assert header["at"] is None
    assert header["touched"] == []
    assert header["so_far"]["total"] == 2 * MANY
    assert not [r for r in records(life) if r.action in (OUTCOME, STATE) and "at" in r.payload]


def test_a_full_disk_is_left_to_the_calls() -> None:
    life = awake(Disk(), full(), whole=False)
    life.disk.room = adoption.ROOM_BYTES - 1
    with pytest.raises(JournalFailed, match="free some space"):
        next(life.adoption().portions())
    life.call("s:1", ("a", "x1", "changed"))
    life.disk.room = None
    for _ in life.adoption().portions():
        pass
    life.check()


def test_an_adoption_in_its_thread_says_how_far_it_is_and_ends_at_the_next_portion() -> None:
    life = awake(Disk(), full(), whole=False)
    whole = threading.Event()
    beside = life.adoption()
    assert beside.as_json() == {"done": 0, "total": 2 * MANY, "problem": ""}
    beside.on_whole = whole.set
    beside.start()
    assert whole.wait(30)
    beside.end()
    assert beside.as_json() is None
    assert not beside.is_under_way
    life.check()
