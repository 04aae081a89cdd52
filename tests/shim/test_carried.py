"""A shim that its broker sends to another palace: what it asks there, and that it comes back."""

import json
from pathlib import Path

import pytest

from palace.protocol import wire
from tests.support.brokers.scripted import ScriptedBroker, call, start_shim

OTHER = "b" * 32


@pytest.fixture
def palace(short_dir: Path) -> Path:
    return short_dir / "palace"


def test_it_goes_once_and_asks_at_home_with_the_next_request(palace: Path) -> None:
    """No way is kept for that palace, so that each of its attempts ends."""
    with start_shim(palace, palace) as shim, ScriptedBroker(palace) as broker:
        home = broker.accept()
        home.welcome(epoch="4")
        for ident in (1, 2):
            shim.send(call(ident))
            assert home.message()["id"] == ident
            home.header(
                wire.GOODBYE,
                reason="away",
                away=OTHER,
                read_upto=str(ident - 1),
                unrun=f"{ident - 1}",
            )
            home.close()
            refused = json.loads(shim.receive())
            assert refused["id"] == ident
            assert refused["error"]["data"]["palace"] == "store_elsewhere"
            assert "the way to it was removed" in refused["error"]["message"]
            assert "may or may not" not in refused["error"]["message"], "its own broker ran nothing"
            shim.send(call(f"again {ident}"))
            home = broker.accept()
            assert "elsewhere" not in home.hello()
            home.welcome(epoch=str(4 + ident))
            assert home.message()["id"] == f"again {ident}"
            home.answer(2 * ident - 1, f"again {ident}", "done")
            shim.receive()
