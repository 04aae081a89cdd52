"""mempalace is upgraded under a running broker, beyond what this palace works with."""

import json
import re
from pathlib import Path

import pytest

from palace.protocol.errors import EngineOlder, JournalBroken, StoreUnavailable
from palace.settings.installation import command_for
from tests.support.faults.upgrades import install_other_version, private_metadata, upgraded_path
from tests.support.processes.brokers import Serving, is_alive, status_of, wait_gone, wait_ready
from tests.support.processes.clients import Site, wait_until

pytestmark = [pytest.mark.process, pytest.mark.engine]


@pytest.mark.usefixtures("follow_trace")
def test_a_broker_goes_on_until_another_could_serve(site: Site, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    metadata = private_metadata(private)
    loaded = metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
    search = upgraded_path(private)
    with Serving(site, PYTHONPATH=search) as owner, site.shim(PYTHONPATH=search) as client:
        assert client.tool("add_drawer", wing="w", room="r", content="one")["success"]
        newer = install_other_version(metadata, "3.12.0")

        assert client.tool("add_drawer", wing="w", room="r", content="two")["success"]
        wait_until(lambda: status_of(site)["engine"]["outlives"], what="it has noticed")
        outlives = status_of(site)["engine"]["outlives"]
        assert f"mempalace {loaded} -> 3.12.0" in outlives
        assert "works with 3.11.x" in outlives
        assert "no other broker could serve" in site.run("status").stdout
        assert client.tool("search", query="two")["results"]
        assert client.tool("add_drawer", wing="w", room="r", content="three")["success"]
        assert is_alive(owner.pid)

        older = install_other_version(newer, loaded)
        wait_until(lambda: not status_of(site)["engine"]["outlives"], what="all is as before")
        assert status_of(site)["pid"] == owner.pid

        install_other_version(older, "3.11.77")
        wait_gone(owner.pid)
        assert len(client.tool("list_drawers", wing="w")["drawers"]) == 3
        assert wait_ready(site)["engine"]["version"] == "3.11.77"
        assert "mempalace 3.11.77\n" in (site.palace / "engine").read_text()


def test_a_version_that_can_not_be_loaded_is_none_to_make_room_for(
    site: Site, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    search = upgraded_path(private)
    fitting = site.run("serve", "--check", f"--palace={site.palace}", PYTHONPATH=search)
    with (private / "sitecustomize.py").open("a") as file:
        file.write("import mempalace.palace\ndel mempalace.palace._mark_held\n")
    changed = site.run("serve", "--check", f"--palace={site.palace}", PYTHONPATH=search)

    assert (fitting.returncode, fitting.stderr) == (0, "")
    assert changed.returncode == StoreUnavailable.exit_code
    assert changed.stderr.startswith("palace serve: ")
    assert "which the adjustment 'held_lock' needs" in changed.stderr
    assert not site.palace.exists()


def test_where_no_broker_can_serve_everything_names_the_one_command(
    site: Site, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    metadata = private_metadata(private)
    loaded = metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
    site.extra["PYTHONPATH"] = upgraded_path(private)
    with site.shim() as client:
        assert client.tool("add_drawer", wing="w", room="r", content="one")["success"]
        newer = install_other_version(metadata, "3.12.0")
        wait_gone(site.kill_broker())

        replies = [client.call("mempalace_status"), client.call("mempalace_search", query="one")]
        command = command_for("mempalace==3.11.*")
        words = [reply["error"]["message"] for reply in replies]
        words += [site.run(one).stdout for one in ("doctor", "status")]
        words += [site.run("start").stderr]
        for said in words:
            assert "empalace 3.12.0 is installed" in said
            assert command in said

        install_other_version(newer, loaded)  # which that command does
        assert client.tool("search", query="one")["results"], "the same session"


def engine_older(site: Site) -> dict[str, str]:
    """Return what the doctor says of an engine that is too old, {} where it says nothing."""
    said = site.run("doctor", "--json").stdout
    found = {one["code"]: one for one in map(json.loads, said.splitlines())}
    return found.get("engine_older", {})


def test_an_older_engine_goes_back_from_the_journal_and_loses_nothing(
    site: Site, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    metadata = private_metadata(private)
    installed = metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
    site.extra["PYTHONPATH"] = upgraded_path(private)
    metadata = install_other_version(metadata, "3.11.77")
    with Serving(site), site.shim() as client:
        assert client.tool("add_drawer", wing="w", room="r", content="one")["success"]
    site.run("stop")
    with site.stock() as client:
        assert client.tool("add_drawer", wing="w", room="r", content="two, by stock")["success"]
    metadata = install_other_version(metadata, installed)

    told = engine_older(site)
    refused = site.run("rebuild")
    assert refused.returncode == EngineOlder.exit_code
    assert told["remedy"] in refused.stderr
    # Stock's own drawer isn't in the journal yet, and none but the newer version may read it.
    lacking = site.run("rebuild", "--stop", "--downgrade")
    assert lacking.returncode == JournalBroken.exit_code
    assert "mempalace>=3.11.77'; palace start; palace stop" in lacking.stderr
    assert engine_older(site), "nothing has changed"

    steps = told["remedy"].rpartition("then: ")[2].split("; ")
    assert [step.partition(" ")[2] for step in steps if step.startswith("palace ")] == [
        "start",
        "stop",
        "rebuild --stop --downgrade",
    ]
    for step in steps:
        if version := re.search(r"'mempalace[=>]=(.*)'$", step):  # no index has that one
            metadata = install_other_version(metadata, version[1])
            continue
        done = site.run(*step.split()[1:])
        assert done.returncode == 0, f"{step}: {done.stderr}"
    assert metadata.name == f"mempalace-{installed}.dist-info"
    assert not engine_older(site)
    with site.shim() as client:
        found = [one["content_preview"] for one in client.tool("list_drawers", wing="w")["drawers"]]
    assert sorted(found) == ["one", "two, by stock"]
