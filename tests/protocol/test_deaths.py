"""Which ends are deaths, and of what: the machine behind the canary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palace.protocol import deaths, wire
from palace.protocol.deaths import Seen, Witness
from palace.protocol.lifecycle import Reason

DEAD = Seen(alive=False)


def said(*words: str) -> bytes:
    """Return what an owner writes: "kind" or "kind value"."""
    names = {deaths.LEAVING: "reason", deaths.LEFT: "reason", deaths.CLAIM: "cause"}
    lines = []
    for word in words:
        kind, _, value = word.partition(" ")
        fields = {"pid": "7", "start_time": "9"} if kind == deaths.ARMED else {}
        fields |= {names[kind]: value} if kind in names else {}
        lines.append(wire.encode_header(kind, fields))
    return b"".join(lines)


def after(*words: str) -> Witness:
    witness = Witness()
    witness.hear(said(*words))
    witness.ended(100.0)
    return witness


SERVED = ("armed", "serving")


@pytest.mark.parametrize("reason", [reason.value for reason in Reason])
def test_whatever_made_it_leave_an_owner_that_has_left_is_no_death(reason: str) -> None:
    witness = after(*SERVED, f"leaving {reason}", f"left {reason}")

    assert witness.is_dismissed
    assert witness.judge(DEAD) == (deaths.SILENT, "")


@pytest.mark.parametrize(
    ("words", "seen", "cause"),
    [
        ((), DEAD, deaths.VANISHED),
        (("leaving stop",), DEAD, deaths.DIED_LEAVING),
        (("claim watchdog",), DEAD, deaths.WATCHDOG),
        (("claim crashed ValueError",), DEAD, deaths.CRASHED),
        (("leaving stop", "claim crashed ValueError"), DEAD, deaths.CRASHED),
        (("claim watchdog",), Seen(alive=False, oom_kills=1), deaths.WATCHDOG),
        ((), Seen(alive=False, timed_out=True), deaths.WATCHDOG),
        ((), Seen(alive=False, timed_out=True, oom_kills=3), deaths.WATCHDOG),
        ((), Seen(alive=False, oom_kills=1), deaths.OOM),
        ((), Seen(alive=False, stalled=50.1), deaths.OOM),
        ((), Seen(alive=False, stalled=50.0), deaths.VANISHED),
        (("leaving idle",), Seen(alive=False, oom_kills=1), deaths.OOM),
        (("claim something else",), DEAD, deaths.VANISHED),
        (("claim watchdog", "claim crashed ValueError"), DEAD, deaths.WATCHDOG),  # what came first
        (("claim crashed A", "claim watchdog"), DEAD, deaths.CRASHED),
        (("leaving stop",), Seen(alive=False, timed_out=True), deaths.WATCHDOG),
    ],
)
def test_each_death_has_the_cause_that_is_best_known(
    words: tuple[str, ...], seen: Seen, cause: str
) -> None:
    assert after(*SERVED, *words).judge(seen) == (deaths.DEATH, cause)


def test_a_signal_to_the_canary_dismisses_nothing_and_shows_a_sweep() -> None:
    witness = Witness()
    witness.hear(said(*SERVED))
    witness.signalled("TERM", 90.0)
    witness.hear(said("leaving stop"))  # the owner was told to leave, too, and did not come far
    witness.ended(100.0)

    assert not witness.is_dismissed
    assert witness.judge(DEAD) == (deaths.DEATH, deaths.SWEPT)
    assert witness.signals == "TERM:10.0s"


@pytest.mark.parametrize("at_s", [100.0 - deaths.SWEPT_S - 0.1, 100.5])
def test_a_signal_of_another_time_is_no_sweep(at_s: float) -> None:
    witness = Witness()
    witness.hear(said(*SERVED))
    if at_s < 100.0:
        witness.signalled("HUP", at_s)
    witness.ended(100.0)
    if at_s > 100.0:  # a service manager clears up what its main process has left behind
        witness.signalled("TERM", at_s)

    assert witness.judge(DEAD) == (deaths.DEATH, deaths.VANISHED)
    assert bool(witness.signals) == (at_s < 100.0)


@pytest.mark.parametrize("at_s", [100.0 - deaths.SWEPT_S, 100.0 - deaths.SWEPT_S + 0.1, 100.0])
def test_a_signal_within_the_minute_before_is_a_sweep(at_s: float) -> None:
    witness = Witness()
    witness.hear(said(*SERVED))
    witness.signalled("HUP", at_s)
    witness.ended(100.0)

    assert witness.judge(DEAD) == (deaths.DEATH, deaths.SWEPT)


def test_what_never_ends_is_kept_within_bounds() -> None:
    witness = Witness()
    for _ in range(40):
        witness.hear(b"x" * 10_000)
    assert len(witness._rest) <= deaths.HEARD_MAX
    witness.hear(b"\n" + said(*SERVED, "left stop"))

    assert witness.judge(DEAD) == (deaths.SILENT, "")


def test_signals_without_end_are_kept_within_bounds() -> None:
    witness = Witness()
    for number in range(1000):
        witness.signalled("TERM", float(number))
    witness.ended(1000.0)

    assert witness.signals.count("TERM") == 10


def test_a_lost_pipe_is_no_death() -> None:
    assert after(*SERVED).judge(Seen(alive=True)) == (deaths.LOST, "")


def test_one_that_died_before_it_served_is_told_apart() -> None:
    assert after("armed").judge(DEAD) == (deaths.UNSERVED, deaths.VANISHED)
    for words in ("claim crashed ValueError", "leaving failed"):
        assert after("armed", words).judge(DEAD)[0] == deaths.UNSERVED
    assert after().judge(DEAD) == (deaths.SILENT, "")


def test_half_a_word_is_not_believed() -> None:
    witness = Witness()
    witness.hear(said(*SERVED) + said("left stop")[:-1])
    witness.ended(1.0)

    assert witness.judge(DEAD) == (deaths.DEATH, deaths.VANISHED)


def test_what_is_not_understood_changes_nothing() -> None:
    witness = Witness()
    noise = b"left stop\npalace/1\npalace/1 future what=%zz\npalace/1 future a=b\n"
    witness.hear(said(*SERVED) + noise + b"x" * (2 * deaths.HEARD_MAX))
    witness.ended(1.0)

    assert witness.judge(DEAD) == (deaths.DEATH, deaths.VANISHED)


@given(data=st.data(), words=st.permutations(["leaving stop", "claim watchdog", "left stop"]))
def test_however_the_pipe_cuts_what_is_said_left_decides(
    data: st.DataObject, words: list[str]
) -> None:
    whole = said(*SERVED, *words)
    cut = data.draw(st.integers(0, len(whole)))
    kept = data.draw(st.integers(cut, len(whole)))
    witness = Witness()
    witness.hear(whole[:cut])
    witness.hear(whole[cut:kept])
    witness.ended(1.0)
    verdict, _ = witness.judge(DEAD)

    heard = whole[:kept].count(b"\n")
    has_left = words.index("left stop") + len(SERVED) < heard
    expected = deaths.UNSERVED if heard == 1 else deaths.DEATH
    assert verdict == (deaths.SILENT if has_left or not heard else expected)


@pytest.mark.parametrize(
    ("then", "now", "cause"),
    [
        ("a", "b", deaths.REBOOT),
        ("a", "a", deaths.UNWITNESSED),
        ("", "a", deaths.UNWITNESSED),
        ("a", "", deaths.UNWITNESSED),
    ],
)
def test_a_death_that_nobody_saw_is_a_reboot_or_unwitnessed(
    then: str, now: str, cause: str
) -> None:
    assert deaths.unwitnessed_cause(then, now=now) == cause
