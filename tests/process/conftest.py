"""What tests of a boundary between kernels share: both sides of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines.guests import guest_of, make_beneath
from tests.support.processes.clients import Site


@pytest.fixture
def beneath(short_dir: Path) -> Site:
    return make_beneath(short_dir)


@pytest.fixture
def guest(beneath: Site, short_dir: Path) -> Iterator[Site]:
    with guest_of(beneath, short_dir) as site:
        yield site
