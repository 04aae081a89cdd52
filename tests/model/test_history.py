"""The history checker finds what is broken, and lets pass what lost replies explain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.history import READ, Call, check


def change(name: str, reply: str = "ok", session: str = "s") -> Call:
    return Call(session=session, name=name, reply=reply)


def read(*saw: str, session: str = "s") -> Call:
    return Call(session=session, name="read", kind=READ, saw=frozenset(saw))


@pytest.mark.parametrize(
    ("calls", "applied"),
    [
        ([], []),
        ([change("a"), change("b")], ["a", "b"]),
        ([change("a", "unknown")], []),
        ([change("a", "unknown")], ["a"]),
        ([change("a", "refused"), read()], []),
        ([change("a", "unknown"), read("a"), change("b", "unknown"), read("a")], ["a"]),
        ([change("a", "unknown"), change("b", "unknown"), read("b")], ["b"]),
        ([change("a"), change("b", session="t"), read("a")], ["b", "a"]),
    ],
)
def test_good_histories_pass(calls: list[Call], applied: list[str]) -> None:
    assert check(calls, applied) == []


@pytest.mark.parametrize(
    ("calls", "applied", "words"),
    [
        ([change("a")], [], "acknowledged and is lost"),
        ([change("a")], ["a", "a"], "took effect 2 times"),
        ([change("a", "unknown")], ["a", "a"], "took effect 2 times"),
        ([change("a", "refused")], ["a"], "refused and took effect"),
        ([], ["a"], "nobody asked"),
        ([change("a"), change("b")], ["b", "a"], "before a"),
        ([change("a"), read()], ["a"], "its own change {a} is missing"),
        ([change("a", "unknown"), read("a")], [], "explains the store"),
        ([change("a", "unknown"), read(), read("a")], ["a"], "fits no way"),
        ([change("a", "unknown"), read("a"), read()], ["a"], "its own change {a} is missing"),
        ([change("a", "refused"), read("a")], [], "fits no way"),
        ([change("a"), read("a", "b")], ["a"], "fits no way"),
    ],
)
def test_broken_histories_are_found(calls: list[Call], applied: list[str], words: str) -> None:
    assert any(words in problem for problem in check(calls, applied))


@given(st.lists(st.sampled_from(["ok", "lost", "kept", "refused"]), max_size=6), st.data())
def test_whatever_happened_explains_itself(fates: list[str], data: st.DataObject) -> None:
    """A serial server with lost replies makes good histories; a doubled change a bad one."""
    calls, applied = [], []
    for number, fate in enumerate(fates):
        name = f"n{number}"
        calls.append(change(name, {"lost": "unknown", "kept": "unknown"}.get(fate, fate)))
        if fate in ("ok", "kept"):
            applied.append(name)
        calls.append(read(*applied))
    assert check(calls, applied) == []
    if applied:
        doubled = data.draw(st.sampled_from(applied))
        assert check(calls, [*applied, doubled])
