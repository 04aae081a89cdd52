"""When the watchdog ends its process, in virtual time; and that it does, in a real process."""

import subprocess
import sys

import attrs
import pytest
import trio
import trio.testing

from palace.broker.watchdog import EXIT_CODE, LOADING_S, TICK_S, Watchdog


class Ended(Exception):
    """What the process's end is here."""


@attrs.define(eq=False)
class Tame(Watchdog):
    """Raises where the real one ends the process."""

    def _abort(self, what: str, limit_s: float) -> None:
        raise Ended(what, limit_s)


@attrs.define(eq=False)
class Owner:
    """What a watchdog looks at."""

    steps: int = 0
    writes: bool = False
    loads: bool = False

    def watchdog(self, limit_s: float) -> Watchdog:
        return Tame(
            limit_s=limit_s,
            progress=lambda: self.steps,
            writing=lambda: self.writes,
            loading=lambda: self.loads,
        )

    async def ended_after_s(self, limit_s: float, ceiling_s: float = 1e5) -> float | None:
        """Return when the watchdog ended the process, None where it let it live."""
        began_s = trio.current_time()
        with trio.move_on_after(ceiling_s):
            try:
                await self.watchdog(limit_s).serve()
            except Ended:
                return trio.current_time() - began_s
        return None


async def test_a_write_without_progress_ends_the_process_at_the_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await Owner(writes=True).ended_after_s(100.0) == 100.0


@pytest.mark.parametrize(
    ("limit_s", "expected_s"), [(1.0, LOADING_S), (2.0, LOADING_S), (600, 600)]
)
async def test_a_short_limit_for_writes_is_none_for_loading(
    autojump_clock: trio.testing.MockClock, limit_s: float, expected_s: float
) -> None:
    assert await Owner(loads=True).ended_after_s(limit_s) == expected_s


async def test_a_write_does_not_inherit_the_ticks_of_the_loading(
    autojump_clock: trio.testing.MockClock,
) -> None:
    owner = Owner(loads=True)
    ended_s: list[float | None] = []

    async def watch() -> None:
        ended_s.append(await owner.ended_after_s(50.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(200 * TICK_S + 0.5)
        owner.loads, owner.writes = False, True

    assert ended_s == [201.0 + 50.0]


async def test_progress_and_idleness_let_the_process_live(
    autojump_clock: trio.testing.MockClock,
) -> None:
    owner = Owner(writes=True)

    async def work() -> None:
        for _ in range(100):
            await trio.sleep(40.5)
            owner.steps += 1
        owner.writes = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        assert await owner.ended_after_s(50.0, 10_000.0) is None


def test_a_stuck_process_says_why_it_ends() -> None:
    code = (
        "import trio; from palace.broker.watchdog import Watchdog; trio.run(Watchdog("
        "limit_s=1.0, progress=int, writing=lambda: True, loading=lambda: False).serve)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == EXIT_CODE
    assert "a write made no progress for 1 s" in done.stderr
    assert "watchdog_s" in done.stderr
    assert "in _tick" in done.stderr, "where it was stuck"
