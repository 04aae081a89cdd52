"""One seed: a palace, clients, misfortune of every kind for a while, and what must hold then."""

import errno
import gc
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import attrs

import palace.broker.assemble
from palace.broker import serve
from palace.ownership.lock import mempalace_lock_path
from palace.settings.paths import Paths
from palace.shim.relay import Relay
from tests.model.follow import problems_of
from tests.sim import install, kernel
from tests.sim.bystanders import GREETINGS, Watcher, stock, stranger
from tests.sim.canaries import Canaries
from tests.sim.checks import check_files, check_promises, live_in, not_taken_back
from tests.sim.client import Client
from tests.sim.disk import Disk
from tests.sim.world import START_S, Killed, Process, World

TOP = "/dev/shm" if os.path.isdir("/dev/shm") else None
AFTER_S = 700.0  # a default watchdog has 600 s
SERVED_S = 2000.0  # for all that waits, two default watchdogs included
WATCHDOG_EXIT = 70
TOOLS = {  # and how often each is called beside the others
    "add_drawer": 8,
    "diary_write": 8,
    "update_drawer": 6,
    "get_drawer": 6,
    "hook_settings": 1,
    "event_wait": 1,
    "mine": 1,
}
REST_S = 40.0  # stock's processes end, and a broker with a failed engine leaves


@attrs.frozen(kw_only=True)
class Plan:
    """What a seed brings; probabilities are per system call unless they say otherwise."""

    clients: int
    calls: int
    depth: int
    switch: float
    faults_s: float
    kill_broker: float = 0.0
    kill_shim: float = 0.0
    error: float = 0.0
    slow: float = 0.0
    cancels: float = 0.0
    actions: tuple[tuple[float, str], ...] = ()
    idle_s: float = 3.0
    loads_per_s: float = 20.0
    load_fails: float = 0.0  # how often an engine can't be loaded
    settled: bool = True  # palace.toml is there; else the first owner writes it
    sandbox: bool = False  # detached brokers die at once
    stuck: float = 0.0  # per change: the store never returns
    lazy_store: bool = False  # a power cut takes the store's newest changes
    brittle_store: bool = False  # a change that failed may be there, and may not go away
    cruel_disk: bool = False  # what an fsync failed to write is lost for later owners, too
    poor_shim: bool = False  # shims run out of descriptors, too


ACTIONS = (
    "kill",
    "kill",
    "term",
    "term",
    "stop",
    "cut",
    "full",
    "upgrade",
    "shim",
    "stock",
    "stranger",
    "stranger",
)


def plan_of(seed: int) -> Plan:
    """Return a seed's plan; about one in eight meets no misfortune but the scheduler."""
    rng = random.Random(f"plan {seed}")
    faults_s = rng.choice([1.0, 3.0, 8.0])
    calm = rng.random() < 0.12

    def some(chance: float, *values: float) -> float:
        return 0.0 if calm or rng.random() > chance else rng.choice(values)

    count = 0 if calm else rng.choice([0, 1, 2, 4, 8])
    actions = sorted((rng.uniform(0, faults_s), rng.choice(ACTIONS)) for _ in range(count))
    return Plan(
        clients=rng.randint(1, 4),
        calls=rng.randint(2, 9),
        depth=rng.choice([1, 2, 4]),
        switch=rng.choice([0.02, 0.1, 0.3]),
        faults_s=faults_s,
        kill_broker=some(0.6, 0.0005, 0.002, 0.006, 0.02),
        kill_shim=some(0.3, 0.0005, 0.003),
        error=some(0.4, 0.001, 0.005, 0.02),
        slow=some(0.5, 0.002, 0.02),
        cancels=some(0.3, 0.1, 0.3),
        actions=tuple(actions),
        idle_s=rng.choice([1.0, 3.0]),
        sandbox=not calm and rng.random() < 0.08,
        stuck=some(0.1, 0.02),
        settled=rng.random() < 0.9,
        loads_per_s=rng.choice([20.0, 20.0, 3.0]),
        load_fails=some(0.15, 0.1, 0.3),
    )


@dataclass(eq=False)
class Outcome:
    seed: int
    problems: list[str]
    digest: int
    log: list[str]
    steps: int
    virtual_s: float
    counts: dict[str, int] = field(default_factory=dict)


class Run:
    """One seed from the first process to the last check."""

    def __init__(self, seed: int, plan: Plan | None = None, *, verbose: bool = False) -> None:
        self.plan = plan or plan_of(seed)
        self.world = World(seed, verbose=verbose)
        self.world.switch = self.plan.switch
        self.canaries = Canaries(self.world)
        self.clients: list[Client] = []
        self.epoch = 0
        self.calm = False
        self.watchdog_bit = False  # whether it has ended the last owner
        self.counts: dict[str, int] = {}

    def run(self) -> Outcome:
        top = tempfile.mkdtemp(prefix="ps", dir=TOP)
        try:
            return self._run(top)
        finally:
            shutil.rmtree(top, ignore_errors=True)

    def _run(self, top: str) -> Outcome:
        world = self.world
        world.top = top
        self.root = f"{top}/m/palace"
        self.environ = {"HOME": f"{top}/h", "PALACE_IDLE_S": str(self.plan.idle_s)}
        os.makedirs(f"{top}/m")
        if self.plan.settled:
            os.mkdir(self.root, 0o700)
            with open(f"{self.root}/palace.toml", "w") as file:
                file.write("grace_s = 5.0\nwatchdog_s = 20.0\n")
        os.makedirs(f"{top}/h")
        disk = Disk(f"{top}/m", f"{top}/attic", world.rng, cruel=self.plan.cruel_disk)
        machine = self.machine = kernel.Machine(world, disk, top)
        machine.lock = f"{self.root}/broker.lock"
        machine.guarded = {f"{self.root}/broker.json", f"{self.root}/broker.sock"}
        world.fault = self._fault
        world.notes |= {
            "spawn": self._spawn,
            "db": set(),
            "effects": [],
            "torn": set(),
            "trace": [],
            "lazy_store": self.plan.lazy_store,
            "brittle_store": self.plan.brittle_store,
            "version": "3.11.9",
            "loads_per_s": self.plan.loads_per_s,
            "load_fails": lambda: not self.calm and world.rng.random() < self.plan.load_fails,
            "before_call": self._before_call,
        }
        world.died.append(world.notes["db"].discard)
        world.died.append(self._ended)

        def connected(relay: Relay) -> None:
            self._connected(relay)

        collecting = gc.isenabled()
        gc.disable()
        try:
            with install.installed(world, machine):
                undo = [
                    install.replace(palace.broker.assemble, "assemble", self._assemble),
                    install.replace(Relay, "_connected", connected),
                ]
                try:
                    world.run(self._referee)
                finally:
                    for restore in undo:
                        restore()
        finally:
            if collecting:
                gc.enable()
        self._judge()
        return Outcome(
            seed=world.seed,
            problems=world.problems,
            digest=world.digest,
            log=world.log,
            steps=world.steps,
            virtual_s=world.now - START_S,
            counts=self.counts,
        )

    # The processes.

    def _spawn(
        self, parent: Process, argv: list[str], environ: dict[str, str], fds: dict[int, int]
    ) -> int:
        world = self.world
        arguments = argv[argv.index("serve") + 1 :]
        direct = any(word.startswith("--direct-fd") for word in arguments)

        def main() -> int:
            world.sleep(world.rng.expovariate(8))
            if self.plan.sandbox and not direct and not self.calm:
                world.end(process, -9)
                raise Killed
            return serve.main(arguments)

        process = world.start("broker", main, parent=parent)
        process.name = "direct" if direct else "broker"
        process.environ = environ
        for fd, target in fds.items():
            new = os.dup(fd)
            process.fds[new] = None
            name = {3: "--report-fd", 4: "--direct-fd"}[target]
            arguments[arguments.index(f"{name}={target}")] = f"{name}={new}"
        self._counted(process.name)
        world.note(f"starts {process!r}")
        return process.pid

    def _ended(self, process: Process) -> None:
        """The trace also has the ends that no process can write down by itself."""
        self.world.notes["trace"].append({"act": "end", "pid": process.pid})
        if "state" in process.notes:
            self.watchdog_bit = "stuck" in process.notes and process.status == WATCHDOG_EXIT
            self.canaries.judge(process, bitten=self.watchdog_bit)

    def _counted(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _assemble(self, owner: Any, *arguments: Any) -> Any:
        """I6: each owner's epoch is larger than all before it."""
        if owner.epoch <= self.epoch:
            self.world.violated(f"I6: epoch {owner.epoch} after {self.epoch}")
        self.epoch = max(self.epoch, owner.epoch)
        self.world.note(f"owns the palace in epoch {owner.epoch}")
        self._counted("owners")
        state = REAL_ASSEMBLE(owner, *arguments)
        state.services.home = ""  # this world has no TCP
        kernel.alive().notes["state"] = state
        self.canaries.listen(kernel.alive())
        return state

    def _connected(self, relay: Any) -> None:
        """I6: the epochs that one client's shim is welcomed by never go back."""
        notes, epoch = kernel.alive().notes, int(relay._connector.welcome.get("epoch", "0"))
        if epoch < notes.get("epoch", 0):
            self.world.violated(f"I6: a client is welcomed by epoch {epoch}, after {notes}")
        notes["epoch"] = epoch
        REAL_CONNECTED(relay)

    # The referee.

    def _referee(self) -> None:
        world, plan = self.world, self.plan
        Watcher(world, self.machine, self.root).start()
        for number in range(plan.clients):
            client = Client(
                world,
                f"c{number}",
                self.root,
                self.environ,
                plan.calls,
                self._choose,
                depth=plan.depth,
                thinks_s=plan.faults_s / plan.calls,
                cancels=plan.cancels,
            )
            self.clients.append(client)
            client.start()
        for when, action in plan.actions:
            world.sleep(START_S + when - world.now)
            self._act(action)
        world.sleep(START_S + plan.faults_s - world.now)
        self._make_calm()
        world.block(lambda: all(client.done for client in self.clients), deadline=world.now + 1000)
        for client in self.clients:
            if not client.done:
                world.violated(f"liveness: {client.who} does not come to its end")
        self._last_client()

    def _make_calm(self) -> None:
        self.world.note("-- no more misfortune")
        self.calm = True
        self.machine.full = False

    def _last_client(self) -> None:
        """After all misfortune one more client is served, and then the palace rests."""
        world = self.world
        world.sleep(REST_S)
        client = Client(world, "last", self.root, self.environ, 2, self._ordinary)
        self.clients.append(client)
        client.start()
        world.block(lambda: client.done, deadline=world.now + AFTER_S)
        bad = [op for op in client.ops if op.outcome != "ok"]
        if not client.done or bad:
            world.violated(f"liveness: the last client was not served: {bad}")
        alive = self._alive("broker", "shim")
        world.block(lambda: all(p.dead for p in alive), deadline=world.now + AFTER_S)
        left = self._alive("broker", "shim")
        if left:
            world.violated(f"L2: {left} do not leave")

    def _alive(self, *kinds: str) -> list[Process]:
        return [p for p in self.world.processes.values() if p.kind in kinds and not p.dead]

    def _choose(self, client: Client) -> tuple[str, dict[str, Any]]:
        rng = self.world.rng
        tool = rng.choices(
            list(TOOLS),
            list(TOOLS.values()),
        )[0]
        arguments: dict[str, dict[str, Any]] = {
            "add_drawer": {"parts": rng.randint(1, 3), "text": "x" * rng.choice([10, 900])},
            "diary_write": {"agent_name": client.who, "entry": str(len(client.ops))},
            "event_wait": {"seconds": 4.0},
            "mine": {"files": 3},
        }
        return tool, arguments.get(tool, {})

    def _ordinary(self, client: Client) -> tuple[str, dict[str, Any]]:
        return [("add_drawer", {"parts": 1, "text": ""}), ("get_drawer", {})][len(client.ops)]

    # Misfortune.

    def _before_call(self, process: Process, arguments: dict[str, Any]) -> None:
        world = self.world
        world.sleep(world.rng.expovariate(100))
        changes = arguments["tool"] not in ("get_drawer", "event_wait")
        if changes and not self.calm and world.rng.random() < self.plan.stuck:
            world.note("the store is stuck")
            process.notes["stuck"] = True
            world.sleep(1e7)

    def _fault(self, process: Process, what: str) -> None:
        world, plan = self.world, self.plan
        if what.startswith("fsync"):
            world.sleep(world.rng.expovariate(500))
        if self.calm or not process.harmed:
            return
        chance = world.rng.random()
        kill = plan.kill_broker if process.kind == "broker" else plan.kill_shim
        if chance < kill:
            world.note(f"is killed at {what}")
            self._counted("killed")
            world.end(process, -9)
            raise Killed
        chance -= kill
        if chance < plan.slow:
            world.sleep(world.rng.expovariate(3))
        elif chance - plan.slow < plan.error:
            self._refuse(process, what)

    def _refuse(self, process: Process, what: str) -> None:
        call = what.partition(" ")[0]
        number = ERRORS.get(call)
        if number is None or process.spared or (process.kind == "shim" and not self._meets(call)):
            return
        self.world.note(f"{what} fails with {errno.errorcode[number]}")
        self._counted("errors")
        raise OSError(number, os.strerror(number))

    def _meets(self, call: str) -> bool:
        """Tell whether a shim's call may fail."""
        return call in SHIM_ERRORS or (self.plan.poor_shim and call == "socket")

    def _act(self, action: str) -> None:
        world = self.world
        self._counted(action)
        world.note(f"-- {action}")
        if action == "cut":
            self._power_cut()
        elif action == "full":
            self.machine.full = not self.machine.full
        elif action == "upgrade":
            world.notes["version"] += "1"
        elif action == "stock":
            path = mempalace_lock_path(Paths(self.root), self.environ)
            stock(world, path, world.rng.choice([0.5, 5.0, 20.0]))
        elif action == "stranger":
            greeting = world.rng.choice(sorted(GREETINGS))
            stranger(world, f"{self.root}/broker.sock", greeting)
        else:
            kinds = ("shim",) if action == "shim" else ("broker",)
            found = self._alive(*kinds)
            if found:
                self._strike(world.rng.choice(found), action)

    def _strike(self, process: Process, action: str) -> None:
        world = self.world
        if action == "stop":
            process.stopped_until = world.now + world.rng.choice([0.1, 2.0, 12.0])
        elif action != "term":
            world.end(process, -9)
        elif process.handler is None:
            world.end(process, -15)
        else:
            process.handler(15)

    def _power_cut(self) -> None:
        world = self.world
        for process in self._alive("broker", "shim"):
            world.end(process, -9)
        self.machine.disk.cut()
        world.boot += 1

    # The judgement.

    def _judge(self) -> None:
        world = self.world
        left = not_taken_back(self.root)
        problems = check_promises(self.clients, live_in(self.root), world.notes, left)
        problems += problems_of(world.notes["trace"], ends_told=True)
        for text in [*problems, *check_files(self.root, killed=self.watchdog_bit)]:
            world.violated(text)


REAL_CONNECTED = Relay._connected
REAL_ASSEMBLE: Callable[..., Any] = palace.broker.assemble.assemble
ERRORS = {
    "open": errno.EMFILE,
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "flock": errno.ENOLCK,
    "accept": errno.EMFILE,
    "rename": errno.EIO,
    "mkdir": errno.ENOSPC,
    "reserve": errno.ENOSPC,
    "ftruncate": errno.EIO,
    "socket": errno.EMFILE,
    "spawn": errno.EAGAIN,
    "pipe": errno.EMFILE,
    "bind": errno.EADDRINUSE,
}
SHIM_ERRORS = {"spawn", "pipe"}
