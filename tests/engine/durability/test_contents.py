"""Texts and metadata that were changed past Chroma while no broker runs: the doctor says so.

Each change is made to a copy of a palace that holds some of everything.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from palace.doctor import contents
from palace.doctor.finding import ERROR, NOTE
from palace.journal.journal import Journal
from palace.journal.record import PUT, Draft, Stamp
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.ownership.keys import known_keys
from palace.settings.paths import Paths
from tests.engine.durability.test_beside import CHANGES, FOREIGN
from tests.engine.durability.test_damage import doctor, master
from tests.engine.durability.test_rebuild import Master, copy_of, differing
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.faults.killing import is_full
from tests.support.faults.losses import run_sql
from tests.support.processes.clients import Site

pytestmark = [pytest.mark.engine, pytest.mark.process]

__all__ = ["master"]  # a fixture

DEEDS = {
    **CHANGES,
    "a document": "UPDATE embedding_metadata SET string_value = 'Nobody said that.' WHERE id = "
    "(SELECT max(id) FROM embedding_metadata) AND key = 'chroma:document'",
}
TRIED = DEEDS if is_full() else {name: DEEDS[name] for name in ("a number", "a document")}


@pytest.fixture
def copied(master: Master, tmp_path: Path) -> Site:
    return copy_of(master, tmp_path)


def differs(site: Site) -> list[str]:
    return [one.text for one in doctor(site) if one.code == "texts_differ"]


@pytest.mark.parametrize("change", TRIED.values(), ids=TRIED)
def test_what_was_changed_by_sql_is_an_error(copied: Site, change: str) -> None:
    assert differs(copied) == []
    files = sorted(copied.palace.parent.rglob("*"))

    run_sql(copied.palace / "chroma.sqlite3", change)

    [said] = [one for one in doctor(copied) if one.code == "texts_differ"]
    assert said.level == ERROR
    what = "another text" if "document" in change else "other metadata"
    assert f"1 of the records in made hold {what} than the journal" in said.text.replace(
        "mempalace_drawers", "made"
    )
    assert "palace rebuild --stop" in said.remedy
    assert "stores" not in {one.code for one in doctor(copied)}, "they are not called whole"
    assert sorted(copied.palace.parent.rglob("*")) == files, "looking leaves nothing behind"


def test_a_rebuild_brings_back_what_was_stored(
    master: Master, copied: Site, maintenance: MaintenanceProcess
) -> None:
    for change in DEEDS.values():
        run_sql(copied.palace / "chroma.sqlite3", change)
    assert differs(copied)

    maintenance.ask("rebuild", copied.palace)

    assert differs(copied) == []
    assert differing(maintenance.ask("contents", copied.palace), master.contents) == []


def test_what_another_program_did_in_chromas_own_way_is_no_fault(copied: Site) -> None:
    write = [sys.executable, "-P", "-c", FOREIGN, str(copied.palace)]
    subprocess.run(write, env=copied.environ(), check=True, timeout=60)
    run_sql(copied.palace / "chroma.sqlite3", CHANGES["a number"])

    assert differs(copied) == [], "the next broker takes all of it over"


def test_what_a_dead_owner_had_begun_is_left_to_the_next_one(copied: Site) -> None:
    paths, kernel = Paths(str(copied.palace)), Kernel()
    kind, ident = "chroma:made", "made-9"
    before: Any = replay(paths.journal, kernel).payload((kind, ident))
    after = {**before, "metadata": {"n": 4711}}
    keys = known_keys(paths, copied.environ(), kernel)
    journal = Journal.open(paths.journal, kernel, Stamp(epoch=9, writer="w", keys=keys))
    draft = Draft(action=PUT, key="s:1", kind=kind, id=ident, payload=after, before=before)
    journal.append([draft])
    journal.close()

    assert differs(copied) == []
    run_sql(copied.palace / "chroma.sqlite3", CHANGES["a text"])
    [text] = differs(copied)
    assert text.startswith("1 of the records in mempalace_drawers hold other metadata")
    (copied.palace / "chroma.sqlite3-journal").touch()
    assert differs(copied) == [], "SQLite would have to take back what was begun"


def test_what_takes_too_long_is_said(copied: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sql(copied.palace / "chroma.sqlite3", CHANGES["a number"])
    monkeypatch.setattr(contents, "WITHIN_S", -1.0)

    [said] = [one for one in doctor(copied) if one.code == "not_compared"]
    assert said.level == NOTE
    assert said.remedy.endswith("palace doctor --drift")
    assert differs(copied) == []
