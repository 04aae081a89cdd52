"""The official MCP SDK as the client: what hosts are built with."""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import httpx2
import pytest
import trio
from mcp import Client as SdkClient
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from palace.protocol.modern import VERSIONS
from tests.support.calls.corpus import encode
from tests.support.machines.npm import npm_packages
from tests.support.processes.clients import PALACE, Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site, start_shim

pytestmark = [pytest.mark.engine, pytest.mark.process]

ROOT = Path(__file__).parents[2]
OTTERS = "Sea otters hold hands while they sleep, so that the tide doesn't part them."
EVENT = {"type": "otter.seen", "stream": "otters", "room": "r", "from_agent": "two"}
TYPESCRIPT_SDKS = ("@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0")
CEILING_S = 60
LONG_MS = 300_000  # longer than any test


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace whose broker is ready."""
    root = tmp_path_factory.mktemp("sdk")
    site = make_site(root, model_home)
    with start_shim(site.environ()) as shim:
        assert shim.tool("kg_stats")["triples"] == 0
    yield site
    end_brokers(root)


def _nothing() -> TextIO:
    return open(os.devnull, "w")


LEGACY, MODERN = "legacy", "auto"  # "auto" asks which versions are spoken, and takes the newest


@asynccontextmanager
async def over_stdio(site: Site, mode: str, **environ: str) -> AsyncIterator[ClientSession]:
    """Open a session over a shim of its own."""
    command, *arguments = [*PALACE, "shim"]
    server = StdioServerParameters(command=command, args=arguments, env=site.environ(**environ))
    with _nothing() as nothing:
        async with SdkClient(stdio_client(server, errlog=nothing), mode=mode) as client:
            yield client.session


@asynccontextmanager
async def over_http(site: Site, mode: str, token: str = "") -> AsyncIterator[ClientSession]:
    """Open a session over streamable HTTP, with the palace's token if no other one is given."""
    url, palaces = http_of(site)
    headers = {"Authorization": f"Bearer {token or palaces}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=CEILING_S) as http,
        SdkClient(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client.session


def http_of(site: Site) -> tuple[str, str]:
    """Return where a site's broker serves HTTP, and the token for it."""
    wait_until(lambda: site.status()["http"]["url"], what="HTTP is served")
    http = site.status()["http"]
    return http["url"], Path(http["token_file"]).read_text().strip()


Open = Callable[[Site], AbstractAsyncContextManager[ClientSession]]


@pytest.fixture(params=["stdio", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[LEGACY, MODERN], ids=["legacy", "modern"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_session(transport: str, mode: str) -> Open:
    return partial(over_stdio if transport == "stdio" else over_http, mode=mode)


async def tool(session: ClientSession, name: str, **arguments: Any) -> Any:
    """Call a tool that must work; return what it says."""
    result = await session.call_tool(f"mempalace_{name}", arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error
    (content,) = result.content
    assert isinstance(content, TextContent)
    return json.loads(content.text)


def wait_for_polls(site: Site, count: int) -> None:
    """Return when so many long-polls run at the broker."""

    def running() -> bool:
        return site.status()["lanes"]["poll"]["running"] == count

    wait_until(running, what=f"{count} long-polls run")


@pytest.mark.trio
async def test_two_sessions_at_once_find_what_the_other_writes(
    served: Site, open_session: Open
) -> None:
    with trio.fail_after(CEILING_S):
        async with open_session(served) as one, open_session(served) as two:
            written = await tool(one, "add_drawer", wing="nature", room="sea", content=OTTERS)
            found = await tool(two, "search", query="how do sea animals sleep")
            await tool(two, "kg_add", subject="Ada", predicate="counts", object="otters")
            facts = await tool(one, "kg_query", entity="Ada")
            await tool(two, "delete_drawer", drawer_id=written["drawer_id"])
            gone = await tool(one, "search", query="how do sea animals sleep")

    assert [drawer["text"] for drawer in found["results"]] == [OTTERS]
    assert [fact["object"] for fact in facts["facts"]] == ["otters"]
    assert gone["results"] == []


@pytest.mark.trio
async def test_sessions_that_write_at_the_same_time_lose_nothing(
    served: Site, open_session: Open
) -> None:
    count = 20

    async def write(session: ClientSession, name: str) -> None:
        for number in range(count):
            await tool(session, "kg_add", subject=name, predicate="wrote", object=f"{number}")

    with trio.fail_after(CEILING_S):
        async with open_session(served) as one, open_session(served) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, one, "one")
                nursery.start_soon(write, two, "two")
            of_two = await tool(one, "kg_query", entity="two")
            of_one = await tool(two, "kg_query", entity="one")

    wanted = sorted(str(number) for number in range(count))
    assert sorted(fact["object"] for fact in of_one["facts"]) == wanted
    assert sorted(fact["object"] for fact in of_two["facts"]) == wanted


@pytest.mark.trio
async def test_a_client_that_may_choose_speaks_the_newest_version(
    served: Site, transport: str
) -> None:
    shipped = json.loads((ROOT / "palace" / "settings" / "tools.json").read_text())
    opened = over_stdio if transport == "stdio" else over_http
    with trio.fail_after(CEILING_S):
        async with opened(served, MODERN) as session:
            found = session.discover_result
            listed = await session.list_tools()

    assert session.initialize_result is None
    assert found is not None
    assert found.supported_versions == [*VERSIONS, *shipped["protocol_versions"]]
    assert (listed.cache_scope, listed.ttl_ms) == ("private", 300_000)
    tools = [entry.model_dump(by_alias=True, exclude_none=True) for entry in listed.tools]
    assert tools == shipped["tools"]


@pytest.mark.trio
async def test_clients_of_both_eras_outlive_their_brokers(served: Site) -> None:
    rounds, count = 3, 4

    async def write(session: ClientSession, name: str, turn: int) -> None:
        for number in range(count):
            fact = f"{turn}-{number}"
            await tool(session, "kg_add", subject=name, predicate="survived", object=fact)

    with trio.fail_after(3 * CEILING_S):
        async with (
            over_stdio(served, LEGACY) as one,
            over_stdio(served, MODERN) as two,
            over_stdio(served, LEGACY) as three,
            over_stdio(served, MODERN) as four,
        ):
            sessions = {"eider": one, "gannet": two, "skua": three, "tern": four}
            for turn in range(rounds):
                async with trio.open_nursery() as nursery:
                    for name, session in sessions.items():
                        nursery.start_soon(write, session, name, turn)
                    os.kill(served.status()["pid"], signal.SIGKILL)
            found = {name: await tool(one, "kg_query", entity=name) for name in sessions}

    wanted = sorted(f"{turn}-{number}" for turn in range(rounds) for number in range(count))
    for name, facts in found.items():
        assert sorted(fact["object"] for fact in facts["facts"]) == wanted, name


@pytest.mark.trio
async def test_session_is_told_what_the_engine_says(served: Site, transport: str) -> None:
    """palace/settings/tools.json is what the engine says: tests/engine/test_tools.py."""
    shipped = json.loads((ROOT / "palace" / "settings" / "tools.json").read_text())

    with trio.fail_after(CEILING_S):
        async with (over_stdio if transport == "stdio" else over_http)(served, LEGACY) as session:
            initialized = session.initialize_result
            listed = await session.list_tools()
            await session.send_ping()

    assert initialized is not None
    assert initialized.server_info.name == "mempalace"
    assert initialized.server_info.version == shipped["engine_version"]
    assert initialized.protocol_version in shipped["protocol_versions"]
    tools = [entry.model_dump(by_alias=True, exclude_none=True) for entry in listed.tools]
    assert tools == shipped["tools"]


@pytest.mark.trio
async def test_cancelled_wait_ends_and_its_session_goes_on(
    served: Site, open_session: Open, transport: str, mode: str
) -> None:
    """The SDK sends notifications/cancelled for a call that its caller gives up."""
    given_up = []
    stream = f"otters {transport} {mode}"  # nothing has happened there yet

    async def wait_for_event(session: ClientSession, scope: trio.CancelScope) -> None:
        with scope:
            await tool(session, "event_wait", stream=stream, timeout_ms=LONG_MS)
        given_up.append(scope.cancelled_caught)

    with trio.fail_after(CEILING_S):
        async with open_session(served) as one, open_session(served) as two:
            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_event, one, scope)
                await trio.to_thread.run_sync(wait_for_polls, served, 1)
                scope.cancel()
            mine = await tool(one, "kg_stats")
            await tool(two, "event_append", **EVENT | {"stream": stream})
            seen = await tool(one, "event_wait", stream=stream, timeout_ms=LONG_MS)

    assert given_up == [True]
    assert "triples" in mine
    assert [event["type"] for event in seen["events"]] == ["otter.seen"]


def _cancel_a_wait(site: Site, stream: str) -> Client:
    """Return a client that has begun a long-poll and cancelled it."""
    client = start_shim(site.environ())
    arguments = {"stream": stream, "timeout_ms": LONG_MS}
    client.send(encode("tools/call", "w", name="mempalace_event_wait", arguments=arguments))
    wait_for_polls(site, 1)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}}
    client.send(json.dumps(cancel).encode() + b"\n")
    assert client.tool("kg_stats")  # read behind the cancellation
    return client


def test_cancelled_wait_is_never_answered(served: Site) -> None:
    with _cancel_a_wait(served, "seals") as client:
        client.tool("event_append", **EVENT | {"stream": "seals"})
        wait_for_polls(served, 0)

        # `tool` takes the next line for its reply: one to "w" would be in its way.
        assert client.tool("event_list", stream="seals")["count"] == 1


def test_session_that_cancelled_a_wait_ends_with_its_input(served: Site) -> None:
    """The last of this module, since the abandoned wait goes on at the broker."""
    client = _cancel_a_wait(served, "nothing")
    try:
        assert client.process.stdin is not None
        client.process.stdin.close()
        assert client.process.wait(CEILING_S) == 0
    finally:
        client.process.kill()
        client.close()


# The same in TypeScript: the package of the older era, and that of both.


@pytest.fixture(scope="session")
def typescript_sdk(pytestconfig: pytest.Config) -> Path:
    return npm_packages(pytestconfig, "sdk", *TYPESCRIPT_SDKS)


@pytest.mark.parametrize("mode", ["sdk", LEGACY, MODERN])
def test_typescript_client_is_served(
    served: Site, typescript_sdk: Path, transport: str, mode: str
) -> None:
    script = typescript_sdk / "client.mjs"  # packages are looked for beside a script
    script.write_text((ROOT / "tests" / "support" / "calls" / "sdk_client.mjs").read_text())
    to = [*PALACE, "shim"] if transport == "stdio" else http_of(served)
    done = subprocess.run(
        ["node", str(script), mode, transport, *to],
        env=served.environ(),
        capture_output=True,
        text=True,
        timeout=CEILING_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["server"]["name"] == "mempalace"
    assert said["version"] == {"sdk": "", LEGACY: "2025-11-25", MODERN: VERSIONS[0]}[mode]
    assert said["tools"] == 47
    assert said["found"] == [said["written"]]
    assert said["wait"] != "answered"
    assert said["after"] == {}
