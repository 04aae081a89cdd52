"""What the journal says of the present, folded from all records or from a header and the rest."""

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palace.journal import tail as tails
from palace.journal.record import (
    ABORT,
    ADOPT,
    ADOPTION,
    ATTEMPT,
    CHECKPOINT,
    DELETE,
    LEAVE,
    OUTCOME,
    PURGED,
    PUT,
    QUARANTINE,
    SEGMENT,
    STATE,
    UNDO,
    UNIT,
    Draft,
)
from palace.journal.schema import header_problem
from palace.journal.tail import EPOCHS_KEPT, OUTCOMES_MAX, Adopting, Tail, Touched, split_key

Step = Callable[[Tail], None]


class Fold:
    """A tail with its next seq, so that drafts alone can be told."""

    def __init__(self, tail: Tail | None = None) -> None:
        self.tail = tail or Tail()

    def tell(self, *drafts: Draft, epoch: int = 1) -> Tail:
        for draft in drafts:
            self.tail.note(draft, self.tail.seq + 1, epoch)
        return self.tail


def put(key: str, ident: str, after: Any, before: Any = None) -> Draft:
    return Draft(action=PUT, key=key, kind="k", id=ident, payload=after, before=before)


def delete(key: str, ident: str, before: Any) -> Draft:
    return Draft(action=DELETE, key=key, kind="k", id=ident, deleted=True, before=before)


def back(action: str, ident: str, payload: Any, key: str = "") -> Draft:
    deleted = payload is None
    return Draft(action=action, key=key, kind="k", id=ident, payload=payload, deleted=deleted)


def end(key: str, action: str = OUTCOME, **payload: Any) -> Draft:
    return Draft(action=action, key=key, payload=payload)


def facts(tail: Tail) -> dict[str, Any]:
    found = attrs.asdict(tail)
    found["epoch"] = tail.epoch
    del found["settled"]  # of this owner's life alone: a later one reads it in the journal
    return found


# The same, from a header.

keys = st.sampled_from(["s:0", "s:1", "s:2", "t:7", "own-1-1", ""])
idents = st.sampled_from("xyz")
payloads = st.sampled_from([1, "two", {"three": 3}, [4]])
fingerprints = st.integers(1, 9).map(lambda n: {"store": n})
looks = st.one_of(
    st.fixed_dictionaries({}, optional={"at": fingerprints}),
    st.fixed_dictionaries(
        {
            "so_far": st.builds(
                lambda at, n: {"at": at, "since": n, "total": 9}, fingerprints, st.integers(0, 9)
            )
        }
    ),
)
drafts = st.one_of(
    st.builds(put, keys, idents, payloads, st.none() | payloads),
    st.builds(delete, keys, idents, payloads),
    st.builds(back, st.sampled_from([UNDO, ADOPT]), idents, st.none() | payloads, keys),
    st.builds(back, st.just(ADOPT), idents, payloads, st.just(ADOPTION)),
    st.builds(lambda key, at: end(key, reply=f"r{key}", **at), keys, looks),
    st.builds(
        lambda key, action, at: end(key, action, **at), keys, st.sampled_from([UNIT, STATE]), looks
    ),
    st.builds(end, keys, st.just(ABORT)),
    st.builds(end, keys, st.sampled_from([ATTEMPT, QUARANTINE])),
    st.builds(end, st.just(""), st.just(LEAVE)),
    st.builds(back, st.just(PURGED), idents, st.none()),
)
others = st.one_of(
    st.tuples(st.just("acknowledge"), st.sampled_from("st"), st.integers(0, 9)),
    st.tuples(st.just("end_session"), st.sampled_from("st"), st.just(0)),
    st.tuples(st.just("epoch"), st.just(""), st.sampled_from([1, 2, EPOCHS_KEPT + 1])),
)


def _follow(tail: Tail, script: list[Any], epoch: int) -> int:
    """Let a tail follow a script; return the epoch at its end."""
    for step in script:
        if isinstance(step, Draft):
            tail.note(step, tail.seq + 1, epoch)
        elif step[0] == "acknowledge":
            tail.acknowledge(step[1], step[2])
        elif step[0] == "end_session":
            tail.end_session(step[1])
        else:
            epoch += step[2]
            tail.forget_old_sessions(epoch)
    return epoch


@settings(max_examples=150, deadline=None)
@given(before=st.lists(drafts | others, max_size=25), after=st.lists(drafts | others, max_size=15))
def test_a_tail_from_a_header_is_the_tail_of_all(before: list[Any], after: list[Any]) -> None:
    whole = Tail()
    epoch = _follow(whole, before, 1)
    header = json.loads(json.dumps(whole.header()))

    part = Tail.from_header(header, whole.seq, whole.epoch)

    assert facts(part) == facts(whole)
    assert _follow(part, after, epoch) == _follow(whole, after, epoch)
    assert facts(part) == facts(whole)
    assert json.loads(json.dumps(part.header())) == json.loads(json.dumps(whole.header()))


@settings(max_examples=150, deadline=None)
@given(script=st.lists(drafts, max_size=20), data=st.data())
def test_records_that_are_repeated_after_their_header_count_once(
    script: list[Draft], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(script)))
    known = data.draw(st.integers(first, len(script)))
    whole, part = Tail(), Tail()
    _follow(part, script[:known], 1)
    part = Tail.from_header(json.loads(json.dumps(part.header())), first, part.epoch)

    _follow(whole, script, 1)
    for seq, draft in enumerate(script[first:], first + 1):
        part.note(draft, seq, 1)

    assert facts(part) | {"epoch": 1} == facts(whole) | {"epoch": 1}


def test_a_header_of_before_is_read_on_from_its_own_place() -> None:
    header = Tail(seq=4).header()
    del header["seq"]

    assert Tail.from_header(header, 8, 2).seq == 8


# Open keys and what was touched.


def test_a_key_is_open_from_its_first_change_to_its_end() -> None:
    for action in (OUTCOME, UNIT, ABORT, STATE):
        fold = Fold()
        first, second = put("s:1", "x", 1), delete("s:1", "y", 2)
        assert fold.tell(first, second, put("s:2", "z", 1)).open["s:1"] == [first, second]
        assert list(fold.tell(end("s:1", action)).open) == ["s:2"]
    assert not Fold().tell(back(UNDO, "x", 1, "s:1"), back(ADOPT, "x", 1, "s:1")).open


def test_what_was_touched_is_told_from_the_base_on() -> None:
    fold = Fold()
    assert not fold.tell(put("s:1", "x", 1), end("s:1", reply="")).touched, "there is no base yet"

    tail = fold.tell(end("", STATE, at={"a": 1}), put("s:2", "x", 2, 1), put("s:2", "x", 3, 2))

    assert (tail.baseline, tail.baseline_seq) == ({"a": 1}, 3)
    assert tail.touched == {("k", "x"): Touched(1, 3)}
    fold.tell(delete("s:2", "x", 3), back(ADOPT, "y", 5), back(UNDO, "z", None))
    assert tail.touched[("k", "x")] == Touched(1, None)
    assert tail.touched[("k", "y")] == Touched(5, 5)
    assert tail.touched[("k", "z")] == Touched(None, None)
    fold.tell(end("s:2", reply=""))
    assert len(tail.touched) == 3
    fold.tell(end("", UNIT, at={"a": 2}))
    assert (tail.touched, tail.baseline, tail.baseline_seq) == ({}, {"a": 2}, 10)


def test_attempts_end_with_an_outcome_alone() -> None:
    fold = Fold()
    attempt = end("s:1", ATTEMPT)

    assert fold.tell(attempt, end("s:1", ABORT), attempt).attempts == {"s:1": 2}
    assert fold.tell(end("s:1", reply="")).attempts == {}
    assert fold.tell(Draft(action=QUARANTINE, key="s:2", payload="bad")).quarantined == {
        "s:2": "bad"
    }


def test_headers_and_what_is_not_ours_change_nothing() -> None:
    fold = Fold()
    fold.tell(put("s:1", "x", 1))
    before = facts(fold.tail)

    fold.tail.note(Draft(action=SEGMENT, payload={}), 1, 1)
    assert facts(fold.tail) == before
    fold.tell(Draft(action=CHECKPOINT, payload={}), back(PURGED, "x", None, "s:1"))
    assert facts(fold.tail) == before | {"seq": 3}


# Outcomes.


def test_a_reply_is_known_until_it_is_settled() -> None:
    fold = Fold()
    tail = fold.tell(*(end(f"s:{n}", reply=f"r{n}") for n in range(4)), end("t:1", reply="other"))
    tail.acknowledge("nobody", 3)
    tail.acknowledge("s", 2)
    tail.acknowledge("s", 1)

    assert [tail.reply("s", n) for n in range(5)] == [None, None, "r2", "r3", None]
    assert [tail.is_forgotten("s", n, 1) for n in range(5)] == [True, True, False, False, False]
    assert tail.reply("t", 1) == "other"
    assert tail.reply("nobody", 1) is None
    tail.end_session("s")
    tail.end_session("nobody")
    assert tail.reply("s", 3) is None
    assert not tail.is_forgotten("s", 3, 1)


def test_a_key_of_our_own_has_no_reply() -> None:
    tail = Fold().tell(end("own-1-2", reply="x"), end("", reply="x"), end(":3", reply="x"))

    assert tail.replies == {}
    assert [split_key(key) for key in ("s:1", "a:b:22", "own-1-2", ":1", "s:", "s:x", "")] == [
        ("s", 1),
        ("a:b", 22),
        *[None] * 5,
    ]


def test_of_one_session_only_so_many_outcomes_are_kept() -> None:
    fold = Fold()
    for ordinal in range(OUTCOMES_MAX):
        fold.tell(end(f"s:{ordinal}", reply=str(ordinal)))
    tail = fold.tell(end("t:0", reply=""))
    assert tail.reply("s", 0) == "0"

    fold.tell(end(f"s:{OUTCOMES_MAX}", reply="new"))

    assert len(tail.replies["s"].texts) == OUTCOMES_MAX
    assert (tail.reply("s", 0), tail.is_forgotten("s", 0, 1)) == (None, True)
    assert (tail.reply("s", 1), tail.is_forgotten("s", 1, 1)) == ("1", False)
    assert tail.reply("t", 0) == ""


def test_the_session_whose_outcomes_are_largest_loses_its_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tails, "OUTCOME_CHARS_MAX", 100)
    monkeypatch.setattr(tails, "SESSIONS_MAX", 10)
    fold = Fold()
    fold.tell(*(end(f"small:{n}", reply="x" * 5) for n in range(2)))
    fold.tell(*(end(f"medium:{n}", reply="x" * 10) for n in range(3)))
    tail = fold.tell(*(end(f"large:{n}", reply="y" * 20) for n in range(3)))
    assert tail.reply("large", 0) is not None, "100 characters in all"

    fold.tell(end("large:3", reply="y" * 20))

    assert sum(len(text) for held in tail.replies.values() for text in held.texts.values()) == 100
    assert len(tail.replies["medium"].texts) == 3
    assert (tail.reply("large", 0), tail.is_forgotten("large", 0, 1)) == (None, True)
    assert (tail.reply("large", 1), tail.is_forgotten("large", 1, 1)) == ("y" * 20, False)
    assert (tail.reply("small", 0), tail.is_forgotten("small", 0, 1)) == ("x" * 5, False)

    fold.tell(end("large:4", reply="z" * 500))

    assert list(tail.replies["large"].texts) == [4], "the newest one stays, whatever its length"
    assert len(tail.replies["small"].texts) == 2
    tail.acknowledge("large", 5)
    assert tail.replies["large"].chars == 0


def test_a_session_that_never_comes_again_is_forgotten_after_many_epochs() -> None:
    fold = Fold()
    fold.tell(end("old:1", reply="a"), epoch=1)
    tail = fold.tell(end("new:1", reply="b"), epoch=5)
    tail.forget_old_sessions(1 + EPOCHS_KEPT)
    assert (tail.reply("old", 1), tail.horizon) == ("a", 0)

    tail.forget_old_sessions(2 + EPOCHS_KEPT)

    assert (tail.reply("old", 1), tail.reply("new", 1), tail.horizon) == (None, "b", 2)
    assert tail.is_forgotten("old", 1, 1)
    assert not tail.is_forgotten("old", 1, 2), "what was sent later would be known"
    assert tail.is_forgotten("old", 1, 0), "nobody knows when it was sent"
    assert tail.is_forgotten("new", 2, 1)
    assert not tail.is_forgotten("new", 2, 5)


def test_where_records_are_missing_no_outcome_is_believed() -> None:
    fold = Fold()
    tail = fold.tell(end("s:1", reply="a"), epoch=3)
    assert tail.gaps == 0
    tail.note(end("s:3", reply="c"), 5, 3)
    assert tail.gaps == 1

    tail.forget_sessions(4)

    assert tail.reply("s", 1) is None
    assert tail.is_forgotten("s", 2, 3)
    assert not tail.is_forgotten("s", 2, 4)


@pytest.mark.parametrize("upto", [0, 1, 3])
def test_the_number_of_outcomes_counts_what_is_kept(upto: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "OUTCOMES_MAX", 3)
        fold = Fold()
        tail = fold.tell(*(end(f"s:{n}", reply="") for n in range(3)))
        tail.acknowledge("s", upto)
        fold.tell(end("s:3", reply=""))

    assert tail.replies["s"].forgotten == max(upto, 1)


def test_take_backs_that_ended_count_no_longer_while_deaths_do() -> None:
    tail = Tail()
    seq = 0
    for _ in range(3):
        for action in ("put", "attempt", "abort"):
            seq += 1
            entity: dict[str, Any] = {"kind": "k", "id": "i"} if action == "put" else {}
            tail.note(Draft(action=action, key="s:1", payload={}, **entity), seq, 1)

    assert tail.attempts == {"s:1": 3}
    assert tail.tries == {}


def test_an_owner_that_was_told_to_leave_did_not_die_of_what_it_cut_off() -> None:
    fold = Fold()
    begun, attempt, abort = put("s:1", "i", 1), end("s:1", ATTEMPT), end("s:1", ABORT)

    fold.tell(begun, end("", LEAVE))
    assert fold.tell(attempt, epoch=2).attempts == {}
    assert fold.tell(attempt, epoch=3).attempts == {"s:1": 1}, "it died while it took that back"
    assert fold.tell(abort, begun, epoch=3).tries == {}
    assert fold.tell(attempt, epoch=4).attempts == {"s:1": 2}, "nor was this one told to leave"


def test_an_owner_that_left_while_it_took_a_key_back_did_not_die_of_that() -> None:
    fold = Fold()
    fold.tell(put("s:1", "i", 1), put("s:2", "j", 1))
    fold.tell(end("s:2", ATTEMPT), end("", LEAVE), epoch=2)

    tail = fold.tell(end("s:2", ATTEMPT), end("s:1", ATTEMPT), epoch=3)

    assert tail.attempts == {"s:1": 1, "s:2": 1}, "the first one died of either"
    assert tail.tries == {"s:1": 1, "s:2": 1}
    assert fold.tell(end("s:2", ATTEMPT), epoch=4).tries["s:2"] == 2


def test_owners_that_left_are_known_for_as_long_as_something_of_theirs_is_open() -> None:
    fold = Fold()
    fold.tell(put("s:1", "i", 1), put("s:2", "j", 1), end("", LEAVE))
    fold.tell(end("s:1", ATTEMPT), end("", LEAVE), epoch=2)

    tail = fold.tell(end("s:1", ATTEMPT), end("s:2", ATTEMPT), epoch=3)

    assert tail.attempts == {}
    fold.tell(end("s:1", ABORT), end("s:2", ABORT), end("", LEAVE), epoch=3)
    assert tail.left == {3}


def test_a_header_of_a_version_that_told_no_leave_is_read() -> None:
    old = Tail().header()
    del old["left"], old["holders"]

    assert not header_problem(old)
    assert not Tail.from_header(old, 1, 1).left


# A palace that is being adopted.


def so_far(since: Any = 3, total: Any = 9) -> dict[str, Any]:
    return {"so_far": {"at": {"store": 1}, "since": since, "total": total}}


def test_a_session_that_made_room_for_others_is_not_taken_for_one_without_outcomes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tails, "SESSIONS_MAX", 2)
    fold = Fold()
    for epoch, session in enumerate(("a", "b", "c"), 5):
        fold.tell(Draft(action=OUTCOME, key=f"{session}:1", payload={"reply": "r"}), epoch=epoch)

    known = [fold.tail.reply(session, 1) for session in ("a", "b", "c")]
    assert known == [None, "r", "r"]
    assert fold.tail.is_forgotten("a", 1, 5)
    assert not fold.tail.is_forgotten("b", 1, 6)


def test_a_pause_lasts_until_a_closing_record_compares_again() -> None:
    paused = Tail(paused=True)
    assert Tail.from_header(paused.header(), 0, 1).paused
    assert not Tail.from_header(Tail().header(), 0, 1).paused

    fold = Fold(paused)
    fold.tell(Draft(action=OUTCOME, key="s:1", payload={"reply": "r"}))
    assert paused.paused, "it says nothing of the stores"
    fold.tell(Draft(action=STATE, payload={"at": {"store": 1}}))
    assert not paused.paused


def test_what_was_written_after_an_adoption_began_is_settled() -> None:
    whole, adopted = Tail(), Tail(adopting=Adopting(since=7, total=9))

    assert [whole.is_settled(seq) for seq in (1, 7, 8)] == [True, True, True]
    assert [adopted.is_settled(seq) for seq in (1, 7, 8)] == [False, False, True]


def test_an_adoption_lasts_until_a_closing_record_says_that_all_is_there() -> None:
    fold = Fold()
    tail = fold.tell(end("", STATE, **so_far()), put("s:1", "x", 2, 1))
    assert tail.adopting == Adopting(since=3, total=9)
    assert tail.settled == {("k", "x")}
    assert tail.fingerprints_as({"store": 2}) == {
        "so_far": {**so_far()["so_far"], "at": {"store": 2}}
    }
    fold.tell(end("s:1"), back(ADOPT, "y", 1, ADOPTION))
    assert ("k", "y") not in tail.touched, "the store holds it as the fingerprint says"
    fold.tell(end("", STATE, at={"store": 3}))
    assert tail.adopting is None
    assert not tail.settled
    assert tail.fingerprints_as({"store": 4}) == {"at": {"store": 4}}


@pytest.mark.parametrize("wrong", [so_far(since=-1), so_far(total="9"), {"so_far": []}])
def test_what_no_palace_says_of_an_adoption_says_nothing(wrong: dict[str, Any]) -> None:
    tail = Fold().tell(end("", STATE, **wrong))
    assert tail.baseline is None
    assert tail.adopting is None
