"""The one table that decides what becomes of a line that may have been carried out before."""

import itertools

import pytest

from palace.protocol.resend import CRASHES_MAX, Trace, Verdict, judge
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
