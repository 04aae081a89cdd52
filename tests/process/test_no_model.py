"""A home without the embedding model, and no way to fetch one: only what embeds is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.brokers import code_of, make_palace, status_of, wait_ready
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = [pytest.mark.process, pytest.mark.engine]

STORE_UNAVAILABLE = -31047
CLOSED = "http://127.0.0.1:9"
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY"), CLOSED) | {
    "PIP_INDEX_URL": CLOSED,
    "PIP_RETRIES": "0",
    "PIP_CONFIG_FILE": os.devnull,
}
EMBED: dict[str, dict[str, Any]] = {
    "add_drawer": {"wing": "w", "room": "r", "content": "a new memory"},
    "diary_write": {"agent_name": "a", "entry": "a day"},
    "checkpoint": {"items": [{"wing": "w", "room": "r", "content": "a point"}]},
    "search": {"query": "memory"},
    "check_duplicate": {"content": "a new memory"},
}


def test_what_embeds_nothing_is_served_without_the_model(site: Site) -> None:
    make_palace(site)
    with site.shim() as shim:  # a palace that has memories already
        drawer = shim.tool("add_drawer", wing="w", room="r", content="an old memory")["drawer_id"]
        kept = shim.tool("add_drawer", wing="w", room="r", content="another")["drawer_id"]
    assert site.run("stop").returncode == 0
    model = site.home / ".cache" / "chroma"
    model.rename(site.home / "model")

    with site.shim(**OFFLINE) as shim:
        assert shim.tool("kg_add", subject="a", predicate="is", object="b")["success"]
        assert shim.tool("kg_query", entity="a")["count"] == 1
        assert len(shim.tool("list_drawers", wing="w")["drawers"]) == 2
        assert shim.tool("get_drawer", drawer_id=kept)["content"] == "another"
        assert shim.tool("status")["total_drawers"] == 2
        assert shim.tool("delete_drawer", drawer_id=drawer)["success"]
        for name, arguments in EMBED.items():
            reply = shim.call(f"mempalace_{name}", **arguments)
            assert code_of(reply) == STORE_UNAVAILABLE, (name, reply)
            assert reply["error"]["data"]["palace"] == "model_unavailable"
            assert "palace model" in reply["error"]["message"]
        broker = wait_ready(site)
        assert "palace model" in broker["engine"]["model"]["text"]
        assert "nothing can be embedded yet" in site.run("status").stdout
        assert len(shim.tool("list_drawers", wing="w")["drawers"]) == 1

        shutil.rmtree(model)  # what the attempt to fetch one has left: empty directories
        model.symlink_to(site.home / "model")
        assert shim.tool("add_drawer", **EMBED["add_drawer"])["success"]
        assert shim.tool("search", query="memory")["results"]
        assert status_of(site)["pid"] == broker["pid"]
        assert status_of(site)["engine"]["model"]["text"] == ""


def test_a_first_start_without_a_model_serves_facts(short_dir: Path) -> None:
    bare = Site(home=short_dir / "home", palace=short_dir / "palace")
    bare.home.mkdir()
    try:
        with bare.shim(**OFFLINE) as shim:
            assert shim.tool("kg_add", subject="a", predicate="is", object="b")["success"]
            assert code_of(shim.call("mempalace_search", query="a")) == STORE_UNAVAILABLE
            wait_until(lambda: not status_of(bare)["engine"]["model"]["pending"], what="it gave up")
    finally:
        end_brokers(short_dir)
