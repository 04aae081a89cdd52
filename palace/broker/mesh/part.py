"""A palace's part in stock's mesh: whom it pulls from, by what right, and how each of them is.

Without a peers.json, and unless the settings say otherwise, there is none, and it costs a look at
a name.
"""

import hmac
import logging
from collections.abc import Mapping

import attrs
import trio

from palace.kernel.kernel import Kernel
from palace.ownership.lock import Ownership
from palace.ownership.mesh_file import (
    STOCKS_PORT,
    MeshFile,
    agreeing,
    keep_mesh,
    merged,
    mesh_path,
    peers_of,
    peers_path,
    read_mesh,
    with_token,
)
from palace.protocol.errors import ConfigError, PalaceError
from palace.protocol.mesh import MeshPeer

INTERVAL_S = 15.0  # as stock's, unless MEMPALACE_SYNC_INTERVAL says otherwise
TIMEOUT_S = 30.0
TIMEOUT_S_MAX = 600.0
LOOK_S = 1.0
TOKEN = "MEMPALACE_MCP_HTTP_TOKEN"  # noqa: S105
HOSTS = "MEMPALACE_MCP_EXTRA_ALLOWED_HOSTS"
STREAMS = "MEMPALACE_SSE_MAX_CLIENTS"
STREAMS_MAX = 8

logger = logging.getLogger("palace.mesh")


@attrs.define(eq=False)
class PeerState:
    """How one peer is; times are seconds of the loop's clock, None for never."""

    error: str = ""
    answered_s: float | None = None
    converged_s: float | None = None  # when nothing was left to pull
    behind: int = 0  # authors of whom it knows more than was taken over
    forked: bool = False  # it knows events of ours that this palace hasn't
    events: int = 0  # that were pulled from it, by this owner
    artifacts: int = 0


@attrs.define(eq=False, kw_only=True)
class MeshPart:
    """One owner's.  `root` is the palace's, `path` where this user's part is kept, "" for nowhere.

    `wanted` is the setting `mesh`.  What it finds is `kept` at once, and written by `settle`: an
    fsync is nothing for a request to wait for.  Until then it is `unkept`, and nobody is asked.
    """

    root: str = ""
    palace_id: str = ""
    kernel: Kernel = attrs.field(factory=Kernel)
    environ: Mapping[str, str] = attrs.field(factory=dict)
    wanted: str = "auto"
    path: str = ""
    kept: MeshFile = attrs.field(factory=MeshFile)
    peers: tuple[MeshPeer, ...] = ()
    unkept: bool = False
    problem: str = ""  # with peers.json, or what is kept
    unkept_why: str = ""  # it can't be written
    trouble: str = ""  # with this palace, in the last round
    states: dict[str, PeerState] = attrs.field(factory=dict)
    since_s: float | None = None  # when this owner began to pull
    streams: int = 0  # of events, that are open
    _has_peers: bool = False  # there is a peers.json
    _is_new: bool = False  # nobody has served this palace before, and it was not looked at yet
    _stocks_token: str | None = None  # as stock's server left it; None while nobody is served
    _seen: object = (None, None)
    _looked_s: float = -LOOK_S

    @classmethod
    def of(
        cls, ownership: Ownership, kernel: Kernel, environ: Mapping[str, str], wanted: str
    ) -> "MeshPart":
        """Return a palace's part, with what is kept of it."""
        root, memory = ownership.paths.root, ownership.memory
        part = cls(root=root, palace_id=ownership.palace_id, kernel=kernel, environ=environ)
        part.wanted = wanted
        part.path = mesh_path(root, environ) if wanted != "off" else ""
        part._is_new = memory is not None and memory.is_first
        part.look()
        part._is_new = False  # from here on others may have been let in
        return part

    @property
    def is_served(self) -> bool:
        """Tell whether peers are answered: where this palace has peers, or if so set."""
        self._look_soon()
        return bool(self.path) and (self._has_peers or self.wanted == "on")

    def _look_soon(self) -> None:
        now_s = self.kernel.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self.look()

    def look(self) -> None:
        """Read peers.json, and what is kept, where one of them has changed; says what is wrong."""
        self._looked_s = self.kernel.monotonic()
        if not self.path:
            return
        named = self.kernel.signature(peers_path(self.root))
        is_in = named is not None or self.wanted == "on"  # else nothing is looked at any further
        seen = (named, self.kernel.signature(self.path) if is_in else None)
        if seen == self._seen:
            return
        self._seen = seen
        self.problem = ""
        try:
            if is_in:
                self._read_kept()
            found = peers_of(self.root, self.kernel) if named is not None else None
            self._has_peers = found is not None
            self.peers = found or ()
            if found is not None and self.kept.agreed is None:
                # Only of a palace that nobody has served can it be known that its user wrote it.
                self._have(agreeing(self.kept, found if self._is_new else ()))
        except (PalaceError, OSError) as error:
            self._has_peers = self._has_peers or isinstance(error, ConfigError)
            self.peers = ()
            self.problem = str(error)
            logger.warning("the mesh: %s", error)
        self.states = {peer.name: self.states.get(peer.name, PeerState()) for peer in self.peers}

    def _read_kept(self) -> None:
        """Read what is kept, and have a token once peers may come; raises ConfigError."""
        try:
            there = read_mesh(self.path, self.palace_id, self.kernel)
        except ConfigError:
            self.kept, self.unkept = MeshFile(agreed=()), False
            raise
        self.kept = merged(there, self.kept) if self.unkept else there
        if self._stocks_token is not None:
            self._have(with_token(self.kept, self._stocks_token, self.kernel))

    def _have(self, mesh: MeshFile) -> None:
        if mesh != self.kept:
            self.kept, self.unkept = mesh, True

    async def settle(self) -> None:
        """Write what isn't kept yet; what keeps it from that is said, and tried again."""
        if not self.unkept:
            return
        mine = self.kept
        try:
            there = await trio.to_thread.run_sync(
                keep_mesh, self.path, self.palace_id, mine, self.kernel
            )
        except (PalaceError, OSError) as error:
            if str(error) != self.unkept_why:
                logger.warning("the mesh: %s", error)
            self.unkept_why = str(error)
            return
        self.unkept_why = ""
        if self.kept == mine:  # else there is more by now
            self.kept, self.unkept = there, False

    def is_followed(self, peer: MeshPeer) -> bool:
        """Tell whether a peer is pulled from."""
        return self.wanted == "on" or self.kept.counts(peer)

    # What peers show, and where they find us.

    def begin_serving(self, stocks_token: str) -> None:
        """Have a token, now or once there are peers; `stocks_token` is what stock's has left."""
        self._stocks_token = stocks_token
        self._seen = None
        self.look()

    def ports(self) -> tuple[int, ...]:
        """Return the ports at which peers may look for this palace, the likeliest first."""
        if not self.is_served:
            return ()
        return tuple(dict.fromkeys(filter(None, (self.kept.port, STOCKS_PORT))))

    def note_port(self, port: int) -> None:
        """Keep where this owner listens, so that the next one does as well."""
        if self.is_served:
            self._have(attrs.evolve(self.kept, port=port))

    def is_token(self, shown: bytes) -> bool:
        """Tell whether an Authorization header shows what peers are given."""
        tokens = [
            token for token in (self.kept.token, self.environ.get(TOKEN, "").strip()) if token
        ]
        shows = [hmac.compare_digest(shown, f"Bearer {token}".encode()) for token in tokens]
        return any(shows)

    def hosts(self) -> set[str]:
        """Return the names by which a proxy asks on behalf of peers, as stock takes them."""
        listed = self.environ.get(HOSTS, "").split(",")
        return {name.strip().lower() for name in listed if name.strip()}

    # How the round is run, by stock's variables.

    @property
    def interval_s(self) -> float:
        """Return how long to wait between rounds; 0 for no rounds."""
        found = self._number("MEMPALACE_SYNC_INTERVAL", INTERVAL_S)
        return max(found, LOOK_S) if found > 0 else 0.0

    @property
    def timeout_s(self) -> float:
        found = self._number("MEMPALACE_SYNC_HTTP_TIMEOUT", TIMEOUT_S)
        return min(found, TIMEOUT_S_MAX) if found > 0 else TIMEOUT_S

    @property
    def streams_max(self) -> int:
        return max(0, round(self._number(STREAMS, STREAMS_MAX)))

    def _number(self, name: str, default: float) -> float:
        try:
            found = float(self.environ.get(name, "") or default)
        except ValueError:
            return default
        return found if abs(found) < 1e9 else default

    @property
    def transport_problem(self) -> str:
        """Say why stock would not pull either, "" where it would."""
        named = (self.environ.get("MEMPALACE_TRANSPORT") or "https").strip().lower()
        if named == "https":
            return ""
        return f"MEMPALACE_TRANSPORT is {named[:40]!r}, and there is https alone: nobody is asked"

    def report(self) -> dict[str, object] | None:
        """Return what `palace status` shows, None where there is no mesh; no token."""
        if not self.is_served:
            return None
        now_s = trio.current_time()
        return {
            "interval_s": self.interval_s,
            "problem": self.problem or self.unkept_why or self.transport_problem or self.trouble,
            "since_s": None if self.since_s is None else round(now_s - self.since_s, 3),
            "token_file": self.path,
            "peers": [self._told(peer, now_s) for peer in self.peers],
        }

    def _told(self, peer: MeshPeer, now_s: float) -> dict[str, object]:
        state = self.states.get(peer.name, PeerState())

        def ago(then_s: float | None) -> float | None:
            return None if then_s is None else round(now_s - then_s, 3)

        return {
            "name": peer.name,
            "url": peer.url,
            "agreed": self.is_followed(peer),
            "answered_s": ago(state.answered_s),
            "converged_s": ago(state.converged_s),
            "error": state.error,
            "behind": state.behind,
            "forked": state.forked,
            "events": state.events,
            "artifacts": state.artifacts,
        }
