"""Logs and status of a real broker hold nothing of a drawer, a query or a diary entry."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.brokers.loglines import fields_of
from tests.support.processes.brokers import Line, holders_of, make_palace, wait_ready
from tests.support.processes.clients import PALACE, Site, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.process]

DRAWER, QUERY, ENTRY, WRONG, STRAY = (
    *("quagga-in-a-drawer", "okapi-in-a-query", "dugong-in-an-entry"),
    *("tapir-in-a-mistake", "numbat-of-a-stranger"),
)


def test_no_memory_is_in_a_log_or_in_the_status(site: Site, tmp_path: Path) -> None:
    make_palace(site, 'log_level = "debug"\n')
    with (tmp_path / "shim.err").open("w") as said:
        argv = [*PALACE, "shim"]
        shim = subprocess.Popen(
            argv, env=site.environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        )
        replies = work(shim, site)
        wait_ready(site)
        shown = [
            site.run(*words).stdout
            for words in (["status"], ["status", "--json"], ["doctor", "--json"], ["logs"])
        ]
        shim.communicate(timeout=60)
    assert site.run("stop").returncode == 0
    assert site.run("ensure").returncode == 0
    site.kill_broker()
    deaths = site.palace / "deaths"
    wait_until(lambda: list(deaths.glob("*.txt")), 60, "its death is recorded")
    wait_until(lambda: not holders_of(deaths), 60, "and all of it is written")
    logs = [path.read_text() for path in site.palace.glob("broker.log*")]
    told = [path.read_text() for path in (*deaths.iterdir(), site.palace / "lifecycle.log")]

    assert DRAWER in replies, "the work was done"
    assert "error" in replies
    assert logs
    errors = json.loads(shown[1])["errors"]
    assert [error for error in errors if "refused a connection" in error["text"]]
    assert "== the end of its log\ntime=" in "".join(told)
    for text in [*shown, *logs, *told, (tmp_path / "shim.err").read_text()]:
        assert not [nonce for nonce in (DRAWER, QUERY, ENTRY, WRONG, STRAY) if nonce in text]
    lines = [fields_of(line) for text in logs for line in text.splitlines()]
    assert {"debug", "info", "warning"} <= {line["level"] for line in lines}


def work(shim: "subprocess.Popen[bytes]", site: Site) -> str:
    """File, search and write, rightly and wrongly; return the replies."""
    assert shim.stdin is not None
    assert shim.stdout is not None
    calls = [
        ("add_drawer", {"wing": "w", "room": "r", "content": f"It says {DRAWER}."}),
        ("diary_write", {"agent_name": "ada", "entry": f"Dear diary: {ENTRY}."}),
        ("search", {"query": QUERY}),
        ("search", {"query": f"{DRAWER} {QUERY}", "limit": WRONG}),
        ("add_drawer", {"wing": {"not": WRONG}, "room": [WRONG], "content": f"{WRONG}\ud800"}),
        ("add_drawer", {"wing": f"\0{WRONG}", "room": "r", "content": WRONG}),
        ("diary_write", {"agent_name": [WRONG], "entry": {"not": WRONG}}),
        ("update_drawer", {"drawer_id": WRONG, "content": WRONG}),
        ("kg_add", {"subject": WRONG, "predicate": {"a": WRONG}, "object": None}),
        ("kg_query", {"entity": WRONG, "as_of": WRONG}),
        ("mine", {"source_dir": f"/nowhere/{WRONG}", "wing": WRONG}),
        ("no_such_tool", {"content": WRONG}),
        ("get_drawer", {"drawer_id": "x"}),
    ]
    for number, (name, arguments) in enumerate(calls):
        params = {"name": f"mempalace_{name}", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        shim.stdin.write(json.dumps(message).encode() + b"\n")
    shim.stdin.write(f'{{"{WRONG}": is no JSON\n'.encode())
    shim.stdin.flush()
    replies = "".join(shim.stdout.readline().decode() for _ in range(len(calls) + 1))
    wait_until((site.palace / "broker.sock").exists, what="the broker listens")
    for first in (STRAY, f"palace/x {STRAY}", f"palace/1 hello session=a next={STRAY}"):
        with Line(site.palace / "broker.sock") as line:
            line.send(f"{first}\n".encode())
            assert line.sock.recv(65_536).startswith(b"palace/")
    listed = {"name": "mempalace_list_drawers", "arguments": {}}
    message = {"jsonrpc": "2.0", "id": "l", "method": "tools/call", "params": listed}
    shim.stdin.write(json.dumps(message).encode() + b"\n")
    shim.stdin.flush()
    return replies + shim.stdout.readline().decode()
