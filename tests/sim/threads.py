"""Locks, queues and threads for simulated processes: they wait in the simulation's scheduler.

Only what palace uses of `threading` and `queue`.  A thread that waits for a lock here lets others
run; a real lock would stop the whole simulation.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

from tests.sim.world import Fiber, Killed, World


class Here:
    """The world that is running just now, for what has no other way to know it."""

    world: World | None = None


def inside() -> bool:
    """Tell whether the calling thread is a simulated one: pytest and others have their own."""
    world = Here.world
    fiber = world.current if world is not None else None
    return fiber is not None and fiber.thread == threading.get_ident()


def the_world() -> World:
    assert Here.world is not None, "no simulation runs"
    return Here.world


def current_fiber() -> Fiber:
    fiber = the_world().current
    assert fiber is not None
    return fiber


class RLock:
    def __init__(self) -> None:
        self._owner: Fiber | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        fiber = current_fiber()
        while self._owner not in (None, fiber):
            if not blocking:
                return False
            the_world().block(lambda: self._owner is None)
        self._owner = fiber
        self._count += 1
        return True

    def release(self) -> None:
        self._count -= 1
        if self._count == 0:
            self._owner = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def save(self) -> int:
        """Let go of it altogether; return what `restore` needs."""
        count, self._count, self._owner = self._count, 0, None
        return count

    def restore(self, count: int) -> None:
        self.acquire()
        self._count = count


class Condition:
    def __init__(self, lock: RLock | None = None) -> None:
        self._lock = lock or RLock()
        self._waiting: list[list[bool]] = []

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._lock.release()

    def wait(self) -> None:
        told = [False]
        self._waiting.append(told)
        count = self._lock.save()
        try:
            the_world().block(lambda: told[0])
        finally:
            if not current_fiber().process.dead:
                self._lock.restore(count)
            else:
                self._lock._count = count  # its `with` lets go of it once more

    def notify_all(self) -> None:
        for told in self._waiting:
            told[0] = True
        self._waiting.clear()


class Event:
    def __init__(self) -> None:
        self._flag = False

    def set(self) -> None:
        self._flag = True

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def wait(self, timeout: float | None = None) -> bool:
        if not self._flag:
            world = the_world()
            deadline = float("inf") if timeout is None else world.now + timeout
            world.block(lambda: self._flag, deadline=deadline)
        return self._flag


class Thread:
    def __init__(
        self, target: Callable[[], object], name: str = "thread", daemon: bool = False
    ) -> None:
        self._target = target
        self._name = name
        self._fiber: Fiber | None = None

    def start(self) -> None:
        world = the_world()
        self._fiber = world.thread(current_fiber().process, self._target, self._name)

    def join(self) -> None:
        fiber = self._fiber
        if fiber is not None and not fiber.done:
            the_world().block(lambda: fiber.done)


class SimpleQueue:
    def __init__(self) -> None:
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self) -> Any:
        while not self._items:
            the_world().block(lambda: bool(self._items))
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


def start_thread_soon(
    work: Callable[[], object], deliver: Callable[[Any], None], name: str | None = None
) -> None:
    """Stand in for Trio's cache of worker threads."""
    import outcome

    def run() -> None:
        # Trio waits for it even in a process that has ended, and must come to its end, too.
        if process.dead:
            deliver(outcome.Error(Killed()))
        else:
            deliver(outcome.capture(work))

    process = current_fiber().process
    the_world().thread(process, run, name or "worker", always=True)


THREADING = SimpleNamespace(
    RLock=RLock,
    Lock=RLock,
    Condition=Condition,
    Event=Event,
    Thread=Thread,
    local=threading.local,
)
QUEUE = SimpleNamespace(SimpleQueue=SimpleQueue)
