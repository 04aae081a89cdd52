"""A palace without workspaces pays nothing for them: no import, no file, no byte of its journal."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.process.test_workspaces import OWNERS_SHIM, change
from tests.support.loads.light import storm_site
from tests.support.processes.clients import PALACE, Client, Site, wait_until

pytestmark = pytest.mark.process


def imported_while(site: Site, log: Path, *, with_workspace: bool) -> tuple[set[str], int]:
    """Return what a broker has imported for some calls, and how many tools it has shown."""
    environ = site.environ(PYTHONPROFILEIMPORTTIME="1")
    with log.open("wb") as errors:
        broker = subprocess.Popen([*PALACE, "serve"], env=environ, stderr=errors)
    try:
        wait_until((site.palace / "broker.json").exists, what="it serves")
        if with_workspace:
            with Client(OWNERS_SHIM, site.environ()) as owner:
                change(owner, "add", id="lead")
        with site.shim() as client:
            client.initialize()
            assert client.tool("add_drawer", who="w", nonce="n", parts=1)["success"]
            assert client.tool("get_drawer", who="w", nonce="n")["count"] >= 1
            tools = len(client.request("tools/list")["result"]["tools"])
            assert site.run("status").returncode == 0
    finally:
        broker.send_signal(signal.SIGTERM)
        broker.wait(30)
    lines = log.read_text().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import")}, tools


def test_nothing_of_them_is_imported_or_written_until_there_is_one(
    short_dir: Path, tmp_path: Path
) -> None:
    site = storm_site(short_dir)
    imported, tools = imported_while(site, tmp_path / "without", with_workspace=False)
    assert "palace.broker.broker" in imported
    assert not [name for name in imported if name.startswith("palace.memory")]
    assert tools == 47
    assert not (site.palace / "palace.sqlite3").exists()
    assert not (site.palace / "http.sock").exists()
    journal = b"".join(path.read_bytes() for path in (site.palace / "journal").glob("*.jsonl"))
    assert b"drawer" in journal
    assert b"palace:" not in journal

    imported, tools = imported_while(site, tmp_path / "with", with_workspace=True)
    assert "palace.memory.reserved" in imported, "else this test sees nothing"
    assert not {"pydantic", "palace.memory.contract"} & imported, "for the memory contract alone"
    assert tools == 47 + 9
