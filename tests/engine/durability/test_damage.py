"""Stores that were damaged while no broker ran: seen, told, and brought back at the next opening.

Each way is tried on a copy of a palace that holds some of everything.
"""

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palace.doctor.examine import examine_palace, exit_code_of
from palace.doctor.finding import ERROR, Finding
from palace.engine.durability.beside import Comparison, Differences
from palace.engine.durability.healing import heal_stores
from palace.engine.durability.offline import hold_palace, open_stores, opened_journal
from palace.engine.hosting.reader import what_lacks
from palace.engine.stores import words
from palace.engine.stores.palace_stores import unopened_stores
from palace.engine.stores.snapshot import Originals
from palace.journal.replay import no_progress, replay
from palace.kernel.kernel import Kernel
from palace.ownership import exclusive
from palace.protocol.errors import StoreUnavailable
from palace.protocol.keyring import ANYBODYS
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.engine.durability.test_rebuild import Master, copy_of, differing, lose_a_record
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import fill, made_vectors
from tests.support.faults.damages import (
    BESIDE,
    DAMAGES,
    DATABASE,
    INDEX,
    WORDS,
    Damaging,
    binaries_emptied,
    index_of,
    links_to_themselves,
    vectors_mixed_up,
)
from tests.support.faults.killing import is_full
from tests.support.faults.losses import lose_drawers
from tests.support.processes.clients import Site
from tests.support.processes.sites import make_site, start_stock

pytestmark = [pytest.mark.engine, pytest.mark.process]

SEARCHES = ("otter dives", "spare key", "Ada Lovelace counts in KelpForest")
QUERIES = 40
DRAWERS, MANY = "mempalace_drawers", 110


@pytest.fixture(scope="module")
def master(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path, maintenance: MaintenanceProcess
) -> Master:
    root = tmp_path_factory.mktemp("whole")
    site = make_site(root, model_home)
    probe = Probe(site.environ(), site.palace)
    ids = fill(probe, root)
    probe.leave()
    return Master(site, maintenance.ask("contents", site.palace), ids)


@pytest.fixture(scope="module")
def expected(master: Master, tmp_path_factory: pytest.TempPathFactory) -> "Answers":
    """What a whole palace answers."""
    with Probe(
        master.site.environ(), copy_of(master, tmp_path_factory.mktemp("asked")).palace
    ) as probe:
        assert probe.ask("health") == {"damaged": [], "healed": []}
        return answers_of(probe)


@pytest.fixture
def copied(master: Master, tmp_path: Path) -> Site:
    return copy_of(master, tmp_path)


@dataclass
class Answers:
    """What queries of every store are answered."""

    found: list[list[str]]
    nearest: list[list[str]]
    others: list[Any]


def answers_of(probe: Probe) -> Answers:
    found = []
    for query in SEARCHES:
        reply = probe.tool("search", query=query, limit=5)
        assert "vector_disabled" not in str(reply), reply
        found.append([result["drawer_id"] for result in reply["results"]])
    asking = {"query_embeddings": made_vectors()[:QUERIES], "n_results": 5}
    return Answers(
        found=found,
        nearest=probe.ask("nearest", collection="made", arguments=asking),
        others=[
            probe.tool("kg_query", entity="Ada"),
            probe.tool("list_tunnels"),
            probe.tool("list_hallways"),
            probe.tool("event_list", stream="s")["events"],
        ],
    )


def doctor(site: Site) -> list[Finding]:
    return examine_palace(Paths(str(site.palace)), ShimEnvironment(site.environ()))


def lacks_of(site: Site) -> list[Finding]:
    return [found for found in doctor(site) if found.code in ("lacking", "not_compared")]


def damage(site: Site, names: tuple[str, ...]) -> None:
    for name in names:
        DAMAGES[name][1](site.palace)


@pytest.mark.parametrize("name", DAMAGES)
def test_doctor_names_the_damage_first_and_what_helps(copied: Site, name: str) -> None:
    files = sorted(copied.palace.parent.rglob("*"))
    assert not [finding for finding in doctor(copied) if finding.code == "store_damaged"]
    assert sorted(copied.palace.parent.rglob("*")) == files, "looking leaves nothing behind"

    damage(copied, (name,))

    found = doctor(copied)
    assert exit_code_of(found) == 65
    assert (found[0].level, found[0].code) == (ERROR, "store_damaged")
    assert str(copied.palace.parent) in found[0].text
    assert found[0].remedy.endswith("palace start")
    assert sum(finding.code == "store_damaged" for finding in found) == 1


def ways() -> Iterator[tuple[str, ...]]:
    """Yield what to damage at once: each store in one way at most."""
    if is_full():
        yield from ((name,) for name in DAMAGES)
        return
    yield "index-gone", "graph-gone", "tunnels-cut", "hallways-gone", "log-cut", "replica-gone"
    yield "links-overwritten", "graph-cut", "tunnels-emptied", "hallways-cut", "embedder-cut"
    yield "database-cut", "graph-emptied", "tunnels-other", "hallways-other", "register-cut"
    yield "database-gone", "tunnels-gone", "replica-cut", "register-gone", "log-gone"
    yield "older-index", "graph-bytes", "register-view", "log-bytes", "candidates-cut"
    yield "words-gone", "graph-no-key", "register-bytes", "candidates-gone"
    yield "words-of-fewer", "graph-no-text", "register-shut", "candidates-emptied"
    yield "words-no-pages", "register-no-key", "candidates-no-key"
    yield "words-no-sizes", "register-emptied"
    yield "words-of-others", "register-trigger"
    yield ("words-cut",)


@pytest.mark.parametrize("names", list(ways()), ids="+".join)
def test_damage_is_healed_when_the_palace_is_opened(
    master: Master,
    expected: Answers,
    copied: Site,
    maintenance: MaintenanceProcess,
    names: tuple[str, ...],
) -> None:
    damage(copied, names)

    with Probe(copied.environ(), copied.palace) as probe:
        health = probe.ask("health")
        answered = answers_of(probe)
        assert probe.ask("drift") == []
        probe.leave()

    assert health["damaged"] == []
    assert {one["store"] for one in health["healed"]} == {DAMAGES[name][0] for name in names}
    assert answered == expected
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []
    found = doctor(copied)
    assert not [finding for finding in found if finding.level == ERROR]
    kept = {finding.text for finding in found if finding.code == "store_healed"}
    assert len(kept) == sum(one["kept"] != "" for one in health["healed"])


def test_what_stock_wrote_before_an_index_was_damaged_is_kept(
    copied: Site, maintenance: MaintenanceProcess
) -> None:
    """Its vectors went with the index, and are made again from the documents."""
    with start_stock(copied.environ(), "--palace", str(copied.palace)) as stock:
        new = stock.tool("add_drawer", wing="w", room="r9", content="Stock wrote of walruses.")
        gone = stock.tool("list_drawers", wing="w", room="r0")["drawers"][0]["drawer_id"]
        stock.tool("delete_drawer", drawer_id=gone)
    [said] = lacks_of(copied)
    assert "lacks 1 of the " in said.text
    assert said.remedy.startswith("If another program was to delete it, the next broker takes ")
    damage(copied, ("index-gone",))

    with Probe(copied.environ(), copied.palace) as probe:
        assert [one["store"] for one in probe.ask("health")["healed"]] == ["chroma"]
        found = probe.tool("search", query="walruses", limit=1)["results"]
        assert probe.ask("drift") == []
        probe.leave()

    assert [result["drawer_id"] for result in found] == [new["drawer_id"]]
    assert lacks_of(copied) == []
    drawers = maintenance.ask("contents", copied.palace)["chroma:mempalace_drawers"]
    assert new["drawer_id"] in drawers
    assert gone not in drawers


@pytest.mark.parametrize("is_known", [False, True])
def test_rows_that_were_lost_before_an_index_was_damaged_were_not_deleted(
    master: Master, copied: Site, maintenance: MaintenanceProcess, *, is_known: bool
) -> None:
    if is_known:  # an owner has missed them; what it noted counts more than Chroma's numbers
        with Probe(copied.environ(), copied.palace) as probe:
            lose_drawers(copied.palace)
            assert "are not there any more" in probe.ask("examine")
            probe.kill()
    else:
        lose_drawers(copied.palace)
    with start_stock(copied.environ(), "--palace", str(copied.palace)) as stock:
        new = stock.tool("add_drawer", wing="w", room="r9", content="By stock.")["drawer_id"]
        if is_known:  # else Chroma's numbers tell that nothing was deleted
            stock.tool("delete_drawer", drawer_id=new)
    damage(copied, ("index-gone",))

    with Probe(copied.environ(), copied.palace) as probe:
        assert [one["store"] for one in probe.ask("health")["healed"]] == ["chroma"]
        assert probe.ask("drift") == []
        probe.leave()

    found = differing(maintenance.ask("contents", copied.palace), master.contents)
    assert {ident for _, ident in found} == (set() if is_known else {new})


def test_words_are_made_again_without_a_journal_and_not_while_it_is_on_trial(
    master: Master, copied: Site, tmp_path: Path
) -> None:
    for journal, site in (("off", copied), ("dual", copy_of(master, tmp_path / "dual"))):
        settings = site.palace / "palace.toml"
        settings.write_text(settings.read_text() + f'journal = "{journal}"\n')
        damage(site, ("words-gone",))
        before = (site.palace / "chroma.sqlite3").read_bytes()

        with Probe(site.environ(), site.palace) as probe:
            found = str(probe.call("search", query="otter"))
            probe.leave()
        damaged = "store_damaged" in {finding.code for finding in doctor(site)}
        assert damaged is (journal == "dual")
        assert ("vector_disabled" in found) is (journal == "dual"), "it says so"
        if journal == "dual":
            assert (site.palace / "chroma.sqlite3").read_bytes() == before


def test_words_are_left_alone_in_a_database_that_is_damaged_elsewhere(copied: Site) -> None:
    settings = copied.palace / "palace.toml"
    settings.write_text(settings.read_text() + 'journal = "off"\n')
    damage(copied, ("words-gone", "pages-overwritten"))
    before = (copied.palace / "chroma.sqlite3").read_bytes()
    with Probe(copied.environ(), copied.palace) as probe:
        assert "error" in probe.call("search", query="otter")
        probe.leave()
    assert (copied.palace / "chroma.sqlite3").read_bytes() == before


def test_what_else_was_noted_of_a_store_is_seen_to_when_its_words_are_mended(copied: Site) -> None:
    (copied.palace / "index.suspect").write_text("the index of made is damaged: it finds 1 of 9")
    damage(copied, ("words-gone",))
    with Probe(copied.environ(), copied.palace) as probe:
        first, second = probe.ask("health")["healed"]
        probe.leave()
    assert "its index of words" in first["text"]
    assert "it finds 1 of 9" in second["text"]
    assert not (copied.palace / "index.suspect").exists()


def test_words_that_are_damaged_in_a_large_index_are_seen_by_whoever_has_the_time(
    copied: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor, and the look at a running broker's files, but not an opening."""
    monkeypatch.setattr(words, "QUICK_DOCUMENTS", 0)
    damage(copied, ("words-of-others",))
    path = f"{copied.palace}/chroma.sqlite3"

    assert words.words_damage(f"file:{path}?mode=ro", words.Look.COUNT) == ""
    assert doctor(copied)[0].code == "store_damaged"
    with Probe(copied.environ(), copied.palace) as probe:  # it reads the small one whole
        assert len(probe.ask("health")["healed"]) == 1
        probe.leave()
    assert not [finding for finding in doctor(copied) if finding.level == ERROR]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Master:
    """A palace whose drawers' index has been written to disk."""
    site = make_site(tmp_path_factory.mktemp("many"), model_home)
    with Probe(site.environ(), site.palace) as probe:
        ids = {
            str(n): probe.tool("add_drawer", wing="w", room="r", content=f"Walrus {n} sings {n}.")
            for n in range(MANY)
        }
        probe.leave()
    binaries = [path.stat().st_size for path in index_of(site.palace, DRAWERS).glob("*.bin")]
    assert len(binaries) >= 4
    return Master(site, {}, {n: told["drawer_id"] for n, told in ids.items()})


def test_index_of_a_palace_that_only_stock_has_used_is_made_again(
    many: Master, tmp_path: Path
) -> None:
    """From the rows alone: there is no journal yet, and afterwards there is one with all of it."""
    copied = copy_of(many, tmp_path)
    shutil.rmtree(copied.palace / "journal")
    binaries_emptied(copied.palace, DRAWERS)

    with Probe(copied.environ(), copied.palace) as probe:
        health = probe.ask("health")
        found = probe.tool("search", query="Walrus 7 sings 7.", limit=1)["results"]
        assert probe.ask("drift") == []
        probe.leave()

    assert health["damaged"] == []
    assert [one["store"] for one in health["healed"]] == ["chroma"]
    assert [result["drawer_id"] for result in found] == [many.ids["7"]]
    known = replay(f"{copied.palace}/journal", Kernel())
    assert len(known.ids(f"chroma:{DRAWERS}")) == MANY


def test_searches_without_an_index_say_so_where_nothing_can_mend_it(
    many: Master, tmp_path: Path
) -> None:
    """Without a journal stock's own words are used: by words alone, and why; no writing."""
    copied = copy_of(many, tmp_path)
    settings = copied.palace / "palace.toml"
    settings.write_text(settings.read_text() + 'journal = "off"\n')
    binaries_emptied(copied.palace, DRAWERS)

    with Probe(copied.environ(), copied.palace) as probe:
        found = probe.tool("search", query="Walrus sings", limit=3)
        refused = probe.call("add_drawer", wing="w", room="r", content="One more.")
        probe.leave()

    assert "this palace has no journal" in str(found)
    assert len(found["results"]) == 3
    assert "diverged" in refused["error"]["message"]
    told = doctor(copied)[0]
    assert (told.level, told.code) == (ERROR, "store_damaged")
    assert "palace config set journal=on" in told.remedy
    assert copied.run("config", "set", "journal=on", "--yes").returncode == 0
    with Probe(copied.environ(), copied.palace) as probe:
        found = probe.tool("search", query="Walrus 7 sings 7.", limit=1)
        probe.leave()
    assert [result["drawer_id"] for result in found["results"]] == [many.ids["7"]]
    assert not [finding for finding in doctor(copied) if finding.code == "store_damaged"]


def test_what_the_journal_lacks_is_not_brought_back_by_itself(
    copied: Site, maintenance: MaintenanceProcess
) -> None:
    """A database that can't be read, and records that are missing: the doctor's remedy works."""
    lose_a_record(copied)
    damage(copied, ("database-cut",))

    with Probe(copied.environ(), copied.palace) as probe:
        refused = probe.call("search", query="otter")
        assert probe.tool("event_list", stream="s")["events"]  # stock lets no others through
        left = probe.ask("health")["damaged"][0]
        probe.leave()

    assert refused["error"]["code"] == -32002
    assert "the journal lacks records" in refused["error"]["message"]
    assert left["remedy"].endswith("palace rebuild --stop --partial")
    maintenance.ask("rebuild", copied.palace, partial=True)
    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("health")["damaged"] == []
        assert probe.tool("search", query="otter", limit=1)["results"]
        probe.leave()


def test_what_waits_for_another_store_to_be_whole_is_not_taken_for_empty(
    copied: Site, expected: Answers, maintenance: MaintenanceProcess
) -> None:
    """Recovery, which writes the others again, doesn't run beside a store that is left."""
    lose_a_record(copied)
    damage(copied, ("database-cut", "log-gone", "graph-emptied"))

    with Probe(copied.environ(), copied.palace) as probe:
        refused = [
            probe.call("event_list", stream="s"),
            probe.call("event_append", stream="s", type="t", payload={}),
            probe.call("kg_query", entity="Ada"),
        ]
        left = probe.ask("health")
        probe.leave()

    assert [reply["error"]["code"] for reply in refused] == [-31049] * 3
    assert {one["store"] for one in left["damaged"]} == {"chroma", "logstream", "graph"}
    assert left["healed"] == []
    assert all(one["remedy"].endswith("--partial") for one in left["damaged"])
    maintenance.ask("rebuild", copied.palace, partial=True)
    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("health")["damaged"] == []
        assert probe.tool("event_list", stream="s")["events"]
        probe.leave()


class FullKernel(Kernel):
    """The real one, with a disk that has no room for one more small file."""

    def write_durable(self, path: str, data: bytes, mode: int = 0o600) -> None:
        if path.endswith("/replica.json"):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        super().write_durable(path, data, mode)


@pytest.mark.parametrize(
    ("names", "done"),
    [(("replica-gone",), "Nothing was done; "), (("graph-cut", "replica-gone"), "graph stays (")],
)
def test_a_full_disk_denies_nothing_that_was_done_before(
    copied: Site, names: tuple[str, ...], done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "Kernel", FullKernel)
    damage(copied, names)
    graph = copied.palace / "knowledge_graph.sqlite3"
    environment = ShimEnvironment(copied.environ())

    with (
        hold_palace(Paths(str(copied.palace)), environment, ask_to_leave=None) as held,
        opened_journal(held) as journal,
        open_stores(held) as stores,
        pytest.raises(StoreUnavailable, match=r"replica\.json is gone.*No space left") as told,
    ):
        heal_stores(held, journal, stores, no_progress)

    assert done in told.value.message
    assert graph.exists() == (len(names) == 1)
    old = list(copied.palace.glob("replaced-*/*.sqlite3"))
    assert all(str(path.parent) in told.value.message for path in old)
    assert len(old) == len(names) - 1


def test_vectors_of_another_size_are_not_made_up(copied: Site) -> None:
    """Those of a collection that stock's model can't have made: its index stays as it is."""
    shutil.rmtree(copied.palace / "journal")
    damage(copied, ("index-gone",))
    index = index_of(copied.palace)

    with Probe(copied.environ(), copied.palace) as probe:
        left = probe.ask("health")["damaged"]
        probe.leave()

    assert "vectors of 32 numbers" in left[0]["why"]
    assert not index.exists()


def test_calls_say_what_could_not_be_brought_back(copied: Site) -> None:
    """Each call that needs a damaged store is refused; all others are answered."""
    shutil.rmtree(copied.palace / "journal")
    damage(copied, ("graph-cut", "tunnels-cut", "log-cut", "hallways-other"))

    with Probe(copied.environ(), copied.palace) as probe:
        refused = [
            probe.call("kg_query", entity="Ada"),
            probe.call("kg_add", subject="a", predicate="is", object="b"),
            probe.call("list_tunnels"),
            probe.call("list_hallways"),
            probe.call("event_list", stream="s"),
        ]
        assert probe.tool("search", query=SEARCHES[0], limit=1)["results"]
        left = probe.ask("health")["damaged"]
        probe.leave()

    assert {reply["error"]["code"] for reply in refused} == {-31049}
    for reply, name in zip(
        refused,
        (*["knowledge_graph.sqlite3"] * 2, "tunnels.json", "hallways.json", "logstream.sqlite3"),
        strict=True,
    ):
        assert name in reply["error"]["message"]
        assert "never taken into its journal" in reply["error"]["message"]
    assert {one["store"] for one in left} == {"graph", "tunnels", "hallways", "logstream"}


@pytest.mark.parametrize(
    ("change", "says"),
    [(vectors_mixed_up, "it holds other vectors for"), (links_to_themselves, "it finds")],
)
def test_an_index_whose_files_look_whole_is_tried_while_nobody_asks(
    copied: Site, expected: Answers, change: Damaging, says: str
) -> None:
    change(copied.palace)
    assert not [finding for finding in doctor(copied) if finding.code == "store_damaged"]

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("health")["healed"] == []
        assert f"the index of made is damaged: {says}" in probe.ask("examine")
        refused = probe.call("search", query="otter")
        probe.leave()

    assert refused["error"]["code"] == -31049
    assert "the next one brings it back" in refused["error"]["message"]
    assert "The index of made is damaged" in next(
        finding.text for finding in doctor(copied) if finding.code == "store_damaged"
    )
    with Probe(copied.environ(), copied.palace) as probe:
        assert [one["store"] for one in probe.ask("health")["healed"]] == ["chroma"]
        assert answers_of(probe) == expected
        assert probe.ask("examine") == ""
        probe.leave()
    assert not Path(Paths(str(copied.palace)).differing_texts).exists()


def texts_changed(palace: Path, text: str | None, collection: str = DRAWERS) -> str:
    """Change a record's text in Chroma's database by SQL; return what it was."""
    row = """
    SELECT e.id FROM embeddings e JOIN segments s ON s.id = e.segment_id
    JOIN collections c ON c.id = s.collection WHERE c.name = ? ORDER BY e.id LIMIT 1
    """
    with closing(sqlite3.connect(palace / "chroma.sqlite3")) as connection, connection:
        [ident] = connection.execute(row, [collection]).fetchone()
        where = "WHERE id = ? AND key = 'chroma:document'"
        query = f"SELECT string_value FROM embedding_metadata {where}"
        [before] = connection.execute(query, [ident]).fetchone()
        query = f"UPDATE embedding_metadata SET string_value = CAST(? AS TEXT) {where}"
        connection.execute(query, [text if text is not None else b"\xff\xfe", ident])
    return str(before)


@pytest.mark.parametrize("text", ["An otter dives for a key that nobody stored.", None])
def test_a_text_in_which_a_bit_has_flipped_is_seen_while_nobody_asks(
    copied: Site, maintenance: MaintenanceProcess, master: Master, text: str | None
) -> None:
    note = Path(Paths(str(copied.palace)).differing_texts)
    before = texts_changed(copied.palace, text)
    assert "texts_differ" in {finding.code for finding in doctor(copied)}, "no broker runs"
    assert not note.exists()

    with Probe(copied.environ(), copied.palace) as probe:
        assert probe.ask("examine") == ""  # the index is whole
        told = note.read_text()
        probe.leave()
    assert told.startswith(f"1 of the records in {DRAWERS} hold another text")
    [found] = [finding for finding in doctor(copied) if finding.code == "texts_differ"]
    assert (found.level, "palace rebuild --stop" in found.remedy) == (ERROR, True)

    maintenance.ask("rebuild", copied.palace)
    assert not note.exists()
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []
    assert texts_changed(copied.palace, before) == before


def test_rows_of_which_the_journal_knows_nothing_are_no_damage(copied: Site) -> None:
    paths, kernel = Paths(str(copied.palace)), Kernel()
    stores = unopened_stores(paths, load_config(paths, copied.environ(), kernel), kernel)

    def compared() -> Differences:
        known = replay(paths.journal, kernel)
        return Comparison(
            stores=stores, known=known, directory=paths.journal, kernel=kernel, keys=ANYBODYS
        ).run()

    assert compared() == Differences()
    with closing(sqlite3.connect(copied.palace / "chroma.sqlite3")) as connection, connection:
        query = """
        INSERT INTO embeddings (segment_id, embedding_id, seq_id)
        SELECT segment_id, 'elsewhere', seq_id FROM embeddings ORDER BY id LIMIT 1
        """
        ident = connection.execute(query).lastrowid
        query = "INSERT INTO embedding_metadata (id, key, string_value) VALUES (?, ?, ?)"
        connection.execute(query, [ident, "chroma:document", "from elsewhere"])
    assert compared().changed() == ""
    assert [*compared().foreign.values()] == [["elsewhere"]]

    texts_changed(copied.palace, "other")
    texts_changed(copied.palace, "other", "made")
    assert compared().changed().count("1 of the records in ") == 2


def test_a_text_that_is_put_right_is_told_no_longer(copied: Site) -> None:
    note = Path(Paths(str(copied.palace)).differing_texts)
    before = texts_changed(copied.palace, "other")
    with Probe(copied.environ(), copied.palace) as probe:
        probe.ask("examine")
        assert note.exists()
        probe.leave()
    texts_changed(copied.palace, before)
    with Probe(copied.environ(), copied.palace) as probe:
        probe.ask("examine")
        assert not note.exists()
        probe.leave()


def test_every_way_is_tried() -> None:
    """Of each store some ways are healed in every run; all of them in the deep one."""
    tried = {name for names in ways() for name in names}

    assert {DAMAGES[name][0] for name in tried} == {store for store, _ in DAMAGES.values()}
    assert len(tried & {*INDEX}) >= 3
    assert tried >= {*WORDS}
    assert len(tried & {*DATABASE}) >= 2
    assert len(tried & {*BESIDE}) >= 10


def test_what_stores_lack_of_what_the_journal_knows_is_said_of_a_copy(copied: Site) -> None:
    paths, kernel = Paths(str(copied.palace)), Kernel()
    config = load_config(paths, copied.environ(), kernel)
    originals, stores = Originals(paths, config, kernel), unopened_stores(paths, config, kernel)
    assert what_lacks(originals, stores) == ""

    with closing(sqlite3.connect(stores.logstream.path)) as stock, stock:
        stock.execute("DELETE FROM events WHERE rowid = (SELECT min(rowid) FROM events)")

    assert what_lacks(originals, stores).startswith("logstream log:event holds ")
    assert " where palace last knew " in what_lacks(originals, stores)
