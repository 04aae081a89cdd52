"""Broken protocols, each of which the invariants must catch: `python -m tests.model.mutants`.

A mutant is the model with one guard or one order changed (`variant`).  What no state of this model
can show stands in ELSEWHERE, with the checker that catches it.
"""

import sys

import attrs

from tests.model.explore import Result, describe, explore
from tests.model.scope import NO_JOURNAL, Scope

OFF = NO_JOURNAL


@attrs.frozen
class Mutant:
    """A variant of the model, the smallest world in which it shows, and the invariant that falls.

    `slow` ones are left to the full profile.
    """

    name: str
    what: str
    breaks: str
    scope: Scope
    slow: bool = False


def _scope(**fields: object) -> Scope:
    base: dict[str, object] = {"name": "mutant", "journal_from": OFF, "idle": False}
    return Scope(**(base | fields))  # type: ignore[arg-type]


_RACE = _scope(lines=("Q", "Q"))
_LEAVING = _scope(lines=("Q",), starts=2, idle=True)
_FINE = _scope(lines=("Q",), starts=3, idle=True, fine=True)
_CRASH = _scope(lines=("Q",), starts=2, crashes=1)
_CHANGE = _scope(lines=("M",), starts=2, crashes=1)
_JOURNAL = _scope(lines=("M",), starts=2, crashes=1, journal_from=1)
_POWER = _scope(lines=("M",), starts=2, reboots=1, split=True, journal_from=1)
_STOP = _scope(lines=("MM",), starts=2, stops=1, pipeline=True)
_CANARY = _scope(lines=("Q",), starts=3, crashes=2, stops=1, canary=True, canary_kills=1, pipes=1)
_DIRECT = _scope(lines=("Q", "Q"), starts=5, slots=2, sandbox=True, direct=True)

MUTANTS = (
    Mutant(
        "check_then_open", "direct mode looks at the lock, then opens without it", "I2", _DIRECT
    ),
    Mutant("pid_check", "the record's pid in place of the flock", "I2", _RACE),
    Mutant("socket_probe", "the socket's name in place of the flock", "I2", _RACE),
    Mutant("connect_probe", "a connect in place of the flock", "I2", _RACE),
    Mutant("short_lock", "the lock held for start-up only", "I2", _RACE),
    Mutant(
        "short_lock_exec", "LOCK_UN on a shared description frees the child's lock", "I2", _RACE
    ),
    Mutant("lock_lost_at_exec", "the starter's lock does not survive exec", "I2", _FINE),
    Mutant("release_at_goodbye", "lock released before the store is closed", "I2", _LEAVING),
    Mutant(
        "unlock_then_close",
        "explicit LOCK_UN, then a slow teardown",
        "I2",
        _scope(lines=("QQ",), starts=2, stops=1, slots=2, pipeline=True),
    ),
    Mutant(
        "files_after_release",
        "record and socket removed after the release",
        "I3",
        _scope(lines=("Q", "Q"), starts=2, idle=True),
    ),
    Mutant("unlink_after", "lock file removed after the release, inode checked", "I11", _FINE),
    Mutant(
        "unlink_after_blind", "lock file removed after the release, inode not checked", "I11", _FINE
    ),
    Mutant("unlink_held", "lock file removed while held, inode not checked", "I11", _FINE),
    Mutant("unlink_held_verified", "lock file removed while held, inode checked", "I11", _FINE),
    Mutant(
        "stale_lock_deleted",
        "a lock file deleted because a pid looks dead",
        "I11",
        _scope(lines=("Q", "Q"), starts=2, fine=True),
    ),
    Mutant(
        "guest_flock",
        "a guest spawns under its own kernel's flock",
        "I10",
        _scope(lines=("Q", "Q"), guests=(1,)),
    ),
    Mutant(
        "allow_list_off", "the mount table is not asked", "I10", _scope(lines=("Q",), guests=(0,))
    ),
    Mutant(
        "lease_ttl",
        "a lease that runs out while its holder is suspended",
        "I2",
        _scope(lines=("Q", "Q"), lapses=1),
    ),
    Mutant("worker_survives", "a worker has the store open and outlives its parent", "I1", _CRASH),
    Mutant("record_before_bind", "the record is written before the socket listens", "I3", _CRASH),
    Mutant(
        "publish_anyway",
        "what failed is published all the same",
        "I3",
        _scope(lines=("Q",), faults=1),
    ),
    Mutant(
        "close_while_accepting",
        "the store is closed while calls are admitted",
        "I9",
        _scope(lines=("QQ",), stops=1, pipeline=True),
    ),
    Mutant(
        "fd_inherited",
        "a child inherits the lock's descriptor and outlives the owner",
        "I12",
        _CRASH,
    ),
    Mutant("fork_keeps_lock", "multiprocessing fork keeps even a CLOEXEC lock", "I12", _CRASH),
    Mutant(
        "listener_inherited",
        "a child keeps the listener, and clients wait without limit",
        "L1",
        _scope(lines=("Q",), starts=3, crashes=1, live=True),
    ),
    Mutant(
        "idle_ignores_helloed",
        "idle exit hangs up on a client that was greeted",
        "I9",
        _scope(lines=("M",), starts=2, idle=True),
    ),
    Mutant(
        "split_decision",
        "an await between the decision to leave and the goodbye",
        "I9",
        _scope(lines=("M",), starts=2, idle=True),
    ),
    Mutant("drain_drops", "a drain drops admitted work", "I14", _STOP),
    Mutant("no_goodbye", "an owner leaves without saying what it read", "I9", _STOP),
    Mutant("goodbye_says_nothing", "the goodbye names no line that did not run", "I9", _STOP),
    Mutant(
        "goodbye_lies",
        "the goodbye calls running lines unrun",
        "I8",
        _scope(lines=("M",), starts=2, stops=1, crashes=1),
    ),
    Mutant(
        "loading_drain_keeps",
        "what waits for the engine is kept by a drain",
        "L1",
        _scope(lines=("M",), starts=2, stops=1, live=True),
    ),
    Mutant("record_not_atomic", "the record is written in place", "I3", _CRASH),
    Mutant("epoch_after_open", "the epoch is raised after the store was opened", "I6", _CRASH),
    Mutant(
        "epoch_not_durable",
        "the epoch is not on the disk before the store is opened",
        "I6",
        _scope(lines=("Q", "Q"), starts=2, reboots=1, idle=True),
    ),
    Mutant(
        "epoch_file_alone",
        "neither record nor journal is asked when the epoch file is lost",
        "I6",
        _scope(lines=("Q",), starts=2, crashes=1, damage=1),
    ),
    Mutant("resend_new_id", "a resent line gets a new ordinal", "I8", _CHANGE),
    Mutant("ledger_forgets", "a resent line is sent as new", "I8", _CHANGE),
    Mutant("runs_again", "a change that may have run is run again", "I8", _CHANGE),
    Mutant(
        "external_again",
        "an external effect is sent twice",
        "I8",
        _scope(lines=("E",), starts=2, crashes=1),
    ),
    Mutant("outcome_apart", "the reply leaves before its outcome is written", "I7", _JOURNAL),
    Mutant("outcome_alone", "outcomes are recorded, changes are not", "I8", _JOURNAL),
    Mutant("apply_first", "a change is made before it is journalled", "I8", _JOURNAL),
    Mutant("no_rollback", "what a dead owner left open is not taken back", "I8", _JOURNAL),
    Mutant("replies_unkept", "a recorded outcome is not repeated", "I8", _JOURNAL),
    Mutant("reply_before_sync", "the reply leaves before its outcome is durable", "I7", _POWER),
    Mutant(
        "tail_not_synced",
        "a dead owner's outcome is repeated before it is durable",
        "I7",
        _scope(lines=("M",), starts=3, crashes=1, reboots=1, split=True, journal_from=1),
    ),
    Mutant(
        "lost_stays_lost",
        "what a store lost in a power cut is not written again",
        "I7",
        _scope(lines=("M", "Q"), starts=2, reboots=1, split=True, journal_from=1),
    ),
    Mutant(
        "torn_tail_swallows",
        "a record is appended to a torn line",
        "I8",
        _scope(lines=("MM",), starts=2, crashes=1, split=True, journal_from=1),
    ),
    Mutant(
        "no_quarantine",
        "a line that kills its owners is run again and again",
        "I17",
        _scope(lines=("M",), starts=4, poison=0, journal_from=1),
    ),
    Mutant(
        "attempts_uncounted",
        "deaths under a key are not counted",
        "I17",
        _scope(lines=("M",), starts=4, poison=0, journal_from=1),
    ),
    Mutant(
        "stops_are_deaths",
        "a line that stops cut off is taken for the end of its owners",
        "I17",
        _scope(lines=("M",), starts=3, stops=2, grace=True, journal_from=1),
    ),
    Mutant(
        "enolck_acquired",
        "ENOLCK on flock is taken as success",
        "I2",
        _scope(lines=("Q",), faults=1),
    ),
    Mutant(
        "eintr_acquired", "EINTR on flock is taken as success", "I2", _scope(lines=("Q",), faults=1)
    ),
    Mutant(
        "client_unlinks",
        "a client removes the socket that refused it",
        "I3",
        _scope(lines=("Q", "Q"), starts=2, crashes=1),
    ),
    Mutant(
        "busy_is_dead",
        "a full backlog is taken as an absent owner",
        "L4",
        _scope(lines=("Q", "Q"), starts=2, backlog=1),
    ),
    Mutant("hello_before_store", "calls run before the store is open", "I9", _scope(lines=("Q",))),
    Mutant(
        "loser_waits",
        "a loser waits for the flock",
        "L4",
        _scope(lines=("Q", "Q"), starts=3, live=True),
    ),
    Mutant(
        "lock_order",
        "mempalace's lock is taken before ours",
        "L1",
        _scope(lines=("Q", "Q"), starts=2, stock=1),
    ),
    Mutant("no_fence", "mempalace's own lock is not taken", "I1", _scope(lines=("Q",), stock=1)),
    Mutant(
        "open_unfenced",
        "an owner that came while stock wrote opens the store beside it",
        "I1",
        _scope(lines=("Q",), stock=1),
    ),
    Mutant(
        "pid_kill",
        "an owner is killed by the record's pid",
        "I12",
        _scope(lines=("Q", "Q"), starts=2),
    ),
    Mutant(
        "named_broker_falls_over",
        "a broker is started where one was named",
        "C1",
        _scope(lines=("Q",), verbatim=(0,)),
    ),
    Mutant(
        "hold_ignored",
        "a hold is looked at before the lock is taken",
        "I16",
        _scope(lines=("Q",), hold=True),
    ),
    Mutant(
        "no_respawn",
        "a shim whose broker died waits for another's",
        "L1",
        _scope(lines=("Q", "Q"), starts=3, crashes=1, live=True),
        slow=True,
    ),
    Mutant(
        "no_watchdog",
        "a stuck write is waited for",
        "L1",
        _scope(lines=("M", "Q"), wedges=1, starts=2, live=True),
    ),
    Mutant(
        "end_on_any_eof",
        "any end of a connection forgets its session's outcomes",
        "I8",
        _scope(lines=("MM", "M"), slots=1, starts=1, cuts=1, ack=True, journal_from=1),
    ),
    Mutant(
        "upgrade_overtakes",
        "an upgrade hands back changes, and reads behind them run first",
        "I15",
        _scope(lines=("MMQ",), starts=2, upgrades=1, pipeline=True, journal_from=1),
    ),
    Mutant(
        "unrun_names_old",
        "a goodbye names resent lines as unrun that an earlier owner may have run",
        "I8",
        _scope(lines=("M",), starts=3, crashes=1, stops=1),
    ),
    Mutant(
        "refuses_old",
        "a refusal says that nothing was done of what an earlier owner may have done",
        "I8",
        _scope(lines=("M",), starts=2, crashes=1, faults=1),
    ),
    Mutant(
        "drain_begins_polls",
        "a leaving owner begins long-polls that waited, and waits for them",
        "L2",
        _scope(lines=("MP",), starts=2, stops=1, pipeline=True),
    ),
    Mutant(
        "adopts_blindly",
        "a new journal's silence is taken for a no",
        "I8",
        _scope(lines=("M",), starts=2, crashes=1, journal_from=2),
    ),
    Mutant(
        "gap_vouched",
        "a journal that is older than an owner without one vouches for what that one did",
        "I8",
        _scope(lines=("M",), starts=3, crashes=2, journal_from=1, without=(2,)),
    ),
    Mutant(
        "note_lost",
        "the note of an owner without a journal is removed before the journal says so",
        "I8",
        _scope(lines=("M",), starts=3, crashes=2, journal_from=2),
    ),
    Mutant("trust_eof", "the end of its pipe is proof of a death to a canary", "W2", _CANARY),
    Mutant(
        "pid_not_identity", "a canary takes whoever has the number for its owner", "W3", _CANARY
    ),
    Mutant("two_recorders", "a death's record is made whether or not there is one", "W1", _CANARY),
    Mutant("unmarked", "the next owner goes by the record alone", "W3", _CANARY),
    Mutant("former_forgets", "a mark is removed, and nothing recorded", "W3", _CANARY),
    Mutant(
        "dismiss_before_left", "the canary is dismissed by the decision to leave", "W3", _CANARY
    ),
    Mutant("probe_takes_lock", "a canary looks for its owner by the lock", "I12", _CANARY),
    Mutant(
        "hello_names_last_epoch",
        "HELLO names the last owner, not the one that a line was first sent to",
        "I8",
        _scope(lines=("M",), starts=2, crashes=1, cuts=1, journal_from=2),
    ),
)

# Guards that no counterexample can show to be needed: something else holds the property, too.
REDUNDANT = {
    "a line that this owner knows is offered again": "it waits for the first, and is repeated",
    "names removed that are not one's own": "under the lock there are no others (I1)",
    "idle exit while work is admitted": "a drain finishes what was admitted; only time is lost",
    "a client follows an older owner": "an older owner can't live beside a newer one (I2)",
}

ELSEWHERE = {
    "wall clock for idle": "time is abstract here: tests/test_tidy.py bans time.time",
    "a second SQLite opener in the broker": "one process here: tests/test_tidy.py, tests/engine",
    "palace moved or removed under a broker": "no paths here: tests/process, tests/broker",
    "umask, squatted names, symlinks": "no modes here: tests/kernel, tests/process",
}


def run(mutant: Mutant, states_max: int = 1_500_000) -> Result:
    return explore(mutant.scope, mutant.name, states_max=states_max)


def main() -> int:
    """Print the table; the exit code counts what survived or broke something else."""
    wrong = 0
    names = sys.argv[1:]
    print("| mutant | what is broken | expected | found | steps | states | s |")
    print("|---|---|---|---|---|---|---|")
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        result = run(mutant)
        found = result.invariant or "SURVIVED"
        wrong += found != mutant.breaks
        print(
            f"| {mutant.name} | {mutant.what} | {mutant.breaks} | {found} | "
            f"{len(result.trace)} | {result.states:,} | {result.seconds:.1f} |",
            flush=True,
        )
        if names and result.broken:
            print("\n".join(describe(mutant.scope, result.trace, mutant.name)))
    for what, why in REDUNDANT.items():
        print(f"| - | {what} | - | redundant: {why} | - | - | - |")
    for what, where in ELSEWHERE.items():
        print(f"| - | {what} | - | {where} | - | - | - |")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
