"""Putting the simulation under palace's modules, and taking it away again.

Every name that is replaced stands in `_replacements`; palace itself knows nothing of it.
"""

import _socket
import ast
import builtins
import contextlib
import fcntl
import functools
import inspect
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import trio
from trio._core import _io_epoll, _run

import palace.broker.assemble
import palace.broker.broker
import palace.broker.canary
import palace.broker.connections
import palace.broker.displacement
import palace.broker.endpoint
import palace.broker.lanes
import palace.broker.life
import palace.broker.reporting.status
import palace.broker.serve
import palace.broker.telemetry.log_file
import palace.broker.telemetry.logs
import palace.broker.watchdog
import palace.client.children
import palace.client.connector
import palace.client.handshake
import palace.client.spawn
import palace.engine.batch
import palace.engine.durability.adoption
import palace.engine.durability.checkpointer
import palace.engine.durability.groups
import palace.engine.hosting.mempalace
import palace.engine.stores.files
import palace.journal.append
import palace.journal.journal
import palace.kernel.kernel
import palace.ownership.directory
import palace.ownership.epoch
import palace.ownership.keys
import palace.ownership.lock
import palace.ownership.record
import palace.ownership.served
import palace.settings.user_settings
import palace.shim.relay
from tests.sim import canaries, kernel, threads
from tests.sim.engine import CATALOGUE, SimEngine
from tests.sim.kernel import alive
from tests.sim.port import Chance, SimKernel
from tests.sim.threads import current_fiber, the_world
from tests.sim.world import Process, World

POLLS_AFTER_DEATH_MAX = 300
_REAL_SLEEP = time.sleep
_REAL_RUN = trio.run
_REAL_GET_EVENTS = _io_epoll.EpollIOManager.get_events
_OS = kernel.SimOs()


class SimClock(trio.abc.Clock):
    """The world's time, for Trio."""

    def start_clock(self) -> None:
        return

    def current_time(self) -> float:
        return the_world().now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - the_world().now


def _run_trio(async_fn: Callable[..., Any], *args: Any) -> Any:
    return _REAL_RUN(async_fn, *args, clock=SimClock() if threads.inside() else None)


def _get_events(self: Any, timeout: float) -> Any:
    """What Trio waits in: the other processes run meanwhile."""
    if not threads.inside():
        return _REAL_GET_EVENTS(self, timeout)
    world = the_world()
    process = current_fiber().process
    count = max(1, len(self._registered))
    if process.dead:
        return _unwind(self, process)
    events = self._epoll.poll(0, count)
    if events or timeout <= 0:
        return events
    deadline = world.now + timeout + 1e-9
    world.block(fds=[(self._epoll.fileno(), 1)], deadline=deadline, dying=True)
    return _unwind(self, process) if process.dead else self._epoll.poll(0, count)


def _unwind(manager: Any, process: Process) -> Any:
    """Let a dead process's tasks run to their ends: they can't reach anything any more."""
    process.polls_after_death += 1
    assert process.polls_after_death < POLLS_AFTER_DEATH_MAX, "the dead don't come to rest"
    main = _run.GLOBAL_RUN_CONTEXT.runner.main_task
    if main is not None and main._parent_nursery is not None:
        main._parent_nursery.cancel_scope.cancel()
    the_world().block(lambda: True, dying=True)
    return manager._epoll.poll(0, max(1, len(manager._registered)))


@contextlib.contextmanager
def _signal_receiver(*_signals: int) -> Iterator[Any]:
    send, receive = trio.open_memory_channel[int](64)
    token = trio.lowlevel.current_trio_token()
    process = alive()
    process.handler = lambda number: token.run_sync_soon(send.send_nowait, number)
    try:
        yield receive
    finally:
        process.handler = None


def _sleep(seconds: float) -> None:
    if threads.inside():
        the_world().sleep(seconds)
    else:
        _REAL_SLEEP(seconds)


class _FaultHandler:
    """Stands in for the watchdog's native timer."""

    def dump_traceback_later(self, timeout: float, exit: bool, file: int) -> None:  # noqa: A002
        self.cancel_dump_traceback_later()
        world, process = the_world(), current_fiber().process
        process.notes["native"] = world.after(timeout, lambda: self._fire(process))

    def _fire(self, process: Process) -> None:
        world = process.world
        if process.stopped_until > world.now:  # its thread is stopped, too, and is late then
            left_s = process.stopped_until - world.now
            process.notes["native"] = world.after(left_s, lambda: self._fire(process))
            return
        world.note("the native watchdog fires", process)
        world.end(process, 1)

    def cancel_dump_traceback_later(self) -> None:
        timer = current_fiber().process.notes.pop("native", None)
        if timer is not None:
            the_world().cancel(timer)

    def dump_traceback(self, file: int, all_threads: bool) -> None:
        return


class _Uuid:
    """Identities by the seed's dice."""

    def uuid4(self) -> Any:
        return type("U", (), {"hex": Chance.dice.randbytes(16).hex()})


def _say(text: str, *_more: object, **_options: object) -> None:
    the_world().note(text)
    if text.startswith("palace: epoch"):
        current_fiber().process.notes["serves"] = True


def _print(*words: object, **_options: object) -> None:
    the_world().note(" ".join(str(word) for word in words))


def _environment() -> Any:
    from palace.settings.environment import ShimEnvironment

    return ShimEnvironment(current_fiber().process.environ)


def _kernel_for(_trace: str) -> SimKernel:
    return SimKernel()


def _replacements() -> list[tuple[object, str, object]]:
    broker, client, engine = palace.broker, palace.client, palace.engine
    journal, ownership, shim = palace.journal, palace.ownership, palace.shim
    telemetry = broker.telemetry
    with_os = (
        *(palace.kernel.kernel, ownership.directory, ownership.lock),
        *(ownership.epoch, ownership.keys, ownership.record, ownership.served),
        broker.displacement,
        *(broker.broker, broker.endpoint, broker.serve, broker.connections),
        *(broker.reporting.status, broker.watchdog, telemetry.log_file),
        *(client.handshake, client.spawn, shim.relay, palace.settings.user_settings),
    )
    with_threads = (
        *(broker.lanes, journal.journal, journal.append),
        *(engine.durability.groups, engine.durability.checkpointer, engine.durability.adoption),
        *(engine.stores.files, engine.batch),
    )
    return [
        *((module, "os", _OS) for module in with_os),
        *((module, "threading", threads.THREADING) for module in with_threads),
        (palace.kernel.kernel, "fcntl", kernel.SimFcntl()),
        (palace.kernel.kernel, "select", kernel.SELECT),
        (broker.lanes, "queue", threads.QUEUE),
        (journal.journal, "queue", threads.QUEUE),
        (broker.endpoint, "socket", kernel.SOCKET),
        (client.handshake, "socket", kernel.SimSocket),
        (client.children, "socketpair", kernel.sim_socketpair),
        (socket, "socketpair", _socketpair),
        (shim.relay, "select", kernel.SELECT),
        (shim.relay, "remark", _print),
        (shim.relay, "kernel_for", _kernel_for),
        (shim.relay, "read_environment", _environment),
        (broker.serve, "kernel_for", _kernel_for),
        (broker.serve, "read_environment", _environment),
        (broker.serve, "say", _say),
        (telemetry.logs, "set_up_logging", lambda *_args, **_options: None),
        (broker.serve, "_direct_socket", _direct_socket),
        (broker.life.Life, "arm", lambda *_args, **_options: None),  # another program, too
        (broker.canary.Canary, "_write", canaries.write),
        (broker.watchdog, "faulthandler", _FaultHandler()),
        (ownership.epoch, "uuid", _Uuid()),
        (broker.assemble, "MempalaceEngine", SimEngine),
        (broker.assemble, "reading_of", lambda *_: None),  # its reader is another program
        (broker.assemble, "installed_version", lambda: CATALOGUE.engine_version),
        (engine.versions, "check_installed", lambda: None),
        (time, "sleep", _sleep),
        (trio, "run", _run_trio),
        (trio, "open_signal_receiver", _signal_receiver),
        (trio._threads, "start_thread_soon", threads.start_thread_soon),
        (_io_epoll.EpollIOManager, "get_events", _get_events),
        (_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        *_factories(),
    ]


def _factories() -> list[tuple[object, str, object]]:
    """Replace what makes fields' defaults, which attrs keeps beside each class's __init__."""
    found: list[tuple[object, str, object]] = []
    for owner, name, make in (
        (palace.journal.journal.Journal, "_lock", threads.RLock),
        (palace.journal.journal.Journal, "_waiting", threads.SimpleQueue),
        (palace.engine.durability.groups.CallGroups, "_lock", threads.RLock),
        (palace.engine.durability.checkpointer.Checkpointer, "_wake", threads.Event),
        (palace.engine.durability.adoption.Adoption, "_ended", threads.Event),
        (palace.engine.stores.files.Files, "lock", threads.RLock),
        (palace.broker.lanes._Workers, "calls", threads.SimpleQueue),
    ):
        known = owner.__init__.__globals__
        assert f"__attr_factory_{name}" in known, (owner, name, sorted(known))
        found.append((known, f"__attr_factory_{name}", make))
    return found


def _direct_socket(fd: int) -> Any:
    return None if fd < 0 else kernel.SimSocket(fileno=fd)


def _socketpair(*arguments: Any) -> Any:
    """Trio's own wake-up sockets are no part of what is simulated."""
    if arguments or not threads.inside():
        return kernel.REAL_SOCKETPAIR(*arguments)
    import sys

    caller = sys._getframe(1).f_globals["__name__"]
    if not caller.startswith("palace."):
        return kernel.REAL_SOCKETPAIR()
    return kernel.sim_socketpair()


@contextlib.contextmanager
def installed(world: World, machine: kernel.Machine) -> Iterator[None]:
    """Simulate for the length of the block."""
    undo: list[Callable[[], None]] = []
    Chance.dice.seed(world.seed)
    _run._r.seed(world.seed)
    threads.Here.world, kernel.Now.machine = world, machine
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    umask = os.umask(0o077)
    try:
        for target, name, value in _replacements():
            undo.append(replace(target, name, value))
        yield
    finally:
        for restore in reversed(undo):
            restore()
        os.umask(umask)
        logging.disable(level)
        threads.Here.world = kernel.Now.machine = None


# What a simulated process must never hold as it is; a namespace such as `socket` may be there for
# its constants.
_REAL_PARTS = (_socket.socket, _socket.socketpair, fcntl, select)
_UNREACHED = {
    "palace.client.handshake.select",  # only commands wait for an answer
    "palace.kernel.linux.socket",  # the type of what `peer_of` takes
    "palace.kernel.darwin.socket",
}


def unsimulated() -> list[str]:
    """Return the names through which palace's modules reach the real system in a simulation."""
    taken = {
        (target.__name__, name)
        for target, name, _ in _replacements()
        if isinstance(target, ModuleType)
    }
    return [
        f"{module}.{name}"
        for module, loaded in sorted(sys.modules.items())
        if module.startswith("palace.")
        for name, value in vars(loaded).items()
        if any(value is part for part in _REAL_PARTS)
        and (module, name) not in taken
        and f"{module}.{name}" not in _UNREACHED
    ]


def _has(target: Any, name: str) -> bool:
    """Tell whether a replacement would be seen: a name that nobody reads is a mistake of ours."""
    if name in vars(target):
        return True
    return hasattr(builtins, name) and isinstance(target, ModuleType) and name in _read(target)


@functools.cache
def _read(module: ModuleType) -> set[str]:
    tree = ast.parse(inspect.getsource(module))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def replace(target: Any, name: str, value: object) -> Callable[[], None]:
    """Replace an attribute or a dict's entry; return what puts the old one back."""
    if isinstance(target, dict):
        old = target[name]
        target[name] = value
        return lambda: target.__setitem__(name, old)
    assert _has(target, name), f"{target} has no {name}: what did the simulation mean to replace?"
    if name in vars(target):
        old = vars(target)[name]
        setattr(target, name, value)
        return lambda: setattr(target, name, old)
    setattr(target, name, value)
    return lambda: delattr(target, name)
