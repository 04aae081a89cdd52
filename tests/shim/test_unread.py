"""A host need not read what its servers say on standard error: they go on all the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers.scripted import call, start_shim

pytestmark = pytest.mark.process

PIPE_BYTES = 65_536
# Logs more than a pipe takes, as a broker does that serves in the foreground.
LOGS = """
import logging
from palace.broker.telemetry.logs import set_up_logging
from palace.kernel.kernel import Kernel
set_up_logging("info", Kernel())
for number in range(2000):
    logging.getLogger("palace.broker").info("line %s", number)
"""


def test_a_shim_whose_complaints_nobody_reads_answers_every_call(short_dir: Path) -> None:
    asked = 2 * PIPE_BYTES // 200  # of a complaint, at least
    with start_shim(short_dir / "palace", short_dir) as shim:
        for number in range(asked):
            shim.send(call(number))
            assert json.loads(shim.receive(timeout_s=20))["id"] == number
        shim.process.stdin.close()  # type: ignore[union-attr]
        assert shim.process.wait(20) == 0
        said = shim.process.stderr.read()  # type: ignore[union-attr]
    assert 0 < len(said) <= PIPE_BYTES
    assert said.startswith(b"palace shim: No broker runs for ")


def test_a_broker_whose_log_nobody_reads_goes_on(short_dir: Path) -> None:
    argv = [sys.executable, "-c", LOGS]
    with subprocess.Popen(argv, cwd=short_dir, stderr=subprocess.PIPE) as logging:
        assert logging.wait(30) == 0
        assert logging.stderr is not None
        said = logging.stderr.read()
    assert b"line 0" in said
    assert len(said) <= PIPE_BYTES
