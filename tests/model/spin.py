"""Runs the specs under Spin: searches that must find nothing, and mutants that each must be found.

    python -m tests.model.spin [--profile quick|deep|full] [--mutants]

A search is exhaustive: no bitstate hashing, no bound on its depth or memory that it ever reaches.
Mutants are searched breadth first, so that the trail to what they break is the shortest there is.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from tests.model.spin_fence import FENCE_ROWS

SPECS = Path(__file__).parent.parent.parent / "specs"
PALACE, JOURNAL, CANARY, FENCE = "palace.pml", "journal.pml", "canary.pml", "fence.pml"
MEMORY_MIB_MAX = 6000
DEPTH_MAX = 2_000_000
SEARCH_S_MAX = 1200.0
MISSING = "the specs need Spin and a C compiler: apt-get install spin gcc"

# What the search that contains everything must not fall below.
FLOOR = {"NB": 2, "LIVES": 2, "ND": 2, "DLIVES": 1, "NC": 2, "CRASHES": 2}
FLOOR_STATES = 14_000_000
ACTIONS_MIN = 135  # labelled steps of all specs
MUTANTS_MIN = 85
QUICK_MIN = 70  # of the quick profile


class SpinMissing(Exception):
    """Spin or a C compiler is not installed."""


@attrs.frozen(kw_only=True)
class Search:
    """One exhaustive search; `prop` is the number of a liveness property, 0 for safety."""

    name: str
    defines: str
    spec: str = PALACE
    prop: int = 0
    states_min: int = 1


@attrs.frozen(kw_only=True)
class Mutant:
    """A broken protocol, the world in which it shows, and the check that finds it.

    Checks that would fire earlier for a trivial reason are switched off in `defines`.
    """

    name: str
    breaks: str
    defines: str
    spec: str = PALACE
    prop: int = 0


@attrs.frozen(kw_only=True)
class Found:
    """What a search saw.  `broken` is a check's name, "" where all held; `depth` is in steps."""

    errors: int
    states: int
    depth: int
    seconds: float
    broken: str
    complete: bool
    reached: Mapping[str, int]
    output: str = attrs.field(repr=False)


def parts_missing() -> str:
    """Return what to install, "" where everything is there."""
    return "" if shutil.which("spin") and shutil.which("cc") else MISSING


def run_search(search: Search) -> Found:
    """Search a whole state space depth first, and count how often each action was taken."""
    flags = ["-O2", "-DPEG", f"-DMEMLIM={MEMORY_MIB_MAX}"]
    flags += ["-DNFAIR=3"] if search.prop else ["-DSAFETY"]
    options = ["-a", "-f"] if search.prop else []
    return _run(search.spec, _defines(search.defines, search.prop), flags, options)


def run_mutant(mutant: Mutant) -> Found:
    """Search a mutant until something is broken; liveness depth first, all else breadth first."""
    defines = _defines(f"M_{mutant.name.upper()} {mutant.defines}", mutant.prop)
    if mutant.prop:
        return _run(mutant.spec, defines, ["-O0", "-DNFAIR=3"], ["-a", "-f"])
    return _run(mutant.spec, [*defines, "-DSHORTEST"], ["-O0", "-DSAFETY", "-DBFS"], [])


def _defines(words: str, prop: int) -> list[str]:
    return [f"-D{word}" for word in words.split()] + ([f"-DLIVE={prop}"] if prop else [])


def _run(spec: str, defines: list[str], flags: list[str], options: list[str]) -> Found:
    if parts_missing():
        raise SpinMissing(MISSING)
    with tempfile.TemporaryDirectory(prefix="palace-spin-") as directory:
        # -o3: one transition for each option, so that the counts name actions.
        _call(["spin", "-o3", "-a", *defines, str(SPECS / spec)], directory)
        _call(["cc", "-w", *flags, "-o", "pan", "pan.c"], directory)
        begun_s = _spent_s()
        output = _call(["nice", "./pan", f"-m{DEPTH_MAX}", *options], directory)
        return _parse(output, _spent_s() - begun_s)


def _spent_s() -> float:
    """Return the processor time of ended children: others may use the machine, too."""
    times = os.times()
    return times.children_user + times.children_system


def _call(command: list[str], directory: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SEARCH_S_MAX,
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0 and "./pan" not in command:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[:4000]}")
    return text


def _parse(output: str, seconds: float) -> Found:
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"^ *([\d.e+]+) states, stored", output, re.MULTILINE)
    depth = re.search(r"^pan:1: .*\(at depth (\d+)\)", output, re.MULTILINE)
    reached = re.search(r"depth reached (\d+)", output)
    if errors is None or states is None:
        raise RuntimeError(f"pan said nothing that is understood:\n{output[:4000]}")
    cut_short = ("Search not completed", "max search depth too small", "limit", "Interrupted")
    steps = depth or reached
    return Found(
        errors=int(errors[1]),
        states=round(float(states[1])),
        depth=int(steps[1]) if steps else 0,
        seconds=seconds,
        broken=_broken(output),
        complete=errors[1] == "0" and not any(text in output for text in cut_short),
        reached=_reached(output),
        output=output,
    )


def _broken(output: str) -> str:
    said = re.search(r"^pan:1: (.*)$", output, re.MULTILINE)
    if said is None:
        return ""
    check = re.search(r"assertion violated \(*\s*(\w+)\)*\|\|", said[1])
    if check is not None:
        return check[1]
    claim = re.search(r"never claim\s+\+ \((\w+)\)", output)
    if "acceptance cycle" in said[1] and claim is not None:
        return claim[1]
    return said[1]


# Which actions there are, and which a search took.

_LABEL = re.compile(r"^([A-Z]\w*):")
_MACRO = re.compile(r"^\tKILLS\(\d, (\w+)\)")


def _labels(path: Path) -> dict[int, str]:
    """Return the action to which each line of a spec belongs, that begins one."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        label = _LABEL.match(line) or _MACRO.match(line)
        if label is not None:
            found[number] = label[1]
    return found


def actions() -> frozenset[str]:
    """Return the names of all steps of the protocol in the specs, as FILE.LABEL."""
    return frozenset(
        f"{path.stem}.{label}"
        for path in SPECS.glob("*.pml")
        for label in _labels(path).values()
        if not label.startswith("M_")
    )


def _reached(output: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    known: dict[str, dict[int, str]] = {}
    taken = re.compile(r"^ *(\d+)\ttrans +\d+ (\S+\.pml):(\d+)", re.MULTILINE)
    for count, name, line in taken.findall(output):
        path = Path(name)
        labels = known.setdefault(name, _labels(path))
        later = [number for number in labels if number >= int(line)]
        if later:
            action = f"{path.stem}.{labels[min(later)]}"
            counts[action] = counts.get(action, 0) + int(count)
    return counts


def unreached(found: Iterable[Found]) -> list[str]:
    """Return the actions that none of several searches has taken."""
    taken = {action for one in found for action in one.reached}
    return sorted(actions() - taken)


def sizes(search: Search) -> dict[str, int]:
    """Return the numbers that a search sets."""
    words = (word.partition("=") for word in search.defines.split())
    return {name: int(value) for name, equals, value in words if equals}


# Searches.

_ALL = "NB=2 ND=2 DLIVES=1 NC=2 CRASHES=2 COARSE"
_OWNERS = "NB=2 ND=0 LIVES=3 EXITS=1 GRACE HANGS"

QUICK = (
    Search(
        name="election, step by step",
        defines="NB=2 LIVES=2 ND=1 NC=1 CRASHES=2 ERRORS REBOOT LOSE_EPOCH",
        states_min=4_000_000,
    ),
    Search(name="all together, one life", defines=f"{_ALL} LIVES=1", states_min=2_000_000),
    Search(
        name="stock and a guest",
        defines="NB=2 LIVES=2 ND=1 NC=1 CRASHES=2 FENCE GUEST COARSE",
        states_min=1_000_000,
    ),
    Search(
        name="leaving, step by step",
        defines="NB=2 LIVES=1 ND=0 NC=2 LINES=2 CRASHES=1 GRACE HANGS SMALL_BACKLOG CLIENT_EPOCH",
        states_min=1_000_000,
    ),
    # Not our protocol, but the control of B3: with it even an unlink under the lock is harmless.
    Search(
        name="lock file replaced",
        defines="NB=2 LIVES=2 ND=1 NC=1 CRASHES=1 UNLINKS M_UNLINK_LOCK_HELD I11_OFF=1",
        states_min=100_000,
    ),
    # And that of the client's timeout: with it even a listener that a child keeps is no trap.
    Search(
        name="listener inherited",
        prop=1,
        defines=f"{_OWNERS} NC=1 CRASHES=2 M_LISTENER_INHERITED",
        states_min=100_000,
    ),
    Search(name="journal", spec=JOURNAL, defines="NS=2 CRASHES=2 CUTS=1", states_min=1_000_000),
    Search(name="deaths are told", spec=CANARY, defines="LIVES=3 CRASHES=2", states_min=800_000),
    Search(
        name="right to write",
        spec=FENCE,
        defines="KINDS=2 ENDS=1 FORCES=1 CRASHES=1",
        states_min=350_000,
    ),
    Search(
        name="right to write, a copy",
        spec=FENCE,
        defines="COPIES=1 LIVES=3 CRASHES=1 FAILOVERS=1",
        states_min=420_000,
    ),
    Search(name="answered", prop=1, defines=f"{_OWNERS} NC=1 CRASHES=2", states_min=100_000),
    Search(name="nobody left", prop=2, defines=f"{_OWNERS} NC=1 CRASHES=2", states_min=100_000),
    Search(name="lock is freed", prop=3, defines=f"{_OWNERS} NC=1 CRASHES=2", states_min=100_000),
    Search(
        name="answered, direct",
        prop=1,
        defines="NB=2 ND=1 NC=1 CRASHES=1 EXITS=1",
        states_min=100_000,
    ),
    Search(
        name="answered, journal",
        spec=JOURNAL,
        prop=1,
        defines="NS=2 CRASHES=1 CUTS=1",
        states_min=100_000,
    ),
)

FULL = (
    Search(name="all together", defines=f"{_ALL} LIVES=2", states_min=FLOOR_STATES),
    Search(
        name="stock, two clients",
        defines="NB=2 LIVES=2 ND=1 NC=2 CRASHES=1 FENCE COARSE",
        states_min=3_500_000,
    ),
    Search(
        name="leaving, two lives",
        defines="NB=2 LIVES=2 ND=0 NC=2 CRASHES=1 GRACE",
        states_min=4_000_000,
    ),
    Search(
        name="journal, three deaths",
        spec=JOURNAL,
        defines="NS=2 CRASHES=3 CUTS=1",
        states_min=1_500_000,
    ),
    Search(
        name="right to write, a replica",
        spec=FENCE,
        defines="KINDS=2 ENDS=1 FORCES=1 CRASHES=1 FAILOVERS=1",
        states_min=2_200_000,
    ),
    Search(
        name="right to write, three incarnations",
        spec=FENCE,
        defines="LIVES=3 FORCES=1 CRASHES=1 FAILOVERS=1",
        states_min=2_200_000,
    ),
    Search(
        name="answered, two clients",
        prop=1,
        defines=f"{_OWNERS} NC=2 CRASHES=1 COARSE",
        states_min=300_000,
    ),
    *(search for search in QUICK if search.name != "all together, one life"),
)
PROFILES = {"quick": QUICK, "deep": QUICK, "full": FULL}

# Mutants.  Two owners race in most; a foreign home keeps mempalace's own lock from hiding it.

_TWO = "NB=2 ND=0 NC=1 CRASHES=0"
# A race is seen by other checks before two have the store open at the same time.
_UNLOCKED = "I2_OFF=1 I4_OFF=1 I6_OFF=1"


def _of(spec: str, prop: int, *rows: tuple[str, str, str]) -> tuple[Mutant, ...]:
    return tuple(
        Mutant(name=name, breaks=breaks, defines=defines, spec=spec, prop=prop)
        for name, breaks, defines in rows
    )


MUTANTS = (
    *_of(
        PALACE,
        0,
        ("check_then_open", "I1_single_writer", f"NB=2 ND=1 NC=1 CRASHES=0 {_UNLOCKED}"),
        ("pid_check", "I1_single_writer", f"{_TWO} {_UNLOCKED}"),
        ("socket_probe", "I1_single_writer", f"{_TWO} {_UNLOCKED}"),
        ("lease_ttl", "I1_single_writer", f"{_TWO} {_UNLOCKED}"),
        ("lock_at_start_only", "I1_single_writer", f"{_TWO} {_UNLOCKED}"),
        ("lock_lost_at_exec", "I1_single_writer", f"{_TWO} {_UNLOCKED}"),
        ("release_before_close", "I1_single_writer", f"{_TWO} {_UNLOCKED}"),
        ("unlock_then_teardown", "I1_single_writer", f"{_TWO} {_UNLOCKED} GRACE"),
        ("unlink_lock_after", "I1_single_writer", f"{_TWO} UNLINKS I11_OFF=1 {_UNLOCKED}"),
        ("unlink_lock_after M_NO_VERIFY", "I1_single_writer", f"{_TWO} I11_OFF=1 {_UNLOCKED}"),
        ("unlink_lock_held M_NO_VERIFY", "I1_single_writer", f"{_TWO} I11_OFF=1 {_UNLOCKED}"),
        ("unlink_lock_after", "I11_lock_file_forever", f"{_TWO} UNLINKS {_UNLOCKED}"),
        ("stale_lock_deleted", "I1_single_writer", f"{_TWO} UNLINKS I11_OFF=1 {_UNLOCKED}"),
        ("enolck_is_acquired", "I1_single_writer", f"{_TWO} ERRORS {_UNLOCKED}"),
        ("enolck_is_acquired", "I2_right_to_open", f"{_TWO} ERRORS I4_OFF=1"),
        ("worker_store", "I1_single_writer", "NB=2 ND=0 NC=1 CRASHES=1"),
        ("no_fence", "I1_single_writer", f"{_TWO} FENCE"),
        ("open_unfenced", "I1_single_writer", f"{_TWO} FENCE"),
        ("lock_order", "I13_holder_named", f"{_TWO} FENCE"),
        ("guest_flock", "I10_guest", f"{_TWO} GUEST"),
        ("guest_flock", "I1_single_writer", f"{_TWO} GUEST I10_OFF=1"),
        ("lender_ttl", "I1_single_writer", f"{_TWO} GUEST I10_OFF=1 I6_OFF=1"),
        ("record_first", "I3_published_bound", _TWO),
        ("clean_after_release", "I4_own_files", _TWO),
        ("client_unlinks", "I4_own_files", "NB=2 ND=0 NC=2 CRASHES=1"),
        ("eagain_is_dead", "I4_own_files", "NB=2 ND=0 NC=2 CRASHES=0 SMALL_BACKLOG"),
        ("close_while_accepting", "I5_store_behind_reply", f"{_TWO} I6_OFF=1"),
        ("reply_while_loading", "I5_store_behind_reply", _TWO),
        ("epoch_late", "I6_epoch", "NB=2 ND=0 NC=1 CRASHES=1"),
        ("epoch_not_durable", "I6_epoch", "NB=2 ND=0 NC=1 CRASHES=1 REBOOT"),
        ("record_in_place", "I6_epoch", "NB=2 ND=0 NC=1 CRASHES=2 LOSE_EPOCH"),
        ("goodbye_lies", "I8_exactly_once", "NB=2 ND=0 NC=1 CRASHES=1"),
        ("maybe_runs_again", "I8_exactly_once", "NB=2 ND=0 NC=1 CRASHES=1"),
        ("idle_ignores_helloed", "I9_no_silent_drop", _TWO),
        ("split_decision", "I9_no_silent_drop", _TWO),
        ("welcome_while_draining", "I9_no_silent_drop", _TWO),
        ("pid_kill", "I12_nobody_killed", "NB=2 ND=0 NC=1 CRASHES=1"),
        ("drain_drops", "I14_admitted_ends", _TWO),
    ),
    *_of(
        PALACE,
        1,
        ("listener_inherited M_NO_HELLO_TIMEOUT", "L1_answered", f"{_OWNERS} NC=1 CRASHES=1"),
        ("pid_alive", "L1_answered", f"{_OWNERS} NC=1 CRASHES=1"),
        ("no_watchdog", "L1_answered", f"{_OWNERS} NC=1 CRASHES=0"),
        ("loser_waits", "L1_answered", "NB=2 ND=1 NC=1 CRASHES=0 EXITS=0"),
        ("lock_inherited", "L1_answered", f"{_OWNERS} NC=1 CRASHES=1"),
    ),
    *_of(PALACE, 3, ("lock_inherited", "L3_lock_is_freed", f"{_OWNERS} NC=1 CRASHES=1")),
    *_of(
        JOURNAL,
        0,
        ("reply_before_durable", "I8_acknowledged_stays", "NS=1 CRASHES=1"),
        ("reply_before_outcome", "I8_acknowledged_stays", "NS=1 CRASHES=1"),
        ("open_unsynced", "I8_acknowledged_stays", "NS=1 CRASHES=2"),
        ("rollback_of_done", "I8_acknowledged_stays", "NS=1 CRASHES=1"),
        ("lost_not_rewritten", "I8_acknowledged_stays", "NS=1 CRASHES=1"),
        ("two_writers", "I15_whole_changes", "NS=2 CRASHES=1"),
        ("apply_first", "I15_whole_changes", "NS=1 CRASHES=1"),
        ("op_not_durable", "I15_whole_changes", "NS=1 CRASHES=1"),
        ("no_rollback", "I15_whole_changes", "NS=1 CRASHES=1"),
        ("abort_first", "I15_whole_changes", "NS=1 CRASHES=2"),
        ("new_id", "I8_exactly_once", "NS=1 CRASHES=1 CUTS=0"),
        ("no_lookup", "I8_exactly_once", "NS=1 CRASHES=1"),
        ("outcome_apart", "I8_exactly_once", "NS=1 CRASHES=1"),
        ("forget_early", "I8_exactly_once", "NS=1 CRASHES=1 CUTS=1"),
        ("ack_overtakes", "I8_exactly_once", "NS=1 CRASHES=1 CUTS=1"),
        ("jobs_not_known", "I8_exactly_once", "NS=1 CRASHES=0 CUTS=1"),
        ("no_session_order", "I16_order", "NS=1 CRASHES=0"),
        ("new_before_resend", "I17_numbering", "NS=1 CRASHES=1"),
        ("old_reader", "I17_numbering", "NS=1 CRASHES=0 CUTS=1"),
    ),
    *_of(
        CANARY,
        0,
        ("trust_eof", "W2_silent", "LIVES=1 CRASHES=0"),
        ("pid_not_identity", "W3_told", "LIVES=2 CRASHES=1"),
        ("two_recorders", "W1_once", "LIVES=2 CRASHES=1"),
        ("unmarked", "W3_told", "LIVES=1 CRASHES=1"),
        ("former_forgets", "W3_told", "LIVES=2 CRASHES=1"),
        ("dismiss_before_left", "W3_told", "LIVES=1 CRASHES=1"),
        ("probe_takes_lock", "W4_no_lock", "LIVES=1 CRASHES=1"),
    ),
    *_of(FENCE, 0, *FENCE_ROWS),
)
# Each costs a compiler's run: the quick profile takes every fourth of the fence's, which the model
# in Python breaks in the same places.
QUICK_MUTANTS = tuple(one for n, one in enumerate(MUTANTS) if one.spec != FENCE or n % 4 == 0)


def main(arguments: list[str]) -> int:
    """Run a profile, print its table, and return 1 where anything is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.spin", description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="quick")
    parser.add_argument("--no-mutants", action="store_true", help="only what must hold")
    parsed = parser.parse_args(arguments)
    if parts_missing():
        print(parts_missing(), file=sys.stderr)
        return 1
    good = _print_searches(PROFILES[parsed.profile])
    return 0 if (parsed.no_mutants or _print_mutants()) and good else 1


def _print_searches(searches: Iterable[Search]) -> bool:
    print("| configuration | spec | states | seconds | errors |\n|---|---|---|---|---|")
    good, all_found = True, []
    for search in searches:
        found = run_search(search)
        all_found.append(found)
        held = found.complete and found.states >= search.states_min
        good = good and held
        errors = f"{found.errors}{'' if held else ' ' + (found.broken or 'INCOMPLETE')}"
        spec = search.spec.removesuffix(".pml")
        print(
            f"| {search.name} | {spec} | {found.states} | {found.seconds:.1f} | {errors} |",
            flush=True,
        )
    left = unreached(all_found)
    print(f"\n{len(actions())} actions, unreached: {', '.join(left) or 'none'}\n")
    return good and not left


def _print_mutants() -> bool:
    print("| mutant | invariant | steps | states | checker |\n|---|---|---|---|---|")
    good = True
    for mutant in MUTANTS:
        found = run_mutant(mutant)
        killed = found.broken == mutant.breaks
        good = good and killed
        checker = "acceptance cycle" if mutant.prop else "breadth first"
        says = found.broken if killed else f"{found.broken or 'SURVIVES'}, not {mutant.breaks}"
        name = mutant.name.lower().replace(" m_", " + ")
        print(f"| {name} | {says} | {found.depth} | {found.states} | {checker} |", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
