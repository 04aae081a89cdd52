"""The trace that PALACE_TRACE asks for: one line a step, whoever else writes, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

from palace.kernel.factory import kernel_for
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment

WRITERS = 4
STEPS = 200


def test_without_a_file_nothing_is_written_and_nothing_imported() -> None:
    code = (
        "import sys; from palace.kernel.factory import kernel_for; "
        "kernel_for('').trace('B1.open', direct=0); "
        "print('palace.kernel.tracing' in sys.modules, 'json' in sys.modules)"
    )
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert type(kernel_for("")) is Kernel
    assert done.stdout.split() == ["False", "False"]


def test_a_step_is_a_line_with_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    before = sorted(os.listdir("/dev/fd"))
    kernel = kernel_for(ShimEnvironment({"PALACE_TRACE": str(path)}).trace)
    kernel.trace("B5.epoch", epoch=3)
    kernel.trace("X6.exit")

    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["act"], first["pid"], first["epoch"]) == ("B5.epoch", os.getpid(), 3)
    assert first["t"] <= second["t"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir("/dev/fd")) == before


def test_processes_that_write_at_once_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    code = (
        f"from palace.kernel.factory import kernel_for; h = kernel_for({str(path)!r}); "
        f"[h.trace('A.hello', session='x' * 900, number=n) for n in range({STEPS})]"
    )
    writers = [subprocess.Popen([sys.executable, "-P", "-c", code]) for _ in range(WRITERS)]
    assert [writer.wait(60) for writer in writers] == [0] * WRITERS

    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == WRITERS * STEPS
    for writer in writers:
        numbers = [event["number"] for event in events if event["pid"] == writer.pid]
        assert numbers == list(range(STEPS))


def test_a_trace_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "missing" / "trace", tmp_path / "link"):
        kernel_for(str(path)).trace("B1.open")
    kernel_for("/dev/full").trace("B1.open")

    assert os.listdir(tmp_path) == ["link"]


def test_a_broker_writes_into_its_starters_trace() -> None:
    environment = ShimEnvironment({"PALACE_TRACE": "/somewhere", "PALACE_NO_SPAWN": "1"})

    assert environment.for_broker() == {"PALACE_TRACE": "/somewhere"}
