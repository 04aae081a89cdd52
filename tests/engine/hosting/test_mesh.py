"""What the hosted mempalace takes over of its peers, and what it keeps of a part that is bad."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from palace.journal.inspect import read_from
from palace.journal.record import PUT, Record
from palace.kernel.kernel import Kernel
from tests.support.engines.asked import Palace

pytestmark = pytest.mark.engine
ORIGIN = "rep_0123456789ab"


@pytest.fixture
def palace(tmp_path: Path, model_home: Path) -> Iterator[Palace]:
    palace = Palace(model_home, tmp_path / "store" / "palace")
    yield palace
    palace.engine.end()


def event(seq: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"evt_{seq}",
        "type": "note.sent",
        "stream": "s",
        "room": "r",
        "from_agent": "a",
        "created_at": "2026-11-30T00:00:00Z",
        "origin_replica": ORIGIN,
        "origin_seq": seq,
        "hlc": "1783038849123-000000-rep_0123456789ab",
        **fields,
    }


def artifact(ident: str, content: str) -> dict[str, Any]:
    digest = sha256(content.encode()).hexdigest()
    made = {"created_by": "a", "created_at": "2026-11-30T00:00:00Z"}
    return {"id": ident, "kind": "note", "sha256": digest, "content": content, **made}


def test_a_part_is_taken_over_once_and_is_in_the_journal_with_one_operation(palace: Palace) -> None:
    events = [event(1, artifact_ids=["art_1"]), event(2), event(7)]
    artifacts = [artifact("art_1", "one")]

    told = palace.ask("palace_mesh_fold", events=events, artifacts=artifacts)
    assert told == {"artifacts": 1, "events": 3}
    again = palace.ask("palace_mesh_fold", events=events, artifacts=artifacts)
    assert again == {"artifacts": 0, "events": 0}

    assert palace.ask("palace_mesh_vector")["version_vector"] == {ORIGIN: 7}
    assert [seq for (seq,) in palace.rows("SELECT origin_seq FROM events")] == [1, 2, 7]
    palace.engine.close()
    found = read_from(f"{palace.root}/journal", Kernel())
    changes = [
        one
        for one in found
        if isinstance(one, Record) and one.action == PUT and one.kind.startswith("log:")
    ]
    assert len(changes) == 5  # three events, an artifact, and that one names the other
    assert len({(one.key, one.step) for one in changes}) == 1


@pytest.mark.parametrize(
    ("bad", "why"), [({"artifact_ids": ["art_9"]}, "art_9"), ({"hlc": ""}, "hlc")]
)
def test_of_a_part_that_is_bad_what_came_before_is_kept_and_nothing_after(
    palace: Palace, bad: dict[str, Any], why: str
) -> None:
    events = [event(1), event(2), event(3, **bad), event(4)]

    told = palace.ask("palace_mesh_fold", events=events, artifacts=[])
    assert (told["events"], why in told["problem"]) == (2, True)
    assert [ident for (ident,) in palace.rows("SELECT id FROM events")] == ["evt_1", "evt_2"]
    assert palace.ask("palace_mesh_vector")["version_vector"] == {ORIGIN: 2}

    good = [event(3, artifact_ids=["art_9"]), event(4)]
    told = palace.ask("palace_mesh_fold", events=good, artifacts=[artifact("art_9", "x")])
    assert told == {"artifacts": 1, "events": 2}


def test_a_page_of_events_is_never_so_long_that_it_fills_the_memory(palace: Palace) -> None:
    large = [event(seq, body="x" * (200 << 10)) for seq in range(1, 41)]
    for start in range(0, 40, 10):
        part = large[start : start + 10]
        assert palace.ask("palace_mesh_fold", events=part, artifacts=[])["events"] == 10

    seen: list[int] = []
    while len(seen) < 40:
        after = seen[-1] if seen else 0
        page = palace.ask("palace_mesh_ops", origin=ORIGIN, after=after, limit=500)["events"]
        assert 0 < len(page) <= 21
        seen += [one["origin_seq"] for one in page]
    assert seen == list(range(1, 41))
    assert "origin" in palace.ask("palace_mesh_ops", origin="", after=0, limit=5)["problem"]
