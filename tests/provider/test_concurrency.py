"""How many commands a sweep runs at once: what a variable says, and what then overlaps."""

import os
from pathlib import Path

import pytest

from palace.provider.births import SWEEP_ON, Peer, Provider
from palace.settings.concurrency import PROVISIONS, UNLIMITED
from tests.provider.scripts import block, declared, python_script

DEFAULT = 3


@pytest.mark.parametrize(
    ("text", "limit", "fine"),
    [
        (None, DEFAULT, True),
        ("", DEFAULT, True),
        ("   ", DEFAULT, True),
        ("0", UNLIMITED, True),
        ("000", UNLIMITED, True),
        ("1", 1, True),
        (" 7 ", 7, True),
        ("007", 7, True),
        ("-1", DEFAULT, False),
        ("+1", DEFAULT, False),
        ("many", DEFAULT, False),
        ("\u0663", DEFAULT, False),
        ("1e3", DEFAULT, False),
        ("0x5", DEFAULT, False),
        ("1_0", DEFAULT, False),
        ("3.0", DEFAULT, False),
        ("1 2", DEFAULT, False),
        (str(10**30), UNLIMITED, True),
        ("9" * 100_000, UNLIMITED, True),
    ],
)
def test_a_number_is_taken_and_nonsense_is_the_default_with_a_warning(
    text: str | None, limit: int, fine: bool
) -> None:
    found, wrong = PROVISIONS.read(text)

    assert found == limit
    assert (wrong == "") is fine
    assert fine or str(DEFAULT) in wrong


# Each says that it has begun, waits until as many as there may be are there, and for nobody else.
TOGETHER = """
import os, sys, time
place, most = sys.argv[1], int(sys.argv[2])
open(f"{place}/running-{os.getpid()}", "x").close()
seen, end = 0, time.monotonic() + 60
while seen < most and time.monotonic() < end:
    if os.path.exists(f"{place}/reached"):
        break
    seen = max(seen, sum(name.startswith("running") for name in os.listdir(place)))
    time.sleep(0.01)
open(f"{place}/saw-{os.getpid()}-{seen}", "x").close()
if seen >= most:
    open(f"{place}/reached", "a").close()
os.unlink(f"{place}/running-{os.getpid()}")
"""


@pytest.mark.parametrize(("text", "most"), [(None, 3), ("0", 7), ("1", 1), ("7", 7), ("-2", 3)])
def test_as_many_commands_run_at_once_as_it_says(
    tmp_path: Path, text: str | None, most: int
) -> None:
    command, place = python_script(tmp_path / "give", TOGETHER), tmp_path / "place"
    place.mkdir()
    slot = declared(tmp_path / "slot", provision=block(command, str(place), str(most)))
    assert slot.declaration is not None
    peers = [Peer(personality=f"w{n}", cwd="/", runtimes=("codex",)) for n in range(7)]
    provider = Provider(
        declaration=slot.declaration,
        environ=dict(os.environ),
        limit=PROVISIONS.read(text)[0],
        note=lambda told: None,
    )

    told = provider.sweep(peers, SWEEP_ON)

    assert [one.is_fine for one in told] == [True] * 7
    saw = [int(name.rpartition("-")[2]) for name in os.listdir(place) if name.startswith("saw")]
    assert max(saw) == most
