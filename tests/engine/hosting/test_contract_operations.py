"""The memory contract's operations on the hosted mempalace, in a palace without a workspace."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.protocol.errors import Forbidden
from palace.protocol.principals import plugin_with
from tests.engine.hosting.test_memories import LONG, Palace

pytestmark = pytest.mark.engine

NAME = "team:core"


@pytest.fixture(scope="module")
def palace(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Palace]:
    palace = Palace(model_home, tmp_path_factory.mktemp("contract") / "store" / "palace")
    try:
        yield palace
    finally:
        palace.engine.end()


def ask(palace: Palace, tool: str, **arguments: Any) -> tuple[int, Any]:
    call = palace.call(f"palace_v1_{tool}", **arguments)
    reply = palace.engine.call(attrs.evolve(call, principal=plugin_with("")))
    told = json.loads(json.loads(reply.payload or b"")["result"]["content"][0]["text"])
    return told["status"], told.get("body")


def commit(palace: Palace, content: str, **more: Any) -> str:
    body = {"content": content, "kind": "fact", "source": "user"} | more
    status, told = ask(palace, "commit", name=NAME, body=body)
    assert status == 201, told
    ident: str = told["id"]
    return ident


def search(palace: Palace, **more: Any) -> list[Any]:
    status, told = ask(palace, "search", body={"namespaces": [NAME]} | more)
    assert status == 200, told
    found: list[Any] = told["memories"]
    return found


def test_memories_are_stored_found_by_meaning_and_replaced(palace: Palace) -> None:
    assert ask(palace, "put_namespace", name=NAME, body={"kind": "team"})[0] == 200
    cat = commit(palace, "the cat sat on the mat", propagation={"to": ["x"]}, pin=True)
    tide = commit(palace, LONG)
    nearest = search(palace, query="a pet on a rug")

    assert [one["id"] for one in nearest] == [cat, tide]
    assert nearest[0]["score"] > nearest[1]["score"]
    assert (nearest[0]["pin"], nearest[0]["propagation"]) == (True, {"to": ["x"]})
    assert nearest[0]["source"] == "user"
    assert nearest[1]["content"] == LONG
    assert [one["id"] for one in search(palace)] == [tide, cat]
    again = commit(palace, "the dog sat on the mat", id=tide)
    assert again == tide
    assert [one["content"] for one in search(palace, query="dog", limit=1)] == [
        "the dog sat on the mat"
    ]


def test_plain_tools_show_what_is_there_marked_and_write_none_of_it(palace: Palace) -> None:
    ask(palace, "put_namespace", name=NAME, body={"kind": "team"})
    ident = commit(palace, "zebras are striped")
    found = palace.stock("search", query="striped zebras")["results"]
    [hit] = [one for one in found if "zebra" in one["text"]]
    assert hit["text"].startswith(f"[MEMORY id=mem-{ident} scope=PLUGIN ns=plugin:")
    forbidden = [
        palace.stock("update_drawer", drawer_id=f"mem-{ident}", content="x"),
        palace.stock("add_drawer", wing="ns.plugin.x", room="r", content="x"),
    ]
    assert [one["code"] for one in forbidden] == [Forbidden.wire_code] * 2

    assert ask(palace, "delete_namespace", name=NAME)[0] == 204
    shown = palace.stock("search", query="striped zebras")["results"]
    assert not [one for one in shown if "zebra" in one["text"]]
    assert "error" in palace.stock("get_drawer", drawer_id=f"mem-{ident}")
    while palace.ask("sweep")["forgotten"]:
        pass
    ask(palace, "put_namespace", name=NAME, body={"kind": "team"})
    assert search(palace) == []


@pytest.mark.parametrize("query", ["", "wombats dig"])
def test_what_is_deleted_takes_nobodys_place_in_what_the_owner_finds(
    palace: Palace, query: str
) -> None:
    palace.ask("workspace_add", id="lead")  # else the owner has no tool to search them by
    ask(palace, "put_namespace", name=NAME, body={"kind": "team"})
    ask(palace, "put_namespace", name="team:kept", body={"kind": "team"})
    body = {"content": "a quiet burrow", "kind": "fact", "source": "user"}
    assert ask(palace, "commit", name="team:kept", body=body)[0] == 201
    for number in range(12):  # more than are looked at before Chroma filters
        commit(palace, f"wombats dig, note {number}")
    ask(palace, "delete_namespace", name=NAME)

    [kept] = palace.found("", limit=1, **({"query": query} if query else {}))
    assert kept["content"].endswith("a quiet burrow")
    ask(palace, "delete_namespace", name="team:kept")
