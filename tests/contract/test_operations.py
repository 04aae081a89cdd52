"""What the contract promises, of whoever serves it: a palace, and the plugin of fifty lines."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tests.contract.reading import cases
from tests.support.calls.contract import ContractClient

pytestmark = pytest.mark.process

NUMBERS = itertools.count()
OF_REQUESTS = {
    "NamespaceUpsert": ("PUT", "/v1/namespaces/{}"),
    "NamespacePatch": ("PATCH", "/v1/namespaces/{}"),
    "MemoryWrite": ("POST", "/v1/namespaces/{}/memories"),
    "SearchRequest": ("POST", "/v1/search"),
    "ForgetRequest": ("DELETE", f"/v1/memories/{uuid4()}"),
}


@pytest.fixture
def name(client: ContractClient) -> Iterator[str]:
    """A namespace of the test's own."""
    made = f"team:t{next(NUMBERS)}"
    assert client.put(made).status == 200
    yield made
    client.drop(made)


def test_health_says_what_it_can_do(client: ContractClient) -> None:
    told = client.health()
    assert told["status"] in ("ok", "degraded")
    assert told["version"] == "1.0.0"


def test_a_namespace_is_made_changed_and_removed(client: ContractClient) -> None:
    made = client.put("custom:a.B_c:d-1", metadata={"n": [1, {"x": None}]})
    assert (made["name"], made["kind"]) == ("custom:a.B_c:d-1", "custom")
    again = client.put("custom:a.B_c:d-1", metadata={})
    assert again["created_at"] == made["created_at"]
    patched = client.patch("custom:a.B_c:d-1", metadata={"owner": "lead"})
    assert patched["metadata"] == {"owner": "lead"}
    assert client.drop("custom:a.B_c:d-1").status == 204

    assert client.drop("custom:a.B_c:d-1").status == 404
    assert client.patch("custom:a.B_c:d-1", metadata={}).status == 404


def test_what_a_namespace_held_goes_with_it(client: ContractClient, name: str) -> None:
    ident = client.commit(name, "gone soon")["id"]
    client.drop(name)
    assert client.commit(name, "x").status == 404
    assert client.found(name) == []
    assert client.forget(ident, name).status == 404

    client.put(name)
    assert client.found(name) == []
    assert client.forget(ident, name).status == 404


def test_a_memory_is_stored_found_and_forgotten(client: ContractClient, name: str) -> None:
    told = client.commit(name, "the build needs node 20", kind="decision", source="user")
    assert (told.status, told["namespace"]) == (201, name)
    assert str(UUID(told["id"])) == told["id"]
    [found] = client.search(name, query="node")["memories"]
    assert (found["id"], found["namespace"]) == (told["id"], name)
    assert (found["kind"], found["source"]) == ("decision", "user")
    assert found["content"] == "the build needs node 20"

    assert client.forget(told["id"], "team:elsewhere").status == 404
    assert client.found(name, query="node") == ["the build needs node 20"]
    assert client.forget(told["id"], name).status == 204
    assert client.forget(told["id"], name).status == 404
    assert client.found(name, query="node") == []


def test_with_an_id_it_is_the_same_memory_and_without_one_another(
    client: ContractClient, name: str
) -> None:
    ident = str(uuid4())
    for content in ("first", "second", "second"):
        assert client.commit(name, content, id=ident)["id"] == ident
    assert client.found(name) == ["second"]
    others = {client.commit(name, "other")["id"] for _ in range(3)}

    assert len(others) == 3
    assert client.found(name) == ["other", "other", "other", "second"]


def test_an_id_is_taken_over_by_no_other_namespace(client: ContractClient, name: str) -> None:
    client.put("team:other")
    ident = client.commit(name, "mine")["id"]
    assert client.commit("team:other", "theirs", id=ident).status == 403

    assert client.found(name) == ["mine"]
    assert client.found("team:other") == []


def test_a_search_finds_the_newest_of_the_namespaces_that_are_named(
    client: ContractClient, name: str
) -> None:
    client.put("team:aside")
    for number in range(4):
        client.commit(name, f"n{number}", kind="fact" if number % 2 else "summary")
    client.commit("team:aside", "aside")

    assert client.found(name) == ["n3", "n2", "n1", "n0"]
    assert client.found(name, limit=2) == ["n3", "n2"]
    assert client.found(name, kinds=["summary"]) == ["n2", "n0"]
    assert client.found(name, kinds=["checkpoint"]) == []
    assert client.found(name, "team:aside", limit=1) == ["aside"]
    assert client.found("team:nowhere") == []
    assert client.found(name, query="1") == ["n1"]
    client.drop("team:aside")


def test_a_memory_is_found_by_any_word_of_a_query_where_that_is_announced(
    client: ContractClient, name: str
) -> None:
    if "fts" not in client.health()["capabilities"]:
        pytest.skip("it has no fts")
    for content in ("Quokka burrows", "the tide", "a quokka by the tide"):
        client.commit(name, content)

    both = client.found(name, query="tide quokka", limit=1)
    assert both == ["a quokka by the tide"], "which holds both words"
    assert {*client.found(name, query="no quokka", limit=2)} == {
        "Quokka burrows",
        "a quokka by the tide",
    }
    assert client.found(name, query="q", limit=2, kinds=["none"]) == []


def test_what_is_over_is_not_there(client: ContractClient, name: str) -> None:
    if "ttl" not in client.health()["capabilities"]:
        pytest.skip("it has no ttl")
    now = datetime.now(UTC)
    past, future = ((now + timedelta(hours=h)).isoformat() for h in (-1, 1))
    over = client.commit(name, "over", expires_at=past)
    client.commit(name, "lasting", expires_at=future)
    assert over.status == 201

    assert client.found(name) == client.found(name, query="l") == ["lasting"]
    assert client.found(name, query="over") in ([], ["lasting"])  # the nearest, if not the word
    assert client.forget(over["id"], name).status == 404
    assert client.patch(name, expires_at=past).status == 200
    assert client.found(name) == []
    assert client.commit(name, "x").status == 404
    assert client.drop(name).status == client.patch(name, metadata={}).status == 404
    assert client.put(name).status == 200
    assert client.found(name) == []


def test_what_is_said_of_a_memory_comes_back_as_it_was(client: ContractClient, name: str) -> None:
    capabilities = client.health()["capabilities"]
    if not {"pin", "propagation"} <= set(capabilities):
        pytest.skip("it has neither pin nor propagation")
    said = {"to": ["team:x"], "depth": 2, "é": None, "z": {"a": [1.5, True]}}
    client.commit(name, "x", pin=True, propagation=said)

    [found] = client.search(name)["memories"]
    assert (found["pin"], found["propagation"]) == (True, said)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/health", 405),
        ("GET", "/v1/search", 405),
        ("GET", "/v1/namespaces/team:a", 405),
        ("PUT", "/v1/namespaces/", 404),
        ("POST", "/v1/namespaces//memories", 404),
        ("POST", "/v1/namespaces/team:a/others", 404),
        ("POST", "/v1/namespaces/team:a/memories/x", 404),
        ("GET", "/v1/", 404),
        ("GET", "/v1/health/", 404),
        ("GET", "/v1/healthy", 404),
        ("DELETE", "/v1/memories/", 404),
        ("DELETE", "/v1/namespaces/nocolon", 400),
        ("DELETE", "/v1/namespaces/team:a%2Fmemories", 400),
        ("DELETE", "/v1/namespaces/team:a%00", 400),
        ("DELETE", "/v1/namespaces/team:%D9%A1", 400),
        ("DELETE", "/v1/namespaces/team:%FF", 400),
        ("DELETE", f"/v1/namespaces/team:{'a' * 252}", 400),
    ],
)
def test_a_path_is_what_the_document_has(
    client: ContractClient, method: str, path: str, status: int
) -> None:
    told = client.raw(method, path, b"{}")

    assert told.status == status
    if status == 405:
        assert told.headers["allow"]


def test_what_is_invalid_is_refused_and_changes_nothing(client: ContractClient, name: str) -> None:
    client.commit(name, "kept")
    tried = 0
    for schema, text, valid in cases():
        if schema not in OF_REQUESTS or valid:
            continue
        method, path = OF_REQUESTS[schema]
        told = client.raw(method, path.format(name), text.encode("utf-8", "surrogatepass"))
        assert (told.status, told["code"]) == (400, "bad_request"), (schema, text[:99], told)
        tried += 1

    assert tried > 60
    assert client.found(name) == ["kept"]


def test_what_is_valid_is_taken(client: ContractClient, name: str) -> None:
    for schema, text, valid in cases():
        if schema in OF_REQUESTS and valid and schema != "NamespacePatch":
            method, path = OF_REQUESTS[schema]
            told = client.raw(method, path.format(name), text.encode())
            assert told.status in (200, 201, 204, 404), (text, told)
