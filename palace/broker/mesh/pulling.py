"""One round with one peer: what it knows, what is lacking here, and taking that over.

Theory of operation.  A palace knows of each author the events up to a number, without a gap that
could be closed later: so of each author they are taken in order, a part at a time, and artifacts
before the event that names them.  A part is one call, and so one group of the journal: it is there
whole or not at all, whatever dies, and the next round, of this owner or of the next one, begins
with what is there.  What was pulled and not taken over is pulled again.
"""

import attrs
import trio

from palace.broker.mesh.asking import FOLD, Asking
from palace.protocol.decoding import decode_json
from palace.protocol.mesh import (
    FOLD_BYTES,
    PAGE_BYTES_MAX,
    PAGE_EVENTS,
    Json,
    MeshPeer,
    Target,
    Vector,
    is_forked,
    lacking,
    parts_of,
    path_of,
    read_artifact,
    read_page,
    read_vector,
    target_of,
)
from palace.protocol.weight import SHORT_BYTES, VALUES_MAX, has_too_many_values
from palace.transport.fetch import FetchFailed, TooMuch, fetch

ROUND_S = 300.0  # with one peer; the next round goes on
_PARSING = trio.CapacityLimiter(1)  # each answer takes several times its size while it is parsed


def decoded(body: bytes) -> object:
    """Return an answer's JSON; raises ValueError, and TooMuch for more values than events have.

    100 ordinary events have some 3,000.  One whose metadata are nothing but brackets has 34,000, so
    that each is taken at the latest when it is asked for alone.
    """
    if has_too_many_values(body):
        raise TooMuch(f"its answer has more than {VALUES_MAX} values")
    return decode_json(body)


class PullFailed(Exception):
    """A peer can't be pulled from, or not further; its text says why."""


@attrs.define(eq=False)
class Pulled:
    """What came of a round."""

    events: int = 0
    artifacts: int = 0
    behind: int = 0
    forked: bool = False
    error: str = ""
    vector: Vector | None = None


@attrs.define(eq=False, kw_only=True)
class Pull:
    """One round with `peer`; `known` is what is known here, by author."""

    peer: MeshPeer
    asking: Asking
    timeout_s: float
    pulled: Pulled = attrs.field(factory=Pulled)
    known: dict[str, int] = attrs.field(factory=dict)
    _target: Target = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._target = target_of(self.peer.url)

    async def run(self) -> Pulled:
        """Pull all that is lacking, as far as it goes; what stops it is in `error`.

        Raises PalaceError where this palace can't be asked.
        """
        pulled = self.pulled
        try:
            with trio.move_on_after(ROUND_S) as limited:
                await self._run()
            if limited.cancelled_caught:
                pulled.error = f"it was not done after {ROUND_S:.0f} s: the next round goes on"
        except (PullFailed, FetchFailed) as error:
            pulled.error = str(error)
        return pulled

    async def _run(self) -> None:
        pulled = self.pulled
        pulled.vector = vector = await self._vector()
        # After the peer has spoken: what it knows of us was durable here before.
        mine = await self.asking.ask("palace_mesh_vector")
        replica, self.known = str(mine["replica_id"]), dict(mine["version_vector"])
        pulled.forked = is_forked(replica, self.known, vector.tops)
        wanted = lacking(replica, self.known, vector.tops)
        pulled.behind = len(wanted)
        for origin in wanted:
            try:
                await self._pull(origin, vector.tops[origin])
                pulled.behind -= 1
            except PullFailed as error:  # the other authors' are no worse for it
                pulled.error = f"{origin}: {error}"

    async def _vector(self) -> Vector:
        try:
            found = await self._get("/sync/version_vector")
            return await trio.to_thread.run_sync(read_vector, found)
        except ValueError as error:
            raise PullFailed(str(error)) from None

    async def _pull(self, origin: str, top: int) -> None:
        """Take over an author's events up to a number."""
        after = self.known.get(origin, 0)
        limit = PAGE_EVENTS
        while after < top:
            try:
                found = await self._get("/sync/ops", origin=origin, after=after, limit=limit)
            except TooMuch:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            try:
                page = await trio.to_thread.run_sync(read_page, found, origin, after)
            except ValueError as error:
                raise PullFailed(f"after event {after}, {error}") from None
            if not page:
                raise PullFailed(f"it has promised events up to {top}, and has none after {after}")
            for part in parts_of(page):
                await self._fold(part)
                after = self.known[origin] = part[-1]["origin_seq"]

    async def _fold(self, events: list[Json]) -> None:
        """Take over events with their artifacts; raises PullFailed where not all were taken."""
        names = list(dict.fromkeys(name for event in events for name in event["artifact_ids"]))
        lacking_here = await self.asking.ask("palace_mesh_lacking", ids=names) if names else {}
        artifacts: list[Json] = []
        size = 0
        for name in lacking_here.get("ids", ()):
            artifact = await self._artifact(name)
            size += len(artifact["content"])
            if artifacts and size > FOLD_BYTES:  # ahead of their events, which may wait
                await self._take([], artifacts)
                artifacts, size = [], len(artifact["content"])
            artifacts.append(artifact)
        await self._take(events, artifacts)

    async def _take(self, events: list[Json], artifacts: list[Json]) -> None:
        told = await self.asking.ask(FOLD, events=events, artifacts=artifacts)
        self.pulled.events += told["events"]
        self.pulled.artifacts += told["artifacts"]
        if told.get("problem"):
            raise PullFailed(f"it can't be taken over: {told['problem']}")

    async def _artifact(self, ident: str) -> Json:
        found = await self._get("/sync/artifact", id=ident)
        try:
            return await trio.to_thread.run_sync(read_artifact, found, ident)
        except ValueError as error:
            raise PullFailed(str(error)) from None

    async def _get(self, path: str, **query: object) -> object:
        """Return what the peer answers, decoded; raises PullFailed and FetchFailed."""
        status, body = await fetch(
            self._target,
            path_of(self._target, path, **query),
            token=self.peer.token,
            timeout_s=self.timeout_s,
            bytes_max=PAGE_BYTES_MAX,
        )
        if status in (401, 403):
            raise PullFailed(f"it refuses the token that peers.json has for it (HTTP {status})")
        if status != 200:
            raise PullFailed(f"it answers {path} with HTTP {status}")
        try:
            if len(body) <= SHORT_BYTES:
                return decode_json(body)
            return await trio.to_thread.run_sync(decoded, body, limiter=_PARSING)
        except ValueError:
            raise PullFailed(f"its answer to {path} is no JSON") from None
