"""Palace behind palace: what a workspace asks of one by the contract, another server answers.

Clients of the plugin role have their namespaces here, whatever they are called (decision 66); so
what goes through comes with a workspace's token, and about namespaces that the tree gives it.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest

from tests.contract import test_operations as suite
from tests.contract.reading import cases
from tests.contract.test_doors import bearer, run
from tests.contract.test_plugins import Office, office
from tests.contract.test_schemathesis import complaints
from tests.support.brokers.http import serverinfo_of
from tests.support.calls.contract import ContractClient
from tests.support.processes.clients import end_brokers, wait_until

pytestmark = pytest.mark.process

TEAM, ORG, OWN = "team:lead", "org:lead", "workspace:lead"
GOES_THROUGH = (
    suite.test_with_an_id_it_is_the_same_memory_and_without_one_another,
    suite.test_what_is_said_of_a_memory_comes_back_as_it_was,
)
# A server that has no such capability is not sent what it would pass over in silence.
CAPABILITIES = {"expires_at": "ttl", "pin": "pin", "propagation": "propagation"}


class Workspace(ContractClient):
    """A client of a workspace's: what others wrote comes marked as such."""

    def found(self, *names: str, **more: Any) -> list[str]:
        return [
            self._unmarked(one["namespace"], one["content"])
            for one in self.search(*names, **more)["memories"]
        ]

    def _unmarked(self, name: str, content: str) -> str:
        mark, found, text = content.partition(f" ns={name}]: ")
        assert bool(found) is (name != OWN), content
        assert not found or mark.startswith("[MEMORY id="), content
        return text if found else content


@attrs.frozen
class Front:
    """A palace whose team's and organisation's memories another server holds, if one does."""

    office: Office
    token: str

    @property
    def url(self) -> str:
        found = serverinfo_of(self.office.site.home)
        wait_until(found.exists, what="stock is told")
        return f"http://127.0.0.1:{json.loads(found.read_text())['port']}"

    def client(self) -> Workspace:
        """Return one that shows the lead's token."""
        address = self.office.site.palace / "http.sock"
        wait_until(address.exists, what="the contract is served")
        return Workspace(str(address), bearer(self.token))

    def holds(self, *names: str) -> list[str]:
        """Return what is stored in namespaces, as whoever holds them says."""
        if not self.office.address:
            with self.client() as client:
                return client.found(*names, limit=100)
        with self.office.there() as server:
            return server.found(*names, limit=100)


@pytest.fixture(scope="module", params=["here", "flat", "palace"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    root = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    try:
        with office(root, request.param) as found:
            yield Front(found, run(found.site, "token", "new", "workspace:lead").strip())
    finally:
        end_brokers(root)
        shutil.rmtree(root)


@pytest.fixture
def lead(front: Front) -> Iterator[ContractClient]:
    """A client of the lead's, whose namespaces are empty again afterwards."""
    with front.client() as client:
        yield client
        for name in (TEAM, ORG, OWN):
            while memories := client.search(name, limit=100)["memories"]:
                for one in memories:
                    assert client.forget(one["id"], name).status == 204


@pytest.mark.parametrize("asked", GOES_THROUGH, ids=lambda asked: asked.__name__[5:])
@pytest.mark.parametrize("name", [TEAM, ORG])
def test_what_the_contract_promises_goes_through(
    front: Front, lead: ContractClient, name: str, asked: Callable[[ContractClient, str], None]
) -> None:
    if asked is suite.test_what_is_said_of_a_memory_comes_back_as_it_was and front.office.address:
        with front.office.there() as server:
            if "pin" not in server.health()["capabilities"]:
                pytest.skip("it has neither pin nor propagation")
    asked(lead, name)


def test_a_memory_is_stored_found_and_forgotten_where_it_is_held(
    front: Front, lead: ContractClient
) -> None:
    told = lead.commit(TEAM, "the build needs node 20", kind="decision", source="user")
    lead.commit(OWN, "mine")
    assert front.holds(TEAM) == ["the build needs node 20"]
    assert not front.office.address or front.holds(OWN) == []
    [found] = lead.search(TEAM, query="node")["memories"]
    assert (found["id"], found["namespace"]) == (told["id"], TEAM)
    assert (found["kind"], found["source"]) == ("decision", "user")
    assert sorted(lead.found(TEAM, OWN)) == ["mine", "the build needs node 20"]

    assert lead.forget(told["id"], "team:elsewhere").status in (403, 404)
    assert lead.commit("team:elsewhere", "x").status == 403
    assert lead.forget(told["id"], TEAM).status == 204
    assert lead.forget(told["id"], TEAM).status == 404
    assert front.holds(TEAM) == lead.found(TEAM) == []


def test_what_is_invalid_reaches_nobody(front: Front, lead: ContractClient) -> None:
    lead.commit(TEAM, "kept")
    tried = 0
    for schema, text, valid in cases():
        if schema in suite.OF_REQUESTS and not valid and not schema.startswith("Namespace"):
            method, path = suite.OF_REQUESTS[schema]
            told = lead.raw(method, path.format(TEAM), text.encode("utf-8", "surrogatepass"))
            assert (told.status, told["code"]) == (400, "bad_request"), (schema, text[:99], told)
            tried += 1

    assert tried > 50
    assert front.holds(TEAM) == ["kept"]


def test_what_is_valid_is_taken_or_the_server_lacks_what_it_asks_for(
    front: Front, lead: ContractClient
) -> None:
    capable = {"ttl", "pin", "propagation"}
    if front.office.address:
        with front.office.there() as server:
            capable = set(server.health()["capabilities"])
    stored = 0
    for schema, text, valid in cases():
        if schema == "MemoryWrite" and valid:
            wanted = {CAPABILITIES[name] for name in json.loads(text) if name in CAPABILITIES}
            if json.loads(text).get("pin") is False:
                wanted.discard("pin")
            told = lead.raw("POST", f"/v1/namespaces/{TEAM}/memories", text.encode())
            assert told.status == (201 if wanted <= capable else 400), (text, told)
            stored += told.status == 201
        elif schema in ("SearchRequest", "ForgetRequest") and valid:
            method, path = suite.OF_REQUESTS[schema]
            told = lead.raw(method, path, text.encode())
            assert told.status in (200, 204, 403, 404), (text, told)

    assert stored
    assert front.holds(TEAM)


def test_namespaces_are_the_trees_and_no_workspace_makes_or_ends_one(
    front: Front, lead: ContractClient
) -> None:
    lead.commit(TEAM, "kept")
    for name in (TEAM, ORG, OWN, f"custom:{uuid4().hex}"):
        assert lead.put(name).status == 403
        assert lead.patch(name, metadata={}).status == 403
        assert lead.drop(name).status == 403
    assert front.holds(TEAM) == ["kept"]


@pytest.mark.parametrize("front", ["palace"], indirect=True)
def test_whatever_is_asked_is_answered_as_the_document_says(front: Front, tmp_path: Path) -> None:
    assert complaints(front.url, front.token, tmp_path, (TEAM, ORG, OWN)) == ""
