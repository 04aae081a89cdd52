"""Stock mempalace beside a running broker, with no configuration but a home and the palace's path.

Its command line, its save hooks and `mempalace-mcp` find the broker by themselves and send it their
work; nobody else ever has the store open for writing.  Without a broker stock works alone again.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mempalace import server_registry
from mempalace.hooks_cli import SAVE_INTERVAL

from palace.settings.stock_config import server_directory
from tests.support.processes.brokers import code_of, wait_gone
from tests.support.processes.clients import Client, Site, brokers_of, end_brokers, wait_until
from tests.support.processes.sites import make_site, start_shim, without
from tests.support.processes.watch import Watcher

pytestmark = [pytest.mark.engine, pytest.mark.process]

BIN = Path(sys.executable).parent
OTTERS = "Sea otters hold hands while they sleep, so that the tide does not part them at night.\n"
TERNS = "Terns fly to the other pole each year."
WRITERS = 4
PAUSE_S = 0.1  # between two writes of a shim: stock's tools need the processors, too


@pytest.fixture
def beside(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    """A home and a palace that stock's own variable names; its processes are ended."""
    site = make_site(tmp_path, model_home)
    site.extra["MEMPALACE_PALACE_PATH"] = str(site.palace)
    site.palace.chmod(0o700)
    yield site
    end_brokers(tmp_path)


def environ_of(site: Site) -> dict[str, str]:
    return without(site.environ(), "MEMPALACE_PATH")


def stock(site: Site, *arguments: str, told: str = "") -> "subprocess.CompletedProcess[str]":
    """Run stock's command line to its end."""
    return subprocess.run(
        [str(BIN / "mempalace"), *arguments],
        env=environ_of(site),
        input=told,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def session(site: Site) -> Client:
    """Start stock's MCP server as hosts do."""
    return Client([str(BIN / "mempalace-mcp")], environ_of(site), stderr=subprocess.DEVNULL)


def serverinfo(site: Site) -> Path:
    return Path(server_directory(str(site.home), str(site.palace))) / "serverinfo.json"


def port_of(site: Site) -> int:
    return int(json.loads(serverinfo(site).read_text())["port"])


def pid_of(site: Site) -> int:
    path = serverinfo(site)
    return int(json.loads(path.read_text())["pid"]) if path.exists() else 0


def start(site: Site) -> int:
    """Start a broker and wait until stock can find it; return its pid."""
    done = site.run("start")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: serverinfo(site).exists(), what="stock is told")
    return int(site.record()["pid"])


def leave(site: Site) -> None:
    done = site.run("stop")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not brokers_of(site.palace), what="the broker has left")


def make_project(site: Site, name: str, text: str = OTTERS) -> str:
    directory = site.home / name
    directory.mkdir()
    (directory / "notes.md").write_text(f"# {name}\n\n{text * 3}")
    return str(directory)


def transcript(site: Site, questions: int) -> str:
    """Write what a host keeps of a conversation."""
    lines: list[dict[str, Any]] = []
    for number in range(questions):
        for role, text in (("user", "Where do puffins nest"), ("assistant", "In burrows, mostly")):
            content = f"{text}, asked for the {number}th time while we talk about sea birds?"
            lines.append({"type": role, "message": {"role": role, "content": content}})
    path = site.home / "talk.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def hook(site: Site, name: str, path: str) -> str:
    """Run one of stock's hooks; return what its log says once its mine has ended."""
    log = site.home / ".mempalace" / "hook_state" / "hook.log"
    before = log.read_text() if log.exists() else ""
    told = json.dumps({"session_id": "talk", "transcript_path": path, "stop_hook_active": False})
    done = stock(site, "hook", "run", "--hook", name, "--harness", "claude-code", told=told)
    assert done.returncode == 0, done.stderr

    def ended() -> bool:
        return "Done." in log.read_text()[len(before) :]

    wait_until(ended, 60, "the hook's mine ends")
    return log.read_text()[len(before) :]


class Writer:
    """A shim that files drawers until it is told to end."""

    def __init__(self, site: Site, name: str) -> None:
        self._shim = start_shim(environ_of(site))
        self._name = name
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written: list[str] = []
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            content = f"{self._name} saw {len(self.written)} ships pass the lighthouse."
            filed = self._shim.tool("add_drawer", wing="log", room=self._name, content=content)
            assert "drawer_id" in filed, filed
            self.written.append(filed["drawer_id"])
            self._ending.wait(PAUSE_S)

    def end(self) -> list[str]:
        self._ending.set()
        self._thread.join()
        assert self._shim.close() == 0
        return self.written


@contextmanager
def writing(site: Site) -> Iterator[list[Writer]]:
    writers = [Writer(site, f"keeper{number}") for number in range(WRITERS)]
    try:
        wait_until(lambda: all(writer.written for writer in writers), 90, "all shims write")
        yield writers
    finally:
        for writer in writers:
            writer.end()


def test_stock_looks_where_we_tell_it(beside: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(beside.home))

    assert str(server_registry.serverinfo_path(str(beside.palace))) == str(serverinfo(beside))


def test_stock_tools_go_through_a_broker_while_shims_write(beside: Site) -> None:
    broker = start(beside)
    with Watcher(beside.palace, rest_ms=5) as watcher:
        with writing(beside) as writers:
            mined = stock(beside, "mine", make_project(beside, "otters"), "--wing", "nature")
            found = stock(beside, "search", "how do otters sleep", "--wing", "nature")
            saved = hook(beside, "precompact", transcript(beside, 3))
            with session(beside) as client:
                version = client.initialize()["result"]["serverInfo"]["version"]
                tools = len(client.request("tools/list")["result"]["tools"])
                filed = client.tool("add_drawer", wing="w", room="r", content="Filed by stock.")
                puffins = client.tool("search", query="where do puffins nest", limit=1)
        counts = [len(writer.written) for writer in writers]

    assert mined.returncode == found.returncode == 0, mined.stderr + found.stderr
    for words in (mined.stdout, found.stderr, saved):
        assert f"palace hub http://127.0.0.1:{port_of(beside)} (pid {broker})" in words
    assert "Drawers filed: 1" in mined.stdout
    assert "hold hands" in found.stdout
    assert (version, tools, filed["success"]) == ("3.11.0", 47, True)
    assert "puffins" in puffins["results"][0]["text"]
    assert min(counts) > 1
    assert watcher.writers == {broker}  # `search` reads the store's first bytes, to know its kind
    with start_shim(environ_of(beside)) as shim:
        rooms = shim.tool("list_rooms", wing="log")["rooms"]
        assert sorted(rooms.values()) == sorted(counts)


def test_stock_works_alone_after_a_stop_and_its_work_is_there_later(beside: Site) -> None:
    (beside.palace / "palace.toml").write_text("mempalace_lock_wait_s = 0.5\n")
    start(beside)
    with start_shim(environ_of(beside)) as shim:
        shim.tool("add_drawer", wing="nature", room="sea", content=OTTERS)
    leave(beside)
    assert not serverinfo(beside).exists()

    mined = stock(beside, "mine", make_project(beside, "gulls", "Gulls drink salt water. "))
    with session(beside) as client:
        assert client.tool("add_drawer", wing="w", room="r", content=TERNS)["success"]
        kept_out = beside.run("start")
        holder = client.process.pid
    start(beside)

    assert "forwarding" not in mined.stdout + mined.stderr
    assert "Drawers filed: 1" in mined.stdout
    assert kept_out.returncode == 73
    for words in (f"pid {holder} ({sys.executable}", "mempalace-mcp", f"end it (kill {holder})"):
        assert words in kept_out.stderr
    with start_shim(environ_of(beside)) as shim:
        texts = [
            shim.tool("search", query=query, limit=1)["results"][0]["text"]
            for query in ("what do gulls drink", "where do terns fly", "how do otters sleep")
        ]
    assert [text.split()[0] for text in texts] == ["#", "Terns", "Sea"]


def test_a_stock_session_meets_one_broker_after_another(beside: Site) -> None:
    first = start(beside)
    with session(beside) as client:
        assert client.tool("kg_stats")["triples"] == 0
        os.kill(first, signal.SIGKILL)
        wait_gone(first)
        left = serverinfo(beside).read_text()
        second = start(beside)
        wait_until(lambda: pid_of(beside) == second, what="stock is told again")
        with Watcher(beside.palace, rest_ms=5) as watcher:
            filed = client.call("mempalace_kg_add", subject="a", predicate="b", object="c")

    assert json.loads(left)["pid"] == first
    assert code_of(filed) == 0
    assert watcher.writers <= {second}


def test_a_stop_hook_saves_its_talk_through_the_broker_but_for_a_diary_line(beside: Site) -> None:
    """Stock files that line by itself, without looking for a hub, and is refused as beside one."""
    broker = start(beside)
    saved = hook(beside, "stop", transcript(beside, SAVE_INTERVAL))

    assert f"palace hub http://127.0.0.1:{port_of(beside)} (pid {broker})" in saved
    assert f"Drawers filed: {SAVE_INTERVAL}" in saved
    assert "Diary checkpoint failed: another mine is in progress" in saved
    assert f"is held by PID {broker}" in saved
