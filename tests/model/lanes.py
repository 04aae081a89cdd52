"""Runs jobs in processes of their own, as many at a time as there are cores, and ends them all.

A job is a function and its arguments.  It runs in a process group of its own, so that nothing that
it has started outlives an interruption: each group gets SIGINT, and SIGKILL where that is not
enough.  What a job prints is kept for the case that it fails.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import attrs

LOOK_S = 1.0
PATIENCE_S = 20.0  # of an interrupted job, which may have processes to end
OUTPUT_CHARS = 3000
_CONTEXT = get_context("fork")  # what the parent has imported is there at once


@attrs.frozen
class Job:
    """`part` is whose it is; one with `cores=2` has the machine for itself."""

    part: str
    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    cores: int = 1


@attrs.frozen
class Done:
    """`problem` is "" where the job returned; `cpu_s` counts children that it has waited for."""

    job: Job
    result: Any
    problem: str
    seconds: float
    cpu_s: float


@attrs.frozen
class _Running:
    job: Job
    process: BaseProcess
    answer: Connection
    output: Path
    begun_s: float

    def done(self) -> Done:
        """Take the answer of a job that has one, or has died."""
        try:
            result, problem, cpu_s = self.answer.recv()
        except EOFError:
            result, problem, cpu_s = None, "died", 0.0
        self.process.join()
        if problem == "died":
            problem = f"its process ended with {self.process.exitcode}"
        if problem:
            problem += "\n" + self.output.read_text(errors="replace")[-OUTPUT_CHARS:]
        seconds = time.monotonic() - self.begun_s
        return Done(self.job, result, problem.strip(), seconds, cpu_s)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, number)


@attrs.define
class Lanes:
    """`look` is called every second with what runs and since when, and after each job."""

    cores: int = 2
    look: Callable[[list[tuple[Job, float]]], None] = lambda _: None
    _running: list[_Running] = attrs.field(factory=list)

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Run jobs in their order and yield them as they end; whatever happens, end them all."""
        waiting = list(jobs)
        with tempfile.TemporaryDirectory(prefix="lanes-") as directory:
            try:
                while waiting or self._running:
                    while waiting and self._has_room(waiting[0]):
                        self._start(waiting.pop(0), Path(directory))
                    self.look([(one.job, one.begun_s) for one in self._running])
                    ready = wait([one.answer for one in self._running], LOOK_S)
                    ended = [one for one in self._running if one.answer in ready]
                    for one in ended:
                        self._running.remove(one)
                        yield one.done()
            finally:
                self._end()

    def _has_room(self, job: Job) -> bool:
        used = sum(one.job.cores for one in self._running)
        return not used or used + job.cores <= self.cores

    def _start(self, job: Job, directory: Path) -> None:
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        handle, output = tempfile.mkstemp(dir=directory)
        process = _CONTEXT.Process(target=_work, args=(job, theirs, handle))
        process.start()
        with suppress(OSError):  # the child does it, too: one of them is first
            os.setpgid(process.pid or 0, process.pid or 0)
        os.close(handle)
        theirs.close()  # so that a death is heard
        self._running.append(_Running(job, process, ours, Path(output), time.monotonic()))

    def _end(self) -> None:
        for one in self._running:
            one.signal(signal.SIGINT)
        patience_s = time.monotonic() + PATIENCE_S
        for one in self._running:
            one.process.join(max(0.0, patience_s - time.monotonic()))
            one.signal(signal.SIGKILL)
            one.process.join()
        self._running.clear()


def _work(job: Job, answer: Connection, output: int) -> None:
    """Be the job's process."""
    with suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (1, 2):
        os.dup2(output, number)
    # What the parent has buffered is the parent's to say.
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        result, problem = job.work(*job.arguments), ""
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        traceback.print_exc()
        result, problem = None, f"{type(error).__name__}: {error}"
    answer.send((result, problem, sum(os.times()[:4])))
