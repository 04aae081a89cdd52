"""Others beside the clients: strangers at the socket, stock's own processes, and who watches."""

import fcntl
import os
import socket
from collections.abc import Callable
from typing import Any

from palace.protocol import wire
from palace.protocol.broker_record import decode_broker_record
from tests.sim.kernel import Machine, SimFcntl, SimOs, SimPoll, SimSocket
from tests.sim.world import Process, World

WATCH_S = 0.25  # on average
HANGS_ON_S = 8.0
_OS = SimOs()
GREETINGS = {
    "status": wire.encode_header(wire.CONTROL, {"ask": "status"}),
    "stop": wire.encode_header(wire.CONTROL, {"ask": "stop"}),
    "stop_now": wire.encode_header(wire.CONTROL, {"ask": "stop", "now": "1"}),
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "half": b"palace/1 hello sess",
    "silent": b"",
    "alien": wire.encode_header(wire.HELLO, {"session": "alien", "palace_id": "0" * 32}),
    "leaver": wire.encode_header(wire.HELLO, {"session": "leaver", "next": "0"}),
}


def bystander(world: World, kind: str, main: Callable[[], int]) -> Process:
    """Start a process that meets no misfortune itself."""
    process = world.start(kind, main)
    process.harmed = False
    return process


def stranger(world: World, path: str, greeting: str) -> None:
    """Connect to whoever listens, say something, and hang up after a while."""

    def main() -> int:
        sock = SimSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(path)
            sock.send(GREETINGS[greeting])
        except OSError:
            return 0
        poll = SimPoll()
        poll.register(sock.fileno())
        deadline = world.now + world.rng.uniform(0.0, HANGS_ON_S)
        while world.now < deadline:
            poll.poll(1000 * (deadline - world.now))
            try:
                if not sock.recv(65_536):
                    break
            except OSError:
                world.sleep(0.5)
        sock.close()
        return 0

    bystander(world, f"stranger-{greeting}", main)


def stock(world: World, path: str, holds_s: float) -> None:
    """Take mempalace's own lock as a stock process does, if it can be had, and hold it a while."""

    def main() -> int:
        if not os.path.exists(path):
            return 0
        fd = _OS.open(path, os.O_RDWR)
        try:
            SimFcntl().flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        world.sleep(holds_s)
        return 0

    bystander(world, "stock", main)


class Watcher:
    """I4: whoever serves can be found: the record and the socket are its own."""

    def __init__(self, world: World, machine: Machine, root: str) -> None:
        self._world = world
        self._machine = machine
        self._root = root

    def start(self) -> Process:
        return bystander(self._world, "watcher", self._main)

    def _main(self) -> int:
        while True:
            self._world.sleep(self._world.rng.expovariate(1 / WATCH_S))
            owner = self._machine.holder(self._machine.lock)
            if owner is not None and not owner.dead and owner.notes.get("serves"):
                self._look(owner, owner.notes["state"])

    def _look(self, owner: Process, state: Any) -> None:
        if state.lifecycle.drain is not None:
            return
        try:
            with open(f"{self._root}/broker.json", "rb") as file:
                record = decode_broker_record(file.read())
        except OSError:
            record = None
        if record is None or record.incarnation != state.services.ownership.incarnation:
            self._world.violated(f"I4: {owner!r} serves, and its record is not there")
        endpoint = state.services.endpoint
        if endpoint is None:
            return
        try:
            found = os.lstat(endpoint.path)
        except OSError:
            self._world.violated(f"I4: {owner!r} serves, and its socket is not there")
            return
        if (found.st_dev, found.st_ino) != endpoint.file_id:
            self._world.violated(f"I4: {owner!r} serves, and its socket is another's")
