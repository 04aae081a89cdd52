"""One simulated machine: processes, their threads, a clock, and a scheduler that a seed decides.

Every thread of every simulated process is a real OS thread (a *fiber*), but exactly one of them
runs at any moment: whoever comes to a system call, a lock or a wait asks the scheduler who goes on,
and hands over.  So code that blocks, forks threads or runs a Trio loop of its own is simulated as
it stands, and the same seed gives the same interleaving.

Time is virtual: it moves a little with every step, and jumps when everybody waits.
"""

import _thread
import random
import re
import select
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

STEP_S = 2e-5
STEPS_MAX = 400_000
START_S = 1000.0
# Stock's lock is named by a hash of the path, and so is what palace keeps of it elsewhere.
_OF_THE_PATH = re.compile(r"_[0-9a-f]{16}(?=\.lock)|(?:(?<=/served/)|(?<=/settings/))[0-9a-f]{16}")


class Killed(BaseException):
    """This process has ended: nothing that it does reaches anything any more."""


class Violation(Exception):
    """The simulated system did what it must never do."""


@dataclass(eq=False)
class Process:
    """One simulated process; the kernel's part of it."""

    pid: int
    name: str
    kind: str
    world: "World"
    parent: "Process | None" = None
    environ: dict[str, str] = field(default_factory=dict)
    dead: bool = False
    status: int | None = None
    reaped: bool = False
    left_parent: bool = False
    fds: dict[int, None] = field(default_factory=dict)
    socks: dict[Any, None] = field(default_factory=dict)
    stdio: dict[int, int] = field(default_factory=dict)
    umask: int = 0o022
    stopped_until: float = 0.0
    handler: Callable[[int], None] | None = None
    harmed: bool = True  # whether it meets the seed's misfortune at all
    spared: bool = False  # system calls don't fail just now, though it may die
    polls_after_death: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name}[{self.pid}]"


@dataclass(eq=False)
class Fiber:
    """One thread of a process.  It runs while it holds the baton."""

    process: Process
    name: str
    number: int
    baton: Any
    check: Callable[[], bool] | None = None  # what a blocked one waits for; None: it can go on
    blocked: bool = False
    deadline: float = float("inf")
    fds: tuple[int, ...] = ()
    fd_ready: bool = False
    done: bool = False
    thread: int = 0  # the OS thread's identity, once it runs


class _Carrier:
    """An OS thread that carries one fiber after the other, since starting one takes 150 us."""

    idle: ClassVar["list[_Carrier]"] = []

    def __init__(self) -> None:
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._work: Callable[[], None] | None = None
        _thread.start_new_thread(self._serve, ())

    @classmethod
    def run(cls, work: Callable[[], None]) -> None:
        carrier = cls.idle.pop() if cls.idle else cls()
        carrier._work = work
        carrier._gate.release()

    def _serve(self) -> None:
        while True:
            self._gate.acquire()
            work, self._work = self._work, None
            assert work is not None
            work()
            self.idle.append(self)


@dataclass(eq=False)
class World:
    """The machine.  `run` returns when the first process's main thread has ended."""

    seed: int
    verbose: bool = False
    rng: random.Random = field(init=False)
    now: float = START_S
    switch: float = 0.2  # how often a step hands over though it could go on
    boot: int = 1
    top: str = ""  # where all files lie; left out of the log, since its name is new at each run
    steps: int = 0
    digest: int = 0
    processes: dict[int, Process] = field(default_factory=dict)
    fibers: list[Fiber] = field(default_factory=list)
    current: Fiber | None = None
    log: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fault: Callable[[Process, str], None] = lambda _process, _what: None
    died: list[Callable[[Process], None]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._poll = select.poll()
        self._waiters: dict[int, Fiber] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._main = _thread.allocate_lock()
        self._main.acquire()
        self._crash: BaseException | None = None
        self._ending = False
        self._next_pid = 100

    # What happened.

    def note(self, text: str, process: Process | None = None) -> None:
        """Write a line into the event log."""
        who = process or (self.current.process if self.current is not None else None)
        text = self.plain(text)
        line = f"{self.now - START_S:11.6f} {who!r:>16} {text}"
        self.digest = zlib.crc32(line.encode("utf-8", "replace"), self.digest)
        self.log.append(line)

    def plain(self, text: str) -> str:
        """Leave out of a text what is another one at each run: the name of the directory."""
        return _OF_THE_PATH.sub("", text.replace(self.top, "")) if self.top else text

    def violated(self, text: str) -> None:
        """Note that an invariant is broken; the run goes on to its end."""
        self.note(f"VIOLATION {text}")
        self.problems.append(self.plain(text))

    # Processes and their threads.

    def start(
        self, kind: str, main: Callable[[], int | None], *, parent: Process | None = None
    ) -> Process:
        """Make a process whose first thread calls `main`; it runs when it is chosen."""
        self._next_pid += 1
        process = Process(self._next_pid, f"{kind}", kind, self, parent)
        self.processes[process.pid] = process
        self.thread(process, lambda: self._main_of(process, main), "main")
        return process

    def _main_of(self, process: Process, main: Callable[[], int | None]) -> None:
        status = main()
        self.end(process, status or 0)

    def thread(
        self, process: Process, target: Callable[[], object], name: str, *, always: bool = False
    ) -> Fiber:
        """Start a thread of a process; `always` calls the target even if the process dies first."""
        baton = _thread.allocate_lock()
        baton.acquire()
        self._count += 1
        fiber = Fiber(process, name, self._count, baton)
        self.fibers.append(fiber)
        _Carrier.run(lambda: self._carry(fiber, target, always=always))
        return fiber

    def _carry(self, fiber: Fiber, target: Callable[[], object], *, always: bool) -> None:
        fiber.baton.acquire()
        self.current = fiber
        fiber.thread = _thread.get_ident()
        try:
            if always or not fiber.process.dead:
                target()
        except Killed:
            pass
        except BaseException as error:
            self._escaped(fiber, error)
        fiber.done = True
        self.fibers.remove(fiber)
        following = self._following()
        (self._main if following is None else following.baton).release()

    def _escaped(self, fiber: Fiber, error: BaseException) -> None:
        if fiber.process.dead:
            return  # what a process's remains stumble over reaches nobody
        import traceback

        text = "".join(traceback.format_exception(error))
        self.note(f"thread {fiber.name} ended by {error!r}\n{text}")
        if fiber.name == "main":
            self.violated(f"{fiber.process!r} crashed: {error!r}")
            self.end(fiber.process, 1)

    def end(self, process: Process, status: int) -> None:
        """The kernel's part of a process's end: all its descriptors close at once."""
        if process.dead:
            return
        process.dead = True
        process.status = status
        self.note(f"ended with {status}", process)
        for told in self.died:
            told(process)

    # Scheduling.

    def step(self, what: str) -> None:
        """A system call begins: others may go first, and faults may strike."""
        assert self.current is not None
        process = self.current.process
        if process.dead:
            raise Killed
        self.steps += 1
        self.now += STEP_S
        if self.steps > STEPS_MAX:
            self._give_up(f"no end after {STEPS_MAX} steps")
        self.digest = zlib.crc32(what.encode(), self.digest ^ self.current.number)
        if self.verbose:
            self.log.append(f"{self.now - START_S:11.6f} {process!r:>16} . {what}")
        if self.rng.random() < self.switch:
            self.pause()
        self.fault(process, what)

    def _give_up(self, text: str) -> None:
        if not self._ending:
            self._ending = True
            self.violated(text)
            self._end_all()
        raise Killed

    def pause(self) -> None:
        """Let others go first."""
        fiber = self.current
        assert fiber is not None
        self._hand_over(fiber)
        if fiber.process.dead:
            raise Killed

    def block(
        self,
        check: Callable[[], bool] | None = None,
        *,
        fds: Iterable[tuple[int, int]] = (),
        deadline: float = float("inf"),
        dying: bool = False,
    ) -> None:
        """Wait for a condition, a descriptor or a time; `dying` returns even from the dead."""
        fiber = self.current
        assert fiber is not None
        if fiber.process.dead and not dying:
            raise Killed
        fiber.check, fiber.deadline, fiber.blocked = check, deadline, True
        fiber.fd_ready = False
        wanted = tuple(fds)
        fiber.fds = tuple(fd for fd, _ in wanted)
        for fd, events in wanted:
            self._poll.register(fd, events)
            self._waiters[fd] = fiber
        self._hand_over(fiber)
        for fd in fiber.fds:
            if self._waiters.get(fd) is fiber:
                del self._waiters[fd]
                self._poll.unregister(fd)
        fiber.check, fiber.deadline, fiber.fds = None, float("inf"), ()
        if fiber.process.dead and not dying:
            raise Killed

    def sleep(self, seconds: float) -> None:
        self.block(deadline=self.now + max(0.0, seconds) + 1e-9)

    def after(self, seconds: float, action: Callable[[], None]) -> int:
        """Call `action` then, between two steps of whoever runs; return what cancels it."""
        self._count += 1
        self._timers.append((self.now + seconds, self._count, action))
        return self._count

    def cancel(self, timer: int) -> None:
        self._timers = [entry for entry in self._timers if entry[1] != timer]

    def _hand_over(self, fiber: Fiber) -> None:
        following = self._following()
        if following is fiber:
            return
        assert following is not None
        following.baton.release()
        fiber.baton.acquire()
        self.current = fiber

    def _following(self) -> Fiber | None:
        """Choose who goes on; None where nobody is left."""
        while self.fibers:
            self._fire_timers()
            ready = self._ready()
            if ready:
                chosen = ready[0] if len(ready) == 1 else self.rng.choice(ready)
                chosen.blocked = False
                return chosen
            then = self._next_time()
            if then == float("inf"):
                self.violated("everybody waits for ever")
                self._end_all()
                continue
            self.now = max(self.now, then)
        return None

    def _ready(self) -> list[Fiber]:
        if self._waiters:
            for fd, _ in self._poll.poll(0):
                self._waiters[fd].fd_ready = True
        now = self.now
        return [
            fiber
            for fiber in self.fibers
            if fiber.process.dead
            or (
                fiber.process.stopped_until <= now
                and (
                    not fiber.blocked
                    or fiber.fd_ready
                    or fiber.deadline <= now
                    or (fiber.check is not None and fiber.check())
                )
            )
        ]

    def _next_time(self) -> float:
        times = [
            max(fiber.deadline, fiber.process.stopped_until)
            for fiber in self.fibers
            if fiber.blocked and fiber.deadline < float("inf")
        ]
        times += [
            fiber.process.stopped_until
            for fiber in self.fibers
            if fiber.process.stopped_until > self.now
        ]
        times += [when for when, _, _ in self._timers]
        return min(times, default=float("inf"))

    def _fire_timers(self) -> None:
        due = sorted(entry[:2] for entry in self._timers if entry[0] <= self.now)
        for _, number in due:
            action = next((a for _, n, a in self._timers if n == number), None)
            self.cancel(number)
            if action is not None:
                action()

    def _end_all(self) -> None:
        for process in list(self.processes.values()):
            self.end(process, -9)

    def run(self, main: Callable[[], None]) -> None:
        """Run the first process; when its main thread ends, everybody else is ended, too."""

        def first() -> int:
            try:
                main()
            finally:
                self._ending = True
                for process in list(self.processes.values()):
                    if process is not referee:
                        self.end(process, -9)
            return 0

        referee = self.start("referee", first)
        referee.harmed = False
        following = self._following()
        assert following is not None
        following.baton.release()
        self._main.acquire()
        self.current = None
