"""What every part of a broker works with: the palace it owns, its settings, engine and kernel."""

import attrs

from palace.broker.endpoint import Endpoint
from palace.broker.life import Life
from palace.engine.api import Engine
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.protocol.jsonrpc import Catalogue
from palace.settings.config import Config


@attrs.frozen(eq=False)
class Listening:
    """Where an owner listens, None for one that serves its own client alone, and its mode."""

    endpoint: Endpoint | None
    mode: str


@attrs.define(eq=False, kw_only=True)
class Services:
    """One owner's.  Two change: `catalogue`, None until there is one, and `died`, the
    epoch of an earlier owner that ended without leaving, 0 for none.

    `endpoint` is None for an owner that serves its own client alone, and `mode` says so.  `backend`
    names what keeps the drawers.  `home` is
    where stock looks for servers; "": it isn't told.  `ignored` says which settings in palace.toml
    don't count, "" for none.  `guests_directory` is where tokens and certificate of guests are
    kept, `owners_directory` where the ways to palaces are that may have our tables, "" for
    nowhere.  `life` is told what becomes of this owner.  `place` names the files this process sees.
    """

    ownership: Ownership
    config: Config
    engine: Engine
    kernel: Kernel
    endpoint: Endpoint | None
    mode: str
    catalogue: Catalogue | None = None
    died: int = 0
    backend: str = ""
    home: str = ""
    ignored: str = ""
    guests_directory: str = ""
    owners_directory: str = ""
    life: Life = attrs.field(factory=Life)
    place: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.place = self.kernel.place()
