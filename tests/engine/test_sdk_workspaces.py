"""The official MCP SDK's client as a workspace, by a token: over a shim, and over HTTP."""

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import ClientSession, MCPError
from mcp.types import CallToolResult, TextContent

from palace.protocol.errors import Forbidden
from palace.protocol.tools import BASIC_TOOLS, OWN_TOOLS
from tests.engine.test_sdk import CEILING_S, LEGACY, MODERN, over_http, over_stdio
from tests.support.processes.clients import Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace with a lead, a coder below it, and the coder's token."""
    root = tmp_path_factory.mktemp("sdk")
    site = make_site(root, model_home)
    for words in (
        ("workspace", "add", "lead"),
        ("workspace", "add", "coder", "--parent", "lead"),
        ("token", "new", "workspace:coder", "--out", str(root / "token")),
    ):
        done = site.run(*words)
        assert done.returncode == 0, done.stderr
    yield site
    end_brokers(root)


def token_file(site: Site) -> Path:
    return site.home.parent / "token"


def opened(site: Site, transport: str, mode: str) -> AbstractAsyncContextManager[ClientSession]:
    file = token_file(site)
    if transport == "stdio":
        return over_stdio(site, mode, PALACE_WORKSPACE_TOKEN_FILE=str(file))
    return over_http(site, mode, file.read_text().strip())


async def own(session: ClientSession, name: str, **arguments: Any) -> Any:
    result = await session.call_tool(f"palace_{name}", arguments)
    assert isinstance(result, CallToolResult)
    (content,) = result.content
    assert isinstance(content, TextContent)
    return json.loads(content.text)


@pytest.mark.trio
@pytest.mark.parametrize("mode", [LEGACY, MODERN], ids=["legacy", "modern"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_token_is_its_workspace(served: Site, transport: str, mode: str) -> None:
    with trio.fail_after(CEILING_S):
        async with opened(served, transport, mode) as session:
            writable = await own(session, "list_writable_namespaces")
            told = await own(session, "commit_memory", content=f"filed over {transport}, {mode}")
            found = await own(session, "search_memory", query="filed over", limit=50)
            tools = {tool.name for tool in (await session.list_tools()).tools}
            with pytest.raises(MCPError) as refused:
                await own(session, "commit_memory", content="a rule", namespace="org:lead")

    assert writable["workspace"] == "coder"
    assert [one["name"] for one in writable["namespaces"]] == ["workspace:coder", "team:lead"]
    assert told["namespace"] == "workspace:coder"
    assert told["id"] in [one["id"] for one in found["memories"]]
    # A shim's first list may come of its snapshot, before a broker is there (decision 47).
    assert tools >= {*BASIC_TOOLS, *OWN_TOOLS}
    assert refused.value.code == Forbidden.wire_code
