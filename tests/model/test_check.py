"""The suite's own machinery: floors, broken jobs, and that nothing outlives an interruption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.model import check, spin
from tests.model.code_mutants import ROOT
from tests.model.lanes import Job, Lanes
from tests.model.parts import PROFILES, Part, Verdict, all_parts


def double(number: int) -> int:
    return 2 * number


def fail(text: str) -> None:
    print("said before")
    raise ValueError(text)


def leave(status: int) -> None:
    os._exit(status)


def wait_for(path: Path, others: int) -> None:
    """Return once so many files are there: their jobs run at the same time."""
    (path / f"{os.getpid()}").touch()
    until_s = time.monotonic() + 10
    while len(list(path.iterdir())) < others:
        assert time.monotonic() < until_s
        time.sleep(0.01)


def alone(path: Path) -> None:
    (path / "alone").touch(exist_ok=False)
    time.sleep(0.05)
    (path / "alone").unlink()


def part(*jobs: Job, floor: int = 0) -> Part:
    def judge(results: list[Any]) -> Verdict:
        return Verdict("doubled", [("numbers", sum(results), floor)])

    return Part("part", jobs, judge)


def test_jobs_run_two_at_a_time_and_answer(tmp_path: Path) -> None:
    jobs = [Job("part", f"{n}", wait_for, (tmp_path, 2)) for n in range(2)]

    assert [done.problem for done in Lanes(2).run(jobs)] == ["", ""]


def test_a_job_that_needs_the_machine_has_it_for_itself(tmp_path: Path) -> None:
    jobs = [Job("part", f"{n}", alone, (tmp_path,), cores=2) for n in range(3)]

    assert [done.problem for done in Lanes(2).run(jobs)] == [""] * 3


def test_what_is_at_its_floor_is_good_and_what_is_below_is_not() -> None:
    jobs = [Job("part", f"{n}", double, (n,)) for n in range(4)]

    [good] = check.check([part(*jobs, floor=12)])
    [low] = check.check([part(*jobs, floor=13)])

    assert (good.wrong, low.wrong) == ((), ("numbers: 12, the floor is 13",))
    cells = [cell.strip() for cell in str(good).split("|")]
    assert (cells[3], cells[-2]) == ("12 numbers (floor 12)", "ok")  # seconds are between them
    assert "WRONG" in str(low)


def test_a_job_that_fails_or_dies_fails_its_part_and_says_what_it_said() -> None:
    jobs = [Job("part", "a", double, (1,)), Job("part", "b", fail, ("no",))]

    [row] = check.check([part(*jobs, Job("part", "c", leave, (3,)))])

    assert len(row.wrong) == 2
    assert "b: ValueError: no" in row.wrong[0]
    assert "said before" in row.wrong[0]
    assert "c: its process ended with 3" in row.wrong[1]


def test_an_interruption_ends_everything_that_was_started(tmp_path: Path) -> None:
    script = f"""
import subprocess
from pathlib import Path
from tests.model.lanes import Job, Lanes

def work(place):
    child = subprocess.Popen(["sleep", "1000"])
    Path({str(tmp_path)!r}, place).write_text(str(child.pid))
    child.wait()

list(Lanes(2).run([Job("part", "a", work, ("a",)), Job("part", "b", work, ("b",))]))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    until_s = time.monotonic() + 20
    while sum(bool(path.read_text()) for path in tmp_path.iterdir()) < 2:
        assert time.monotonic() < until_s
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    process.wait(20)

    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_full_profile_has_the_floors_that_were_promised() -> None:
    full = PROFILES["full"]

    assert full.states >= 1_000_000
    assert full.mutants >= 38
    assert full.patches >= 12
    assert full.seeds >= 10_000
    assert full.examples >= 2_000
    assert (full.light, full.real) >= (2_000, 100)
    assert all(full.spin[name] >= least for name, least in spin.FLOOR.items())
    assert any(search.prop for search in spin.FULL)


def test_deep_profile_breaks_all_that_the_full_one_does_and_searches_what_the_quick_one_does() -> (
    None
):
    quick, deep, full = (PROFILES[name] for name in ("quick", "deep", "full"))

    for other, numbers, parts in (
        (full, ("mutants", "patches", "real"), ("spin mutants", "patches", "mutants")),
        (quick, ("states", "lives", "spin"), ("exploration", "spin")),
    ):
        assert all(getattr(deep, name) == getattr(other, name) for name in numbers)
        for mine, theirs in zip(all_parts(deep), all_parts(other), strict=True):
            if mine.name in parts:
                assert [job.name for job in mine.jobs] == [job.name for job in theirs.jobs]


@pytest.mark.parametrize("name", PROFILES)
def test_every_job_has_a_name_of_its_own(name: str) -> None:
    parts = all_parts(PROFILES[name])

    assert len({one.name for one in parts}) == len(parts)
    for one in parts:
        assert len({job.name for job in one.jobs}) == len(one.jobs) > 0
        assert {job.part for job in one.jobs} == {one.name}


def test_absent_checker_fails_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert check.main(["--only", "coverage"]) == 1
    assert "apt-get install spin gcc" in capsys.readouterr().err
    assert check.main(["--only", "nothing"]) == 2
