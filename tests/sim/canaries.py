"""What canaries would have read of owners, and how they would have judged each end.

A canary is another program on another clock, which the simulation has no room for.  What an owner
tells its own is a pipe's bytes in their order, though, and a pipe loses nothing when its writer
dies: here they go to `Witness` itself, which decides once the process has ended.
"""

from palace.protocol import wire
from palace.protocol.deaths import DEATH, LEFT, SILENT, Seen, Witness
from tests.sim import kernel
from tests.sim.world import Process, World

HEARING = "canary"
KILLED = (-9, -15)
# Ends whose store the kernel closes: it could not be opened whole, or its place is another's.
UNCLOSED = ("failed", "displaced")


def write(_canary: object, data: bytes) -> None:
    """Stand in for `Canary._write`, the end of the pipe at an owner's."""
    hearing: Hearing | None = kernel.alive().notes.get(HEARING)
    if hearing is not None:
        hearing.hear(data)


class Hearing:
    """What one owner has told so far."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.witness = Witness()
        self.witness.armed = {"pid": str(process.pid)}

    def hear(self, data: bytes) -> None:
        _, kind, fields = wire.decode_header(data[:-1])
        if self.witness.left:
            self._world.violated(f"canary: {self._process!r} says {kind} after its last word")
        closes = fields.get("reason") not in UNCLOSED and not self._has_abandoned()
        if kind == LEFT and closes and self._process in self._world.notes["db"]:
            self._world.violated(f"canary: {self._process!r} has left with its store open")
        self.witness.hear(data)

    def _has_abandoned(self) -> bool:
        """Tell whether it has come to X5, and left its store since a call was still running."""
        done = {"act": "X5.abandon", "pid": self._process.pid}
        return any(done.items() <= event.items() for event in self._world.notes["trace"])


class Canaries:
    """One world's: each owner's end is judged, once it is over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.recorded: list[int] = []
        self.silent: list[int] = []

    def listen(self, process: Process) -> None:
        """Hear all that an owner tells from now on."""
        process.notes[HEARING] = Hearing(self._world, process)

    def judge(self, process: Process, *, bitten: bool) -> None:
        """Hold the verdict against how a process really ended; `bitten`: by its watchdog."""
        hearing: Hearing | None = process.notes.get(HEARING)
        if hearing is None:
            return
        verdict, _ = hearing.witness.judge(Seen(alive=False))
        died = process.status in KILLED or bitten
        if verdict == DEATH and not died:
            self._world.violated(f"canary: {process!r} came to its own end, and is told as dead")
        if bitten and (verdict == SILENT or not hearing.witness.claimed):
            self._world.violated(f"canary: the watchdog ended {process!r} and claimed nothing")
        (self.recorded if verdict == DEATH else self.silent).append(process.pid)
