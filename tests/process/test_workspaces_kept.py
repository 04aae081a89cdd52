"""Workspaces, what they share and what was decreed: rebuilt, backed up, restored and purged."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_workspaces import namespaces
from tests.support.processes.clients import PALACE, Client, Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

WHO = ("lead", "coder", "other")
LOCKED = "The vault's second key is under the third flowerpot from the left."


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("kept")
    site = make_site(root / "site", model_home)
    for ident in WHO:
        (root / ident).mkdir()
        below = ("--parent", "lead") if ident == "coder" else ()
        did(site, "workspace", "add", ident, "--cwd", str(root / ident), *below)
    did(site, "namespace", "add", "custom:design", "--member", "coder", "--member", "other")
    with agent(site, "lead") as lead, agent(site, "coder") as coder:
        stored(lead, "tests come first", namespace="org:lead", id="mem-rule")
        stored(lead, "a rule that was taken back", namespace="org:lead", id="mem-gone")
        assert "result" in lead.call("palace_forget_memory", id="mem-gone")
        stored(coder, "ours", namespace="team:lead", id="mem-ours")
        stored(coder, "a blue button", namespace="custom:design", id="mem-blue")
        stored(coder, LOCKED, id="mem-locked")
        stored(coder, "mine", id="mem-mine")
    assert site.run("stop").returncode == 0
    yield site
    end_brokers(root)


def did(site: Site, *arguments: str) -> str:
    done = site.run(*arguments, timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def agent(site: Site, who: str) -> Client:
    client = Client([*PALACE, "shim"], site.environ(), cwd=site.home.parent.parent / who)
    client.initialize()
    return client


def stored(client: Client, content: str, **more: str) -> None:
    reply = client.call("palace_commit_memory", content=content, **more)
    assert "result" in reply, reply


def seen(site: Site) -> dict[str, Any]:
    """Return who may write and who reads what, and what was audited."""
    told: dict[str, Any] = {}
    for who in WHO:
        with agent(site, who) as client:
            reply = client.call("palace_search_memory", limit=50)
            found = json.loads(reply["result"]["content"][0]["text"])["memories"]
            read = {one["id"]: one["content"] for one in found}
            told[who] = namespaces(client, "writable"), read
    told["audit"] = did(site, "workspace", "audit").splitlines()
    assert site.run("stop").returncode == 0
    return told


def test_rights_and_audits_are_there_after_a_rebuild_and_a_restoration(
    team: Site, tmp_path: Path
) -> None:
    before = seen(team)
    assert set(before["coder"][1]) == {"mem-rule", "mem-ours", "mem-blue", "mem-locked", "mem-mine"}
    assert set(before["other"][1]) == {"mem-blue"}
    assert [line.split()[1:4:2] for line in before["audit"]] == [
        ["commit", "mem-rule"],
        ["commit", "mem-gone"],
        ["forget", "mem-gone"],
    ]
    (team.palace / "palace.sqlite3").unlink()
    did(team, "rebuild")
    assert seen(team) == before

    did(team, "backup", str(tmp_path / "backups"))
    elsewhere = Site(home=team.home, palace=tmp_path / "restored" / "palace")
    elsewhere.palace.parent.mkdir()
    told = did(elsewhere, "restore", str(tmp_path / "backups"))
    assert "Its 3 workspaces are as they were then" in told
    try:
        assert seen(elsewhere) == before
    finally:
        end_brokers(tmp_path)


def test_scripts_act_as_the_workspace_where_they_run(team: Site) -> None:
    def run(who: str, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*PALACE, "memory", *arguments],
            env=team.environ(),
            cwd=team.home.parent.parent / who,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    token = "ghp_" + "a1B2c3D4e5F6" * 3
    done = run("other", "commit", "-", "--id", "mem-script", given=f"deploy with {token}")
    assert done.stdout == (
        "mem-script is stored in workspace:other, without the secrets that were in it.\n"
    )
    [found] = map(
        json.loads, run("other", "search", "deploy", "--limit", "1", "--json").stdout.splitlines()
    )
    assert found["content"] == "deploy with [REDACTED:github-token]"
    for asked in ("search", "list"):
        listed = run("other", asked, "--namespace", "workspace:other", "--kind", "memory").stdout
        assert listed.startswith("mem-script  workspace:other  memory  ")
    assert len(run("other", "list", "--limit", "1", "--json").stdout.splitlines()) == 1
    assert run("lead", "search", "deploy", "--namespace", "workspace:other").stdout == (
        "Nothing was found.\n"
    )
    refused = run("other", "commit", "x", "--namespace", "org:lead")
    assert refused.returncode != 0
    assert "the workspace other may not write org:lead" in refused.stderr
    assert run("lead", "forget", "mem-script").returncode != 0
    assert run("other", "forget", "mem-script").stdout == (
        "mem-script of workspace:other is forgotten.\n"
    )
    assert run("other", "commit", "-").returncode != 0, "there is nothing to store"
    assert run("other", "search", "--json", "--kind", "never").stdout == ""


def test_a_purge_takes_one_memory_and_a_removal_all_that_was_ones_own(team: Site) -> None:
    for aside in team.palace.glob("replaced-*"):
        shutil.rmtree(aside)  # which a purge names, and leaves to its owner
    told = did(team, "purge", "mem-locked", "--stop")
    assert "No other file that palace has written holds any of it." in told
    files = [path for path in team.palace.rglob("*") if path.is_file()]
    assert [path for path in files if b"third flowerpot" in path.read_bytes()] == []

    told = did(team, "workspace", "remove", "coder", "--purge")
    assert "1 memories were forgotten" in told
    assert "What it shared stays: team:coder and org:coder" in told
    (team.home.parent.parent / "owner").mkdir()
    left = {"lead": {"mem-rule", "mem-ours"}, "other": {"mem-blue"}}
    for who, idents in (*left.items(), ("owner", {"mem-rule", "mem-ours", "mem-blue"})):
        with agent(team, who) as client:
            reply = client.call("palace_search_memory", limit=50)
            found = json.loads(reply["result"]["content"][0]["text"])["memories"]
            assert {one["id"] for one in found} == idents

    assert "custom:design  for coder, other" in did(team, "namespace", "list")
    assert "workspaces  2, 0 of them confined; 0 tokens, 1 custom" in did(team, "status")
    told = did(team, "namespace", "remove", "custom:design", "--purge")
    assert told == "custom:design is removed, and 1 memories were forgotten.\n"
    assert "There is no custom namespace" in did(team, "namespace", "list")
