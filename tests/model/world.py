"""What the world does to the protocol: kills, power cuts, users, strangers."""

from tests.model import machines
from tests.model.client import depart
from tests.model.owner import die
from tests.model.state import (
    EPOCH,
    FREE,
    GONE,
    OTHER,
    SERVE,
    STOCK,
    State,
    with_shim,
)
from tests.model.world_types import Model, Out

# Steps of the environment: a request must end well without any of them.
_WORDS = (
    "crash crash.torn reboot sandbox C.killed C3.silent C5.deadline fault B9.fail B6.deaf tear "
    "lose_epoch canary.kill pipe.lost X0.stop X0.upgrade wedge stock alien other hold "
    "C.ask C.leave lapse cut"
)
FAULTS = frozenset(_WORDS.split())


def world_steps(m: Model, s: State, out: Out) -> None:
    left = s.left
    for i, p in enumerate(s.procs):
        if p.pc == FREE:
            continue
        if left.crashes:
            t = s._replace(left=left._replace(crashes=left.crashes - 1))
            t = die(m, t, i, -9, said=False, killed=True)
            out(("crash", i), t)
            if m.scope.split and p.work and (not t.disk.journal or t.disk.journal[-1][0] != "~"):
                torn = (*t.disk.journal, machines.TORN)
                out(("crash.torn", i), t._replace(disk=t.disk._replace(journal=torn)))
        if m.scope.sandbox and not p.direct and p.pc < SERVE:
            out(("sandbox", i), die(m, s, i, -9, said=False, killed=True))
    if left.reboots:
        _reboot(m, s, out)
    if left.damage:
        _damage(m, s, out)
    if left.stock or s.kernel.mempalace == STOCK or s.kernel.data == OTHER:
        _stock(m, s, out)
    if left.aliens:
        t = s._replace(left=left._replace(aliens=left.aliens - 1))
        out(("alien", 0), t._replace(seen=t.seen._replace(alien=True)))
    if m.scope.hold:
        _hold(m, s, out)


def _reboot(m: Model, s: State, out: Out) -> None:
    """A power cut: what no fsync has confirmed may be gone, from any record on."""
    d = s.disk
    t = s._replace(left=s.left._replace(reboots=s.left.reboots - 1))
    for i, p in enumerate(t.procs):
        if p.pc != FREE:
            t = die(m, t, i, -9, said=False, killed=True)
    for c, shim in enumerate(t.shims):
        if shim.ledger[1]:
            t = depart(m, t, c, politely=False)
        else:
            t = with_shim(t, c, shim._replace(child=()))
    t = t._replace(
        conns=(),
        deaths=t.deaths._replace(canaries=()),
        kernel=t.kernel._replace(
            boot=t.kernel.boot + 1,
            orphans=(),
            flock=(0,) * len(t.kernel.flock),
            guest=(0,) * len(t.kernel.guest),
            mempalace=0,
        ),
        seen=t.seen._replace(deaths=True, open=0),
    )
    for upto in range(d.synced, len(d.journal) + 1):
        for kept in range(d.store_safe, len(d.store) + 1):
            journal = d.journal[:upto]
            disk = d._replace(
                journal=journal,
                synced=len(journal),
                store=d.store[:kept],
                store_safe=kept,
                epoch=d.epoch_safe,
            )
            out(("reboot", 0), t._replace(disk=disk))


def _damage(m: Model, s: State, out: Out) -> None:
    t = s._replace(left=s.left._replace(damage=s.left.damage - 1))
    d = s.disk
    if len(d.record) > 1:
        out(("tear", 0), t._replace(disk=d._replace(record=(0,))))
    # A backup put back or a file removed by hand, while nobody is there to notice.
    left_behind = max((d.record[1:2] or (0,))[0], max((r[2] for r in d.journal), default=0))
    if d.epoch == left_behind and all(p.pc == FREE for p in s.procs):
        out(("lose_epoch", 0), t._replace(disk=d._replace(epoch=0, epoch_safe=0)))


def _stock(m: Model, s: State, out: Out) -> None:
    """A stock process of this home writes under mempalace's lock; another palace's broker may
    have locked a data file that both share.
    """
    k = s.kernel
    t = s._replace(left=s.left._replace(stock=s.left.stock - 1))
    if s.left.stock and k.mempalace == 0:
        seen = s.seen._replace(stock=True, open=1)
        out(("stock", 0), t._replace(kernel=k._replace(mempalace=STOCK), seen=seen))
    if k.mempalace == STOCK:
        seen = s.seen._replace(open=0)
        out(("stock.end", 0), s._replace(kernel=k._replace(mempalace=0), seen=seen))
    if s.left.stock and k.data == 0:
        out(("other", 0), t._replace(kernel=k._replace(data=OTHER)))
    if k.data == OTHER:
        out(("other.end", 0), s._replace(kernel=k._replace(data=0)))


def _hold(m: Model, s: State, out: Out) -> None:
    """`palace stop --hold`: write the note, ask the broker, and say how it went."""
    d = s.disk
    if s.left.holds and not d.hold:
        t = s._replace(left=s.left._replace(holds=s.left.holds - 1))
        out(("hold", 0), t._replace(disk=d._replace(hold=True)))
    if d.hold and not s.seen.held and not any(s.kernel.flock):
        # Nobody answers and nobody holds the lock: "No broker runs.  On hold".
        out(("hold.told", 0), s._replace(seen=s.seen._replace(held=True)))
    if s.seen.held:
        t = s._replace(disk=d._replace(hold=False), seen=s.seen._replace(held=False))
        out(("hold.end", 0), t)


__all__ = ["EPOCH", "GONE"]
