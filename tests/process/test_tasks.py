"""A long `mine` as a task: its client polls, brokers are killed, and the end is known once."""

import json
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_sdk import http_of
from tests.protocol.test_tasks import DECLARED
from tests.support.brokers.http import call, request
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

FILES = 40
TEXT = "Sea otter {number} sleeps in the kelp and holds on to its neighbour, so as not to drift. "


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    yield make_site(tmp_path, model_home)
    end_brokers(tmp_path)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A directory that takes some seconds to mine."""
    directory = tmp_path / "notes"
    directory.mkdir()
    for number in range(FILES):
        (directory / f"{number}.md").write_text(TEXT.format(number=number) * 40)
    return directory


def enveloped(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"params": message["params"] | {"_meta": DECLARED}}


def ask(shim: Client, message: dict[str, Any]) -> Any:
    shim.send(json.dumps(enveloped(message)).encode() + b"\n")
    reply = json.loads(shim.receive())
    assert reply["id"] == message["id"], reply
    return reply


def seen(shim: Client, ident: str) -> Any:
    return ask(shim, request("tasks/get", "q", taskId=ident))["result"]


def end_of(shim: Client, ident: str) -> Any:
    deadline = time.monotonic() + 180
    while (told := seen(shim, ident))["status"] == "working":
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    return told


def test_a_task_outlives_the_brokers_that_work_on_it(site: Site, notes: Path) -> None:
    with site.shim() as shim:
        # The first call finds no broker, and none that has loaded for seconds.
        handle = ask(shim, call("mine", "m", source=str(notes), wing="otters"))["result"]
        assert handle["resultType"] == "task", handle
        for _ in range(2):
            before = site.record()["pid"]
            wait_until(lambda: "running" in seen(shim, handle["taskId"]).get("statusMessage", ""))
            assert site.kill_broker() == before
            wait_until(lambda: site.record()["pid"] != before)  # noqa: B023 (asked at once)
        told = end_of(shim, handle["taskId"])
        again = seen(shim, handle["taskId"])
        mined = ask(shim, call("list_drawers", "l", wing="otters", limit=1))

    assert told["status"] == "completed"
    assert again == told
    assert told["result"]["resultType"] == "complete"
    assert any("run again from its start" in part["text"] for part in told["result"]["content"])
    files = json.loads(mined["result"]["content"][0]["text"])
    assert files["total"] >= FILES, files


def over_http(site: Site, message: dict[str, Any]) -> Any:
    url, token = http_of(site)
    params = message["params"]
    headers = {
        "authorization": f"Bearer {token}",
        "accept": "application/json",
        "content-type": "application/json",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": message["method"],
        "mcp-name": params.get("name") or params["taskId"],
    }
    body = json.dumps(enveloped(message)).encode()
    asked = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_task_over_http_is_known_to_the_next_owner(site: Site, notes: Path) -> None:
    with site.session() as shim:
        shim.tool("kg_stats")  # the palace is open, and HTTP is served
        handle = over_http(site, call("mine", "m", source=str(notes), wing="otters"))["result"]
        assert handle["resultType"] == "task", handle
        about = request("tasks/get", "q", taskId=handle["taskId"])
        wait_until(lambda: over_http(site, about)["result"]["status"] == "completed", 180)
        before = over_http(site, about)["result"]["result"]
        site.kill_broker()
        shim.tool("kg_stats")
        after = over_http(site, about)["result"]

    assert after["status"] == "completed"
    assert after["result"]["content"] == before["content"]


def test_a_mine_ends_between_two_files_once_its_task_is_cancelled(site: Site, notes: Path) -> None:
    with site.shim() as shim:
        handle = ask(shim, call("mine", "m", source=str(notes), wing="otters"))["result"]
        wait_until(lambda: "running" in seen(shim, handle["taskId"]).get("statusMessage", ""))
        heard = ask(shim, request("tasks/cancel", "x", taskId=handle["taskId"]))
        told = end_of(shim, handle["taskId"])
        mined = files_in(site)
        again = ask(shim, call("mine", "a", source=str(notes), wing="otters"))["result"]
        if again["resultType"] == "task":
            again = end_of(shim, again["taskId"])["result"]

        assert "result" in heard
        assert told["status"] == "completed", "it says how it ended"
        assert "its client has cancelled it" in told["result"]["content"][0]["text"]
        assert 0 < len(mined) < FILES
        assert len(set(mined.values())) == 1, "each file is there as a whole"
        assert json.loads(again["content"][0]["text"])["success"]
        assert files_in(site) == dict.fromkeys(
            (f"{number}.md" for number in range(FILES)), *set(mined.values())
        )


def files_in(site: Site) -> dict[str, int]:
    """Return how many rows of drawers there are of each file, past any server."""
    query = (
        "SELECT file.string_value, count(*) FROM embedding_metadata AS file "
        "JOIN embedding_metadata AS part ON part.id = file.id AND part.key = 'chunk_index' "
        "WHERE file.key = 'source_file' GROUP BY 1"
    )
    with closing(sqlite3.connect(site.palace / "chroma.sqlite3")) as database:
        return {Path(name).name: count for name, count in database.execute(query)}
