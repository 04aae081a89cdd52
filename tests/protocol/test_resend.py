"""The one table that decides what becomes of a line that may have been carried out before."""

import itertools

import pytest

from palace.engine.hosting.degraded import reopening
from palace.memory.reserved import refused_write
from palace.protocol.errors import Busy, Forbidden, OutcomeUnknown
from palace.protocol.principals import UNKNOWN_PRINCIPAL, Principal, refusal_of
from palace.protocol.resend import CRASHES_MAX, Trace, Verdict, in_doubt, judge, reason_of
from palace.protocol.resolver import Tree
from palace.protocol.tools import Kind

RUN, REPEAT, UNKNOWN, QUARANTINE = Verdict
ANY = (False, True)
FEW, MANY = range(CRASHES_MAX), range(CRASHES_MAX, CRASHES_MAX + 3)


@pytest.mark.parametrize(
    ("kinds", "maybe_ran", "kept", "recorded", "crashes", "verdict"),
    [
        (tuple(Kind), (False,), ANY, ANY, (*FEW, *MANY), RUN),
        ((Kind.QUERY,), ANY, ANY, ANY, (*FEW, *MANY), RUN),
        ((Kind.MUTATION, Kind.EXTERNAL), (True,), ANY, (True,), (*FEW, *MANY), REPEAT),
        ((Kind.EXTERNAL,), (True,), ANY, (False,), (*FEW, *MANY), UNKNOWN),
        ((Kind.MUTATION,), (True,), (False,), (False,), (*FEW, *MANY), UNKNOWN),
        ((Kind.MUTATION,), (True,), (True,), (False,), MANY, QUARANTINE),
        ((Kind.MUTATION,), (True,), (True,), (False,), FEW, RUN),
    ],
)
def test_every_line_has_its_verdict(
    kinds: tuple[Kind, ...],
    maybe_ran: tuple[bool, ...],
    kept: tuple[bool, ...],
    recorded: tuple[bool, ...],
    crashes: tuple[int, ...],
    verdict: Verdict,
) -> None:
    for kind, ran, *trace in itertools.product(kinds, maybe_ran, kept, recorded, crashes):
        kept_, recorded_, crashes_ = trace
        known = Trace(kept=bool(kept_), recorded=bool(recorded_), crashes=crashes_)
        assert judge(kind, maybe_ran=ran, trace=known) is verdict


def test_without_a_journal_nothing_is_known() -> None:
    assert [judge(kind, maybe_ran=True, trace=Trace()) for kind in Kind] == [RUN, UNKNOWN, UNKNOWN]
    assert [judge(kind, maybe_ran=False, trace=Trace()) for kind in Kind] == [RUN] * 3


def test_as_many_owners_may_die_as_the_recovery_allows() -> None:
    from palace.engine.durability import recovery

    assert recovery.CRASHES_MAX == CRASHES_MAX  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("It is full. Nothing was done; ask again later.", "It is full. Ask again later."),
        ("It was revoked. Nothing was done. Make another.", "It was revoked. Make another."),
        ("A link leads out of it. Nothing was read.", "A link leads out of it."),
        ("Move it away to begin anew; nothing was changed.", "Move it away to begin anew."),
        ("No. Nothing was stored; palace_x says which.", "No. palace_x says which."),
        ("Nothing was forgotten. See there.", " See there."),
        ("It says nothing of that.", "It says nothing of that."),
    ],
)
def test_a_reason_makes_no_claim_of_what_was_done(text: str, left: str) -> None:
    assert reason_of(Busy(text)) == left
    told = in_doubt("mempalace_add_drawer", Busy(text))
    assert isinstance(told, OutcomeUnknown)
    assert told.message.endswith(f" It was not begun again. {left}")
    assert "mempalace_add_drawer, which may or may not have been carried out" in told.message


@pytest.mark.parametrize(
    "text",
    [
        UNKNOWN_PRINCIPAL,
        refusal_of(Tree(), Principal("gone"), "mempalace_search"),
        refusal_of(Tree(), Principal("", confined=True, token="0" * 64), "mempalace_search"),
        refused_write("mempalace_add_drawer", {"wing": "ns.org.root"}),
        refused_write("mempalace_delete_drawer", {"drawer_id": "mem-1"}),
        reopening("the store is gone").message,
    ],
)
def test_no_refusal_that_may_come_to_one_that_ran_says_that_nothing_was_done(text: str) -> None:
    assert "othing was" in text
    assert "othing was" not in in_doubt("mempalace_add_drawer", Forbidden(text)).message
