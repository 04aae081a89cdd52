"""What a process of another user finds of a broker: its files, its memory, its ports."""

import json
import os
import sys
from pathlib import Path

import pytest
import trio

from tests.broker.test_rights import USER
from tests.support.brokers.owner import open_broker, until
from tests.support.machines.needs import need_root
from tests.support.machines.sshd import free_port

ASK = """
import http.client, json, os, signal, socket, sys
uid, pid, http_port, paths = json.loads(sys.argv[1])
"x".encode("idna")  # what is imported may not be readable later
os.setgroups([]); os.setgid(uid); os.setuid(uid)
found = {}
def attempt(name, work):
    try: found[name] = work()
    except OSError as error: found[name] = type(error).__name__
def read(path):
    with open(path, "rb") as file: return f"{len(file.read(100))} bytes"
def ask(**headers):
    connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=60)
    connection.request("POST", "/mcp", b"{}", headers)
    return connection.getresponse().status
for path in paths:
    attempt(path, lambda: read(path))
    attempt(f"write {path}", lambda: open(path, "ab").close())
    attempt(f"remove {path}", lambda: os.remove(path))
for name in ("environ", "mem", "maps"):
    attempt(name, lambda: read(f"/proc/{pid}/{name}"))
attempt("fd", lambda: os.listdir(f"/proc/{pid}/fd"))
attempt("kill", lambda: os.kill(pid, signal.SIGTERM))
attempt("http", ask)
attempt("http, a guess", lambda: ask(Authorization="Bearer " + "x" * 43))
print(json.dumps(found))
"""


def files_below(*roots: Path) -> list[str]:
    return [str(path) for root in roots for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("allowed", [False, True])
async def test_another_user_reads_no_file_and_no_memory_and_ends_nothing(
    short_dir: Path, allowed: bool
) -> None:
    """Not even where allow_uids opens the way to the socket."""
    need_root()
    root, home = short_dir / "palace", short_dir / "home"
    home.mkdir(mode=0o755)
    short_dir.chmod(0o755)
    uids = (USER,) if allowed else ()
    listen = f"127.0.0.1:{free_port()}"
    async with open_broker(root, home=str(home), listen=listen, allow_uids=uids) as running:
        telemetry = running.state.telemetry
        await until(lambda: telemetry.http is not None and telemetry.http.url)
        assert telemetry.http is not None
        shim = await running.session()
        shim.call("add_drawer", name="a memory")
        await shim.reply()
        # What protects the files is their own mode, whatever that of a directory becomes.
        for directory in (root, *(path for path in home.rglob("*") if path.is_dir())):
            directory.chmod(0o711)
        paths = files_below(root, home)
        assert {"broker.json", "broker.lock"} <= {Path(path).name for path in paths}
        assert telemetry.http.token_file in paths
        port = int(telemetry.http.url.split(":")[2].split("/")[0])
        asked = json.dumps([USER, os.getpid(), port, paths])
        ended = await trio.run_process([sys.executable, "-c", ASK, asked], capture_stdout=True)
        found = json.loads(ended.stdout)

        assert running.state.lifecycle.drain is None
        for path in paths:
            tries = (path, f"write {path}", f"remove {path}")
            assert [found.pop(name) for name in tries] == ["PermissionError"] * 3, path
        answers = found.pop("http"), found.pop("http, a guess")
        assert answers == (401, 401)
        assert set(found.values()) == {"PermissionError"}, found
        assert len(found) == 5
