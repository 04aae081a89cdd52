"""`--fix`: listed first, each once, and one that fails stops no other."""

from palace.doctor.finding import ERROR, WARNING, Finding, Fix
from palace.doctor.mending import NOTHING, fixes_of, mend
from palace.doctor.report import screen
from palace.protocol.errors import LockHeld


def finding(fix: Fix | None) -> Finding:
    return Finding(level=WARNING, code="c", text="It is broken.", remedy="rm /x", fix=fix)


def test_all_is_listed_before_the_first_is_done_and_each_once() -> None:
    done: list[str] = []
    remove = Fix(text="remove /x", act=lambda: done.append("x"))
    make = Fix(text="make /y", act=lambda: done.append("y"))
    lines = mend(fixes_of([finding(remove), finding(make), finding(remove), finding(None)]))

    assert [next(lines), next(lines)] == ["to do: remove /x", "to do: make /y"]
    assert done == []
    assert [*lines] == ["done: remove /x", "done: make /y"]
    assert done == ["x", "y"]


def test_what_fails_is_told_with_its_reason_and_stops_no_other() -> None:
    def refuse() -> None:
        raise LockHeld("It is held.")

    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/z")

    fixes = [Fix(text="a", act=refuse), Fix(text="b", act=fail), Fix(text="c", act=lambda: None)]

    assert [*mend(fixes)][3:] == [
        "not done: a: It is held.",
        "not done: b: /z: Permission denied",
        "done: c",
    ]
    assert [*mend([])] == [NOTHING]


def test_the_report_says_which_finding_would_be_mended() -> None:
    with_fix = finding(Fix(text="remove /x", act=lambda: None))
    without = Finding(level=ERROR, code="e", text="No.", remedy="rm /y")

    shown = "\n".join(screen("/p", [with_fix, without]))

    assert "-> rm /x (or: palace doctor --fix)" in shown
    assert "-> rm /y\n" in shown
