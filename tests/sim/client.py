"""MCP clients of the simulation: each runs a shim after the other, asks, and remembers."""

import json
import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from palace.shim import relay
from tests.sim.kernel import SimOs, SimPoll
from tests.sim.world import Process, World

OK = "ok"
LOST = "lost"  # its shim was killed
CANCELLED = "cancelled"
FAILED = "failed"  # the tool itself says so
PATIENCE_S = 400.0
_OS = SimOs()


@dataclass(eq=False)
class Op:
    """One call of a client and what became of it; `outcome` is OK, LOST, CANCELLED or a code."""

    who: str
    life: int
    number: int
    tool: str
    nonce: str
    sent_s: float
    arguments: dict[str, Any]
    outcome: str | int | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    def __repr__(self) -> str:
        return f"{self.nonce} {self.tool} life {self.life}: {self.outcome} {self.text}"


@dataclass(eq=False)
class Client:
    """One client from its first call to its last; its process is never harmed."""

    world: World
    who: str
    root: str
    environ: dict[str, str]
    calls: int
    choose: Callable[["Client"], tuple[str, dict[str, Any]]]
    depth: int = 3
    thinks_s: float = 0.5
    cancels: float = 0.0
    ops: list[Op] = field(default_factory=list)
    life: int = 0
    done: bool = False
    shim: Process | None = None
    _waiting: dict[int, Op] = field(default_factory=dict)
    _buffer: bytes = b""
    _to: int = -1
    _from: int = -1

    def start(self) -> Process:
        process = self.world.start("client", self._main)
        process.name = self.who
        process.harmed = False
        return process

    def _main(self) -> int:
        rng = self.world.rng
        while len(self.ops) < self.calls or self._waiting:
            if self.shim is None:
                self._start_shim()
            while len(self.ops) < self.calls and len(self._waiting) < self.depth:
                self._ask()
                if rng.random() < 0.5:
                    break
            self._listen(rng.expovariate(1 / self.thinks_s))
        self._leave()
        self.done = True
        return 0

    # The shim.

    def _start_shim(self) -> None:
        self.life += 1
        to, self._to = _OS.pipe()
        self._from, back = _OS.pipe()
        me = self.world.current
        assert me is not None
        process = self.world.start("shim", lambda: relay.main(["--palace", self.root]))
        process.name = f"shim-{self.who}"
        process.environ = self.environ
        for fd, number in ((to, 0), (back, 1)):
            del me.process.fds[fd]
            process.fds[fd] = None
            process.stdio[number] = fd
        self.shim = process
        self._buffer = b""
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
        self._say(message)

    def _say(self, message: dict[str, Any]) -> None:
        try:
            _OS.write(self._to, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return  # its end is read next

    def _shim_ended(self) -> None:
        assert self.shim is not None
        if self.shim.status != -9:
            self.world.violated(f"{self.shim!r} left its client with {self.shim.status}")
        for op in self._waiting.values():
            op.outcome = LOST
        self._waiting.clear()
        self._hang_up()

    def _hang_up(self) -> None:
        for fd in (self._to, self._from):
            if fd >= 0:
                _OS.close(fd)
        self._to = self._from = -1
        self.shim = None

    def _leave(self) -> None:
        """Close stdin, and wait for the shim's end."""
        if self.shim is None:
            return
        shim = self.shim
        _OS.close(self._to)
        self._to = -1
        while self._read(PATIENCE_S):
            pass
        self.world.block(lambda: shim.dead, deadline=self.world.now + PATIENCE_S)
        if not shim.dead:
            self.world.violated(f"{shim!r} does not end, though its client has left")
        self._hang_up()

    # Asking.

    def _ask(self) -> None:
        tool, arguments = self.choose(self)
        number = len(self.ops) + 1
        nonce = f"{self.who}n{number}"
        arguments = {"who": self.who, "nonce": nonce, **arguments}
        op = Op(self.who, self.life, number, tool, nonce, self.world.now, arguments)
        self.ops.append(op)
        self._waiting[number] = op
        params = {"name": f"mempalace_{tool}", "arguments": arguments}
        self.world.note(f"asks {nonce} {tool}")
        self._say({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        if self.world.rng.random() < self.cancels:
            self._cancel(op)

    def _cancel(self, op: Op) -> None:
        op.outcome = CANCELLED
        del self._waiting[op.number]
        self._say(
            {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": op.number},
            }
        )

    # Listening.

    def _listen(self, seconds: float) -> None:
        deadline = self.world.now + (seconds if len(self.ops) < self.calls else PATIENCE_S)
        while self.shim is not None and self.world.now < deadline:
            if not self._waiting and len(self.ops) >= self.calls:
                return  # its last call was cancelled
            before = len(self._waiting)
            if not self._read(deadline - self.world.now):
                if self.world.now < deadline and self.shim is not None:
                    self._shim_ended()
                return
            if len(self._waiting) < before and len(self.ops) < self.calls:
                return
            if not self._waiting:
                return
        if self._waiting and len(self.ops) >= self.calls and self.world.now >= deadline:
            for op in self._waiting.values():
                self.world.violated(f"liveness: {op!r} has waited {PATIENCE_S:.0f} s for a reply")
            self._waiting.clear()

    def _read(self, seconds: float) -> bool:
        """Take what the shim says within a time; False at its end, or when the time is up."""
        poll = SimPoll()
        poll.register(self._from, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        data = os.read(self._from, 1 << 16)
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if line:
                self._answered(json.loads(line))
        return True

    def _answered(self, reply: dict[str, Any]) -> None:
        number = reply.get("id")
        if number == 0:
            return
        op = self.ops[number - 1] if isinstance(number, int) else None
        if op is None or op.life != self.life:
            self.world.violated(f"a reply that nobody asked for: {reply}")
            return
        if op.outcome == CANCELLED:
            return
        if op.outcome is not None:
            self.world.violated(f"a second reply to {op!r}: {reply}")
            return
        if "error" in reply:
            op.outcome, op.text = reply["error"]["code"], reply["error"]["message"]
        else:
            op.answer = json.loads(reply["result"]["content"][0]["text"])
            op.outcome = OK if op.answer.get("success", True) else FAILED
            op.text = str(op.answer.get("error", ""))
        self.world.note(f"has {op!r}")
        del self._waiting[op.number]
