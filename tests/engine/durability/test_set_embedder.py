"""`palace set-embedder`: other vectors, and nothing else changes; killed, it goes on.

A palace of every kind of entity is made once on each backend, and copied for each test.  The
embedder is a server on loopback that speaks as OpenAI's.
"""

import base64
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.engine.stores.projection import same
from tests.support.brokers.embedder import Embedder, serve_embedder
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.milvus import has_milvus, need_milvus
from tests.support.engines.postgres import Postgres
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import SECRET, fill
from tests.support.faults.killing import is_deep
from tests.support.processes.clients import PALACE, Site, end_brokers
from tests.support.processes.sites import make_site
from tests.support.stores.copies import DSN

pytestmark = [pytest.mark.engine, pytest.mark.process]
BACKENDS = ("chroma", "sqlite_exact", "pgvector", "milvus")
KILLS = 10 if is_deep() else 3
DRAWERS = 5000 if is_deep() else 300
SIZE = 48  # of a vector; MiniLM's have 384

Contents = dict[str, dict[str, Any]]


@attrs.frozen
class Place:
    site: Site
    upkeep: MaintenanceProcess

    def set(self, embedder: Embedder, *more: str) -> "subprocess.CompletedProcess[str]":
        return self.site.run("set-embedder", *embedder.arguments, *more, timeout_s=300)

    def contents(self) -> Contents:
        found: Contents = self.upkeep.ask("contents", self.site.palace)
        return found

    def found(self, query: str, **fixed: str) -> list[str]:
        """Search in a process of its own, with the environment that brokers have fixed."""
        with Probe(self.site.environ(**fixed), self.site.palace) as probe:
            assert probe.opening["suspects"] == [], "nothing has to be taken over"
            results = probe.tool("search", query=query)["results"]
            probe.leave()
        return [one["text"] for one in results]


@pytest.fixture(scope="module")
def sites(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path, postgres: Postgres
) -> dict[str, Site]:
    """A filled palace on each backend."""
    postgres.ask("CREATE DATABASE of_test_set_embedder")
    made = {}
    for backend in BACKENDS if has_milvus() else BACKENDS[:-1]:
        site = make_site(tmp_path_factory.mktemp(backend), model_home)
        site.extra |= {DSN: postgres.dsn("of_test_set_embedder"), "MEMPALACE_BACKEND": backend}
        with Probe(site.environ(), site.palace) as probe:
            fill(probe, site.palace.parent.parent)
            probe.leave()
        made[backend] = site
    return made


@pytest.fixture(params=BACKENDS)
def place(
    request: pytest.FixtureRequest, sites: dict[str, Site], tmp_path: Path
) -> Iterator[Place]:
    if request.param == "milvus":
        need_milvus()
    source = sites[request.param]
    # Tables can't be copied with the directory.
    site = source if request.param == "pgvector" else _copied(source, tmp_path)
    with MaintenanceProcess(site.environ(), tmp_path / "log") as process:
        yield Place(site, process)


def assert_same_but_for_vectors(found: Contents, wanted: Contents, size: int) -> None:
    for kind in sorted({*found, *wanted} - {"chroma-collection", "file"}):
        there, here = found.get(kind, {}), wanted.get(kind, {})
        assert there.keys() == here.keys(), kind
        for ident, payload in here.items():
            if not kind.startswith("chroma:mempalace_"):
                assert same(there[ident], payload), (kind, ident)
                continue
            assert same({**there[ident], "vector": ""}, {**payload, "vector": ""}), (kind, ident)
            assert len(base64.b64decode(there[ident]["vector"])) == 4 * size


def test_other_vectors_and_nothing_else(place: Place) -> None:
    wanted = place.contents()
    with serve_embedder(size=SIZE) as embedder:
        changed = place.set(embedder)
        assert changed.returncode == 0, changed.stderr
        assert f"openai-compat ({SIZE} numbers each)" in changed.stdout
        assert_same_but_for_vectors(place.contents(), wanted, SIZE)
        if (
            place.site.extra["MEMPALACE_BACKEND"] != "milvus"
        ):  # where stock's ranking is upside down
            assert SECRET in place.found(SECRET, **embedder.environment)
        assert place.upkeep.ask("doctor", place.site.palace) == []
        rebuilt = place.site.run("rebuild", timeout_s=300)
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert_same_but_for_vectors(place.contents(), wanted, SIZE)
        again = place.set(embedder)
        assert (again.returncode, "already" in again.stderr) == (78, True)
    back = place.site.run("set-embedder", "minilm", timeout_s=300)
    assert back.returncode == 0, back.stderr
    assert_same_but_for_vectors(place.contents(), wanted, 384)
    assert SECRET in place.found("where is the spare key")
    left = place.site.home / ".local" / "state" / "palace" / "embedding"
    assert list(left.iterdir()) == []


def test_killed_it_goes_on_where_it_was_and_loses_nothing(
    sites: dict[str, Site], tmp_path: Path
) -> None:
    """Killed while it embeds, while it writes, and after the swap, wherever time has it."""
    place = _copied(sites["chroma"], tmp_path)
    with MaintenanceProcess(place.environ(), tmp_path / "log") as upkeep:
        _make_drawers(place, DRAWERS)
        wanted = upkeep.ask("contents", place.palace)
        with serve_embedder(size=SIZE) as embedder:
            began_s = time.monotonic()
            whole = _copied(place, tmp_path / "whole")
            assert _started(whole, embedder).wait(600) == 0
            took_s, texts = time.monotonic() - began_s, embedder.asked
            killed = 0
            for number in range(KILLS):
                setting = _started(place, embedder)
                try:
                    setting.wait(took_s * (number + 0.5) / KILLS)
                except subprocess.TimeoutExpired:
                    setting.kill()
                    killed += 1
                setting.wait()
                found = upkeep.ask("contents", place.palace)
                size = SIZE if _is_new(found) else 384
                assert_same_but_for_vectors(found, wanted, size)
            assert killed, "it is faster than that"
            ended = place.run("set-embedder", *embedder.arguments, timeout_s=600)
            assert ended.returncode == 0 or "already" in ended.stderr, ended.stderr
            assert embedder.asked < 3 * texts, "what was embedded is not embedded again each time"
            assert_same_but_for_vectors(upkeep.ask("contents", place.palace), wanted, SIZE)
            assert upkeep.ask("doctor", place.palace) == []
            with place.session() as client:
                results = client.tool("search", query="document 7")["results"]
                assert results, "a broker embeds with it, whatever its starter's environment says"
    end_brokers(tmp_path)


@pytest.mark.parametrize("is_swapped", [False, True])
def test_another_broker_ends_what_was_interrupted(place: Place, is_swapped: bool) -> None:
    """Before the first rename the old vectors are in place, and after the last one the new ones."""
    wanted = place.contents()
    size = len(base64.b64decode(vector_of_some(wanted))) // 4
    with serve_embedder(size=size + SIZE) as embedder:
        told = place.upkeep.ask(
            "set_embedder",
            place.site.palace,
            name="openai-compat",
            url=embedder.url,
            model=embedder.model,
            last="swapped" if is_swapped else "embedded",
        )
        assert told.keys() == {"interrupted"}
        fixed = embedder.environment if is_swapped else {}
        with Probe(place.site.environ(**fixed), place.site.palace) as probe:
            probe.leave()
        size = size + SIZE if is_swapped else size
        assert_same_but_for_vectors(place.contents(), wanted, size)
        assert place.upkeep.ask("doctor", place.site.palace) == []


@pytest.mark.parametrize("last", ["embedded", "swapped"])
def test_the_same_command_ends_what_was_interrupted(place: Place, last: str) -> None:
    """No broker is needed in between, though after the swap the stores say what no journal does."""
    wanted = place.contents()
    size = len(base64.b64decode(vector_of_some(wanted))) // 4 + SIZE
    with serve_embedder(size=size) as embedder:
        asked = {"name": "openai-compat", "url": embedder.url, "model": embedder.model}
        told = place.upkeep.ask("set_embedder", place.site.palace, **asked, last=last)
        assert told == {"interrupted": last}
        assert "kept" in place.upkeep.ask("set_embedder", place.site.palace, **asked)
        assert_same_but_for_vectors(place.contents(), wanted, size)
        assert place.upkeep.ask("doctor", place.site.palace) == []


def vector_of_some(contents: Contents) -> str:
    vector: str = next(iter(contents["chroma:mempalace_drawers"].values()))["vector"]
    return vector


def test_an_embedder_that_fails_changes_nothing_and_is_gone_on_with(
    sites: dict[str, Site], tmp_path: Path
) -> None:
    place = _copied(sites["sqlite_exact"], tmp_path)
    with (
        MaintenanceProcess(place.environ(), tmp_path / "log") as upkeep,
        serve_embedder(size=SIZE) as embedder,
    ):
        wanted = upkeep.ask("contents", place.palace)
        embedder.spoil = lambda vectors: 500 if len(vectors) > 1 else vectors
        refused = place.run("set-embedder", *embedder.arguments, timeout_s=300)
        assert refused.returncode == 69
        assert "failed 3 times" in refused.stderr
        assert "the same command goes on from there" in refused.stderr
        assert upkeep.ask("contents", place.palace) == wanted
        embedder.spoil = None
        done = place.run("set-embedder", *embedder.arguments, timeout_s=300)
        assert done.returncode == 0, done.stderr


def test_what_is_no_embedder_is_refused_before_anything_is_done(
    sites: dict[str, Site], tmp_path: Path
) -> None:
    place = _copied(sites["sqlite_exact"], tmp_path)
    closed = ("--url", "http://127.0.0.1:9/v1", "--api-model", "m")
    for given, code, told in (
        (["openai-compat"], 78, "name its address and its model"),
        (["minilm", "--url", "http://127.0.0.1:9"], 78, "is no server"),
        (["all-minilm-l6-v2"], 78, "knows no embedder"),
        (["embeddinggema"], 78, "did you mean"),
        (["minilm"], 78, "are of minilm already"),
        (["openai-compat", *closed], 69, "can't be used"),
    ):
        refused = place.run("set-embedder", *given, timeout_s=120)
        assert (refused.returncode, told in refused.stderr) == (code, True), refused.stderr


def _copied(source: Site, folder: Path) -> Site:
    shutil.copytree(source.palace.parent, folder / "store")
    return Site(home=source.home, palace=folder / "store" / "palace", extra=dict(source.extra))


def _make_drawers(site: Site, count: int) -> None:
    with Probe(site.environ(), site.palace) as probe:
        for start in range(0, count, 100):
            numbers = range(start, min(count, start + 100))
            problem = probe.on_collection(
                "mempalace_drawers",
                "upsert",
                ids=[f"more-{n}" for n in numbers],
                embeddings=[[n % 7 + 0.5, n % 5 - 1.25, n / count] + [1.0] * 381 for n in numbers],
                documents=[f"document {n}" for n in numbers],
                metadatas=[{"n": n, "wing": "w", "room": "r"} for n in numbers],
            )
            assert problem is None
        probe.leave()


def _started(site: Site, embedder: Embedder) -> "subprocess.Popen[bytes]":
    argv = [*PALACE, "set-embedder", *embedder.arguments, "--palace", str(site.palace)]
    return subprocess.Popen(
        argv, env=site.environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _is_new(found: Contents) -> bool:
    return (
        "openai-compat"
        in base64.b64decode(found["file"]["mempalace_embedder.json"]["base64"]).decode()
    )
