"""Resources over a session: asked of a tool as its client might, or not there at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths
from palace.shim import local_answers
from tests.broker.http.test_http import Dial, dial, home, open_web
from tests.broker.http.test_modern import ask, enveloped
from tests.broker.test_eras import reply_of
from tests.support.brokers.http import request
from tests.support.brokers.owner import open_broker

__all__ = ["dial", "home"]  # fixtures

URI = "mempalace://drawer/d1"


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


async def asked(root: Path, message: Any, **settings: Any) -> Any:
    async with open_broker(root, **settings) as running:
        shim = await running.session()
        shim.say(message)
        return (await reply_of(shim, 0))[1], list(running.engine.begun)


async def test_a_resource_is_asked_of_a_tool_and_answered_in_either_form(root: Path) -> None:
    read = request("resources/read", 3, uri=URI)
    old, begun = await asked(root, read, mcp_extras=True)
    new, _ = await asked(root, enveloped(read), mcp_extras=True)

    assert begun == ["mempalace_get_drawer"]
    # The gated engine knows no drawer: what it says has no content.
    assert (old["id"], old["error"]["code"]) == (3, -32002)
    assert (new["id"], new["error"]["code"]) == (3, -32602)


async def test_a_listing_has_the_form_of_its_era(root: Path) -> None:
    new, _ = await asked(root, enveloped(request("resources/list", 3)), mcp_extras=True)

    assert new["result"].keys() == {"resultType", "_meta", "resources", "ttlMs", "cacheScope"}


async def test_without_the_setting_there_is_no_such_method(root: Path) -> None:
    read = request("resources/read", 3, uri=URI)
    old, begun = await asked(root, read)
    new, _ = await asked(root, enveloped(read))

    assert old["error"] == {"code": -32601, "message": "Unknown method: resources/read"}
    assert new["error"]["code"] == -32601
    assert begun == []


async def test_over_http_as_well(home: Path, dial: Dial) -> None:
    async with open_web(home, mcp_extras=True):
        listed = await ask(await dial(), request("resources/list", 1))
        missing = await ask(await dial(), request("resources/read", 2, uri=URI), mcp_name=URI)
    async with open_web(home):
        unknown = await ask(await dial(), request("resources/list", 1))

    assert listed.json()["result"]["resources"] == []
    assert missing.json()["error"]["data"] == {"uri": URI}
    assert unknown.status == 404


async def test_a_shim_alone_knows_what_the_last_broker_served(root: Path) -> None:
    async with open_broker(root, mcp_extras=True) as running:
        shim = await running.session()
        shim.say(request("ping", 1))
        await reply_of(shim, 0)
        catalogue = running.state.services.catalogue
        assert catalogue is not None
    paths = Paths(str(root))
    Path(paths.catalogue).write_bytes(catalogue.to_json())

    def told(method: str) -> Any:
        line = local_answers.inline_line(request(method, 1), Kernel(), paths, read_only=False)
        return None if line is None else json.loads(line)

    assert told("prompts/list")["result"]["prompts"]
    assert "resources" in told("initialize")["result"]["capabilities"]
    assert told("resources/list") is None, "which waits for a broker"
    Path(paths.catalogue).unlink()
    assert told("resources/list")["error"]["code"] == -32601
