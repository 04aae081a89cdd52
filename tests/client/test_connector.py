"""What a connector makes of a broker's answer, with a broker that the test plays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.client.children import Children
from palace.client.connector import Connector
from palace.kernel.kernel import Kernel
from palace.ownership.claim import Claim
from palace.protocol import wire
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from tests.support.brokers.scripted import ScriptedBroker

ID = "a" * 32


@pytest.fixture
def palace(short_dir: Path) -> Path:
    root = short_dir / "palace"
    root.mkdir(mode=0o700)
    (root / "palace_id").write_text(f"{ID}\n")
    return root


@pytest.fixture
def broker(palace: Path) -> Iterator[ScriptedBroker]:
    with ScriptedBroker(palace) as played:
        yield played


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been started: nothing is, whoever asks."""
    asked: list[object] = []

    def start(children: Children) -> None:
        asked.append(children)

    monkeypatch.setattr(Children, "start", start)
    return asked


def connector_of(palace: Path, **environ: str) -> Connector:
    environment = ShimEnvironment({"HOME": str(palace.parent), **environ})
    return Connector(Site(Kernel(), Paths(str(palace)), environment), deadline_s=60.0)


def begin(connector: Connector) -> None:
    if connector.sock is not None:  # the last connection, which was the caller's
        connector.sock.close()
        connector.sock = None
    connector.begin(lambda: wire.encode_header(wire.HELLO, {"session": "s"}))


def told(broker: ScriptedBroker, connector: Connector, kind: str, **fields: str) -> int:
    """Let it dial, and hear one header; return what its state is then."""
    begin(connector)
    served = broker.accept()
    served.hello()
    served.header(kind, **fields)
    connector.advance()
    return connector.state


def test_a_broker_says_which_palace_it_serves(palace: Path, broker: ScriptedBroker) -> None:
    connector = connector_of(palace, PALACE_NO_SPAWN="1")
    for other in ({}, {"palace_id": "b" * 32}):
        assert told(broker, connector, wire.WELCOME, epoch="1", **other) == Connector.FAILED
        assert connector.error is not None
        assert "serves another palace" in connector.error.message

    assert told(broker, connector, wire.WELCOME, epoch="1", palace_id=ID) == Connector.CONNECTED
    connector.end()


def test_an_owner_of_the_epoch_before_is_dialled_again_and_not_believed(
    palace: Path, broker: ScriptedBroker
) -> None:
    connector = connector_of(palace, PALACE_NO_SPAWN="1")
    told(broker, connector, wire.WELCOME, epoch="5", palace_id=ID)

    state = told(broker, connector, wire.WELCOME, epoch="4", palace_id=ID)

    assert (state, connector.epoch) == (Connector.SLEEPING, 5)
    assert told(broker, connector, wire.WELCOME, epoch="5", palace_id=ID) == Connector.CONNECTED
    connector.end()


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("draining", Connector.SLEEPING),  # the next owner comes
        ("silent", Connector.SLEEPING),
        ("busy", Connector.SLEEPING),
        ("forbidden", Connector.FAILED),
    ],
)
def test_who_is_refused_for_now_comes_again(
    palace: Path, broker: ScriptedBroker, code: str, state: int
) -> None:
    connector = connector_of(palace, PALACE_NO_SPAWN="1")
    told(broker, connector, wire.WELCOME, epoch="5", palace_id=ID)

    assert told(broker, connector, wire.REFUSED, code=code, text="in these words") == state
    connector.end()


def test_a_broker_that_refuses_the_version_that_both_speak_is_not_asked_again(
    palace: Path, broker: ScriptedBroker
) -> None:
    connector = connector_of(palace, PALACE_NO_SPAWN="1")
    versions = {"oldest": str(wire.OLDEST), "newest": str(wire.VERSION)}

    state = told(broker, connector, wire.REFUSED, code="version_mismatch", text="no", **versions)

    assert state == Connector.FAILED
    assert len(broker.connections) == 1
    connector.end()


def test_a_broker_that_is_named_is_never_started(palace: Path, started: list[object]) -> None:
    connector = connector_of(palace, MEMPALACE_BROKER=f"unix:{palace}/other.sock")
    begin(connector)

    assert (connector.state, started) == (Connector.FAILED, [])
    connector.end()


def test_a_guest_starts_nothing_and_waits_for_others_who_may(
    palace: Path, started: list[object]
) -> None:
    claim = Claim(id="b" * 32, host="h", path=str(palace), since="2026-01-01T00:00:00Z")
    (palace / "owner.json").write_bytes(claim.encode())
    connector = connector_of(palace)

    begin(connector)

    assert (connector.state, started) == (Connector.SLEEPING, [])
    connector.end()


def test_where_nobody_listens_a_broker_is_started(palace: Path, started: list[object]) -> None:
    connector = connector_of(palace)
    begin(connector)

    assert (connector.state, len(started)) == (Connector.SLEEPING, 1)
    connector.end()
