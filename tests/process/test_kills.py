"""Brokers that are killed at every step of every change: it is made once, or not at all.

Each broker is the product's own, started by the product's own shim; how it comes to its end is said
in tests/support/faults/failpoints/sitecustomize.py.  The quick profile has each tool at three
points and each point with several tools; PALACE_TEST_PROFILE=deep has more of both and more random
kills, full has all passes of all points with all tools.
"""

import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.drawers import PREFIX
from palace.engine.stores.journalled import JOURNALLED
from tests.support.calls.mutations import MUTATIONS, Mutation
from tests.support.engines.milvus import need_milvus
from tests.support.faults.killing import (
    POINTS,
    UNFINISHED,
    Arena,
    Arenas,
    Failpoints,
    Stage,
    assert_calm,
    assert_clean,
    assert_journal_is_right,
    assert_vectors_are_right,
    is_deep,
    is_full,
    journalled,
)
from tests.support.loads.changes import (
    QUARANTINED,
    ChangeLoad,
    broken_promises,
    count_in_another_process,
    kill_brokers,
    left_by_quarantined,
    nonces_there_twice,
    plan_kills,
    wrong_updates,
)
from tests.support.processes.brokers import (
    code_of,
    make_palace,
    make_site,
    processes_of,
    text_of,
    wait_ready,
)
from tests.support.processes.clients import Site, end_brokers

pytestmark = [pytest.mark.engine, pytest.mark.process]

TOOLS = tuple(MUTATIONS)
CLIENTS = 4
KILLS = 500 if is_full() else 30 if is_deep() else 6  # of random ones: about two seconds each


def kills() -> list[tuple[str, str]]:
    """Return the tools and points to try; a choice spreads over both."""
    if is_full():
        return [(tool, point) for tool in TOOLS for point in POINTS]
    return [
        (tool, POINTS[(place + 2 * turn) % len(POINTS)])
        for place, tool in enumerate(TOOLS)
        for turn in range(5 if is_deep() else 1)
    ]


def chosen(passes: int, tool: str) -> list[int]:
    """Return at which passes of a point to kill: one of them, others for other tools."""
    return list(range(1, passes + 1)) if is_full() else [1 + TOOLS.index(tool) % passes]


@pytest.fixture(scope="module")
def arenas(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Arenas]:
    arenas = Arenas(tmp_path_factory.mktemp("arenas"), model_home)
    try:
        yield arenas
    finally:
        arenas.close()


# Once.


@pytest.mark.parametrize(("tool", "point"), kills())
def test_change_whose_broker_is_killed_is_made_once(arenas: Arenas, tool: str, point: str) -> None:
    mutation = MUTATIONS[tool]
    with arenas.shared() as arena:
        passes = arenas.passes(arena, mutation)[point]
        assert passes, f"{tool} never passes {point}"
        for number in chosen(passes, tool):
            struck = die_once(arena, mutation, (point, number))
            # A later `mine` finds entities that an earlier one has made, and passes fewer points.
            assert struck or (mutation.non_atomic and number > passes // 2), (
                f"{tool} {point} {number}"
            )
            if not struck:
                break


# Of which other backends keep something; the other stores are the same beside them.
IN_DRAWERS = tuple(
    tool
    for tool in TOOLS
    if any(kind.startswith(PREFIX) for kind in JOURNALLED[f"mempalace_{tool}"])
)


def kills_of_drawers() -> list[tuple[str, str]]:
    """Return the tools and points to try on another backend; a choice spreads over both."""
    if is_deep():
        return [(tool, point) for tool in IN_DRAWERS for point in POINTS]
    return [(tool, POINTS[place % len(POINTS)]) for place, tool in enumerate(IN_DRAWERS)]


@pytest.fixture(scope="module", params=["sqlite_exact", "pgvector", "milvus"])
def other_arenas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_home: Path
) -> Iterator[Arenas]:
    if request.param == "pgvector":
        request.getfixturevalue("postgres")
    if request.param == "milvus":
        need_milvus()
    arenas = Arenas(tmp_path_factory.mktemp("other"), model_home, backend=request.param)
    try:
        yield arenas
    finally:
        arenas.close()


@pytest.mark.parametrize(("tool", "point"), kills_of_drawers())
def test_change_that_another_backend_keeps_is_made_once(
    other_arenas: Arenas, tool: str, point: str
) -> None:
    mutation = MUTATIONS[tool]
    with other_arenas.shared() as arena:
        passes = other_arenas.passes(arena, mutation)[point]
        assert passes, f"{tool} never passes {point}"
        number = chosen(passes, tool)[0]
        assert die_once(arena, mutation, (point, number)) or mutation.non_atomic


def die_once(arena: Arena, mutation: Mutation, stage: Stage) -> bool:
    """Let a call's broker end at a point; False where the call doesn't come there any more."""
    context = arena.context()
    arguments = mutation.prepare(context)

    reply, struck = arena.call_and_maybe_die(mutation, arguments, stage)

    assert "result" in reply, (stage, reply)
    mutation.check(arena.stores(), context, text_of(reply))
    assert_calm(arena.words())
    assert_journal_is_right(arena.palace)
    return struck


# Twice: the broker that takes the change back is killed, too.

TAKEN_BACK = TOOLS if is_full() else ("diary_write", "kg_add", "create_tunnel", "patch_submit")
NON_ATOMIC = tuple(tool for tool in TOOLS if MUTATIONS[tool].non_atomic)


@pytest.mark.parametrize("tool", [tool for tool in TAKEN_BACK if tool not in NON_ATOMIC])
def test_change_that_met_two_deaths_is_left_alone(arenas: Arenas, tool: str) -> None:
    mutation = MUTATIONS[tool]
    with arenas.shared() as arena:
        context = arena.context()
        arguments = mutation.prepare(context)
        before = arena.entities()

        reply = arena.call_and_die(mutation, arguments, ("applied", 1), ("take_back", 1))

        assert code_of(reply) == QUARANTINED, reply
        assert arena.entities() == before, "nothing of it was kept"
        assert_calm(arena.words())
        assert_journal_is_right(arena.palace)
        answer = context.client.tool(tool, **arguments)  # a client that asks again is served
        mutation.check(arena.stores(), context, answer)


@pytest.mark.parametrize("tool", NON_ATOMIC if is_full() else NON_ATOMIC[:1])
def test_change_in_units_goes_on_after_any_number_of_deaths(arenas: Arenas, tool: str) -> None:
    mutation = MUTATIONS[tool]
    with arenas.shared() as arena:
        context = arena.context()
        arguments = mutation.prepare(context)

        reply = arena.call_and_die(
            mutation, arguments, ("applied", 1), ("take_back", 1), ("applied", 1), ("take_back", 1)
        )

        assert "result" in reply, reply
        mutation.check(arena.stores(), context, text_of(reply))
        assert_calm(arena.words())
        assert_journal_is_right(arena.palace)


@pytest.mark.parametrize("tool", ("kg_add", "diary_write") if is_full() else ("kg_add",))
def test_change_that_can_not_be_taken_back_keeps_no_palace_shut(arenas: Arenas, tool: str) -> None:
    mutation = MUTATIONS[tool]
    with arenas.furnished() as arena:  # what it leaves in the stores is nobody else's
        context = arena.context()
        arguments = mutation.prepare(context)
        before = journalled(arena.palace)
        twice = [("take_back", 1)] * 2

        reply = arena.call_and_die(mutation, arguments, ("applied", 1), *twice)

        assert code_of(reply) == QUARANTINED, reply
        assert journalled(arena.palace) == before, "the journal has taken it back"
        assert_clean(arena.reopen())
        other = arena.context()
        answer = other.client.tool(tool, **mutation.prepare(other))
        mutation.check(arena.stores(), other, answer)


def test_palace_after_all_these_kills_opens_clean(arenas: Arenas, tmp_path: Path) -> None:
    with arenas.shared() as arena:
        assert_clean(arena.reopen())
        arena.stop()

        assert_journal_is_right(arena.palace, files=True)
        assert_vectors_are_right(arena.site, tmp_path)


# The first change of an empty palace, which makes the stores themselves.

FIRST = [
    ("add_drawer", ("append", 1)),  # the collection is there, and the journal doesn't know it
    ("add_drawer", ("applied", 1)),  # it knows it, and nothing stands in it
    ("add_drawer", ("applied", 2)),
    ("kg_add", ("apply", 1)),
    ("kg_add", ("applied", 1)),
    ("event_append", ("outcome", 1)),
    ("mine", ("applied", 3)),
]


ADOPTED = [("append", 1), ("appended", 2), ("synced", 1)]


@pytest.mark.parametrize(("tool", "stage"), FIRST if is_deep() else FIRST[::3])
def test_first_change_of_a_palace_is_made_once(arenas: Arenas, tool: str, stage: Stage) -> None:
    mutation = MUTATIONS[tool]
    with arenas.fresh() as arena:
        context = arena.context()
        arguments = mutation.prepare(context)

        reply = arena.call_and_die(mutation, arguments, stage)

        assert "result" in reply, reply
        mutation.check(arena.stores(), context, text_of(reply))
        assert_clean(arena.reopen())
        arena.stop()
        assert_journal_is_right(arena.palace, files=True)


@pytest.mark.parametrize("stage", ADOPTED if is_deep() else ADOPTED[1:2])
def test_palace_is_taken_into_its_journal_once(arenas: Arenas, stage: Stage) -> None:
    with arenas.fresh() as arena:
        for tool in ("add_drawer", "kg_add", "event_append"):
            mutation = MUTATIONS[tool]
            arena.client.tool(tool, **mutation.prepare(arena.context()))
        arena.stop()
        arena.forget_journal()
        before = arena.entities()

        arena.failpoints.arm(stage)
        arena.client.tool("status")
        arena.assert_all_struck()

        assert arena.entities() == before
        assert_journal_is_right(arena.palace, files=True)
        assert_clean(arena.reopen())


DIE_IN_A_TRANSACTION = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # pages go to the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE half_made (text)")
connection.executemany("INSERT INTO half_made VALUES (?)", [["x" * 4000]] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_transaction_that_chroma_left_half_written_is_rolled_back(arenas: Arenas) -> None:
    with arenas.furnished() as arena:
        arena.stop()
        before = arena.entities()
        store = arena.palace / "chroma.sqlite3"
        subprocess.run([sys.executable, "-c", DIE_IN_A_TRANSACTION, str(store)], check=False)
        assert store.with_name("chroma.sqlite3-journal").stat().st_size > 0

        arena.mark_log()
        arena.client.tool("status")
        wait_ready(arena.site)

        assert_clean(arena.words())
        assert arena.entities() == before


# At random.


@dataclass
class Storm:
    """What is left of many killed owners."""

    load: ChangeLoad
    site: Site
    killed: list[int]
    found: dict[str, dict[str, Any]]
    exit_codes: list[int]
    survivors: list[int]
    reopened: str  # what a broker logged that opened the palace afterwards

    @property
    def refused(self) -> Counter[tuple[int, str]]:
        """Count the refusals by code and by the end of their text."""
        every = [refused for promises in self.load.promises for refused in promises.refused]
        return Counter((code, text[:60]) for _, _, code, text in every)

    @property
    def calls(self) -> int:
        return sum(promises.calls for promises in self.load.promises)


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Storm]:
    seed = int(os.environ.get("PALACE_KILL_SEED") or secrets.randbelow(1 << 32))
    site = make_site(tmp_path_factory.mktemp("storm"), model_home)
    make_palace(site)
    print(f"PALACE_KILL_SEED={seed} in {site.palace}")
    try:
        yield raise_storm(site, seed)
    finally:
        end_brokers(site.palace)


def raise_storm(site: Site, seed: int) -> Storm:
    with site.shim() as first:  # empty palaces are for other tests
        first.tool("add_drawer", wing="w", room="r", content="so that there are drawers")
    assert site.run("stop").returncode == 0
    failpoints = Failpoints(site, site.home / "kills")
    load = ChangeLoad(site, CLIENTS)
    try:
        load.start()
        killed = kill_brokers(site, failpoints, plan_kills(seed, KILLS), load)
        load.end()
    finally:
        exit_codes = load.close()
    assert site.run("stop").returncode == 0
    survivors = processes_of(site.palace)
    found = count_in_another_process(site)
    marked = len(site.log())
    with site.shim() as client:
        client.tool("status")
        wait_ready(site)
        reopened = site.log()[marked:]
    assert site.run("stop").returncode == 0
    storm = Storm(load, site, killed, found, exit_codes, survivors, reopened)
    print(f"{len(killed)} kills, {storm.calls} calls, refused by code: {dict(storm.refused)}")
    return storm


def test_killed_owners_leave_every_client_served(storm: Storm) -> None:
    assert storm.load.failed() == []
    assert len(storm.killed) == KILLS
    assert len(set(storm.killed)) > KILLS // 2
    assert storm.exit_codes == [0] * CLIENTS
    assert storm.survivors == []


def test_killed_owners_keep_every_promise(storm: Storm) -> None:
    assert broken_promises(storm.load, storm.found) == []
    assert wrong_updates(storm.load, storm.found) == []


def test_killed_owners_make_no_change_twice(storm: Storm) -> None:
    assert nonces_there_twice(storm.found) == []


def test_killed_owners_leave_nothing_of_what_is_given_up(storm: Storm) -> None:
    assert left_by_quarantined(storm.load, storm.found) == []


def test_killed_owners_refuse_hardly_a_call(storm: Storm) -> None:
    assert storm.calls > KILLS
    assert {code for code, _ in storm.refused} <= {QUARANTINED}, "what met two deaths"
    # A call is given up at its second death: on a slow machine many meet as few calls.
    assert sum(storm.refused.values()) <= max(storm.calls // 20, KILLS // 3)


def test_killed_owners_leave_a_palace_that_opens_clean(storm: Storm, tmp_path: Path) -> None:
    assert_clean(storm.reopened)
    assert_journal_is_right(storm.site.palace, files=True, torn=True)
    assert_vectors_are_right(storm.site, tmp_path)


def test_killed_owners_had_no_trouble_of_their_own(storm: Storm) -> None:
    lines = storm.site.log().splitlines()

    assert not [line for line in lines if "level=error" in line or "level=critical" in line]
    # Small files of stock's are only looked at when a palace is opened and closed.
    assert_calm("\n".join(line for line in lines if "files was changed" not in line))
    assert [line for line in lines if UNFINISHED in line], "no kill came in time to matter"
