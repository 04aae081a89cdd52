"""The scopes that are explored, what each is there to see, and how many states each has at least.

The floors are a little below what was counted: a scope that shrinks has lost something.
"""

from tests.model.scope import NO_JOURNAL, Scope

OFF = NO_JOURNAL
_QQ, _MM = ("Q", "Q"), ("M", "M")


def _scope(name: str, floor: int, **fields: object) -> tuple[Scope, int]:
    base: dict[str, object] = {"idle": False, "starts": 2}
    return Scope(name=name, **(base | fields)), floor  # type: ignore[arg-type]


_QUICK = (
    # Election: two shims start brokers at once; losers leave, clients are served by one owner.
    _scope("race", 2_000, lines=_QQ, journal_from=OFF, live=True),
    # Idle exit against a client that asks again, and what is left when all have left.
    _scope("idle", 1_600, lines=("QQ",), idle=True, journal_from=OFF, live=True),
    # SIGKILL at every step, open, flock and verify apart; slots are pids, so pids are reused.
    _scope("kill", 36_000, lines=_QQ, crashes=1, fine=True, journal_from=OFF),
    # System calls that fail, torn records, lost epoch files.
    _scope(
        "fault", 20_000, lines=("Q",), starts=3, faults=1, crashes=1, idle=True, journal_from=OFF
    ),
    _scope("damage", 700, lines=("Q",), starts=3, crashes=1, damage=1),
    # Stock processes: of this home under mempalace's lock, of others without; shared data files.
    _scope("stock", 24_000, lines=_QQ, stock=2, aliens=1, journal_from=OFF),
    _scope("hold", 1_900, lines=("Q",), starts=3, hold=True, stops=1, journal_from=OFF),
    # Sandboxes that kill what is detached, direct brokers, deaf ones.
    _scope(
        "direct",
        3_500,
        lines=("Q",),
        starts=4,
        faults=1,
        sandbox=True,
        direct=True,
        leave=True,
        journal_from=OFF,
    ),
    _scope("guest", 4_800, lines=_QQ, guests=(1,), crashes=1, idle=True, journal_from=OFF),
    _scope("named", 30_000, lines=_QQ, verbatim=(1,), idle=True, journal_from=OFF),
    # A full queue, one reader, a full backlog.
    _scope(
        "full",
        13_000,
        lines=("QQ", "Q"),
        depth=0,
        readers=1,
        backlog=1,
        pipeline=True,
        journal_from=OFF,
    ),
    # Leaving with work admitted: stop, end of grace, upgrade, an engine that won't load.
    _scope("stop", 14_000, lines=("MPQ",), stops=1, grace=True, pipeline=True),
    _scope("fail", 20_000, lines=("MM",), starts=3, crashes=1, faults=1, pipeline=True),
    _scope("upgrade", 6_000, lines=("MMQ",), upgrades=1, pipeline=True),
    # No journal: what may have run is unknown; external effects are never sent twice.
    _scope("off", 11_000, lines=("ME",), crashes=1, idle=True, pipeline=True, journal_from=OFF),
    # The journal: exactly once over deaths, in recovery, too.
    _scope("resend", 61_000, lines=("MQM",), starts=3, crashes=2, pipeline=True),
    _scope("recover", 12_000, lines=("M",), starts=4, crashes=3),
    _scope("poison", 590, lines=("MM",), starts=4, poison=0, pipeline=True),
    _scope("power", 13_000, lines=("M", "MM"), reboots=1, split=True),
    _scope("torn", 9_700, lines=("MM",), starts=3, crashes=2, split=True),
    _scope("toggle", 28_600, lines=("MM",), starts=3, crashes=2, cuts=1, journal_from=2),
    _scope("pause", 36_000, lines=("MM",), starts=4, crashes=3, without=(2,)),
    # Greetings given up, connections cut off, sessions forgotten, segments that begin again.
    _scope("cut", 14_700, lines=("MM",), cuts=1, crashes=1, pipeline=True),
    _scope("stale", 43_000, lines=_MM, slots=1, starts=1, silences=1, cuts=1, ack=True),
    _scope(
        "roll",
        7_700,
        lines=("MM",),
        crashes=1,
        cuts=1,
        roll=True,
        ack=True,
        abandon=True,
        leave=True,
    ),
    # Who notices how owners end, while owners and canaries are killed; with three lives, the next
    # owner's first try as well.
    _scope(
        "canary",
        26_000,
        lines=("Q",),
        crashes=1,
        stops=1,
        canary=True,
        canary_kills=1,
        journal_from=OFF,
    ),
    _scope(
        "canaries",
        41_000,
        lines=("Q",),
        slots=1,
        starts=3,
        crashes=2,
        canary=True,
        canary_kills=1,
        journal_from=OFF,
    ),
    # A write that never returns, and the watchdog.
    _scope("wedge", 18_000, lines=("M", "Q"), wedges=1, live=True),
)

_LONG = (
    _scope(
        "lives", 41_000, lines=("Q",), starts=4, crashes=2, fine=True, idle=True, journal_from=OFF
    ),
    _scope(
        "pipe", 105_000, lines=("Q",), crashes=1, canary=True, pipes=1, idle=True, journal_from=OFF
    ),
    _scope("faults", 45_000, lines=_QQ, faults=1, journal_from=OFF, live=True),
    _scope("idle2", 244_000, lines=_QQ, idle=True, journal_from=OFF, live=True),
    _scope("crash2", 141_000, lines=_QQ, starts=3, crashes=1, journal_from=OFF, live=True),
    _scope("hold2", 286_000, lines=_QQ, hold=True, stops=1, journal_from=OFF),
    _scope(
        "direct1",
        276_000,
        lines=("Q",),
        starts=5,
        crashes=1,
        faults=1,
        sandbox=True,
        direct=True,
        idle=True,
        journal_from=OFF,
    ),
    _scope(
        "direct2",
        245_000,
        lines=_QQ,
        starts=4,
        sandbox=True,
        direct=True,
        leave=True,
        journal_from=OFF,
    ),
    _scope(
        "off2",
        88_000,
        lines=("ME",),
        starts=3,
        crashes=2,
        idle=True,
        pipeline=True,
        journal_from=OFF,
    ),
    _scope("stop2", 67_000, lines=("MM",), starts=3, stops=1, crashes=1, grace=True, pipeline=True),
    # What stops cut off, a rollback included, is never suspected.
    _scope("stops2", 68_000, lines=("M",), starts=3, stops=2, grace=True),
    _scope("upgrade2", 600_000, lines=("MQ", "MQ"), slots=1, upgrades=1, pipeline=True),
    _scope("journal2", 150_000, lines=_MM, crashes=1),
    _scope(
        "power2",
        650_000,
        lines=("MM", "Q"),
        slots=1,
        reboots=1,
        crashes=1,
        split=True,
        pipeline=True,
    ),
    _scope("stale2", 160_000, lines=_MM, slots=1, crashes=1, silences=1, ack=True),
    _scope("kills", 125_000, lines=_MM, slots=1, kills=1, crashes=1, leave=True),
)

QUICK = tuple(scope for scope, _ in _QUICK)
FULL = QUICK + tuple(scope for scope, _ in _LONG)
SCOPES = {scope.name: scope for scope in FULL}
FLOORS = {scope.name: floor for scope, floor in (*_QUICK, *_LONG)}
