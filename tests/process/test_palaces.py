"""`palace list` and `palace status --all`: what becomes of several palaces of one user."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.ownership.served import entry_path
from tests.support.loads.light import storm_site
from tests.support.processes.brokers import Serving, make_palace, state_of
from tests.support.processes.clients import Site, wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def site(short_dir: Path) -> Site:
    return storm_site(short_dir)


@pytest.fixture
def other(site: Site) -> Site:
    """A second palace of the same home."""
    second = Site(site.home, site.palace.parent / "other", dict(site.extra))
    make_palace(second)
    return second


@pytest.fixture
def both(site: Site, other: Site) -> Iterator[tuple[Serving, Serving]]:
    with Serving(site) as first, Serving(other) as second:
        yield first, second


def listed(site: Site, **more: str) -> dict[str, dict[str, Any]]:
    """Return what is said of each palace, by the name of its directory."""
    said = site.run("list", "--json", timeout_s=60, **more)
    assert said.returncode == 0, said.stderr
    return {Path(one["path"]).name: one for one in json.loads(said.stdout)}


def test_palaces_that_are_served_are_listed_with_their_owners(
    site: Site, other: Site, both: tuple[Serving, Serving]
) -> None:
    with site.shim() as client:
        client.tool("add_drawer", who="w", nonce="n", parts=1)
        # A variable that names one broker says nothing of other palaces.
        found = listed(site, MEMPALACE_BROKER=f"unix:{other.palace}/broker.sock")

    assert {name: one["state"] for name, one in found.items()} == {
        "palace": "served",
        "other": "served",
    }
    assert found["palace"]["owner"].startswith(f"pid {both[0].pid} of ")
    assert found["palace"]["owner"].endswith(", 1 client")
    assert found["other"]["owner"].endswith(", 0 clients")
    assert found["palace"]["palace_id"] == (site.palace / "palace_id").read_text().strip()
    assert [found[name]["is_default"] for name in ("palace", "other")] == [True, False]
    files = (path for path in site.palace.rglob("*") if path.is_file())
    assert found["palace"]["bytes"] >= sum(path.stat().st_blocks * 512 for path in files) > 0


def test_palaces_without_a_broker_say_what_became_of_them(site: Site, other: Site) -> None:
    for one in (site, other):
        with Serving(one) as broker:
            broker.end()
    os.utime(entry_path(str(other.palace), site.environ()), (1e9, 1e9))
    assert site.run("stop", "--hold").returncode == 0

    found = listed(site)
    assert (found["palace"]["state"], found["other"]["state"]) == ("on hold", "not served")
    assert found["other"]["used_s"] == 1e9
    assert found["palace"]["used_s"] > 1e9

    shutil.rmtree(other.palace)
    assert listed(site)["other"] | {"owner": ""} == found["other"] | {"state": "gone", "bytes": 0}
    everything = site.run("status", "--all")
    assert everything.returncode == 0, "nobody serves, and nobody should"
    assert f"== {other.palace}" not in everything.stdout
    make_palace(other)
    assert listed(site)["other"]["state"] == "replaced"
    (other.palace / "palace_id").write_text("0" * 32 + "\n")
    assert "palace doctor" in listed(site)["other"]["owner"]


def test_a_palace_that_was_moved_under_its_broker_says_where_it_is(site: Site, other: Site) -> None:
    to = other.palace.with_name("moved")
    with Serving(other) as broker:
        with other.shim() as client:
            client.tool("add_drawer", who="w", nonce="n", parts=1)
        other.palace.rename(to)
        broker.process.wait(60)
    found = listed(site)
    assert (found["other"]["state"], found["other"]["owner"]) == ("moved", f"to {to}")


def test_a_broker_that_does_not_answer_holds_up_no_other(
    site: Site, other: Site, both: tuple[Serving, Serving]
) -> None:
    fine = site.run("status", "--all", "--json")
    os.kill(both[1].pid, signal.SIGSTOP)
    wait_until(lambda: state_of(both[1].pid) == "T", what="it is stopped")
    found = listed(site)
    asked, people = site.run("status", "--all", "--json"), site.run("status", "--all")
    os.kill(both[1].pid, signal.SIGCONT)

    assert (fine.returncode, asked.returncode) == (0, 69)
    assert [one["running"] for one in json.loads(fine.stdout)] == [True, True]
    assert {Path(one["palace"]).name: one["running"] for one in json.loads(asked.stdout)} == {
        "palace": True,
        "other": False,
    }
    assert (found["palace"]["state"], found["other"]["state"]) == ("served", "silent")
    assert f"pid {both[1].pid} " in found["other"]["owner"]
    assert f"== {site.palace}" in people.stdout
    assert f"kill -CONT {both[1].pid}" in people.stdout


def test_the_list_for_people_marks_the_palace_that_is_meant_here(site: Site, other: Site) -> None:
    nothing = site.run("list", HOME=str(site.home / "nobody"), MEMPALACE_PATH=str(site.home / "x"))
    assert nothing.stdout.startswith("No broker of this user has served a palace yet")
    for one in (site, other):
        with Serving(one) as broker:
            broker.end()
    lines = site.run("list").stdout.splitlines()
    assert lines[0].split() == ["PALACE", "STATE", "SIZE", "LAST", "USE", "OWNER"]
    assert [line.split()[:2] for line in lines[1:3]] == [
        [str(other.palace), "not"],
        [str(site.palace), "*"],
    ]
    assert "MiB" in lines[1]
    assert lines[-1].startswith("* is the one")


def test_all_goes_with_nothing_that_names_one(site: Site) -> None:
    assert site.run("status", "--all", "--watch").returncode == 2
    assert site.run("status", "--all", f"--palace={site.palace}").returncode == 2
    assert site.run("status", "--all").stdout.startswith("== ")
