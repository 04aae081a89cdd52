"""One entry, the official SDK as the client: who it acts as follows from where it is started."""

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client as SdkClient
from mcp import StdioServerParameters, stdio_client
from mcp.types import TextContent

from palace.protocol.tools import BASIC_TOOLS, OWN_TOOLS, TOOLS
from tests.engine.test_sdk import LEGACY, MODERN, over_http
from tests.support.processes.clients import PALACE, Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

DIRECTORIES = {"project": "lead", "project/app": "coder", "locked/deep": "locked", ".": ""}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("identity")
    site = make_site(root / "site", model_home)
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
    for ident, *more in (
        ("lead", "--cwd", str(root / "project")),
        ("coder", "--parent", "lead", "--cwd", str(root / "project/app")),
        ("locked", "--parent", "lead", "--cwd", str(root / "locked"), "--confined"),
    ):
        done = site.run("workspace", "add", ident, *more)
        assert done.returncode == 0, done.stderr
    yield site
    end_brokers(root)


def started_in(site: Site, directory: str, mode: str) -> AbstractAsyncContextManager[SdkClient]:
    command, *arguments = [*PALACE, "shim"]
    cwd = site.home.parent.parent / directory
    server = StdioServerParameters(command=command, args=arguments, env=site.environ(), cwd=cwd)
    return SdkClient(stdio_client(server), mode=mode)


async def told(session: Any, name: str, **arguments: Any) -> Any:
    result = await session.call_tool(name, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    return json.loads(content.text)


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
async def test_each_directory_is_another_workspace_and_the_rest_the_owner(
    site: Site, mode: str
) -> None:
    found, listed = {}, {}
    for directory in DIRECTORIES:
        async with started_in(site, directory, mode) as client:
            session = client.session
            answer = await told(session, "palace_list_writable_namespaces")
            found[directory] = answer["workspace"]
            listed[directory] = {tool.name for tool in (await session.list_tools()).tools}

    assert found == DIRECTORIES
    assert listed.pop("locked/deep") == {*BASIC_TOOLS, *OWN_TOOLS}
    assert all(names == {*TOOLS, *OWN_TOOLS} for names in listed.values())


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
async def test_a_confined_one_files_and_finds_by_stocks_words(site: Site, mode: str) -> None:
    text = f"the otter of the {mode} era"
    async with started_in(site, "locked/deep", mode) as client:
        session = client.session
        filed = {"wing": "otters", "room": "r", "content": text}
        assert (await told(session, "mempalace_add_drawer", **filed))["wing"] == "LOCAL"
        hits = (await told(session, "mempalace_search", query=text))["results"]
        assert text in [hit["text"] for hit in hits]
        with pytest.raises(Exception, match="which is confined"):
            await session.call_tool("mempalace_kg_stats", {})
    async with started_in(site, "project/app", mode) as client:
        assert (await told(client.session, "palace_search_memory", query=text))["memories"] == []


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
async def test_over_http_it_is_the_owner_who_can_read_the_token(site: Site, mode: str) -> None:
    async with over_http(site, mode) as session:
        answer = await told(session, "palace_list_readable_namespaces")

    assert answer["workspace"] == ""
    assert "workspace:locked" in [one["name"] for one in answer["namespaces"]]
