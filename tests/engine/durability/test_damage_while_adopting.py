"""An index that comes to harm while a palace is not whole in its journal yet.

The journal holds half of a palace, and a drawer that stock has deleted since, as an owner leaves it
that dies in an adoption.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.palace_stores import unopened_stores
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, ADOPTION, Draft, Stamp
from palace.journal.replay import replay
from palace.journal.tail import Adopting
from palace.kernel.kernel import Kernel
from palace.ownership.keys import ANY_SEQ
from palace.protocol.keyring import Key, Keyring
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.engine.durability.test_damage import DRAWERS, MANY, doctor, many
from tests.engine.durability.test_rebuild import Master, copy_of
from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.probe import Probe
from tests.support.faults.damages import Damaging, binaries_emptied, index_of
from tests.support.faults.killing import is_deep
from tests.support.processes.clients import Site

pytestmark = [
    pytest.mark.engine,
    pytest.mark.process,
    pytest.mark.skipif(not is_deep(), reason="takes half a minute: PALACE_TEST_PROFILE=deep"),
]

__all__ = ["many"]  # a fixture

KIND = PREFIX + DRAWERS
GHOST = "drawer_w_r_deleted_by_stock"
EPOCH = 9


@pytest.fixture
def half(many: Master, tmp_path: Path, maintenance: MaintenanceProcess) -> Site:
    """A palace half of which is in its journal."""
    contents = maintenance.ask("contents", many.site.palace)
    copied = copy_of(many, tmp_path)
    paths, kernel = Paths(str(copied.palace)), Kernel()
    for path in (copied.palace / "journal").iterdir():
        path.unlink()
    config = load_config(paths, ShimEnvironment(copied.environ()).all, kernel)
    stores = unopened_stores(paths, config, kernel)
    looks = {store.name: store.read_fingerprint() for store in stores.all}
    keys = Keyring([Key(b"t" * 32)], ANY_SEQ)  # the probe's
    journal = Journal.open(paths.journal, kernel, Stamp(epoch=EPOCH, writer="dead", keys=keys))
    journal.append([_adopted(KIND, GHOST, next(iter(contents[KIND].values())), key="")])
    journal.fingerprints = lambda: looks
    journal.begin_adoption(Adopting(since=journal.seq, total=MANY))
    journal.append([_adopted(kind, i, payload) for kind, i, payload in _half_of(contents)])
    journal.fingerprints = lambda: None
    journal.close()
    (copied.palace / "epoch").write_text(f"{EPOCH}\n")
    return copied


def _adopted(kind: str, ident: str, payload: Any, *, key: str = ADOPTION) -> Draft:
    return Draft(action=ADOPT, key=key, kind=kind, id=ident, payload=payload)


def _half_of(contents: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for ident, payload in contents[COLLECTION].items():
        yield COLLECTION, ident, payload
    for ident, payload in list(contents[KIND].items())[: MANY // 2]:
        yield KIND, ident, payload


def index_gone(palace: Path) -> None:
    for path in index_of(palace, DRAWERS).iterdir():
        path.unlink()


def index_emptied(palace: Path) -> None:
    binaries_emptied(palace, DRAWERS)


@pytest.mark.parametrize("harm", [index_emptied, index_gone])
def test_an_index_that_is_damaged_in_an_adoption_is_made_again(half: Site, harm: Damaging) -> None:
    harm(half.palace)
    [told] = [finding for finding in doctor(half) if finding.code == "store_damaged"]
    assert told.remedy.endswith("palace start")

    with Probe(half.environ(), half.palace) as probe:
        health = probe.ask("health")
        found = probe.tool("search", query="Walrus 107 sings 107.", limit=1)["results"]
        drawers = probe.tool("list_drawers", limit=MANY)
        drift = probe.ask("drift")
        probe.leave()

    assert health["damaged"] == []
    assert [one["store"] for one in health["healed"]] == ["chroma"]
    assert [result["text"] for result in found] == ["Walrus 107 sings 107."]
    assert drawers["total"] == MANY
    assert drift == []
    known = replay(str(half.palace / "journal"), Kernel()).ids(KIND)
    assert (len(known), GHOST in known) == (MANY, False)
    assert not [one for one in doctor(half) if one.code in ("store_damaged", "adoption", "lacking")]


def test_an_adoption_that_died_is_carried_on_without_what_stock_deleted(half: Site) -> None:
    with Probe(half.environ(), half.palace) as probe:
        assert probe.ask("drift") == []
        assert probe.tool("list_drawers", limit=1)["total"] == MANY
        probe.leave()

    known = replay(str(half.palace / "journal"), Kernel()).ids(KIND)
    assert (len(known), GHOST in known) == (MANY, False)
