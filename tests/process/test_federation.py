"""`palace pull` through real processes: brokers and pullers that die in the middle of it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.errors import RemoteRefused
from tests.support.brokers.loglines import fields_of
from tests.support.faults.killing import is_deep
from tests.support.loads.light import fail_at_points, storm_site
from tests.support.machines.feeds import DIRECTORY, WAYS, Way, way_to
from tests.support.processes.clients import PALACE, Site
from tests.support.stores.exporter import export

pytestmark = pytest.mark.process

# Before it is in a store, after that, before its outcome is recorded, and before it is answered.
POINTS = ("apply", "applied", "outcome", "reply") if is_deep() else ("applied", "outcome")
MANY, KILLS = (10_000, 100) if is_deep() else (450, 4)
STEP = 50  # what one owner there writes


def run(site: Site, *arguments: str, **environ: Any) -> str:
    done = site.run(*arguments, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(site: Site, *options: str) -> list[dict[str, Any]]:
    lines = run(site, "candidates", "list", "--json", *options).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def logged_pulls(site: Site) -> list[tuple[str, ...]]:
    """Return what the lifecycle log says of pulls: of whom, with what end, and how much came."""
    lines = map(fields_of, (site.palace / "lifecycle.log").read_text().splitlines())
    names = ("remote", "state", "reason", "changed")
    return [
        tuple(line.get(name, "") for name in names)
        for line in lines
        if line["ev"] == "federation-pull"
    ]


def texts(site: Site) -> list[str]:
    return sorted(one["says"]["text"] for one in listed(site))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Way]:
    with way_to(short_dir / "there", request.param, short_dir) as found:
        yield found


@pytest.mark.parametrize("way", WAYS if is_deep() else [DIRECTORY], indirect=True)
def test_a_pull_is_carried_out_once_wherever_the_broker_dies(short_dir: Path, way: Way) -> None:
    site, there = storm_site(short_dir), short_dir / "there"
    failpoints = fail_at_points(site)
    export(there, {"0": "text 0"})
    assert "remotes" not in run(site, "start") + run(site, "status")
    assert "is added" in run(site, "remote", "add", "desk", *way.address)
    assert run(site, "status").endswith("\nremotes     1\n")
    for number, point in enumerate(POINTS, 1):
        export(there, {f"{number}": f"text {number}"}, epoch=number + 1)
        failpoints.arm((point, 1))
        run(site, "pull", **way.environ)
        assert failpoints.left() == ""
        assert texts(site) == [f"text {one}" for one in range(number + 1)]

    waiting = f"remotes     1, {len(POINTS) + 1} candidates to decide: palace candidates list\n"
    assert run(site, "status").endswith(waiting)
    key = listed(site)[0]["key"]
    assert "dismissed" in run(site, "candidates", "dismiss", key)
    assert len(listed(site)) == len(POINTS)
    assert len(listed(site, "--all")) == len(POINTS) + 1
    assert "withdrawn" not in run(site, "candidates", "list")
    assert key in run(site, "candidates", "show", key)
    assert "0 changed" in run(site, "pull", "desk", **way.environ)
    assert "candidates of it" in run(site, "remote", "remove", "desk")
    assert "There is no remote" in run(site, "remote", "list")
    assert run(site, "stop") is not None


def test_a_dry_run_says_what_a_pull_would_change_and_changes_nothing(short_dir: Path) -> None:
    site, there = storm_site(short_dir), short_dir / "there"
    export(there, {"1": "one", "2": "two", "3": "three"})
    run(site, "remote", "add", "desk", str(there))
    assert "desk: 3 are new there, 0 changed, 0 gone" in run(site, "pull", "--dry-run")
    assert listed(site) == []
    assert not logged_pulls(site)
    run(site, "pull")
    export(there, {"1": "one more", "2": None, "3": "three", "4": "four", "5": "five"}, epoch=2)
    before = listed(site)
    for _ in range(2):
        told = run(site, "pull", "desk", "--dry-run")
        assert "desk: 2 are new there, 1 changed, 1 gone. Nothing was taken over" in told
    assert listed(site) == before
    run(site, "pull")
    assert texts(site) == ["five", "four", "one more", "three"]
    assert "0 are new there, 0 changed, 0 gone" in run(site, "pull", "--dry-run")
    assert len(run(site, "candidates", "search", "ONE", "more").splitlines()) == 1
    assert "No candidate holds all" in run(site, "candidates", "search", "one", "four")
    assert run(site, "stop") is not None


def test_pullers_that_are_killed_and_pullers_at_once_come_to_one_end(
    short_dir: Path, way: Way
) -> None:
    site, there = storm_site(short_dir), short_dir / "there"
    export(there, {f"{number}": f"text {number}" for number in range(MANY // 2)})
    run(site, "remote", "add", "desk", *way.address)
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(write_on, there)
        kill_pullers(site, way)
        written.result()
    pulls = [
        subprocess.Popen(
            [*PALACE, "pull"], env=site.environ(**way.environ), stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    said = [pull.communicate()[0] for pull in pulls]
    assert [pull.returncode for pull in pulls] == [0] * 5
    assert all("desk: " in text for text in said)
    run(site, "pull", **way.environ)
    assert texts(site) == sorted(f"text {number}" for number in range(MANY))
    assert run(site, "stop") is not None


def write_on(there: Path) -> None:
    """Have one owner after another write what is lacking yet, while others pull."""
    for epoch, first in enumerate(range(MANY // 2, MANY, STEP), 2):
        more = range(first, min(first + STEP, MANY))
        export(there, {f"{number}": f"text {number}" for number in more}, epoch=epoch)


def kill_pullers(site: Site, way: Way) -> None:
    steps: list[int] = []
    environ = site.environ(**way.environ)
    for _ in range(KILLS):
        puller = subprocess.Popen(
            [*PALACE, "pull"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        (remote,) = map(json.loads, run(site, "remote", "list", "--json").splitlines())
        steps.append(remote["step"])
        puller.kill()
        puller.communicate()
    assert steps == sorted(steps)


@pytest.mark.engine
def test_what_is_accepted_is_ours_and_is_not_offered_again(site: Site, tmp_path: Path) -> None:
    there = tmp_path / "there"
    export(there, {"1": "The gate opens at seven."}, facts=[("bob", "works_at", "acme")])
    run(site, "remote", "add", "desk", str(there))
    run(site, "pull")
    drawer, fact = sorted(listed(site), key=lambda one: one["kind"])

    # Here agents are a workspace's; what is accepted is the owner's all the same.
    run(site, "workspace", "add", "lead", "--cwd", os.getcwd(), "--confined")
    told = run(site, "candidates", "accept", drawer["key"], "--wing", "mine")
    assert "is accepted, as drawer_mine_r_" in told
    assert "is accepted, as " in run(site, "candidates", "accept", fact["key"])
    assert "nothing to accept" in run(site, "candidates", "accept", drawer["key"])
    assert not listed(site)
    filed = [json.loads(line) for line in run(site, "history", "--json").splitlines()]
    ours = [one for one in filed if one["kind"] == "chroma:mempalace_drawers"]
    assert [one["payload"]["document"] for one in ours] == ["The gate opens at seven."]
    assert not [name for name in ours[0]["payload"]["metadata"] if name.startswith("palace_")]
    assert {one["kind"] for one in filed} >= {"graph:triple"}
    offered = [json.loads(line) for line in run(site, "feed").splitlines()]
    assert not [line for line in offered if line.get("content")]

    assert "from other palaces" not in site.run("doctor").stdout
    export(there, {"1": "The gate opens at eight."}, epoch=2)
    run(site, "pull")
    (changed,) = listed(site)
    assert changed["status"] == "changed"
    assert "1 memories that were accepted from other palaces" in site.run("doctor").stdout
    told = run(site, "candidates", "accept", changed["key"])
    assert "What it said before is still here: drawer_mine_r_" in told
    assert run(site, "stop") is not None


def test_what_is_no_other_palace_is_refused(short_dir: Path) -> None:
    site, there = storm_site(short_dir), short_dir / "there"
    there.mkdir()
    run(site, "remote", "add", "desk", str(there))
    assert "holds no palace" in site.run("pull").stderr
    run(site, "remote", "add", "self", str(site.palace))
    assert "this very palace" in site.run("pull", "self").stderr
    (short_dir / "copy").mkdir()
    shutil.copy(site.palace / "palace_id", short_dir / "copy")
    shutil.copytree(site.palace / "journal", short_dir / "copy" / "journal")
    run(site, "remote", "add", "copy", str(short_dir / "copy"))
    assert "or a copy of it" in site.run("pull", "copy").stderr
    export(there, {"1": "one"})
    done = site.run("pull")
    assert (done.returncode, done.stdout.splitlines()) == (
        88,
        ["desk: 1 changed, 1 to decide: palace candidates list"],
    )
    assert ["this very palace" in line for line in done.stderr.splitlines()] == [True, True]
    refused_by = ("failed", RemoteRefused.name, "")
    assert logged_pulls(site)[-3:] == [
        ("copy", *refused_by),
        ("desk", "ok", "", "1"),
        ("self", *refused_by),
    ]
    run(site, "candidates", "dismiss", listed(site)[0]["key"])
    for odd in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path = there / "journal" / f"{100:020d}.jsonl"
        odd(path)
        refused = site.run("pull", "desk")
        assert (refused.returncode != 0, len(refused.stderr.splitlines())) == (True, 1)
        path.unlink()
    assert "no directory" in site.run("remote", "add", "x", str(short_dir / "none")).stderr
    assert "no remote" in site.run("pull", "lap").stderr
    assert not listed(site)
    assert run(site, "stop") is not None
