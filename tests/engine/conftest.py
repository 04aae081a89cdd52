"""What the engine's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.processes.sites import make_site


@pytest.fixture(scope="module")
def maintenance(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path
) -> Iterator[MaintenanceProcess]:
    """The process that rebuilds, purges, copies and reads palaces for a module's tests."""
    root = tmp_path_factory.mktemp("maintenance")
    with MaintenanceProcess(make_site(root, model_home).environ(), root / "log") as maintenance:
        yield maintenance
