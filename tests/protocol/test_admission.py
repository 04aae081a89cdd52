from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.protocol.admission import CROWD, CROWDS_BATCH, Admission, Job, Offer
from palace.protocol.request import ToolCall
from palace.protocol.tools import TOOLS, Kind, Lane, Tool

READ = TOOLS["mempalace_search"]
WRITE = TOOLS["mempalace_add_drawer"]
POLL = TOOLS["mempalace_event_wait"]
MINE = TOOLS["mempalace_mine"]


def make(**limits: int) -> Admission:
    readers = limits.pop("readers", 2)
    batch = limits.pop("batch", 1)
    depths: dict[str, Any] = {"queue_depth_max": 100, "session_depth_max": 10}
    admission = Admission(
        capacity={
            Lane.WRITER: batch,
            Lane.READER: readers,
            Lane.POLL: 2,
            Lane.BULK: 1,
            Lane.LONG: 1,
            Lane.LARGE: 1,
            Lane.REMOTE: 1,
        },
        **(depths | limits),
    )
    admission.ready = True
    return admission


def job(session: str, ordinal: int, tool: Tool = READ, **more: Any) -> Job:
    call = ToolCall(message=None, tool=tool)
    return Job(session=session, ordinal=ordinal, request=call, **more)


def keys(jobs: list[Job]) -> list[tuple[str, int]]:
    return [item.key for item in jobs]


def test_a_job_is_called_what_its_request_is_called() -> None:
    call = ToolCall(message=None, name="mempalace_search", tool=READ)
    admitted = Job(session="a", ordinal=7, request=call)

    assert (admitted.name, admitted.tool, admitted.key) == ("mempalace_search", READ, ("a", 7))


def test_nothing_starts_before_the_engine_is_ready() -> None:
    admission = make()
    admission.ready = False
    admission.offer(job("a", 0))

    assert admission.take_ready() == []
    admission.ready = True
    assert keys(admission.take_ready()) == [("a", 0)]


def test_queries_of_one_session_overlap_up_to_the_lane() -> None:
    admission = make(readers=2)
    for ordinal in range(3):
        admission.offer(job("a", ordinal))

    assert keys(admission.take_ready()) == [("a", 0), ("a", 1)]
    assert admission.in_lane(Lane.READER) == 2
    assert keys(list(admission.running)) == [("a", 0), ("a", 1)]


def test_a_mutation_waits_for_its_sessions_queries_and_holds_up_what_follows() -> None:
    admission = make()
    jobs = [job("a", 0), job("a", 1, WRITE), job("a", 2)]
    for item in jobs:
        admission.offer(item)

    assert keys(admission.take_ready()) == [("a", 0)]
    admission.finish(jobs[0])
    assert keys(admission.take_ready()) == [("a", 1)]
    assert admission.take_ready() == []
    admission.finish(jobs[1])
    assert keys(admission.take_ready()) == [("a", 2)]


def test_one_sessions_mutation_does_not_hold_up_anothers_query() -> None:
    admission = make()
    admission.offer(job("a", 0, WRITE))
    admission.offer(job("b", 0))
    admission.offer(job("b", 1, WRITE))

    assert keys(admission.take_ready()) == [("a", 0), ("b", 0)]


def test_sessions_take_turns_whatever_one_of_them_has_queued() -> None:
    admission = make(session_depth_max=50)
    order = []
    for ordinal in range(5):
        admission.offer(job("flood", ordinal, WRITE))
    admission.offer(job("quiet", 0, WRITE))
    for _ in range(6):
        started = admission.take_ready()
        order += [item.session for item in started]
        for item in started:
            admission.finish(item)

    assert order == ["flood", "quiet", "flood", "flood", "flood", "flood"]


def test_long_polls_hold_nothing_up_and_starve_no_reader() -> None:
    admission = make()
    for ordinal in range(3):
        admission.offer(job(f"p{ordinal}", 0, POLL))
    admission.offer(job("p0", 1, WRITE))
    admission.offer(job("a", 0))

    assert keys(admission.take_ready()) == [("p0", 0), ("p1", 0), ("a", 0), ("p0", 1)]


def test_mine_does_not_keep_the_writer_lane() -> None:
    admission = make()
    admission.offer(job("a", 0, MINE))
    admission.offer(job("b", 0, WRITE))
    admission.offer(job("a", 1, WRITE))

    assert keys(admission.take_ready()) == [("a", 0), ("b", 0)]


# Batches.


def offered(admission: Admission, *groups: str) -> list[Job]:
    """Offer one mutation for each group, of sessions 0, 1, 2..."""
    jobs = [job(str(place), 0, WRITE, group=group) for place, group in enumerate(groups)]
    for item in jobs:
        assert admission.offer(item) is Offer.ADMITTED
    return jobs


def after_a_batch_of_two() -> Admission:
    """Return what knows of a batch of sessions 0 and 1 that lasted from 10.0 to 10.08 s."""
    admission = make(batch=9)
    offered(admission, "x", "y")
    for item in admission.take_ready(10.0):
        admission.finish(item, 10.08)
    return admission


def test_mutations_with_different_keys_start_together_up_to_the_lane() -> None:
    admission = make(batch=3)
    jobs = offered(admission, "x", "y", "z", "w")

    assert admission.take_ready() == jobs[:3]
    assert admission.take_ready() == []
    for item in jobs[:3]:
        admission.finish(item)
    assert admission.take_ready() == jobs[3:]


def test_nobody_joins_a_batch_that_has_begun() -> None:
    admission = make(batch=3)
    offered(admission, "x")
    admission.take_ready()
    admission.offer(job("late", 0, WRITE, group="y"))

    assert admission.take_ready() == []


@pytest.mark.parametrize("third", ["x", "y"])
def test_one_key_is_once_in_a_batch(third: str) -> None:
    admission = make(batch=9)
    jobs = offered(admission, "x", "y", third)

    assert admission.take_ready() == jobs[:2]
    admission.finish(jobs[0])
    assert admission.take_ready() == []  # the batch ends as a whole
    admission.finish(jobs[1])
    assert admission.take_ready() == jobs[2:]


def test_what_has_no_key_runs_alone() -> None:
    admission = make(batch=9)
    jobs = offered(admission, "", "x", "", "y")

    assert admission.take_ready() == jobs[:1]
    admission.finish(jobs[0])
    assert admission.take_ready() == [jobs[1], jobs[3]]
    admission.finish(jobs[1])
    admission.finish(jobs[3])
    assert admission.take_ready() == [jobs[2]]


def test_a_batch_holds_one_mutation_of_a_session() -> None:
    admission = make(batch=9)
    first, second = (job("a", n, WRITE, group=str(n)) for n in range(2))
    admission.offer(first)
    admission.offer(second)

    assert admission.take_ready() == [first]


def test_a_batch_waits_for_who_was_in_the_last_one_but_not_for_long() -> None:
    admission = after_a_batch_of_two()
    again = job("0", 1, WRITE, group="x")
    admission.offer(again)

    assert admission.take_ready(10.081) == []
    assert admission.held
    assert admission.window.until_s(10.081) == pytest.approx(10.11)
    admission.window.replied("1", 10.082)
    assert admission.window.until_s(10.082) == pytest.approx(10.087)
    other = job("1", 1, WRITE, group="y")
    admission.offer(other)
    assert admission.take_ready(10.083) == [again, other]
    assert not admission.held


def test_a_batch_begins_without_those_who_do_not_come() -> None:
    admission = after_a_batch_of_two()
    admission.window.replied("somebody else", 10.08)
    again = job("0", 1, WRITE, group="x")
    admission.offer(again)

    assert admission.take_ready(10.09) == []
    assert admission.take_ready(10.12) == [again]


def test_nobody_is_waited_for_who_is_there_already() -> None:
    admission = make(batch=9)
    early, first, last, queued = (
        job("early", 0, WRITE, group="a"),
        job("first", 0, WRITE, group="b"),
        job("last", 0, WRITE, group="c"),
        job("queued", 0, WRITE, group="d"),
    )
    for one in (early, first, last, queued, job("queued", 1, WRITE, group="h")):
        admission.offer(one)
    assert admission.take_ready(10.0) == [early, first, last, queued]

    for one in (early, first):
        admission.finish(one, 10.07)
        admission.window.replied(one.session, 10.071)
    admission.offer(job("early", 1, WRITE, group="e"))
    for one in (last, queued):
        admission.finish(one, 10.08)

    assert admission.window.until_s(10.08) == pytest.approx(10.11)  # for the last one's reply
    admission.window.came("last")
    assert admission.window.until_s(10.08) == pytest.approx(10.085)  # for the first one's return
    admission.window.came("first")
    assert admission.window.until_s(10.08) == 0.0


def test_what_runs_alone_waits_for_nobody_and_nobody_waits_after_it() -> None:
    admission = after_a_batch_of_two()
    alone = job("2", 0, WRITE)
    admission.offer(alone)

    assert admission.take_ready(10.081) == [alone]
    admission.finish(alone, 10.09)
    lone = job("0", 1, WRITE, group="x")
    admission.offer(lone)
    assert admission.take_ready(10.091) == [lone]


def test_an_owner_that_gives_its_queue_back_holds_nothing() -> None:
    admission = after_a_batch_of_two()
    admission.offer(job("0", 1, WRITE, group="x"))
    admission.take_ready(10.081)
    assert admission.held

    admission.withdraw(only=Lane.POLL)
    assert admission.held  # a leaving owner ends what was admitted
    admission.withdraw()
    assert not admission.held


def test_a_full_session_and_a_full_queue_are_told_apart() -> None:
    admission = make(queue_depth_max=3, session_depth_max=2)

    assert [admission.offer(job("a", n)) for n in range(3)] == [
        Offer.ADMITTED,
        Offer.ADMITTED,
        Offer.SESSION_FULL,
    ]
    assert admission.offer(job("b", 0)) is Offer.ADMITTED
    assert admission.offer(job("b", 1)) is Offer.FULL
    assert admission.waiting == 3


def test_a_full_queue_has_a_reserve_for_those_who_wait_for_little() -> None:
    admission = make(queue_depth_max=4, session_depth_max=2)
    for session in ("a1", "a2"):
        for ordinal in range(2):
            admission.offer(job(session, ordinal, party="a"))

    assert admission.offer(job("a1", 2, party="a")) is Offer.SESSION_FULL
    assert admission.offer(job("b", 0)) is Offer.ADMITTED
    assert admission.offer(job("a3", 0, party="a")) is Offer.ADMITTED, "a session beside others"
    assert admission.offer(job("c", 0)) is Offer.ADMITTED, "a part of it is for parties alone"
    assert admission.offer(job("d", 0)) is Offer.FULL, "the reserve has an end"


def test_parties_take_turns_whatever_number_of_sessions_they_have() -> None:
    admission = make(readers=1)
    for number in range(4):
        admission.offer(job(f"a{number}", 0, party="a"))
    admission.offer(job("b", 0, party="b"))
    admission.offer(job("b", 1, party="b"))

    order = []
    while ready := admission.take_ready():
        (item,) = ready
        order.append(item.session)
        admission.finish(item)

    assert order == ["a0", "b", "a1", "b", "a2", "a3"]


def order_of(admission: Admission, *, began_s: float) -> list[str]:
    """Return the sessions of what is waiting, as each starts; every job takes a second."""
    order, now_s = [], began_s
    while ready := admission.take_ready(now_s):
        order += [item.session for item in ready]
        now_s += 1.0
        for item in ready:
            admission.finish(item, now_s)
    return order


def test_a_party_that_had_the_writer_for_long_goes_behind_those_that_had_it_little() -> None:
    admission = make()
    admission.put_back_s = {"a": 3.0, "b": 0.0, "c": 0.5}.__getitem__
    for session in "abc":
        admission.offer(job(session, 0, WRITE))
        admission.offer(job(session, 1, WRITE))

    assert order_of(admission, began_s=10.0) == ["b", "c", "b", "c", "a", "a"]


def test_a_party_is_put_back_once_and_later_ones_come_behind_it() -> None:
    admission = make()
    admission.put_back_s = {"a": 2.0, "b": 0.0, "runs": 0.0}.__getitem__
    running = job("runs", 0, WRITE)
    admission.offer(running)
    admission.take_ready(10.0)
    admission.offer(job("a", 0, WRITE))
    assert admission.take_ready(10.0) == []
    admission.offer(job("b", 0, WRITE))
    assert admission.take_ready(12.5) == []
    admission.finish(running, 12.5)

    assert order_of(admission, began_s=12.5) == ["a", "b"]


def test_queries_of_a_party_that_had_the_writer_for_long_keep_their_place() -> None:
    admission = make(readers=1)
    admission.put_back_s = {"a": 5.0, "b": 0.0, "c": 0.0}.__getitem__
    admission.offer(job("a", 0))
    admission.offer(job("a", 1, WRITE))
    admission.offer(job("b", 0, WRITE))
    admission.offer(job("c", 0))

    assert keys(admission.take_ready(10.0)) == [("a", 0), ("b", 0)]


def test_a_long_poll_that_waits_lends_no_place_to_the_change_behind_it() -> None:
    admission = make()
    admission.put_back_s = lambda party: 5.0 if party == "a" else 0.0
    runs = job("runs", 0, WRITE)
    for item in (job("polls", 0, POLL), job("c", 0, POLL), runs):
        admission.offer(item)
    assert len(admission.take_ready(10.0)) == 3, "no slot is left for another poll"
    admission.offer(job("a", 0, POLL))
    admission.offer(job("a", 1, WRITE))
    admission.offer(job("b", 0, WRITE))
    admission.finish(runs, 11.0)

    assert keys(admission.take_ready(11.0)) == [("b", 0)]


def test_a_party_has_one_turn_before_the_next_when_several_slots_are_free() -> None:
    admission = make(readers=2)
    for number in range(3):
        admission.offer(job(f"a{number}", 0, party="a"))
    admission.offer(job("b", 0))

    assert keys(admission.take_ready()) == [("a0", 0), ("b", 0)]


def test_a_party_has_all_readers_alone_and_its_part_while_others_are_about() -> None:
    admission = make(readers=4)
    for number in range(10):
        admission.offer(job(f"many{number}", 0, party="many"))
    alone = admission.take_ready(0.0)
    assert len(alone) == 4

    admission.offer(job("one", 0, party="one"))
    (ours,) = admission.take_ready(0.1)
    assert ours.party == "one", "the reserve is for it"
    for done in alone[:2]:
        admission.finish(done, 0.2)
        assert admission.take_ready(0.2) == [], "it has its part, and no more"
    admission.finish(ours, 0.3)
    admission.finish(alone[2], 0.3)
    assert len(admission.take_ready(0.3)) == 1, "whoever thinks for a moment is about"
    assert len(admission.take_ready(1.4)) == 2, "who was silent for long is not"


def test_a_party_of_many_changes_rests_for_the_others_part_and_holds_up_no_other() -> None:
    admission = make(batch=4)
    admission.offer(job("one", 0, party="one"))
    (query,) = admission.take_ready(0.0)
    admission.finish(query, 0.0)
    for number in range(CROWD + 2):
        admission.offer(job(f"many{number}", 0, WRITE, party="many"))
    (first,) = admission.take_ready(0.0)
    admission.finish(first, 0.2)

    assert admission.take_ready(0.2) == []
    assert admission.held
    assert admission.wake_s == pytest.approx(0.4)
    admission.offer(job("one", 1, WRITE, party="one"))
    (ours,) = admission.take_ready(0.3)
    assert ours.party == "one"
    admission.finish(ours, 0.31)
    assert admission.take_ready(0.35) == []
    (second,) = admission.take_ready(0.41)
    admission.finish(second, 0.61)
    (last,) = admission.take_ready(0.61)
    assert last.party == "many", "no more of them wait than an agent's helpers make"


def test_a_crowd_has_a_few_changes_in_a_batch_and_joins_none_of_another() -> None:
    admission = make(batch=16)
    admission.offer(job("one", 0, WRITE, party="one", group="one"))
    for number in range(CROWD + 1):
        item = job(f"many{number}", 0, WRITE, party="many", group=str(number))
        admission.offer(item)
    admission.offer(job("two", 0, WRITE, party="two", group="two"))

    batch = admission.take_ready(0.0)
    assert [one.party for one in batch] == ["one", "two"], "it would take the longer"
    for done in batch:
        admission.finish(done, 0.1)
    admission.offer(job("one", 1, WRITE, party="one", group="one"))
    batch = admission.take_ready(0.2)
    assert Counter(one.party for one in batch) == {"many": CROWDS_BATCH, "one": 1}, "others may"


def test_a_few_helpers_of_one_party_are_served_like_as_many_parties() -> None:
    admission = make(batch=16)
    for turn in range(20):
        for number in range(CROWD):
            party, group = "few", f"few{number}"
            admission.offer(job(f"few{number}", turn, WRITE, party=party, group=group))
        admission.offer(job("one", turn, WRITE, party="one", group="one"))
        batch = admission.take_ready(turn)
        assert Counter(one.party for one in batch) == {"few": CROWD, "one": 1}, turn
        for done in batch:
            admission.finish(done, turn + 0.9)


def test_a_party_is_put_back_for_each_of_its_few_sessions_time_and_a_crowd_for_all() -> None:
    for sessions, first in ((CROWD, "few0"), (CROWD + 1, "one")):
        admission = make()
        admission.put_back_s = {"few": CROWD * 1.0, "one": 1.5}.__getitem__
        for number in range(sessions):
            admission.offer(job(f"few{number}", 0, WRITE, party="few"))
        admission.offer(job("one", 0, WRITE, party="one"))
        assert keys(admission.take_ready(10.0)) == [(first, 0)]


def test_a_crowds_queries_rest_while_anothers_call_runs_and_not_otherwise() -> None:
    admission = make(readers=4, batch=4)
    admission.offer(job("one", 0, party="one"))
    (theirs,) = admission.take_ready(0.0)
    for number in range(CROWD + 5):
        admission.offer(job(f"many{number}", 0, party="many"))
    first, second = admission.take_ready(0.0)  # half of the readers
    admission.finish(first, 0.2)
    assert admission.take_ready(0.2) == []
    assert admission.held
    assert admission.wake_s == pytest.approx(0.4)
    admission.finish(second, 0.3)
    admission.finish(theirs, 0.35)
    assert len(admission.take_ready(0.35)) == 2, "nobody else's runs"
    for running in admission.running:
        admission.finish(running, 0.36)
    admission.offer(job("own", 0, own=True))
    polling = job("polls", 0, POLL, party="one")
    admission.offer(polling)
    parties = Counter(one.party for one in admission.take_ready(0.36))
    assert parties == {"own": 1, "one": 1, "many": 2}, "nor is a poll met, nor the broker's work"


def test_a_party_that_is_alone_rests_never() -> None:
    admission = make()
    for number in range(3):
        admission.offer(job(f"many{number}", 0, WRITE, party="many"))
    for number in range(3):
        (change,) = admission.take_ready(number)
        admission.finish(change, number + 1)


def test_a_party_that_is_alone_has_whole_batches_one_after_the_other() -> None:
    admission = make(batch=4)
    for number in range(12):
        session, group = f"many{number % 4}", str(number)
        admission.offer(job(session, number, WRITE, party="many", group=group))
    for number in range(3):
        batch = admission.take_ready(float(number))
        assert len(batch) == 4
        for change in batch:
            admission.finish(change, number + 1.0)


def test_two_agents_that_change_one_thing_after_the_other_never_rest() -> None:
    """And are in one batch, where both wait: what there is is theirs, as without a company."""
    admission = make(batch=4)
    now_s = 0.0
    for number in range(50):
        for party in ("a", "b"):
            admission.offer(job(party, number, WRITE, party=party, group=party))
        batch = admission.take_ready(now_s)
        assert [change.party for change in batch] == ["a", "b"], number
        now_s += 0.4
        for change in batch:
            admission.finish(change, now_s)

    admission = make(batch=4)
    for number in range(50):  # and in turns
        party = "ab"[number % 2]
        admission.offer(job(party, number, WRITE, party=party, group=party))
        (change,) = admission.take_ready(now_s)
        assert change.party == party, number
        now_s += 0.4
        admission.finish(change, now_s)
        assert not admission.held


def test_who_has_asked_for_nothing_lately_has_no_more_than_its_part_either() -> None:
    """Not at once, nor where its calls have run for long while somebody else asks."""
    admission = make(readers=4, batch=4)
    now_s = 0.0

    def one_asks(ordinal: int) -> None:
        admission.offer(job("one", ordinal, party="one"))
        (query,) = [one for one in admission.take_ready(now_s) if one.party == "one"]
        admission.finish(query, now_s)

    one_asks(0)
    for number in range(10):
        admission.offer(job(f"reads{number}", 0, party="reads"))
        admission.offer(job(f"writes{number}", 0, WRITE, party="writes", group=str(number)))
    admission.take_ready(0.5)
    running = Counter(one.party for one in admission.running)
    assert running == {"reads": 1, "writes": 2}, "a third of the readers, two changes"
    for ordinal in range(1, 10):
        now_s = 0.5 * ordinal
        one_asks(ordinal)
        assert Counter(one.party for one in admission.running)["reads"] <= 2


def started_at(admission: Admission, now_s: float, until_s: float) -> dict[float, list[Job]]:
    """Return what starts until then where nothing happens: when `wake_s` says, and only then."""
    started = {}
    while admission.held and admission.wake_s <= until_s:
        assert admission.wake_s > now_s, "it asks again at once, for ever"
        now_s = admission.wake_s
        started[now_s] = admission.take_ready(now_s)
    return started


def test_readers_that_nobody_else_asks_for_any_more_are_not_left_idle() -> None:
    """Nothing else would tell a party whose calls run for long that it is alone now."""
    admission = make(readers=4)
    admission.offer(job("one", 0, party="one"))
    (query,) = admission.take_ready(0.0)
    for number in range(6):
        admission.offer(job(f"many{number}", 0, party="many"))
    assert len(admission.take_ready(0.1)) == 2
    admission.finish(query, 0.5)
    assert admission.take_ready(0.5) == []

    started = started_at(admission, 0.5, 60.0)
    assert [(when, len(jobs)) for when, jobs in started.items() if jobs] == [(1.5, 2)]
    assert not admission.held, "all slots are its own"


def test_who_has_its_part_of_a_batch_is_told_of_its_end_and_asks_no_clock() -> None:
    admission = make(batch=4)
    admission.offer(job("one", 0, party="one"))
    (query,) = admission.take_ready(0.0)
    admission.finish(query, 0.0)
    for number in range(CROWD + 2):
        admission.offer(job(f"many{number}", 0, WRITE, party="many", group=str(number)))
    assert len(admission.take_ready(0.1)) == 2
    assert not admission.held


@pytest.mark.parametrize(
    ("took_s", "until_s"),
    [(0.3, 0.6), (0.5, 1.0), (0.8, 1.0), (30.0, 30.0)],
    ids=["its rest is over", "both", "the other is silent", "the other was silent for long"],
)
def test_a_party_that_rests_is_woken_once_it_has_rested_or_is_alone(
    took_s: float, until_s: float
) -> None:
    admission = make(batch=4)
    admission.offer(job("one", 0, party="one"))
    (query,) = admission.take_ready(0.0)
    admission.finish(query, 0.0)
    for number in range(CROWD + 2):
        admission.offer(job(f"many{number}", 0, WRITE, party="many"))
    (first,) = admission.take_ready(0.0)
    admission.finish(first, took_s)
    now = admission.take_ready(took_s)
    assert bool(now) is (until_s == took_s)
    if not now:
        started = started_at(admission, took_s, 60.0)
        assert [(when, len(jobs)) for when, jobs in started.items()] == [(until_s, 1)]


def test_a_rest_ends_also_while_another_goes_on_asking() -> None:
    admission = make(batch=4)
    for party in ("one", "many"):
        admission.offer(job(party, 0, party=party))
    for query in admission.take_ready(0.0):
        admission.finish(query, 0.0)
    for number in range(CROWD + 2):
        admission.offer(job(f"many{number}", 0, WRITE, party="many"))
    (first,) = admission.take_ready(0.0)
    admission.offer(job("one", 1, party="one"))
    (query,) = admission.take_ready(8.9)
    admission.finish(query, 8.9)
    admission.finish(first, 9.0)
    now_s, ordinal = 9.0, 2
    while True:
        admission.offer(job("one", ordinal, party="one"))
        started = {one.party: one for one in admission.take_ready(now_s)}
        if "many" in started:
            break
        assert now_s < 10.2, "it rests for ever"
        admission.finish(started["one"], now_s)
        now_s, ordinal = now_s + 0.1, ordinal + 1


def test_the_brokers_own_work_is_no_company() -> None:
    admission = make(readers=2)
    admission.offer(job("own", 0, WRITE, own=True))
    (own,) = admission.take_ready(0.0)
    admission.finish(own, 0.1)
    for number in range(2):
        admission.offer(job(f"many{number}", 0, party="many"))
    assert len(admission.take_ready(0.2)) == 2


def test_one_partys_polls_leave_slots_for_others() -> None:
    admission = make()
    for number in range(3):
        admission.offer(job("a", number, POLL))
    assert keys(admission.take_ready()) == [("a", 0), ("a", 1)]

    admission.offer(job("b", 0, POLL))
    admission.offer(job("b", 1, POLL))
    admission.offer(job("c", 0, POLL))
    admission.offer(job("d", 0, POLL))

    extra = admission.take_ready()
    assert keys(extra) == [("b", 0), ("c", 0)], "beyond the lane, for those who have none in it"
    admission.finish(extra[0])
    assert keys(admission.take_ready()) == [("d", 0)], "in turns"


def test_polls_of_one_partys_many_sessions_leave_slots_for_others() -> None:
    admission = make()
    sizes = (4, 2, 1, 1, 1)  # each holds less than half of what the one before does
    for number, count in enumerate(sizes * 3):
        for ordinal in range(count):
            admission.offer(job(f"a{number}", ordinal, POLL, party="a"))
        admission.take_ready()

    admission.offer(job("b", 0, POLL))

    assert keys(admission.take_ready()) == [("b", 0)]


def test_a_waiting_party_that_is_removed_has_no_turn_left() -> None:
    admission = make(readers=1)
    for session in "abc":
        admission.offer(job(session, 0))
    admission.cancel("a", 0)
    admission.offer(job("a", 1))

    (first,) = admission.take_ready()
    assert first.session == "b"
    assert admission.cancel("c", 0) is not None
    assert admission.waiting == 1
    admission.finish(first)
    assert keys(admission.take_ready()) == [("a", 1)]
    assert admission._asked == {}


def test_draining_admits_nothing_and_lets_the_admitted_run() -> None:
    admission = make()
    admission.offer(job("a", 0, WRITE))
    admission.draining = True

    assert admission.offer(job("a", 1)) is Offer.DRAINING
    assert keys(admission.take_ready()) == [("a", 0)]


def test_a_cancelled_job_that_waits_is_removed() -> None:
    admission = make()
    admission.offer(job("a", 0, WRITE))
    admission.offer(job("a", 1, WRITE))
    started = admission.take_ready()

    cancelled = admission.cancel("a", 1)

    assert cancelled is not None
    assert cancelled.cancelled
    assert not admission.is_running("a", 1)
    assert admission.waiting == 0
    admission.finish(started[0])
    assert not admission.busy


def test_a_cancelled_job_that_runs_no_longer_holds_its_session_up() -> None:
    admission = make()
    mine = job("a", 0, MINE)
    admission.offer(mine)
    admission.offer(job("a", 1))
    admission.take_ready()

    assert admission.cancel("a", 0) is mine
    assert admission.is_running("a", 0)
    assert keys(admission.take_ready()) == [("a", 1)]
    assert admission.cancel("a", 0) is mine
    admission.finish(mine)


def test_a_job_that_runs_is_asked_to_stop_and_goes_on_as_it_was() -> None:
    admission = make()
    running = job("a", 0, MINE)
    admission.offer(running)
    admission.take_ready()

    admission.stop("a", 0)
    admission.stop("b", 0)  # which is not there

    assert running.stopping
    assert not running.cancelled
    assert admission.is_running("a", 0)


def test_cancelling_what_is_not_there_is_nothing() -> None:
    admission = make()

    assert admission.cancel("a", 0) is None
    admission.offer(job("a", 0))
    assert admission.cancel("a", 7) is None


def test_jobs_past_their_deadline_are_taken_out() -> None:
    admission = make()
    admission.ready = False
    admission.offer(job("a", 0, deadline_s=5.0))
    admission.offer(job("a", 1, deadline_s=9.0))

    assert keys(admission.expire(5.0)) == [("a", 0)]
    assert keys(admission.withdraw()) == [("a", 1)]
    assert not admission.busy


def test_a_drain_takes_out_long_polls_and_lets_others_run() -> None:
    admission = make()
    admission.ready = False
    for ordinal, tool in enumerate((READ, TOOLS["mempalace_event_wait"], WRITE)):
        admission.offer(job("a", ordinal, tool))

    assert keys(admission.withdraw(only=Lane.POLL)) == [("a", 1)]
    admission.ready = True
    assert keys(admission.take_ready()) == [("a", 0)]


@settings(max_examples=300)
@given(st.data())
def test_no_lane_overflows_no_order_is_broken_and_nothing_is_lost(data: st.DataObject) -> None:
    admission = make(queue_depth_max=20, session_depth_max=6, batch=data.draw(st.integers(1, 3)))
    capacity = admission.capacity
    ordinals: Counter[str] = Counter()
    alive: dict[tuple[str, int], Job] = {}
    running: dict[tuple[str, int], Job] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["offer", "offer", "finish", "cancel"]))
        if step == "offer":
            session = data.draw(st.sampled_from("abc"))
            tool = data.draw(st.sampled_from([WRITE, WRITE, *TOOLS.values()]))
            group = data.draw(st.sampled_from(["", "x", "y"])) if tool is WRITE else ""
            item = job(session, ordinals[session], tool, group=group)
            if admission.offer(item) is Offer.ADMITTED:
                ordinals[session] += 1
                alive[item.key] = item
        elif step == "finish" and running:
            key = data.draw(st.sampled_from(sorted(running)))
            admission.finish(running.pop(key))
            del alive[key]
        elif step == "cancel" and alive:
            key = data.draw(st.sampled_from(sorted(alive)))
            assert admission.cancel(*key) is alive[key]
            if key not in running:
                del alive[key]
        for item in admission.take_ready():
            earlier = [other for other in alive.values() if _before(other, item)]
            ordered = [other for other in earlier if other.tool.lane is not Lane.POLL]
            assert all(other.key in running for other in ordered), "out of order"
            counted = [other for other in ordered if not other.cancelled]
            assert not any(other.exclusive for other in counted)
            if item.exclusive:
                assert not counted
            running[item.key] = item
        _check_batch([item for item in running.values() if item.tool.lane is Lane.WRITER])
        for lane in Lane:
            inside = sum(item.tool.lane is lane for item in running.values())
            assert (
                admission.in_lane(lane)
                == inside
                <= capacity[lane] + admission.slots[lane].parties.reserve
            )
        assert admission.waiting == len(alive) - len(running)

    for _ in range(200):
        for item in tuple(running.values()):
            admission.finish(item)
            del alive[item.key]
        running = {item.key: item for item in admission.take_ready()}
    assert not alive
    assert not admission.busy
    assert admission._queues == {}


def _check_batch(writers: list[Job]) -> None:
    """One call, or several with keys of their own, none of the same session."""
    if len(writers) > 1:
        assert "" not in (groups := {item.group for item in writers})
        assert len(groups) == len(writers)
        counted = [item.session for item in writers if not item.cancelled]
        assert len(set(counted)) == len(counted)


def _before(other: Job, item: Job) -> bool:
    return other.session == item.session and other.ordinal < item.ordinal


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_tool_has_a_lane_that_fits_it(kind: Kind) -> None:
    lanes = {tool.lane for tool in TOOLS.values() if tool.kind is kind}

    expected = {
        Kind.QUERY: {Lane.READER, Lane.POLL, Lane.WRITER},
        Kind.MUTATION: {Lane.WRITER, Lane.BULK, Lane.LONG},
        Kind.EXTERNAL: {Lane.WRITER},
    }
    assert lanes == expected[kind]


def test_a_call_that_waits_keeps_an_owner_busy() -> None:
    admission = make()
    admission.ready = False
    assert not admission.busy

    admission.offer(job("a", 0))

    assert admission.busy
    admission.cancel("a", 0)
    assert not admission.busy


def test_a_long_poll_that_nobody_waits_for_any_more_keeps_no_owner_busy() -> None:
    admission = make()
    poll = job("a", 0, POLL)
    admission.offer(poll)
    admission.take_ready()

    assert admission.busy
    admission.cancel("a", 0)
    assert not admission.busy
    admission.finish(poll)


def test_a_long_poll_that_waits_for_its_lane_holds_nothing_up() -> None:
    admission = make()
    for session in ("p", "q"):
        admission.offer(job(session, 0, POLL))
    admission.offer(job("a", 0, POLL))
    admission.offer(job("a", 1, WRITE))

    assert keys(admission.take_ready()) == [("p", 0), ("q", 0), ("a", 1)]


LIST = TOOLS["mempalace_list_drawers"]
FACT = TOOLS["mempalace_kg_add"]


def test_while_the_model_is_pending_only_what_embeds_waits() -> None:
    admission = make(readers=4)
    admission.model_pending = True
    for item in (job("a", 0, WRITE), job("b", 0, FACT), job("c", 0, READ), job("c", 1, LIST)):
        admission.offer(item)

    started = admission.take_ready()
    assert keys(started) == [("b", 0), ("c", 1)]
    for item in started:
        admission.finish(item)
    admission.model_pending = False
    assert sorted(keys(admission.take_ready())) == [("a", 0), ("c", 0)]


def test_no_change_passes_a_query_that_waits_for_the_model() -> None:
    admission = make()
    admission.model_pending = True
    for ordinal, tool in enumerate((READ, LIST, FACT, LIST)):
        admission.offer(job("a", ordinal, tool))
    for ordinal, tool in enumerate((WRITE, LIST)):
        admission.offer(job("b", ordinal, tool))

    (first,) = admission.take_ready()
    assert first.key == ("a", 1)
    admission.finish(first)
    assert admission.take_ready() == []


def test_without_an_engine_a_copy_answers_queries_and_nothing_else() -> None:
    admission = make()
    admission.ready, admission.reading = False, True
    for session, tool in {"a": WRITE, "b": READ, "c": POLL, "d": MINE}.items():
        admission.offer(job(session, 0, tool))

    assert keys(admission.take_ready()) == [("b", 0)]
    admission.ready = True
    assert {session for session, _ in keys(admission.take_ready())} == {"a", "c", "d"}


def test_a_query_waits_for_the_change_before_it_also_where_a_copy_could_answer_it() -> None:
    admission = make()
    admission.ready, admission.reading = False, True
    for ordinal, tool in enumerate((READ, POLL, READ, WRITE, READ)):
        admission.offer(job("a", ordinal, tool))

    assert keys(admission.take_ready()) == [("a", 0), ("a", 2)]
    for started in admission.running:
        admission.finish(started)
    assert admission.take_ready() == []
    assert keys(admission.withdraw(keep_readable=True)) == [("a", 1), ("a", 3)]
    assert keys(admission.take_ready()) == [("a", 4)]


def test_nothing_of_a_session_begins_that_leaves_its_replies_unread() -> None:
    admission = make()
    admission.offer(job("deaf", 0))
    admission.offer(job("other", 0))
    admission.choked.add("deaf")

    assert keys(admission.take_ready()) == [("other", 0)]
    assert admission.is_waiting("deaf", 0)
    admission.choked.discard("deaf")
    assert keys(admission.take_ready()) == [("deaf", 0)]
    assert not admission.is_waiting("deaf", 0)
    assert not admission.is_waiting("nobody", 0)
