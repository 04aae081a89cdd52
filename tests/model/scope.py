"""How much of the world one exploration contains: processes, lives, faults, clients, features.

One model, several scopes: the product of all features explodes, each scope turns some of them on.
"""

from typing import NamedTuple


class Scope(NamedTuple):
    """Sizes and switches; the defaults are the smallest world: one shim, one query, no faults."""

    name: str
    lines: tuple[str, ...] = ("Q",)  # per shim its client's lines: M mutation, Q query,
    # E external effect, P long-poll
    slots: int = 2  # processes alive at once
    starts: int = 2  # processes ever started
    crashes: int = 0  # SIGKILLs of owners and starters
    reboots: int = 0
    kills: int = 0  # SIGKILLs of shims
    silences: int = 0  # greetings that shims give up waiting for
    faults: int = 0  # system calls that fail (ENOLCK, ENOSPC, a store that won't open)
    damage: int = 0  # a record torn or an epoch file lost, by a user or a restored backup
    stops: int = 0  # `palace stop`, signals
    upgrades: int = 0
    wedges: int = 0  # writes that never return
    stock: int = 0  # stock processes of the same home, which honour mempalace's lock
    aliens: int = 0  # stock processes of another home, which honour nothing
    lapses: int = 0  # leases that run out (for a mutant)
    cuts: int = 0  # connections that break though both ends live (a client that never reads)
    fine: bool = False  # open, flock and verify are three steps; lock files may be made again
    idle: bool = True
    grace: bool = False  # admitted work may outlast a drain's grace
    hold: bool = False  # `palace stop --hold`, `palace start`
    leave: bool = False  # clients leave when they are served
    pipeline: bool = False  # clients ask on before they are answered
    deadline: bool = False  # a shim's patience may end
    journal_from: int = 1  # the first start with a journal; a large number for none
    without: tuple[int, ...] = ()  # later starts in which it is switched off again
    split: bool = False  # append and fsync are two steps (it takes a power cut to tell)
    sandbox: bool = False  # detached processes are killed at once
    direct: bool = False  # shims may run a broker as their own child
    deaf: bool = False  # a direct broker that can't listen
    guests: tuple[int, ...] = ()  # shims behind a VM boundary
    verbatim: tuple[int, ...] = ()  # shims with MEMPALACE_BROKER set
    backlog: int = 9
    depth: int = 9  # a session's queue
    readers: int = 2
    ack: bool = False  # shims acknowledge every settled line
    abandon: bool = False  # sessions between two connections may be forgotten
    roll: bool = False  # the journal may begin a new segment
    poison: int = -1  # the key whose change kills its owner, again and again
    canary: bool = False  # owners have one
    canary_kills: int = 0  # SIGKILLs of canaries
    pipes: int = 0  # pipes to canaries that are lost though both ends live
    live: bool = False  # keep the edges, check liveness

    @property
    def clients(self) -> int:
        return len(self.lines)

    @property
    def deadly(self) -> bool:
        """Tell whether an owner may end otherwise than by leaving."""
        deaths = self.crashes + self.reboots + self.faults + self.wedges
        return bool(deaths or self.sandbox or self.direct or self.poison >= 0)

    @property
    def journal(self) -> bool:
        return self.journal_from <= self.starts

    @property
    def journal_always(self) -> bool:
        return self.journal_from == 1 and not self.without


NO_JOURNAL = 99
