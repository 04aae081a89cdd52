"""What is refused while a copy answers, in the place of an engine that isn't loaded."""

import json
from pathlib import Path
from typing import Any

from palace.broker.reading import Reading
from palace.engine.api import Call
from palace.engine.stores.snapshot import Originals
from palace.kernel.kernel import Kernel
from palace.protocol.errors import Forbidden
from palace.protocol.request import tool_call
from palace.settings.config import Config
from palace.settings.paths import Paths

CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "mempalace_search", "arguments": {"query": "x"}},
}


def test_whose_rights_are_not_known_is_answered_from_no_copy(tmp_path: Path) -> None:
    root = str(tmp_path / "palace")
    config = Config(graph=f"{root}/kg", config_dir=root)
    reading = Reading(
        originals=Originals(Paths(root), config, Kernel()),
        directory=str(tmp_path / "copies"),
        environ={},
        who=lambda: "Somebody has the palace.",
    )
    reply: Any = json.loads(
        reading.answer(Call(request=tool_call(CALL), principal=None)).payload or b"null"
    )

    assert reply["error"]["code"] == Forbidden.wire_code
    assert "workspaces" in reply["error"]["message"]
    assert not (tmp_path / "copies").exists(), "nothing was copied"
