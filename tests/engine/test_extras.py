"""Resources of a real palace, over a shim."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.clients import Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

TEXT = "Sea otters hold hands while they sleep."


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    site = make_site(tmp_path, model_home)
    site.palace.chmod(0o700)
    (site.palace / "palace.toml").write_text("mcp_extras = true\n")
    yield site
    end_brokers(tmp_path)


def test_what_is_filed_can_be_mentioned(site: Site) -> None:
    with site.session() as shim:
        added = shim.tool("add_drawer", wing="sea life", room="otters", content=TEXT)
        listed = shim.request("resources/list")["result"]["resources"]
        read: dict[str, Any] = {}
        drawer = f"mempalace://drawer/{added['drawer_id']}"
        for uri in (*(one["uri"] for one in listed), drawer):
            [read[uri]] = shim.request("resources/read", uri=uri)["result"]["contents"]
        missing = shim.request("resources/read", uri="mempalace://drawer/none")
        ref = {"type": "ref/resource", "uri": "mempalace://wing/{wing}"}
        argument = {"name": "wing", "value": "SEA"}
        found = shim.request("completion/complete", ref=ref, argument=argument)

    room = "mempalace://wing/sea%20life/room/otters"
    assert [one["uri"] for one in listed] == ["mempalace://wing/sea%20life", room]
    assert read[drawer]["text"] == TEXT
    assert json.loads(read[room]["text"])["drawers"][0]["drawer_id"] == added["drawer_id"]
    assert missing["error"]["data"] == {"uri": "mempalace://drawer/none"}
    assert found["result"]["completion"]["values"] == ["sea life"]
