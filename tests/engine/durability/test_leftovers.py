"""Copies around a palace: those that are its own are cleaned, and all others are named."""

import json
import os
from pathlib import Path

import pytest

from palace.engine.durability.leftovers import Leftover, Surroundings
from palace.engine.durability.purge_plan import PlanFile, PurgePlan
from palace.engine.durability.traces import Traces
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.purge import Going
from palace.journal.record import ADOPT, Draft, Record, Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.served import saved_copy_path
from palace.protocol.keyring import ANYBODYS, Key, Keyring
from palace.settings.config import load_config
from palace.settings.paths import Paths, copies_for_readers, embedded_file

WORD = "skLive9f8e7d6c5b4a"
TRACES = Traces((WORD.lower(),))
GOING = Going(entities=frozenset({("chroma:mempalace_drawers", "gone")}))
IDENTITY = "1" * 32


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """A palace below a home of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home" / ".mempalace" / "palace").mkdir(parents=True)
    environ = {"HOME": str(tmp_path / "home")}
    paths = Paths(str(tmp_path / "home" / ".mempalace" / "palace"), found_by="default")
    config = load_config(paths, environ, Kernel())
    plan = PlanFile(IDENTITY, environ, Kernel())
    return Surroundings(paths, config, environ, Kernel(), ANYBODYS, plan.path)


def put(path: str, text: str = f"It says {WORD}.") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def journal_at(directory: str, keys: Keyring = ANYBODYS) -> None:
    os.makedirs(directory.rpartition("/")[0], exist_ok=True)
    journal = Journal.open(directory, Kernel(), Stamp(epoch=1, writer="w", keys=keys))
    for ident, text in (("gone", WORD), ("kept", "eels")):
        payload = {"document": text}
        journal.append(
            [Draft(action=ADOPT, kind="chroma:mempalace_drawers", id=ident, payload=payload)]
        )
    journal.close()


def found(around: Surroundings) -> list[Leftover]:
    return list(around.leftovers(TRACES))


def test_everything_that_palace_or_stock_has_written_is_looked_through(
    around: Surroundings,
) -> None:
    root, state = around.paths.root, f"{around.environ['HOME']}/.local/state/palace"
    stock = os.path.dirname(root)
    copies = {
        f"{root}/replaced-3": f"{root}/replaced-3/chroma.sqlite3",
        f"{root}/rebuild-7": f"{root}/rebuild-7/palace/chroma.sqlite3",
        f"{root}/chroma.sqlite3": f"{root}/chroma.sqlite3",
        f"{root}/journal": f"{root}/journal/archive/{1:020d}.jsonl",
        f"{root}/broker.log.1": f"{root}/broker.log.1",
        f"{root}.pre-migrate.2026": f"{root}.pre-migrate.2026/chroma.sqlite3",
        f"{root}.backup": f"{root}.backup/knowledge_graph.sqlite3",
        f"{stock}/tunnels.json.damaged": f"{stock}/tunnels.json.damaged",
        f"{stock}/hallways.json.replaced-2": f"{stock}/hallways.json.replaced-2",
        f"{around.config.graph}-wal": f"{around.config.graph}-wal",
        f"{state}/served/abc.saved-4": f"{state}/served/abc.saved-4/journal/{1:020d}.jsonl",
        f"{state}/served/abc.saved-5.making": f"{state}/served/abc.saved-5.making/journal/x",
        f"{state}/reading": f"{state}/reading/{IDENTITY}/palace/chroma.sqlite3",
        f"{stock}/wal": f"{stock}/wal/write_log.jsonl",
        f"{stock}/known_entities.json": f"{stock}/known_entities.json",
    }
    verify = put(f"{os.path.dirname(around.environ['HOME'])}/tmp/palace-verify-x/journal/1")
    copies[os.path.dirname(os.path.dirname(verify))] = verify
    for path in copies.values():
        put(path)
    put(f"{root}/palace.toml", "nothing")
    put(f"{stock}/another/chroma.sqlite3")  # a palace of its own
    put(around.plan)

    told = found(around)

    assert {each.path for each in told} == set(copies)
    assert all(each.what.endswith("holds it") for each in told)
    assert not any("rm -r" in each.remedy for each in told if each.path.endswith("-wal"))
    by_path = {each.path: each.remedy for each in told}
    assert by_path[f"{root}/replaced-3"].endswith(f"rm -r {root}/replaced-3")


def test_a_clean_palace_has_no_leftovers(around: Surroundings) -> None:
    put(f"{around.paths.root}/chroma.sqlite3", "eels")
    journal_at(around.paths.journal)
    around.clean(GOING, TRACES, IDENTITY)
    assert [each.path for each in found(around)] == [around.paths.journal], "that is not its part"


def test_what_was_embedded_until_it_was_killed_goes_and_another_palaces_stays(
    around: Surroundings,
) -> None:
    mine = put(embedded_file(around.paths.root, around.environ), "vectors")
    put(f"{mine}-journal", "vectors")
    another = put(embedded_file(f"{around.paths.root}2", around.environ), "vectors")

    around.clean(GOING, TRACES, IDENTITY)

    left = os.listdir(os.path.dirname(mine))
    assert left == [os.path.basename(another)]


def test_copies_of_the_journal_lose_what_goes_and_keep_the_rest(around: Surroundings) -> None:
    saved = f"{saved_copy_path(around.paths.root, 4, around.environ)}/journal"
    aside = f"{around.paths.root}/replaced-3/journal"
    for journal in (saved, aside):
        journal_at(journal)

    around.clean(GOING, TRACES, IDENTITY)

    assert found(around) == []
    for journal in (saved, aside):
        records = [r for r in read_from(journal, Kernel()) if isinstance(r, Record)]
        assert [r.id for r in records if r.action == ADOPT] == ["kept"]


def test_a_saved_journal_that_cant_be_read_is_named_and_not_touched(around: Surroundings) -> None:
    saved = saved_copy_path(around.paths.root, 4, around.environ)
    journal_at(f"{saved}/journal", Keyring([Key(b"o" * 32)]))
    ours = Keyring([Key(b"k" * 32)])
    strange = Surroundings(
        around.paths, around.config, around.environ, around.kernel, ours, around.plan
    )
    before = {path: path.read_bytes() for path in Path(saved).rglob("*.jsonl")}

    strange.clean(GOING, TRACES, IDENTITY)

    assert {path: path.read_bytes() for path in before} == before
    assert [each.path for each in found(strange)] == [saved]


def test_lines_of_stocks_write_log_are_written_over_in_place(around: Surroundings) -> None:
    lines = [json.dumps({"operation": "kg_add", "object": text}) for text in ("eels", WORD, "é")]
    log = Path(put(f"{around.config.config_dir}/wal/write_log.jsonl", "\n".join(lines) + "\n"))
    number, size = log.stat().st_ino, log.stat().st_size

    around.clean(GOING, TRACES, IDENTITY)

    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("object") for line in told] == ["eels", None, "\u00e9"]
    assert (log.stat().st_ino, log.stat().st_size) == (number, size)
    assert found(around) == []


def test_lines_that_were_set_aside_go_and_a_copy_for_readers_too(around: Surroundings) -> None:
    aside = put(f"{around.paths.journal}/quarantine/1-x", f"\n{WORD}\n\neels\n")
    copy = put(f"{copies_for_readers(IDENTITY, around.environ)}/palace/chroma.sqlite3")

    around.clean(GOING, TRACES, IDENTITY)

    assert (Path(aside).read_text(), os.path.exists(copy)) == ("\neels\n", False)


def test_what_cant_be_read_is_named(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(f"{around.paths.root}/replaced-3/chroma.sqlite3", "eels")
    real = os.open

    def refuse(name: str, *more: int) -> int:
        if name == path:
            raise PermissionError(13, "Permission denied", name)
        return real(name, *more)

    monkeypatch.setattr(os, "open", refuse)
    (told,) = found(around)
    assert told.what.endswith("can't be read (Permission denied)")


def test_a_plan_is_read_as_it_was_written(around: Surroundings) -> None:
    plan = PlanFile(IDENTITY, around.environ, Kernel())
    assert plan.read() is None
    written = PurgePlan(frozenset({("k", "a\udcff"), ("k", "b")}), Traces(("p\u00e9",), ("AAAA",)))
    plan.write(written)
    read = plan.read()
    assert read is not None
    assert read.entities == written.entities
    assert (read.traces.pieces, read.traces.vectors) == (("p\u00e9",), ("AAAA",))
    assert os.stat(plan.path).st_mode & 0o777 == 0o600
    plan.remove()
    assert plan.read() is None
    put(plan.path, "{")
    assert plan.read() is None


def test_tables_that_a_server_has_kept_are_named_and_dropped_ones_are_not(
    around: Surroundings,
) -> None:
    root = around.paths.root
    mark = put(f"{root}/replaced-7/pgvector_backend.json", "{}")
    (told,) = found(around)
    assert told.path == mark
    assert "palace_old_7_*" in told.what
    assert f"rm {mark}" in told.remedy
    put(f"{root}/pgvector_backend.json", "{}")  # it is in tables, and all old ones were dropped
    assert found(around) == []
