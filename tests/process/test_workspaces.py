"""`palace workspace` through real processes, whose brokers die in the middle of it."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from palace.protocol.errors import Forbidden
from palace.protocol.workspaces import digest_of
from tests.broker.http.test_modern import enveloped
from tests.support.brokers.http import request
from tests.support.loads.light import fail_at_points, storm_site
from tests.support.processes.clients import PALACE, Client, Site

pytestmark = pytest.mark.process

# Before it is in a store, after that, before its outcome is recorded, and before it is answered.
POINTS = ("apply", "applied", "outcome", "reply")

NOT_YOURS = Forbidden.wire_code
OWNERS_SHIM = [sys.executable, "-P", "-m", "palace.shim.of_command"]  # of palace's commands


def listed(site: Site) -> list[dict[str, Any]]:
    said = site.run("workspace", "list", "--json")
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def test_a_command_is_carried_out_once_wherever_its_broker_dies(short_dir: Path) -> None:
    site = storm_site(short_dir)
    failpoints = fail_at_points(site)
    for number, point in enumerate(POINTS):
        failpoints.arm((point, 1))
        above = ("--parent", f"w{number - 1}") if number else ("--cwd", str(short_dir))
        done = site.run("workspace", "add", f"w{number}", *above)

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


def shim_in(site: Site, directory: Path) -> Client:
    directory.mkdir(parents=True, exist_ok=True)
    client = Client([*PALACE, "shim"], site.environ(), cwd=directory)
    client.initialize()
    return client


def change(owner: Client, what: str, **arguments: Any) -> None:
    reply = owner.call(f"palace_workspace_{what}", **arguments)
    assert "result" in reply, reply


def leading(site: Site, directory: Path, clients: ExitStack) -> Client:
    """Return a client of the workspace lead, which has another one below it, coder."""
    owner = clients.enter_context(Client(OWNERS_SHIM, site.environ()))
    change(owner, "add", id="lead", cwd=str(directory / "lead"))
    change(owner, "add", id="coder", parent="lead", cwd=str(directory / "coder"))
    return clients.enter_context(shim_in(site, directory / "lead"))


def namespaces(client: Client, kind: str) -> tuple[str, list[str]]:
    reply = client.call(f"palace_list_{kind}_namespaces")
    told = json.loads(reply["result"]["content"][0]["text"])
    return told["workspace"], [one["name"] for one in told["namespaces"]]


def test_one_entry_is_another_workspace_in_each_directory(short_dir: Path) -> None:
    site = storm_site(short_dir)
    project, locked = short_dir / "project", short_dir / "locked"
    with ExitStack() as clients:
        outside = clients.enter_context(shim_in(site, short_dir))
        lead = clients.enter_context(shim_in(site, project))
        coder = clients.enter_context(shim_in(site, project / "app" / "src"))
        confined = clients.enter_context(shim_in(site, locked))
        owner = clients.enter_context(Client(OWNERS_SHIM, site.environ()))
        change(owner, "add", id="lead", cwd=str(project))
        change(owner, "add", id="coder", parent="lead", cwd=str(project / "app"))
        change(owner, "add", id="locked", parent="lead", cwd=str(locked), confined=True)
        site.kill_broker()  # they have all begun before there was any workspace

        org = "org:lead"
        assert namespaces(lead, "writable") == ("lead", ["workspace:lead", "team:lead", org])
        assert namespaces(coder, "readable") == ("coder", ["workspace:coder", "team:lead", org])
        assert namespaces(coder, "writable") == ("coder", ["workspace:coder", "team:lead"])
        assert namespaces(confined, "writable") == ("locked", ["workspace:locked", "team:lead"])
        assert namespaces(outside, "readable")[0] == ""
        for number, client in enumerate((outside, lead, coder)):
            filed = {"who": f"w{number}", "nonce": f"n{number}", "parts": 1}
            assert client.tool("add_drawer", **filed)["success"]
        refused = confined.call("mempalace_mine", source="/")["error"]
        assert refused["code"] == NOT_YOURS
        assert "the workspace locked, which is confined" in refused["message"]

        # From where it stands now; and who it is stays, whatever becomes of the broker.
        change(owner, "move", id="coder", parent="")
        assert namespaces(coder, "writable")[1] == ["workspace:coder", "team:coder", "org:coder"]
        site.kill_broker()
        assert namespaces(coder, "readable") == (
            "coder",
            ["workspace:coder", "team:coder", "org:coder"],
        )
        change(owner, "remove", id="coder")
        site.kill_broker()
        assert "was removed" in coder.call("mempalace_get_drawer", who="w0")["error"]["message"]

    history = site.run("history").stdout
    assert "by lead through" in history
    assert "by coder through" in history
    assert site.run("stop").returncode == 0


def test_a_token_is_a_workspace_until_it_is_revoked(short_dir: Path) -> None:
    site, file = storm_site(short_dir), short_dir / "token"
    shown = site.environ(PALACE_WORKSPACE_TOKEN_FILE=str(file))
    with Client(OWNERS_SHIM, site.environ()) as owner:
        change(owner, "add", id="lead", cwd=str(short_dir))
        change(owner, "add", id="coder", parent="lead")
    done = site.run("token", "new", "coder", "--out", str(file), "--label", "ci")
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text().strip()
    assert token not in done.stdout
    with Client([*PALACE, "shim"], shown, cwd=short_dir) as ci:
        ci.initialize()
        assert namespaces(ci, "writable")[0] == "coder"
        assert ci.call("mempalace_kg_query", entity="w0")["error"]["code"] == NOT_YOURS
        assert ci.tool("add_drawer", wing="w", room="r", content="a ci's note")["success"]
        site.kill_broker()
        assert namespaces(ci, "readable")[0] == "coder"
        assert not shown_by_processes(token)
        told = site.run("token", "list").stdout
        assert "  coder  " in told
        assert site.run("token", "revoke", told.split()[0]).returncode == 0
        refused = ci.call("palace_list_readable_namespaces")["error"]
        assert "it was revoked" in refused["message"]
    printed = site.run("token", "new", "workspace:coder").stdout
    [digits] = [line.split()[0] for line in site.run("token", "list").stdout.split("\n")[1:-1]]
    assert digest_of(printed.strip()).startswith(digits)
    again = site.run("token", "new", "coder", "--out", str(file))
    assert (again.returncode, file.read_text().strip()) == (82, token)
    other = short_dir / "other"
    assert site.run("token", "new", "nobody", "--out", str(other)).returncode == 84
    assert not other.exists(), "a token that isn't registered is nobody's"
    file.write_text("no token\n")
    assert site.run("shim", PALACE_WORKSPACE_TOKEN_FILE=str(file)).returncode == 78
    files = [path for path in site.palace.rglob("*") if path.is_file()]
    for kept in (token, printed.strip()):
        assert not [path for path in files if kept.encode() in path.read_bytes()]
    assert site.run("stop").returncode == 0


def shown_by_processes(token: str) -> list[str]:
    """Return whose arguments or environment hold a token: other users may read the former."""
    found = []
    for entry in Path("/proc").iterdir():
        for name in ("cmdline", "environ"):
            try:
                data = (entry / name).read_bytes()
            except OSError:
                continue
            if token.encode() in data:
                found.append(f"{entry.name}: {name}")
    return found


def test_a_decree_is_stored_and_audited_once_wherever_its_broker_dies(short_dir: Path) -> None:
    site = storm_site(short_dir)
    failpoints = fail_at_points(site)
    with ExitStack() as clients:
        lead = leading(site, short_dir, clients)
        coder = clients.enter_context(shim_in(site, short_dir / "coder"))
        for number, point in enumerate(POINTS):
            failpoints.arm((point, 1))
            content = f"rule {number}, and use ghp_" + "a1B2c3D4e5F6" * 3
            done = lead.call("palace_commit_memory", content=content, namespace="org:lead")
            assert "result" in done, done
            assert failpoints.left() == ""
        failpoints.arm(("outcome", 1))
        refused = coder.call("palace_commit_memory", content="x", namespace="org:lead")
        assert refused["error"]["code"] == NOT_YOURS
        told = coder.call("palace_search_memory")["result"]["content"][0]["text"]
    found = json.loads(told)["memories"]
    assert len(found) == len(POINTS)
    assert all(one["content"].startswith(f"[MEMORY id={one['id']} scope=ORG") for one in found)
    audit = [
        json.loads(line)
        for line in site.run("workspace", "audit", "--json").stdout.split("\n")[:-1]
    ]
    assert sorted(row["memory_id"] for row in audit) == sorted(one["id"] for one in found)
    assert site.run("workspace", "audit").stdout.count("  by lead  ") == len(POINTS)
    assert site.run("stop").returncode == 0
    for path in site.palace.parent.rglob("*"):  # stores, journal, broker.log and all else
        assert not path.is_file() or b"a1B2c3D4e5F6" not in path.read_bytes(), path


def test_nothing_that_others_have_stored_is_told_before_it_is_asked_for(short_dir: Path) -> None:
    """A new session is told which tools there are, and no memory of its team's or its lead's."""
    site = storm_site(short_dir)
    with ExitStack() as clients:
        lead = leading(site, short_dir, clients)
        for namespace in ("org:lead", "team:lead"):
            stored = {"content": f"otters for {namespace}", "namespace": namespace}
            assert "result" in lead.call("palace_commit_memory", **stored)
        coder = clients.enter_context(shim_in(site, short_dir / "coder"))
        told = [json.dumps(coder.initialize()).encode()]
        asked = [enveloped(request("server/discover", "d"))]
        asked += [request(method, method) for method in ("tools/list", "prompts/list")]
        for message in asked:
            coder.send(json.dumps(message).encode() + b"\n")
            told.append(coder.receive())
        assert b"palace_search_memory" in b"".join(told)
        assert b"otters" not in b"".join(told)
        found = coder.call("palace_search_memory")["result"]["content"][0]["text"]
        assert found.count("otters for ") == 2
