"""What another program does to Chroma's rows, or to the register, under a running owner.

It is seen while nobody asks, told to the next call, and the next owner puts it right; what none
puts right is said in each reply.  Calls that come in between are no difference.
"""

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palace.doctor.finding import ERROR
from palace.engine.durability.beside import Comparison, Differences, Note, read_note, write_note
from palace.engine.durability.examiner import Written
from palace.engine.stores.palace_stores import unopened_stores
from palace.journal.replay import Replay, replay
from palace.kernel.kernel import Kernel
from palace.protocol.keyring import ANYBODYS
from palace.settings.config import load_config
from palace.settings.paths import Paths
from tests.engine.durability.test_damage import (
    DRAWERS,
    doctor,
    lacks_of,
    master,
    texts_changed,
)
from tests.engine.durability.test_rebuild import Master, copy_of, differing
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.probe import Probe
from tests.support.faults.killing import is_full
from tests.support.faults.losses import LOSSES, lose_drawers, lose_rows, run_sql
from tests.support.processes.clients import Site

pytestmark = [pytest.mark.engine, pytest.mark.process]

__all__ = ["master"]  # a fixture

OTHER = "An otter dives for a key that nobody stored."
FOREIGN = """
import sys, chromadb
found = chromadb.PersistentClient(sys.argv[1]).get_collection("made", embedding_function=None)
found.add(ids=["made-elsewhere"], embeddings=[[0.5] * 32], documents=["From elsewhere."])
"""
DELETING = """
import sys, chromadb
found = chromadb.PersistentClient(sys.argv[1]).get_collection("made", embedding_function=None)
found.delete(ids=["made-9"])
"""
ABOUT = {"wing": "w", "room": "r", "content": "About to be written."}
ONES = [1.0] * 32
OWNED = ("drawers", "workspace", "collection", "diary")
CHANGES = {
    "a number": "UPDATE embedding_metadata SET int_value = 4711 WHERE key = 'n' AND int_value = 7",
    "a text": "UPDATE embedding_metadata SET string_value = 'x' WHERE key = 'room' AND id = "
    "(SELECT min(id) FROM embedding_metadata WHERE key = 'room')",
    "a truth": "UPDATE embedding_metadata SET bool_value = 1 - bool_value WHERE key = 'odd' AND "
    "id = (SELECT min(id) FROM embedding_metadata WHERE key = 'odd')",
    "a key": "DELETE FROM embedding_metadata WHERE key = 'third' AND id = "
    "(SELECT min(id) FROM embedding_metadata WHERE key = 'third')",
}


@pytest.fixture
def copied(master: Master, tmp_path: Path) -> Site:
    return copy_of(master, tmp_path)


def note_of(site: Site) -> Note | None:
    return read_note(Paths(str(site.palace)), Kernel())


def journal_says(site: Site) -> Replay:
    return replay(Paths(str(site.palace)).journal, Kernel())


def compared(site: Site, known: Replay | None = None) -> Differences:
    """Compare in this process, which has no store open; `known` is what was read before."""
    paths, kernel = Paths(str(site.palace)), Kernel()
    return Comparison(
        stores=unopened_stores(paths, load_config(paths, site.environ(), kernel), kernel),
        known=known or journal_says(site),
        directory=paths.journal,
        kernel=kernel,
        keys=ANYBODYS,
    ).run()


def change_made(probe: Probe, method: str, **arguments: Any) -> None:
    """Change the collection of made vectors, as a call does."""
    refused = probe.on_collection("made", method, **arguments)
    assert refused is None, refused


def leave_and_compare(probe: Probe, site: Site) -> None:
    """Let the next owner open the palace, and see that it is whole to every eye."""
    probe.leave()
    with Probe(site.environ(), site.palace) as again:
        assert again.ask("drift") == []
        assert again.ask("examine") == ""
        assert "may not be" not in str(again.call("search", query="otter"))
        again.leave()
    assert note_of(site) is None
    assert lacks_of(site) == []
    assert compared(site) == Differences()


@pytest.mark.parametrize("name", OWNED if is_full() else OWNED[:2])
def test_rows_that_are_deleted_under_an_owner_come_back(
    copied: Site, master: Master, maintenance: MaintenanceProcess, name: str
) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        LOSSES[name][0](copied.palace)
        told = probe.ask("examine")
        assert "that the journal has for" in told
        refused = probe.call("search", query="otter")["error"]
        leave_and_compare(probe, copied)

    assert refused["code"] == -31049
    assert "are not there any more" in refused["message"]
    assert "the next one brings it back" in refused["message"]
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []


def test_rows_that_an_owner_missed_come_back_though_stock_deletes_others(copied: Site) -> None:
    """Chroma's numbers have gone on then, by which alone a loss looks like a deletion."""
    drawers = {entity for entity in journal_says(copied).live if entity[0] == f"chroma:{DRAWERS}"}
    with Probe(copied.environ(), copied.palace) as probe:
        lose_drawers(copied.palace)
        assert probe.ask("examine")
        change_made(probe, "add", ids=["late"], embeddings=[ONES], documents=["late"])
        assert len(compared(copied).missing["chroma:" + DRAWERS]) == 2
        probe.kill()
    stock = [sys.executable, "-P", "-c", DELETING, str(copied.palace)]
    subprocess.run(stock, env=copied.environ(), check=True, timeout=60)

    with Probe(copied.environ(), copied.palace) as probe:
        assert compared(copied) == Differences()
        assert probe.ask("drift") == []
        probe.leave()
    now = journal_says(copied).live
    assert drawers <= now.keys()
    assert ("chroma:made", "late") in now
    assert ("chroma:made", "made-9") not in now


@pytest.mark.parametrize("deletes", [False, True])
def test_what_stock_deletes_is_told_from_what_was_lost_under_a_call(
    copied: Site, *, deletes: bool
) -> None:
    """Chroma's numbers have gone on, all for what the killed owner had under way, or not."""
    with Probe(copied.environ(), copied.palace) as probe:
        probe.ask("hold", point="applied")
        before = journal_says(copied)
        waiting = threading.Thread(target=_asking, args=(probe, ABOUT))
        waiting.start()
        while ABOUT["content"] not in _texts(copied.palace):
            time.sleep(0.05)
        lose_drawers(copied.palace)
        probe._process.kill()
        waiting.join()
    if deletes:
        gone = [sys.executable, "-P", "-c", DELETING, str(copied.palace)]
        subprocess.run(gone, env=copied.environ(), check=True, timeout=60)

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("drift") == []
        probe.leave()
    there = {entity for entity in journal_says(copied).live if entity[0] == f"chroma:{DRAWERS}"}
    before_it = {entity for entity in before.live if entity[0] == f"chroma:{DRAWERS}"}
    assert (there == before_it) is not deletes  # as ever: nobody can tell these apart then
    assert (("chroma:made", "made-9") in journal_says(copied).live) is not deletes


@pytest.mark.parametrize("deletes", [False, True])
def test_what_was_lost_is_told_from_what_stock_deletes_beside_what_it_adds(
    copied: Site, *, deletes: bool
) -> None:
    drawers = {entity for entity in journal_says(copied).live if entity[0] == f"chroma:{DRAWERS}"}
    lose_drawers(copied.palace)
    for code in (FOREIGN, DELETING)[: 1 + deletes]:
        stock = [sys.executable, "-P", "-c", code, str(copied.palace)]
        subprocess.run(stock, env=copied.environ(), check=True, timeout=60)

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("drift") == []
        probe.leave()
    now = journal_says(copied).live
    assert ("chroma:made", "made-elsewhere") in now
    assert (("chroma:made", "made-9") in now) is not deletes
    assert (drawers <= now.keys()) is not deletes


@pytest.mark.parametrize("writes", [False, True])
def test_the_newest_rows_are_deleted_and_their_numbers_given_again(
    copied: Site, *, writes: bool
) -> None:
    """Their texts are still in the index for words: nothing could be stored any more."""
    before = set(journal_says(copied).live)
    newest = "SELECT id FROM embeddings ORDER BY id DESC LIMIT 2"
    if writes:
        with Probe(copied.environ(), copied.palace) as probe:
            lose_rows(copied.palace, newest)
            new = {"ids": ["x"], "embeddings": [[1.0] * 32], "documents": ["x"]}
            # Each try gets a number, and so does what takes it back.
            tried = [probe.on_collection("made", "add", **new) for _ in range(3)]
            assert None not in tried
            probe.kill()
    else:
        lose_rows(copied.palace, newest)

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("drift") == []
        assert before <= journal_says(copied).live.keys(), "no loss passes for a deletion"
        assert probe.on_collection("made", "add", ids=["y"], embeddings=[[1.0] * 32]) is None
        assert compared(copied) == Differences()
        probe.leave()


def _texts(palace: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{palace}/chroma.sqlite3?mode=ro", uri=True)) as connection:
        query = "SELECT string_value FROM embedding_metadata WHERE key = 'chroma:document'"
        return {row[0] for row in connection.execute(query)}


def test_rows_of_another_program_are_taken_over(copied: Site) -> None:
    """By the next owner, as what was written while there was none."""
    with Probe(copied.environ(), copied.palace) as probe:
        write = [sys.executable, "-P", "-c", FOREIGN, str(copied.palace)]
        subprocess.run(write, env=copied.environ(), check=True, timeout=60)
        assert compared(copied).foreign == {"chroma:made": ["made-elsewhere"]}
        assert "1 entries of made are in no record" in probe.ask("examine")
        assert "error" in probe.call("search", query="otter")
        leave_and_compare(probe, copied)
    assert ("chroma:made", "made-elsewhere") in journal_says(copied).live


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_metadata_of_each_kind_is_compared(copied: Site, change: str) -> None:
    run_sql(copied.palace / "chroma.sqlite3", change)
    assert [len(ids) for ids in compared(copied).metadata.values()] == [1]
    assert compared(copied).changed().count("such as") == 1


@pytest.mark.parametrize("change", [*CHANGES.values()] if is_full() else [CHANGES["a number"]])
def test_metadata_changed_by_sql_is_said_in_replies_and_by_the_doctor(
    copied: Site, maintenance: MaintenanceProcess, change: str
) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        assert "may not be" not in str(probe.call("search", query="otter"))
        run_sql(copied.palace / "chroma.sqlite3", change)
        assert probe.ask("examine") == ""  # no other owner would help
        reply = probe.call("search", query="otter")["result"]["content"]
        listed = probe.call("list_wings")["result"]["content"]
        probe.leave()

    assert "1 of the records in " in reply[-1]["text"]
    assert "hold other metadata than the journal has" in reply[-1]["text"]
    assert "palace doctor" in reply[-1]["text"]
    assert len(listed) == 1
    [found] = [finding for finding in doctor(copied) if finding.code == "texts_differ"]
    assert found.level == ERROR
    with Probe(copied.environ(), copied.palace) as probe:  # from its first reply on
        assert "hold other metadata" in str(probe.call("search", query="otter"))
        probe.leave()

    assert "palace rebuild --stop" in found.remedy
    maintenance.ask(
        "rebuild", copied.palace
    )  # the command's own process has keys; probes have none
    assert "texts_differ" not in {finding.code for finding in doctor(copied)}
    assert compared(copied) == Differences()


def test_what_was_changed_by_sql_is_not_taken_over_with_what_comes_back(copied: Site) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        texts_changed(copied.palace, OTHER, "made")
        lose_drawers(copied.palace)
        assert probe.ask("examine")
        probe.leave()
    with Probe(copied.environ(), copied.palace) as probe:
        assert compared(copied).missing == {}
        assert probe.ask("examine") == ""
        assert "hold another text" in str(probe.call("search", query="otter"))
        probe.leave()

    known = journal_says(copied)
    payloads = [str(payload) for _, payload in known.payloads("chroma:made")]
    assert len(payloads) > 600
    assert not [payload for payload in payloads if OTHER in payload]


def test_an_owner_does_not_leave_twice_for_one_thing(copied: Site) -> None:
    """What the next owner could not help against is said in replies: there is no endless round."""
    with Probe(copied.environ(), copied.palace) as probe:
        lose_drawers(copied.palace)
        told = probe.ask("examine")
        probe.leave()
    with Probe(copied.environ(), copied.palace) as probe:
        noted = note_of(copied)
        assert noted is not None
        assert (noted.text, noted.entities()) == (told, frozenset())
        lose_drawers(copied.palace)
        assert probe.ask("examine") == ""
        assert "are not there any more" in str(probe.call("search", query="otter"))
        assert lacks_of(copied)
        probe.leave()
    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("drift") == []
        probe.leave()


def test_a_palace_whose_journal_is_on_trial_says_it_and_goes_on(copied: Site) -> None:
    (copied.palace / "palace.toml").write_text('journal = "dual"\n')
    with Probe(copied.environ(), copied.palace) as probe:
        lose_drawers(copied.palace)
        assert probe.ask("examine") == ""
        assert "are not there any more" in str(probe.call("search", query="otter"))
        assert probe.tool("add_drawer", wing="w", room="r", content="Still served.")
        probe.leave()
    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("examine") == ""
        assert "are not there any more" in str(probe.call("search", query="otter"))
        probe.leave()
    (copied.palace / "palace.toml").write_text('journal = "on"\n')
    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("drift") == []
        assert probe.ask("examine") == ""
        probe.leave()


def test_what_calls_write_meanwhile_is_no_difference(copied: Site) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        known = journal_says(copied)
        change_made(probe, "add", ids=["new"], embeddings=[ONES], documents=["new"])
        change_made(probe, "delete", ids=["made-5"])
        change_made(probe, "update", ids=["made-6"], embeddings=[ONES], documents=["another"])
        change_made(probe, "update", ids=["made-7"], metadatas=[{"n": 70}])
        assert compared(copied, known) == Differences()
        assert compared(copied) == Differences()
        probe.leave()


@pytest.mark.parametrize("point", ["apply", "applied"])
def test_what_a_call_is_about_to_write_is_no_difference(copied: Site, point: str) -> None:
    """It is in the journal, and not in the store, or in the store and not finished."""
    with Probe(copied.environ(), copied.palace) as probe:
        probe.ask("hold", point=point)
        before = journal_says(copied).seq
        waiting = threading.Thread(target=_asking, args=(probe, ABOUT))
        waiting.start()
        while journal_says(copied).seq == before:
            time.sleep(0.05)
        time.sleep(1.0)  # until it has come to the point
        found = compared(copied)
        probe._process.kill()
        waiting.join()
    assert found == Differences()


def _asking(probe: Probe, content: dict[str, str]) -> None:
    try:
        probe.call("add_drawer", **content)
    except (AssertionError, BrokenPipeError):
        pass  # it was killed


def test_nothing_is_told_while_calls_come_and_go(copied: Site) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        ended = threading.Event()
        found: list[Differences] = []

        def compare() -> None:
            while not ended.is_set():
                found.append(compared(copied))

        comparing = threading.Thread(target=compare)
        comparing.start()
        for number in range(40):
            ids = [f"n-{number}-{i}" for i in range(5)]
            change_made(probe, "add", ids=ids, embeddings=[ONES] * 5, documents=ids)
            two = {"ids": ids[:2], "embeddings": [ONES] * 2, "documents": ["a", "b"]}
            change_made(probe, "update", **two)
            change_made(probe, "delete", ids=ids[1:4])
        ended.set()
        comparing.join()
        probe.leave()
    assert len(found) > 2
    assert set(map(str, found)) == {str(Differences())}


def test_an_owner_that_nobody_asks_looks_as_soon_as_its_database_was_written(copied: Site) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        time.sleep(6)  # it has seen the database as it was
        lose_drawers(copied.palace)
        until = time.monotonic() + 40  # a minute after the opening it looks in any case
        while "are not there any more" not in str(probe.ask("looks_like")):
            assert time.monotonic() < until
            time.sleep(0.5)
        assert "error" in probe.call("search", query="otter")
        leave_and_compare(probe, copied)


def test_a_write_is_anothers_if_nothing_of_ours_was_written_since() -> None:
    first = Written(7, "a")
    assert Written(7, "b").by_others(first)
    assert not Written(8, "b").by_others(first)
    assert not Written(7, "a").by_others(first)
    assert not Written().by_others(first)  # a change is under way
    assert not Written(7, "b").by_others(Written())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"missing": 1}', b'{"missing": {"chroma:x": [1, {}]}}', b"\xff"]
)
def test_a_note_that_is_none_of_ours_says_nothing(tmp_path: Path, data: bytes) -> None:
    paths = Paths(str(tmp_path))
    Path(paths.suspect_rows).write_bytes(data)
    noted = read_note(paths, Kernel())
    assert noted is None or not noted.entities()


def test_a_note_survives_whatever_ids_there_are(tmp_path: Path) -> None:
    paths, kernel = Paths(str(tmp_path)), Kernel()
    note = Note(text="t", missing={"chroma:ü": ["ä", "\ud800"]}, changed={"k": ["i"]})
    write_note(paths, kernel, note)
    assert read_note(paths, kernel) == note
