"""What palace's own tools leave in the journal is what docs/reference/journal.md says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.drawers import COLLECTION
from palace.engine.stores.journalled import CANDIDATES_JOURNALLED, OWN_JOURNALLED
from palace.journal.inspect import read_from
from palace.journal.record import DELETE, PUT, Record
from palace.kernel.kernel import Kernel
from palace.protocol.tools import CANDIDATE_TOOLS, OWN_TOOLS, Kind
from tests.engine.hosting.test_candidates import Pulling, drawer
from tests.engine.hosting.test_delegating import WORK

pytestmark = pytest.mark.engine


@pytest.fixture
def palace(model_home: Path, tmp_path: Path) -> Iterator[Pulling]:
    palace = Pulling(model_home, tmp_path / "palace")
    for ident, parent in (("lead", ""), ("coder", "lead"), ("tester", "lead")):
        assert "workspace" in palace.ask("workspace_add", id=ident, parent=parent)
    yield palace
    palace.engine.end()


def test_own_tools_journal_what_the_table_says(palace: Pulling) -> None:
    read = 1
    kinds: dict[str, set[str]] = {name: set() for name in (*OWN_TOOLS, *CANDIDATE_TOOLS)}

    def call(tool: str, who: str, **arguments: Any) -> Any:
        nonlocal read
        told = palace.ask(tool, who, **arguments)
        assert "code" not in told, told
        found = read_from(f"{palace.root}/journal", Kernel(), read)
        records = [one for one in found if isinstance(one, Record)]
        read = max([read, *(one.seq + 1 for one in records)])
        kinds[f"palace_{tool}"] |= {one.kind for one in records if one.action in (PUT, DELETE)}
        return told

    assert call("list_readable_namespaces", "lead")
    kinds["palace_list_readable_namespaces"].clear()  # it read what was there before
    for who, namespace in (("lead", "org:lead"), ("coder", "team:lead")):
        made = call("commit_memory", who, content=f"said by {who}", namespace=namespace)
        call("commit_summary", who, content=f"summed up by {who}", namespace=namespace)
        call("search_memory", who, query="said")
        call("list_writable_namespaces", who)
        call("forget_memory", who, id=made["id"])
    task = call("delegate", "coder", **WORK)["task"]["id"]
    call("heartbeat", "tester", id=task, status="claimed", note="begun")
    call("delegations", "tester")

    palace.add_remote()
    said = palace.hears(drawer("one"), drawer("two"))
    said += palace.hears({"subject": "bob", "predicate": "at", "object": "acme"}, kind="fact")
    call("search_candidates", "")
    kinds["palace_search_candidates"].clear()  # nor this one what was pulled
    for key, what in zip(said, ("accept", "dismiss", "accept"), strict=True):
        call(f"{what}_candidate", "lead", key=key, digest=palace.seen(key)["digest"])

    tools = OWN_TOOLS | CANDIDATE_TOOLS
    journalled = OWN_JOURNALLED | CANDIDATES_JOURNALLED
    assert set(journalled) == {name for name, tool in tools.items() if tool.kind is Kind.MUTATION}
    for name, found in kinds.items():
        told = set(journalled.get(name, ()))
        assert found <= told, name
        assert told <= found | {COLLECTION}, name  # somebody else may have made it
