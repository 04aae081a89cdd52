"""`palace workspace` through real processes, whose brokers die in the middle of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.loads.light import fail_at_points, storm_site
from tests.support.processes.clients import Site

pytestmark = pytest.mark.process

# Before it is in a store, after that, before its outcome is recorded, and before it is answered.
POINTS = ("apply", "applied", "outcome", "reply")


def listed(site: Site) -> list[dict[str, Any]]:
    said = site.run("workspace", "list", "--json")
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_a_command_is_carried_out_once_wherever_its_broker_dies(short_dir: Path) -> None:
    site = storm_site(short_dir)
    failpoints = fail_at_points(site)
    for number, point in enumerate(POINTS):
        failpoints.arm((point, 1))
        done = site.run("workspace", "add", f"w{number}", "--cwd", str(short_dir))
        if number:  # the first has the directory
            assert done.returncode == 84, done.stdout
            assert "is the directory of the workspace w0" in done.stderr
            assert failpoints.left(), "what is refused changes nothing"
            done = site.run("workspace", "add", f"w{number}", "--parent", f"w{number - 1}")

        assert done.returncode == 0, done.stderr
        assert failpoints.left() == ""
        assert f"w{number} is registered" in done.stdout
    assert [(one["id"], one["parent"]) for one in listed(site)] == [
        *(("w0", ""), ("w1", "w0"), ("w2", "w1"), ("w3", "w2")),
    ]
    assert site.run("workspace", "tree").stdout.splitlines() == [
        *(f"w0  {short_dir}", "  w1", "    w2", "      w3"),
    ]
    history = site.run("history").stdout
    assert history.count("palace:workspace workspace:w3") == 1
    assert (site.palace / "protocol").read_text().split()[0] == "1001"
    assert site.run("stop").returncode == 0
