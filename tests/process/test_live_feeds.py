"""Two palaces at work: what agents file in one is pulled into the other, whatever pullers die."""

import itertools
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.journal.offering import DRAWERS
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from tests.support.faults.killing import is_deep
from tests.support.loads.light import storm_site
from tests.support.loads.pool import ClientPool
from tests.support.machines.feeds import DIRECTORY, SSH, Way, way_to
from tests.support.processes.clients import PALACE, Client, Site, wait_until

pytestmark = pytest.mark.process

# How many drawers are there at the end, at least; and how many pullers die meanwhile.
MANY, KILLS = (10_000, 100) if is_deep() else (400, 4)
WRITERS = 2  # agents of each palace
AT_ONCE = 8  # puller at once, at the end


@attrs.define
class Written:
    """What an agent was told to be filed."""

    who: str
    texts: list[str] = attrs.field(factory=list)
    unexpected: list[object] = attrs.field(factory=list)

    @property
    def replies(self) -> int:
        return len(self.texts)


def write(client: Client, told: Written) -> Iterator[None]:
    for number in itertools.count():
        text = f"{told.who} files {number}"
        reply = client.call("mempalace_add_drawer", wing="w", room="r", content=text)
        if "result" in reply:
            told.texts.append(text)
        else:
            told.unexpected.append(reply)
        yield


def writers(site: Site, name: str) -> ClientPool[Client, Written]:
    clients = [site.shim() for _ in range(WRITERS)]
    for client in clients:
        client.initialize()
    told = [Written(f"{name} {number}") for number in range(WRITERS)]
    return ClientPool(clients, told, write)


def run(site: Site, *arguments: str, **environ: Any) -> str:
    done = site.run(*arguments, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def end(pool: ClientPool[Client, Written]) -> Counter[str]:
    pool.end()
    assert pool.failed() == []
    for client in pool.clients:
        client.close()
    return Counter(text for told in pool.told for text in told.texts)


def filed(site: Site) -> Counter[str]:
    known = replay(str(site.palace / "journal"), Kernel())
    drawers: list[Any] = [known.payload(one) for one in known.live if one[0] == DRAWERS]
    return Counter(one["document"] for one in drawers)


def candidates(site: Site) -> Counter[str]:
    lines = run(site, "candidates", "list", "--json", "--all").splitlines()
    return Counter(json.loads(line)["says"]["text"] for line in lines)


def pull_and_kill(site: Site, path: Way, step: int | None) -> int:
    """Kill a puller soon, or once one batch more than `step` was taken; return how many were."""
    puller = subprocess.Popen(
        [*PALACE, "pull"],
        env=site.environ(**path.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            is_over = puller.poll() is not None
            (remote,) = map(json.loads, run(site, "remote", "list", "--json").splitlines())
            if is_over or step is None or remote["step"] > step:
                return int(remote["step"])
    finally:
        puller.kill()
        puller.communicate()


@pytest.fixture(params=[DIRECTORY, SSH])
def way(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[tuple[Site, Way]]:
    """Yield a palace that is served, and a way to it."""
    (short_dir / "a").mkdir()
    there = storm_site(short_dir / "a")
    with way_to(there.palace, request.param, short_dir) as found:
        yield there, found


@pytest.mark.parametrize("way", [DIRECTORY, SSH] if is_deep() else [DIRECTORY], indirect=True)
def test_what_is_filed_beside_a_pull_is_pulled_once_and_changes_nothing(
    short_dir: Path, way: tuple[Site, Way]
) -> None:
    there, path = way
    (short_dir / "b").mkdir()
    here = storm_site(short_dir / "b")
    theirs, ours = writers(there, "there"), writers(here, "here")
    run(here, "remote", "add", "desk", *path.address)
    theirs.start()
    ours.start()
    steps = [0]
    for kill in range(KILLS):
        enough = kill * MANY // KILLS
        wait_until(lambda: theirs.replies() >= enough, 600, "more is filed there")  # noqa: B023
        steps.append(pull_and_kill(here, path, steps[-1] if kill % 2 else None))
    wait_until(lambda: theirs.replies() >= MANY, 600, "enough is filed there")
    told = end(theirs)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        said = list(threads.map(lambda _: run(here, "pull", **path.environ), range(AT_ONCE)))
    assert all("desk: " in text for text in said)
    run(here, "pull", **path.environ)
    mine = end(ours)

    assert steps == sorted(steps)
    assert steps[-1] > 0, "some was taken by pullers that died"
    assert candidates(here) == told
    assert len(told) >= MANY
    for site in (here, there):
        run(site, "stop")
    assert filed(there) == told
    assert filed(here) == mine, "no memory of ours is another one"
