"""What is kept of a remote that says more than there is room for."""

import pytest

from palace.engine.durability.candidate_room import fit
from palace.engine.stores.candidates import Size, says_of
from palace.protocol.federation import (
    CHANGED,
    DRAWER,
    Candidate,
    Entity,
    Position,
    accepted,
    digest_of,
)


def candidate(text: str) -> Candidate:
    says = {"text": text, "wing": "w", "room": "r"}
    return Candidate(kind=DRAWER, ident="x", at=Position(), digest=digest_of(says), says=says)


def size_of(text: str) -> int:
    return len(says_of(candidate(text)).encode())


def named(ident: str) -> Entity:
    return DRAWER, ident


FULL = Size(2, 2 * size_of("one"))


def test_what_is_new_is_left_out_of_a_full_remote_and_the_rest_is_not() -> None:
    known = {named("a"): candidate("one"), named("b"): candidate("one")}
    more = {named("c"): candidate("one"), named("a"): None, named("d"): candidate("one")}
    fitted = fit(more, known, FULL, FULL)
    assert dict(fitted.changes) == {named("a"): None, named("d"): candidate("one")}
    assert (fitted.left_out, fitted.size) == (1, FULL)


@pytest.mark.parametrize("most", [Size(2, 1 << 20), Size(9, FULL.bytes)])
def test_either_number_is_a_limit(most: Size) -> None:
    fitted = fit({named("c"): candidate("one")}, {}, FULL, most)
    assert (dict(fitted.changes), fitted.left_out, fitted.size) == ({}, 1, FULL)


def test_a_change_that_is_too_large_leaves_nothing_of_the_old_text() -> None:
    known = {named("a"): candidate("one")}
    fitted = fit({named("a"): candidate("much longer")}, known, FULL, FULL)
    assert dict(fitted.changes) == {named("a"): None}
    assert fitted.size == Size(1, size_of("one"))

    here = accepted(candidate("one"), "drawer_1")
    changed = accepted(candidate("one"), "drawer_1")
    wanted = Candidate(
        kind=DRAWER,
        ident="x",
        at=Position(),
        digest=digest_of({"text": "much longer"}),
        says={"text": "much longer than there is room for" * 9},
        decided=changed.decided,
        local="drawer_1",
    )
    full = Size(1, FULL.bytes)
    fitted = fit({named("a"): wanted}, {named("a"): here}, full, full)
    kept = fitted.changes[named("a")]
    assert kept is not None
    assert (kept.status, kept.says, kept.local) == (CHANGED, None, "drawer_1")
    assert (fitted.left_out, fitted.size) == (1, full)


def test_what_gets_smaller_is_taken_where_it_is_too_large_all_the_same() -> None:
    known = {named("a"): candidate("much longer")}
    most = Size(1, 10)
    fitted = fit({named("a"): candidate("one")}, known, Size(1, size_of("much longer")), most)
    assert dict(fitted.changes) == {named("a"): candidate("one")}
    assert (fitted.left_out, fitted.size) == (0, Size(1, size_of("one")))
    fitted = fit({named("a"): candidate("two")}, {named("a"): candidate("one")}, FULL, Size(1, 999))
    assert fitted.left_out == 0
