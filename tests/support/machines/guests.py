"""One palace as two machines see it: the one beneath, and a guest over a mount, with other homes.

The boundary is bindfs (tests/support/machines/mounts.py).  One thing is not as it would be: both
sides have one boot id, so a record is given another one where a test needs to be elsewhere.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.loads.light import storm_site
from tests.support.machines.mounts import mounted
from tests.support.processes.clients import Site


def make_beneath(root: Path) -> Site:
    """Make a palace with the light engine, as its own kernel sees it, and a home of its own."""
    site = storm_site(root)
    home = root / "host"
    home.mkdir()
    return Site(home=home, palace=site.palace, extra=dict(site.extra))


@contextmanager
def guest_of(beneath: Site, root: Path) -> Iterator[Site]:
    """Yield the same palace as another machine sees it, which has another home."""
    with mounted(beneath.palace.parent, root / "mount") as mount:
        yield Site(home=root / "home", palace=mount / "palace", extra=dict(beneath.extra))


def move_record_elsewhere(site: Site) -> None:
    """Let the record say what one of another kernel says."""
    path = site.palace / "broker.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))
