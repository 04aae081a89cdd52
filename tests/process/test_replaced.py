"""A palace's directory that other programs replace, remove, move or copy, with stock's own code.

Whatever they do, an acknowledged memory is there afterwards, once, or the start and the doctor say
what is missing and which command brings it back; and nothing passes for a new palace.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.machines.needs import need_root
from tests.support.processes.clients import Client, Site, brokers_of, end_brokers, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.process]

DRAWERS = 50
GONE = -31072
# stock's migrate, made to rebuild whatever state the index is in.  Between reading the old store
# and the two renames it waits until it is told to go on.
MIGRATE = """
import sys, time, pathlib
import mempalace.backends.chroma as chroma
import mempalace.migrate as stock
chroma.hnsw_capacity_status = lambda *_args: {"diverged": True}
prune = stock.prune_backups
def wait(*args, **options):
    print("copied", flush=True)
    sys.stdin.readline()
    prune(*args, **options)
stock.prune_backups = wait
assert stock.migrate(sys.argv[1], confirm=True)
"""


class Migration:
    """A stock `migrate` that has read the store and not replaced the directory yet."""

    def __init__(self, site: Site) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MIGRATE, str(site.palace)],
            env=site.environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "copied":
                return
        raise AssertionError("migrate ended before it copied anything")

    def finish(self) -> None:
        self.process.communicate("go on\n", timeout=280)
        assert self.process.returncode == 0


def text_of(number: int) -> str:
    return f"lighthouse keeper number {number} wrote down the ships of day {number * 7}"


def file_drawers(client: Client, numbers: range) -> dict[str, str]:
    """File drawers; return the texts of those that were acknowledged, by id."""
    found = {}
    for number in numbers:
        told = client.tool("add_drawer", wing="log", room="sea", content=text_of(number))
        found[told["drawer_id"]] = text_of(number)
    return found


def rows_of(site: Site) -> list[str]:
    """Return the ids of drawers as SQLite has them, once for each row."""
    uri = f"file:{site.palace}/chroma.sqlite3?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        query = """SELECT e.embedding_id FROM embeddings e JOIN segments s ON s.id = e.segment_id
        JOIN collections c ON c.id = s.collection WHERE c.name = 'mempalace_drawers'
        AND s.scope = 'METADATA'"""
        return sorted(row[0] for row in connection.execute(query))


def assert_all_there(site: Site, drawers: dict[str, str]) -> None:
    """Each is found by a search for its text, has its text, and is one row."""
    with site.session() as client:
        for ident, text in drawers.items():
            assert client.tool("get_drawer", drawer_id=ident)["content"] == text
            hits = client.tool("search", query=text, limit=3)["results"]
            assert text in [hit["text"] for hit in hits]
    stop(site)
    assert rows_of(site) == sorted(drawers)


def stop(site: Site, *more: str) -> None:
    assert site.run("stop", *more).returncode == 0
    wait_until(lambda: not brokers_of(site.palace), what="the broker has left")


def codes(site: Site) -> dict[str, dict[str, Any]]:
    """Return the doctor's findings of the palace's past, by code."""
    lines = site.run("doctor", "--json").stdout.splitlines()
    wanted = {"palace_gone", "palace_replaced", "records_lost", "other_palace", "two_copies"}
    found = {finding["code"]: finding for finding in map(json.loads, lines)}
    return {code: found[code] for code in found if code in {*wanted, "copy", "saved_journal"}}


def identity(site: Site) -> str:
    return (site.palace / "palace_id").read_text().strip()


def remembered(site: Site) -> dict[str, Any]:
    (path,) = (site.home / ".local/state/palace/served").glob("*.json")
    assert path.read_bytes() == site.palace.with_name("palace.served.json").read_bytes()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def refusal(site: Site) -> dict[str, Any]:
    """Return the error that a new session's first call gets."""
    with site.shim() as client:
        client.initialize()
        arguments = {"wing": "w", "room": "r", "content": "to a new palace?"}
        name = "mempalace_add_drawer"
        error: dict[str, Any] = client.request("tools/call", name=name, arguments=arguments)[
            "error"
        ]
        return error


# Replaced under a broker.


def test_a_migration_beside_a_broker_loses_and_revives_nothing(site: Site) -> None:
    with site.session() as client:
        drawers = file_drawers(client, range(DRAWERS))
        changed, deleted, *_ = drawers
        mine = identity(site)
        with (site.palace / "palace.toml").open("a") as settings:
            settings.write("idle_s = 600\n")
        migration = Migration(site)
        drawers |= file_drawers(client, range(DRAWERS, DRAWERS + 10))
        client.tool("update_drawer", drawer_id=changed, content="a text that was changed meanwhile")
        drawers[changed] = "a text that was changed meanwhile"
        client.tool("delete_drawer", drawer_id=deleted)
        del drawers[deleted]
        client.tool("kg_add", subject="alice", predicate="keeps", object="the light")
        migration.finish()
        drawers |= file_drawers(client, range(DRAWERS + 10, DRAWERS + 20))

        assert client.tool("kg_query", entity="alice")["count"] == 1
        assert identity(site) == mine
        assert "idle_s = 600" in (site.palace / "palace.toml").read_text()
    assert_all_there(site, drawers)
    assert codes(site) == {}
    assert not list((site.home / ".local/state/palace/served").glob("*.saved-*"))


def test_a_directory_that_is_removed_under_its_broker_is_saved(site: Site) -> None:
    with site.session() as client:
        drawers = file_drawers(client, range(5))
        pid = site.record()["pid"]
        shutil.rmtree(site.palace)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the broker has ended")

        error = refusal(site)
    assert error["code"] == GONE
    assert "palace recover" in error["message"]
    assert not site.palace.exists()
    assert codes(site)["palace_gone"]["level"] == "error"
    done = site.run("recover")
    assert done.returncode == 0, done.stderr
    assert_all_there(site, drawers)
    assert codes(site) == {}


def test_a_removed_identity_is_put_back(site: Site) -> None:
    with site.session() as client:
        drawers = file_drawers(client, range(3))
        mine = identity(site)
        stop(site)
    for name in ("palace_id", "epoch"):
        (site.palace / name).unlink()

    assert "palace_replaced" in codes(site)
    assert_all_there(site, drawers)
    assert identity(site) == mine
    assert remembered(site)["epoch"] > 1


def put_back(older: Path, palace: Path) -> None:
    """Make a directory hold what an older copy of it does, as `rsync -a --delete` does it.

    Files of the same size and age are left alone, broker.lock among them.
    """
    for path in [*palace.rglob("*")]:
        if not os.path.lexists(older / path.relative_to(palace)) and not path.is_dir():
            path.unlink()
    for path in [path for path in older.rglob("*") if path.is_file()]:
        target = palace / path.relative_to(older)
        if not target.exists() or age_of(target) != age_of(path):
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target.with_name(f".{path.name}.new"))
            target.with_name(f".{path.name}.new").rename(target)


def age_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def test_an_older_copy_that_is_put_into_the_directory_of_a_broker_loses_nothing(
    site: Site,
) -> None:
    older = site.palace.with_name("older")
    with site.session() as client:
        drawers = file_drawers(client, range(3))
        stop(site)
        shutil.copytree(site.palace, older, symlinks=True)
        drawers |= file_drawers(client, range(3, 6))
        client.tool("kg_add", subject="alice", predicate="keeps", object="the light")
        put_back(older, site.palace)
        drawers |= file_drawers(client, range(6, 8))

        assert client.tool("kg_query", entity="alice")["count"] == 1
    assert_all_there(site, drawers)
    assert codes(site) == {}
    assert not list((site.home / ".local/state/palace/served").glob("*.saved-*"))


def test_a_disk_that_goes_and_comes_back_is_waited_for(site: Site) -> None:
    """Nothing is begun on the disk below it, where it would be hidden afterwards."""
    need_root()
    disk = site.palace.with_name("disk")
    for directory in (disk, site.palace):
        directory.mkdir(mode=0o700)
    run = partial(subprocess.run, check=True)
    run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=0700", "tmpfs", str(disk)])
    run(["mount", "--bind", str(disk), str(site.palace)])
    try:
        with site.session() as client:
            drawers = file_drawers(client, range(3))
            pid = site.record()["pid"]
            run(["umount", "-l", str(site.palace)])
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the broker has ended")

            error = refusal(site)
            assert error["code"] == GONE
            assert "on another disk. Mount" in error["message"]
            found = codes(site)["palace_gone"]
            assert found["level"] == "error"
            assert "on another disk" in found["text"]
            assert not (site.palace / "palace_id").exists()
            run(["mount", "--bind", str(disk), str(site.palace)])
            assert codes(site) == {}
            drawers |= file_drawers(client, range(3, 5))
        assert_all_there(site, drawers)
        assert codes(site) == {}
        assert not list((site.home / ".local/state/palace/served").glob("*.saved-*"))
    finally:
        end_brokers(site.palace)
        for directory in (site.palace, disk):
            subprocess.run(["umount", "-l", str(directory)], check=False)


# Replaced between two brokers.


def rebuild_index(site: Site) -> Path:
    """Run stock's own remedy; return its archive of the directory."""
    argv = [str(Path(sys.executable).parent / "mempalace"), "--palace", str(site.palace)]
    done = subprocess.run(
        [*argv, "repair", "rebuild-index", "--yes"],
        env=site.environ(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = site.palace.parent.glob("palace.pre-rebuild-*")
    return archive


def test_stocks_rebuilt_index_is_the_same_palace(site: Site) -> None:
    with site.session() as client:
        drawers = file_drawers(client, range(10))
        client.tool("kg_add", subject="bob", predicate="mends", object="nets")
        mine, epoch = identity(site), site.record()["epoch"]
        stop(site, "--hold")
        archive = rebuild_index(site)

        assert codes(site)["palace_replaced"]["level"] == "error"
        assert str(archive) in codes(site)["palace_replaced"]["text"]
        assert refusal(site)["code"] == -31057  # the hold counts, though its note is in the archive
        assert "has replaced" in site.run("status").stdout
        started = site.run("start")
        assert started.returncode == 0, started.stderr
        assert client.tool("kg_query", entity="bob")["count"] == 1
    assert identity(site) == mine
    assert site.record()["epoch"] > epoch
    assert (archive / "palace_id").read_text().strip() == mine, "the archive stays what it was"
    assert_all_there(site, drawers)
    assert codes(site) == {}


@pytest.mark.parametrize("hold", [(), ("--hold",)])
def test_stocks_archive_is_found_though_nothing_is_remembered(
    site: Site, hold: tuple[str, ...]
) -> None:
    with site.session() as client:
        drawers = file_drawers(client, range(5))
        client.tool("kg_add", subject="bob", predicate="mends", object="nets")
        mine, epoch = identity(site), site.record()["epoch"]
        stop(site, *hold)
    archive = rebuild_index(site)
    forget_both(site)

    found = codes(site)["palace_replaced"]
    assert found["level"] == "error"
    assert str(archive) in found["text"]
    assert ("hold" in found["text"]) is bool(hold)
    if hold:
        assert refusal(site)["code"] == -31057
    started = site.run("start")
    assert started.returncode == 0, started.stderr
    with site.session() as client:
        assert client.tool("kg_query", entity="bob")["count"] == 1
    assert identity(site) == mine
    assert site.record()["epoch"] > epoch
    assert (archive / "palace_id").read_text().strip() == mine
    assert_all_there(site, drawers)
    assert codes(site) == {}


def test_an_archive_that_is_given_up_is_not_brought_back(site: Site) -> None:
    with site.session() as client:
        file_drawers(client, range(3))
        mine = identity(site)
        stop(site)
    rebuild_index(site)
    forget_both(site)
    assert site.run("recover", "--forget").returncode == 0
    assert codes(site) == {}
    with site.session() as client:
        client.tool("kg_stats")
    assert identity(site) != mine


def forget_both(site: Site) -> None:
    """Remove both notes of what was served at a path."""
    (site.palace.parent / "palace.served.json").unlink()
    for note in (site.home / ".local/state/palace/served").glob("*.json"):
        note.unlink()


def test_a_directory_without_what_was_served_is_not_taken_for_a_new_palace(site: Site) -> None:
    with site.session() as client:
        file_drawers(client, range(3))
        stop(site)
    shutil.rmtree(site.palace)
    site.palace.mkdir(mode=0o700)

    assert refusal(site)["code"] == GONE
    assert codes(site)["palace_replaced"]["level"] == "error"
    assert not (site.palace / "palace_id").exists()
    done = site.run("recover")
    assert done.returncode == 83
    assert "palace recover" in done.stderr
    assert site.run("recover", "--forget").returncode == 0
    with site.session() as client:
        assert not client.tool("list_drawers").get("drawers")


# Moved and copied.


def test_a_palace_that_was_moved_into_what_took_its_place_is_found_there(site: Site) -> None:
    away = site.palace.with_name("away")
    with site.session() as client:
        drawers = file_drawers(client, range(3))
        stop(site)
    site.palace.rename(away)
    site.palace.mkdir(mode=0o700)
    assert "away" not in codes(site)["palace_replaced"]["remedy"]
    away.rename(site.palace / "away")  # as `mv away palace` does it

    assert f"It was moved to {site.palace}/away" in codes(site)["palace_replaced"]["remedy"]
    assert f"moved to {site.palace}/away" in refusal(site)["message"]
    done = site.run("recover")
    assert done.returncode == 0, done.stderr
    assert_all_there(site, drawers)
    assert codes(site) == {}


def test_a_moved_palace_is_missed_where_it_was(site: Site) -> None:
    elsewhere = Site(home=site.home, palace=site.palace.parent / "elsewhere")
    with site.session() as client:
        drawers = file_drawers(client, range(3))
        pid = site.record()["pid"]
        site.palace.rename(elsewhere.palace)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the broker has left")

        error = refusal(site)
        assert error["code"] == GONE
        assert str(elsewhere.palace) in error["message"]
        assert not site.palace.exists()
        assert codes(site)["palace_gone"]["level"] == "error"
        assert site.run("recover").returncode == 0
        assert client.tool("get_drawer", drawer_id=next(iter(drawers)))["content"]
    assert_all_there(site, drawers)


def test_a_copy_is_a_palace_of_its_own_and_says_so(site: Site) -> None:
    copy = Site(home=site.home, palace=site.palace.parent / "copies" / "palace")
    with site.session() as client:
        drawers = file_drawers(client, range(3))
        stop(site)
    shutil.copytree(site.palace, copy.palace, symlinks=True)
    (copy.palace / "palace.toml").write_text('graph = "knowledge_graph.sqlite3"\n')

    assert "two_copies" in codes(copy)
    with copy.session() as client:
        assert client.tool("get_drawer", drawer_id=next(iter(drawers)))["content"]
    assert identity(copy) != identity(site)
    assert str(site.palace) in codes(copy)["copy"]["text"]
    assert any(str(site.palace) in notice for notice in copy.status()["notices"])
    assert codes(site) == {}


def test_an_older_copy_that_is_put_back_says_what_it_lacks(site: Site) -> None:
    older = site.palace.with_name("older")
    with site.session() as client:
        kept = file_drawers(client, range(3))
        stop(site)
        shutil.copytree(site.palace, older, symlinks=True)
        file_drawers(client, range(3, 6))
        epoch = site.record()["epoch"]
        stop(site)
        shutil.rmtree(site.palace)
        older.rename(site.palace)

        for ident in kept:
            assert client.tool("get_drawer", drawer_id=ident)["content"]
    assert site.record()["epoch"] > epoch
    assert codes(site)["records_lost"]["level"] == "error"
    assert site.run("doctor").returncode == 65
    assert site.status()["notices"]
    assert site.run("recover", "--forget").returncode == 0
    stop(site)
    assert codes(site) == {}


def test_homes_and_what_they_remember(site: Site) -> None:
    with site.session() as client:
        file_drawers(client, range(2))
        stop(site)
    directory = site.home / ".local/state/palace/served"
    (entry,) = directory.glob("*.json")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert entry.stat().st_mode & 0o777 == 0o600
    seq = remembered(site)["seq"]
    head = json.loads((site.palace / "journal/HEAD.json").read_text())
    assert 0 < seq <= head["seq"]
    other = site.home.with_name("other")
    other.mkdir()
    shutil.rmtree(site.palace)
    os.symlink(site.home / ".cache", other / ".cache")

    fresh = Site(home=other, palace=site.palace)
    assert refusal(fresh)["code"] == GONE  # it has never heard of it, and makes no new one
    assert fresh.run("recover", "--forget").returncode == 0
    with fresh.session() as client:
        assert not client.tool("list_drawers").get("drawers")
