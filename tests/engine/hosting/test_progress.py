"""What the watchdog counts: that storage moves, whichever backend has it."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mempalace.backends.pgvector import PgVectorBackend

from palace.engine.embedding.supply import ModelSupply
from palace.engine.hosting import adjustments
from palace.engine.hosting.host import Host, HostedState
from palace.engine.patches import Patches
from palace.settings.config import Config
from palace.settings.paths import Paths
from tests.support.engines.postgres import Postgres

pytestmark = pytest.mark.engine


def test_statements_to_a_server_are_counted(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of many rows over a slow network is no stuck one."""
    monkeypatch.setenv("MEMPALACE_PGVECTOR_DSN", postgres.dsn())
    root = str(tmp_path / "palace")
    server: Any = ModuleType("server")
    state = HostedState(supply=ModelSupply(tmp_path, fetch=lambda _: None))
    config = Config(graph=f"{root}/graph.sqlite3", config_dir=root)
    host = Host(server=server, state=state, paths=Paths(root), config=config)
    patches, backend = Patches(), PgVectorBackend()
    patches.apply(adjustments.watch_progress(host))
    try:
        collection = backend.get_collection(root, "mempalace_drawers", create=True)
        seen = []
        for ident in "abc":
            collection.upsert(ids=[ident], documents=["x"], metadatas=[{}], embeddings=[[1.0]])
            seen.append(state.progress)
    finally:
        patches.undo()
        backend.close()
    assert 0 < seen[0] < seen[1] < seen[2]
