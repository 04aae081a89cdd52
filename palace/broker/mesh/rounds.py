"""The round: every few seconds each peer is asked what it knows, and what is lacking is pulled.

It is no activity: a broker that nobody else uses leaves, and the mesh goes on with the next one.
"""

import logging
from functools import partial
from typing import Any

import attrs
import trio

from palace.broker.mesh.part import INTERVAL_S, MeshPart, PeerState
from palace.broker.state import BrokerState
from palace.broker.telemetry.redaction import redacted
from palace.broker.telemetry.telemetry import HttpCounters
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import EngineState
from palace.protocol.mesh import MeshPeer

AT_ONCE = 4  # peers: a slow one must not keep the others waiting

logger = logging.getLogger("palace.mesh")


@attrs.define(eq=False)
class MeshRounds:
    """One owner's; `serve` runs until cancelled, `nursery` ends what it has begun to take over."""

    state: BrokerState
    nursery: trio.Nursery
    _limiter: trio.CapacityLimiter = attrs.field(factory=partial(trio.CapacityLimiter, AT_ONCE))

    async def serve(self) -> None:
        """Wait as stock does before its first round, and between two."""
        part = self.state.mesh
        if not part.path:
            return
        await part.settle()
        while True:
            await trio.sleep(part.interval_s or INTERVAL_S)
            part.look()
            await part.settle()
            if not part.interval_s or not part.peers or part.transport_problem or part.unkept:
                continue
            if self.state.lifecycle.engine is not EngineState.READY:
                continue
            if part.since_s is None:
                part.since_s = trio.current_time()
            try:
                await self.run()
                part.trouble = ""
            except PalaceError as error:  # this palace can't be asked now: the next round may
                self._note(error.message)
            except Exception as error:
                # The boundary: a fault in pulling must not end the broker.
                logger.exception("a round of the mesh failed")
                self._note(redacted(error))

    def _note(self, why: str) -> None:
        part = self.state.mesh
        if part.trouble != why:
            logger.warning("the mesh: nothing was pulled: %s", why)
        part.trouble = why

    async def run(self) -> None:
        """Pull from all peers that count, once; raises PalaceError."""
        from palace.broker.http.sessions import HttpSessions
        from palace.broker.mesh.asking import Asking

        part = self.state.mesh
        counters = HttpCounters(token_file="")
        sessions = HttpSessions(state=self.state, counters=counters, nursery=self.nursery)
        asking = Asking(sessions)
        rounds: list[dict[str, Any]] = []
        problems: list[PalaceError] = []

        async def pull(peer: MeshPeer) -> None:
            async with self._limiter:
                try:
                    rounds.append(await _pulled(part, peer, asking))
                except PalaceError as problem:
                    problems.append(problem)

        async with trio.open_nursery() as nursery:
            for peer in part.peers:
                if part.is_followed(peer):
                    nursery.start_soon(pull, peer)
        if rounds:
            await asking.ask("palace_mesh_note", rounds=rounds, palace=part.root)
        if problems:
            raise problems[0]


async def _pulled(part: MeshPart, peer: MeshPeer, asking: Any) -> dict[str, Any]:
    """Pull from one peer, and note how it is; return that in the words of stock."""
    from palace.broker.mesh.pulling import Pull, Pulled

    state = part.states.setdefault(peer.name, PeerState())
    was = state.error
    try:
        pulled = await Pull(peer=peer, asking=asking, timeout_s=part.timeout_s).run()
    except PalaceError as problem:
        state.error = f"what it has can't be taken over: {redacted(problem)}"
        raise
    except Exception as error:
        # The boundary of one peer: whatever it, or its entry, brings about, the others are pulled.
        pulled = Pulled(error=f"pulling from it failed: {redacted(error)}")
    now_s = trio.current_time()
    state.error, state.behind, state.forked = pulled.error, pulled.behind, pulled.forked
    state.events += pulled.events
    state.artifacts += pulled.artifacts
    if pulled.vector is not None:
        state.answered_s = now_s
    if not pulled.error and not pulled.forked:
        state.converged_s = now_s
    if pulled.error and pulled.error != was:
        logger.warning("peer %s: %s", peer.name, pulled.error)
    elif pulled.events:
        text = "peer %s: %d events and %d artifacts were taken over"
        logger.info(text, peer.name, pulled.events, pulled.artifacts)
    told: dict[str, Any] = {"peer_name": peer.name, "peer_url": peer.url}
    if pulled.vector is None or pulled.error:
        return {**told, "error": pulled.error}
    return {
        **told,
        "peer_replica": pulled.vector.replica,
        "pulled_events": pulled.events,
        "pulled_artifacts": pulled.artifacts,
        "remote_version_vector": dict(pulled.vector.tops),
        "remote_profile": pulled.vector.profile,
        "remote_profiles": dict(pulled.vector.profiles),
    }
