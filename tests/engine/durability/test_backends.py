"""A palace is never opened as another backend's than the one whose records its journal has."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from palace.doctor.examine import examine_palace
from palace.doctor.finding import Finding
from palace.protocol.errors import ConfigError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.stock_config import check_journalled
from tests.support.engines.probe import Probe
from tests.support.processes.clients import Site, end_brokers
from tests.support.processes.sites import make_site
from tests.support.stores.nonces import PGVECTOR_DSN

pytestmark = [pytest.mark.engine, pytest.mark.process]

EACH_BACKEND = ("sqlite_exact", "pgvector")
TEXT = "Herons live where the river bends."


@pytest.fixture
def lost(tmp_path: Path, model_home: Path) -> Site:
    """A palace of sqlite_exact whose drawers' file is gone; the journal has one of them."""
    site = make_site(tmp_path, model_home, backend="sqlite_exact")
    with site.session() as client:
        client.tool("add_drawer", wing="w", room="r", content=TEXT)
    assert site.run("stop").returncode == 0
    for path in site.palace.glob("sqlite_exact*"):
        path.unlink()
    return site


def found_in(site: Site) -> list[str]:
    with site.session() as client:
        return [d["content_preview"] for d in client.tool("list_drawers")["drawers"]]


def test_what_was_lost_comes_back_whoever_starts_the_broker(lost: Site) -> None:
    lost.extra.pop("MEMPALACE_BACKEND")  # which the palace's settings have fixed
    try:
        assert found_in(lost) == [TEXT]
    finally:
        end_brokers(lost.palace.parent)


def test_settings_that_name_another_backend_open_no_empty_palace(lost: Site) -> None:
    config = lost.home / ".config" / "mempalace" / "config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('{"backend": "chroma"}')
    try:
        with lost.session() as client:
            refused = client.call("mempalace_list_drawers")["error"]["message"]
        assert "is of a palace that sqlite_exact kept" in refused
        assert str(config) in refused
        rebuilt = lost.run("rebuild", "--stop")
        assert rebuilt.returncode != 0
        assert "is of a palace that sqlite_exact kept" in rebuilt.stderr
        assert not list(lost.palace.glob("replaced-*")), "nothing was changed"

        config.write_text('{"backend": "sqlite_exact"}')
        assert found_in(lost) == [TEXT]
    finally:
        end_brokers(lost.palace.parent)


def test_a_backend_that_nothing_names_any_more_is_the_journals(lost: Site) -> None:
    lost.extra.pop("MEMPALACE_BACKEND")
    users = list((lost.home / ".local" / "state" / "palace" / "settings").glob("*.toml"))
    assert users
    for path in (lost.palace / "palace.toml", *users):
        kept = [line for line in path.read_text().splitlines() if "MEMPALACE_BACKEND" not in line]
        path.write_text("\n".join(kept) + "\n")
    try:
        with lost.session() as client:
            refused = client.call("mempalace_list_drawers")["error"]["message"]
        assert "has lost the files of its drawers, which sqlite_exact kept" in refused
        assert "palace rebuild" in refused
        assert lost.run("rebuild", "--stop").returncode == 0
        assert found_in(lost) == [TEXT]
    finally:
        end_brokers(lost.palace.parent)


def test_a_backend_that_is_not_journalled_is_named() -> None:
    with pytest.raises(
        ConfigError, match="of chroma, sqlite_exact, rust_exact, pgvector and milvus-lite alone"
    ):
        check_journalled("/p", "", {"MEMPALACE_BACKEND": "qdrant"})


def test_what_others_change_in_rows_is_told_while_it_is_open(
    tmp_path: Path, model_home: Path
) -> None:
    site = make_site(tmp_path, model_home, backend="sqlite_exact")
    with Probe(site.environ(), site.palace) as probe:
        ids = [
            probe.tool("add_drawer", wing="w", room="r", content=f"{TEXT} {n}")["drawer_id"]
            for n in range(3)
        ]
        assert probe.ask("examine") == ""
        with closing(sqlite3.connect(site.palace / "sqlite_exact.sqlite3")) as others:
            others.execute("UPDATE documents SET embedding = zeroblob(1536) WHERE id = ?", ids[:1])
            others.execute("UPDATE documents SET document = 'Other.' WHERE id = ?", ids[1:2])
            others.commit()
            assert probe.ask("examine") == "", "what others may have meant stays"
            noted = (site.palace / "texts.suspect").read_text()
            assert f"hold another vector than the journal has for them, such as {ids[0]}" in noted
            assert f"hold another text than the journal has for them, such as {ids[1]}" in noted

            others.execute("DELETE FROM documents WHERE id = ?", ids[2:])
            others.commit()
        assert "1 entries that the journal has for mempalace_drawers are not there any more" in (
            probe.ask("examine")
        )
        probe.kill()
    with Probe(site.environ(), site.palace) as probe:
        assert probe.tool("list_drawers")["total"] == 3
        probe.leave()


@pytest.mark.parametrize("statement", ["DELETE FROM docs_fts_data", "DELETE FROM docs_fts"])
def test_a_damaged_index_of_words_is_named_and_made_again(
    tmp_path: Path, model_home: Path, statement: str
) -> None:
    site = make_site(tmp_path, model_home, backend="sqlite_exact")
    with Probe(site.environ(), site.palace) as probe:
        for n in range(3):
            probe.tool("add_drawer", wing="w", room="r", content=f"{TEXT} {n}")
        probe.leave()
    assert "store_damaged" not in codes(site)
    path = site.palace / "sqlite_exact.sqlite3"
    with closing(sqlite3.connect(path)) as others, others:
        others.execute(statement)
    assert codes(site)["store_damaged"].remedy.endswith("palace start")

    with Probe(site.environ(), site.palace) as probe:
        [healed] = probe.ask("health")["healed"]
        assert probe.ask("drift") == []
        probe.leave()
    assert "its index of words" in healed["text"]
    assert "store_damaged" not in codes(site)
    with closing(sqlite3.connect(path)) as others:
        found = "SELECT count(*) FROM docs_fts WHERE docs_fts MATCH 'herons'"
        assert others.execute(found).fetchone() == (3,)


def test_rows_deleted_by_sql_are_named_and_come_back(
    tmp_path: Path, model_home: Path, backend: str
) -> None:
    site = make_site(tmp_path, model_home, backend=backend)
    with Probe(site.environ(), site.palace) as probe:
        for n in range(3):
            probe.tool("add_drawer", wing="w", room="r", content=f"{TEXT} {n}")
        probe.leave()
    if backend == "pgvector":
        import psycopg

        target = json.loads((site.palace / "pgvector_backend.json").read_text())["pgvector"]
        with psycopg.connect(os.environ[PGVECTOR_DSN], autocommit=True) as others:
            table = f"{target['table_prefix']}_mempalace_drawers"
            others.execute(f'DELETE FROM "{table}" WHERE document LIKE %s', ["%2"])
    else:
        with closing(sqlite3.connect(site.palace / "sqlite_exact.sqlite3")) as others, others:
            others.execute("DELETE FROM documents WHERE document LIKE '%2'")

    said = site.run("doctor", "--json")
    [lacks] = [one for one in map(json.loads, said.stdout.splitlines()) if one["code"] == "lacking"]
    assert said.returncode == 65
    assert "lacks 1 of the 4 entries" in lacks["text"]
    # A server numbers what is deleted: another program may have meant it.
    word = "rebuild --partial" if backend == "pgvector" else "start"
    assert lacks["remedy"].endswith(f"palace {word}")
    told = site.run(*word.split())
    assert told.returncode == 0, told.stderr
    assert len(found_in(site)) == 3
    assert site.run("stop").returncode == 0
    assert "lacking" not in site.run("doctor", "--json").stdout


def codes(site: Site) -> dict[str, Finding]:
    found = examine_palace(Paths(str(site.palace)), ShimEnvironment(site.environ()))
    return {finding.code: finding for finding in found}
