"""One palace as two machines see it: the one beneath, and a guest over a mount, with other homes.

The boundary is bindfs (tests/support/machines/mounts.py).  One thing is not as it would be: both
sides have one boot id, so a broker is started with another one where a test needs it to be
elsewhere (ELSEWHERE), or the record of a dead one is given it.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.loads.light import storm_site
from tests.support.machines.mounts import mounted
from tests.support.processes.clients import Site


def make_beneath(root: Path) -> Site:
    """Make a palace with the light engine, as its own kernel sees it, and a home of its own."""
    site = storm_site(root)
    home = root / "host"
    home.mkdir()
    return Site(home=home, palace=site.palace, extra=dict(site.extra))


# For brokers: see tests/support/engines/light/sitecustomize.py
ELSEWHERE: dict[str, Any] = {"PALACEBOOT": "another"}


@contextmanager
def guest_of(beneath: Site, root: Path) -> Iterator[Site]:
    """Yield the same palace as another machine sees it, which has another home."""
    with mounted(beneath.palace.parent, root / "mount") as mount:
        yield Site(home=root / "home", palace=mount / "palace", extra=dict(beneath.extra))


@contextmanager
def misled_guest_of(beneath: Site, root: Path, **record: object) -> Iterator[Site]:
    """Yield the palace as a mount shows it that is behind: its record says something else.

    The mount is that of a copy, since a running broker writes its own record again.
    """
    store = shutil.copytree(
        beneath.palace.parent, root / "behind/store", ignore=shutil.ignore_patterns("*.sock")
    )
    path = store / "palace/broker.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | record))
    (root / "behind/home").mkdir()
    behind = Site(home=beneath.home, palace=store / "palace", extra=dict(beneath.extra))
    with guest_of(behind, root / "behind") as guest:
        yield guest


def move_record_elsewhere(site: Site) -> None:
    """Let the record that a dead broker left say what one of another kernel says."""
    path = site.palace / "broker.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))
