"""What the engine's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import make_site
from tests.support.workshop import Workshop


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Workshop]:
    """The process that rebuilds, purges, copies and reads palaces for a module's tests."""
    root = tmp_path_factory.mktemp("workshop")
    with Workshop(make_site(root, model_home).environ(), root / "log") as workshop:
        yield workshop
