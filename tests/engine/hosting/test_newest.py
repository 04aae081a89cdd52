"""The newest memories are those that a look at all rows would find, and few rows are looked at."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palace.engine.hosting import newest as looks
from palace.engine.hosting.memories import _all_of, _clauses, newest_in
from palace.engine.hosting.newest import FAR_S, FIRST_S, LOOKS, Looking, Row, Span
from palace.memory.expiry import NEVER_S, written
from palace.memory.gate import Wanted
from palace.memory.memory import Memory, metadata_of

NOW_S = 1_800_000_000
SMALL = 8  # rows of one look


class Store:
    """Rows of which each has its second, and says whether it is wanted."""

    def __init__(self, rows: Sequence[tuple[int, bool]]) -> None:
        self.rows: list[Row] = [
            (f"mem-{place}", {"at": at, "wanted": wanted})
            for place, (at, wanted) in enumerate(rows)
        ]
        self.read_rows = self.asked = 0

    def read(self, span: Span | None, most: int, *, filtered: bool) -> list[Row]:
        found = [
            row
            for row in self.rows
            if (span is None or span.start <= at_of(row) < span.end)
            and (is_wanted(row) or not filtered)
        ][:most]
        self.read_rows += len(found)
        self.asked += 1
        return found

    def newest(self, limit: int, within: Span) -> list[int]:
        """Return the seconds of the newest, as they are found."""
        looking = Looking(
            read=self.read,
            is_wanted=lambda row: is_wanted(row) and within.start <= at_of(row) < within.end,
            enough=lambda rows: len(rows) >= limit,
            within=within,
        )
        return sorted(map(at_of, looking.newest(NOW_S)), reverse=True)[:limit]

    def expected(self, limit: int, within: Span) -> list[int]:
        """Return the same by a look at all rows."""
        rows = filter(is_wanted, self.rows)
        there = [at for at in map(at_of, rows) if within.start <= at < within.end]
        return sorted(there, reverse=True)[:limit]


def at_of(row: Row) -> int:
    at = row[1]["at"]
    assert isinstance(at, int)
    return at


def is_wanted(row: Row) -> bool:
    entry: Mapping[str, object] = row[1]
    return bool(entry["wanted"])


@pytest.fixture(autouse=True, scope="module")
def _few_rows() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(looks, "ROWS_MAX", SMALL)
    yield
    patch.undo()


ages = st.one_of(
    st.integers(0, 90), st.integers(0, 400_000), st.integers(0, 10**8), st.integers(-(10**6), 0)
)
ALL = Span(0, FAR_S)


@given(
    ages=st.lists(st.tuples(ages, st.booleans()), max_size=60, unique_by=lambda one: one[0]),
    limit=st.integers(1, 20),
    within=st.sampled_from([ALL, Span(NOW_S - 1000, FAR_S), Span(0, NOW_S - 50), Span(9, 3)]),
)
@example(ages=[(n, False) for n in range(30)] + [(10**7, True)], limit=1, within=ALL)
@example(ages=[(n, n % 2 == 0) for n in range(60)], limit=20, within=ALL)
def test_they_are_those_that_a_look_at_all_would_find(
    ages: list[tuple[int, bool]], limit: int, within: Span
) -> None:
    store = Store([(NOW_S - age, wanted) for age, wanted in ages])

    assert store.newest(limit, within) == store.expected(limit, within)


@pytest.mark.parametrize("step_s", [1, 40, 3600, 86_400])
@pytest.mark.parametrize("every", [1, 3, 1000])
def test_few_of_many_rows_are_looked_at(step_s: int, every: int) -> None:
    """Of 20,000, stored at any pace, of which all or few are wanted."""
    store = Store([(NOW_S - n * step_s, n % every == 0) for n in range(20_000)])

    assert store.newest(5, ALL) == store.expected(5, ALL)
    assert store.read_rows <= 20 * SMALL
    assert store.asked <= 20


def test_rows_of_one_second_are_not_all_looked_at_either() -> None:
    store = Store([(NOW_S - 7, True)] * 20_000)

    assert store.newest(5, ALL) == [NOW_S - 7] * 5
    assert store.read_rows <= 40 * SMALL


def test_the_latest_are_found_at_the_first_look() -> None:
    store = Store([(NOW_S - 1, True), (NOW_S + FIRST_S, True), (NOW_S - 10**6, True)])

    assert store.newest(2, ALL) == [NOW_S + FIRST_S, NOW_S - 1]
    assert store.asked == 3
    assert store.newest(3, ALL) == store.expected(3, ALL)
    assert store.asked == 3 + 1 + LOOKS + 1


@pytest.mark.engine
def test_chroma_finds_them_by_their_seconds(tmp_path: Path) -> None:
    from mempalace.backends.chroma import ChromaBackend

    collection = ChromaBackend().get_collection(str(tmp_path), "mempalace_drawers", create=True)
    ids = [f"mem-{place}" for place in range(40)]
    memories = [
        Memory(
            id=ident,
            namespace="org:lead" if place % 4 else "team:lead",
            content=ident,
            until=NEVER_S if place % 3 else NOW_S - 1.0,
            created_at=written(datetime.fromtimestamp(NOW_S - 977 * place, UTC)),
        )
        for place, ident in enumerate(ids)
    ]
    collection.upsert(
        ids=ids,
        documents=ids,
        embeddings=[[1.0, float(place)] for place in range(len(ids))],
        metadatas=[dict(metadata_of(memory)) for memory in memories],
    )

    def found(limit: int, **more: Any) -> list[str]:
        wanted = Wanted(
            query="", namespaces=("team:lead",), kinds=(), limit=limit, now_s=NOW_S, **more
        )
        return newest_in(collection, wanted)

    there = [ids[place] for place in range(0, len(ids), 4) if place % 3]
    assert found(2) == there[:2]
    assert found(len(ids)) == there
    assert found(2, before=memories[8].created_at) == ["mem-16", "mem-20"]
    assert found(9, since=memories[8].created_at) == ["mem-4", "mem-8"]

    wanted = Wanted(
        query="", namespaces=None, kinds=(), limit=9, now_s=NOW_S, without=("org:lead",)
    )
    assert newest_in(collection, wanted) == there[:9]
    let_through = collection.get(where=_all_of(_clauses(wanted)))
    assert set(let_through.ids) == set(there), "Chroma filters it, however many there are"


def test_what_was_stored_long_ago_is_found_as_quickly() -> None:
    year_s = 365 * 86_400
    store = Store([(NOW_S - year_s - n * 60, n % 2 == 0) for n in range(20_000)])

    assert store.newest(5, ALL) == store.expected(5, ALL)
    assert store.asked <= 40
    assert store.read_rows <= 60
