"""What nobody has switched on is not imported: a plain broker's modules, as it has them at work."""

import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes.clients import PALACE, Site, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.process]

# What it is that a plain palace does without -> the beginnings of its modules' names.
OFF = {
    "tables of a server": ("palace.engine.stores.pgvector", "psycopg"),
    "the exact backends": ("palace.engine.stores.exact_seam",),
    "other palaces' candidates": (
        *("palace.protocol.federation", "palace.engine.durability.federation"),
        *(f"palace.engine.durability.candidate_{name}" for name in ("room", "pages", "filing")),
        *("palace.engine.durability.candidate_agents", "palace.broker.candidate_catalogue"),
    ),
    "peers": (
        *("palace.broker.http.mesh", "palace.broker.mesh.asking", "palace.broker.mesh.pulling"),
        "palace.engine.hosting.mesh",
    ),
    "guests": ("palace.broker.guests", "palace.transport.websocket", "cryptography"),
    "workspaces": ("palace.memory", "palace.engine.durability.own_tools"),
    "a server of the memory contract": ("palace.plugin", "httpx"),
    "tasks that somebody follows": ("palace.broker.task_claims", "palace.broker.http.delegations"),
    "a provider": ("palace.provider", "palace.mcp_hosts"),
    "HTTP/2 and websockets": ("h2.connection", "hypercorn.protocol.h2", "wsproto"),
    "traces for a collector": ("opentelemetry.sdk", "grpc"),
    "users of a Chroma server": ("yaml",),
    "a model that has to be built": ("onnx", "ml_dtypes", "google.protobuf"),
}

HTTP_AT = re.compile(r"HTTP at http://127\.0\.0\.1:(\d+)/")


def imported_at_work(site: Site, log: Path) -> set[str]:
    """Return what a broker has imported once it has written a drawer and found it."""
    with log.open("wb") as errors:
        broker = subprocess.Popen(
            [*PALACE, "serve"], env=site.environ(PYTHONPROFILEIMPORTTIME="1"), stderr=errors
        )
    try:
        wait_until((site.palace / "broker.json").exists, what="it serves")
        with site.session() as client:
            assert client.tool("add_drawer", wing="w", room="r", content="an otter")["success"]
            assert client.tool("search", query="otters")["results"]
        wait_until(lambda: HTTP_AT.search(log.read_text()) is not None, what="it serves HTTP")
        (port,) = HTTP_AT.findall(log.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            assert answer.status == 200
    finally:
        broker.send_signal(signal.SIGTERM)
        broker.wait(30)
    lines = log.read_text().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}


def test_a_plain_broker_imports_nothing_that_is_off(site: Site, tmp_path: Path) -> None:
    found = imported_at_work(site, tmp_path / "log")

    assert {"palace.broker.http.app", "mempalace.searcher", "chromadb_rust_bindings"} <= found
    for what, names in OFF.items():
        loaded = [
            name for name in sorted(found) if any(f"{name}.".startswith(f"{off}.") for off in names)
        ]
        assert not loaded, what
