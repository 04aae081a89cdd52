"""Births, removals and sweeps: a provider's command for each runtime of each agent.

Best effort: an agent is born and leaves whatever the provider does.  A provider that declares a
direction's command is asked by that alone; what it doesn't declare is refused by name, and nothing
else is tried in its place, the deprecated plugin block included.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import attrs

from palace.mcp_hosts.table import NAMES
from palace.provider.declaration import Declaration
from palace.provider.run import OK, TIMEOUT_S, run_command

BIRTH, SWEEP_ON = "birth", "sweep-on"
OFF_PEER, OFF_ALL, REMOVE = "off-peer", "off-all", "remove"
ARRIVING = (BIRTH, SWEEP_ON)
SKIPPED = "skipped-no-agentic-runtime"
MISSING = "missing-direction"


@attrs.frozen(kw_only=True)
class Peer:
    """An agent: who it is, where it runs, and the programs that it may run as."""

    personality: str
    cwd: str
    runtimes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Result:
    """What became of one agent as one runtime."""

    personality: str
    runtime: str
    occasion: str
    state: str
    exit_code: int | None = None
    ms: int = 0
    detail: str = ""

    @property
    def is_fine(self) -> bool:
        return self.state in (OK, SKIPPED)

    def fields(self) -> dict[str, str]:
        """Return it as fields of a line in the lifecycle log."""
        return {
            "identity": "-".join(part for part in (self.runtime, self.personality) if part),
            "occasion": self.occasion,
            "state": self.state,
            "exit": "" if self.exit_code is None else str(self.exit_code),
            "ms": str(self.ms),
            "detail": self.detail,
        }


Note = Callable[[Result], None]


@attrs.frozen(kw_only=True)
class Provider:
    """A declared provider, as its commands are run: `limit` of them at once, each `timeout_s` long.

    `note` hears of each outcome as soon as there is one, in any thread.
    """

    declaration: Declaration
    environ: Mapping[str, str]
    limit: int
    note: Note
    timeout_s: float = TIMEOUT_S

    def sweep(self, peers: Iterable[Peer], occasion: str) -> list[Result]:
        """Ask for each agent and runtime; return what became of each.  Raises nothing of theirs."""
        jobs = [(peer, runtime) for peer in peers for runtime in _runtimes(peer)]
        if not jobs:
            return []
        with ThreadPoolExecutor(max_workers=min(self.limit, len(jobs))) as pool:
            return list(pool.map(lambda job: self._noted(job[0], job[1], occasion), jobs))

    def _noted(self, peer: Peer, runtime: str, occasion: str) -> Result:
        made = self._ask(peer, runtime, occasion)
        self.note(made)
        return made

    def _ask(self, peer: Peer, runtime: str, occasion: str) -> Result:
        made = Result(
            personality=peer.personality, runtime=runtime, occasion=occasion, state=SKIPPED
        )
        if runtime not in NAMES:
            return attrs.evolve(made, detail=_not_agentic(runtime))
        arriving = occasion in ARRIVING
        block = self.declaration.provision if arriving else self.declaration.unprovision
        if block is None:
            why = _missing(self.declaration, arriving=arriving)
            return attrs.evolve(made, state=MISSING, detail=why)
        values = {
            "cwd": peer.cwd,
            "runtime": runtime,
            "personality": peer.personality,
            "occasion": occasion,
        }
        found = run_command(block, values, self.environ, timeout_s=self.timeout_s)
        return attrs.evolve(
            made, state=found.state, exit_code=found.exit_code, ms=found.ms, detail=found.detail
        )


def _runtimes(peer: Peer) -> tuple[str, ...]:
    """Return a peer's runtimes once each; one without any has "", which is no agent."""
    return tuple(dict.fromkeys(peer.runtimes)) or ("",)


def _not_agentic(runtime: str) -> str:
    return f"{runtime} is no agent that palace knows" if runtime else "it has no runtime"


def _missing(declaration: Declaration, *, arriving: bool) -> str:
    direction = "provision" if arriving else "unprovision"
    text = f"{declaration.provider} declares no {direction} command"
    if declaration.has_plugin:
        text += ", and its deprecated plugin block is not carried out"
    return text
