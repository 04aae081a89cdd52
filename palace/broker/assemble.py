"""Putting an owner's parts together, once it holds the lock."""

from collections.abc import Mapping

from palace.broker.desk import Desk
from palace.broker.endpoint import Endpoint
from palace.broker.lanes import Lanes
from palace.engine.hosting.mempalace import MempalaceEngine, installed_version
from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.lock import Owner
from palace.protocol.admission import Admission
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.lifecycle import Lifecycle
from palace.settings.catalogue import load_catalogue
from palace.settings.config import Config
from palace.settings.paths import Paths, home_dir

STRANGERS = 64  # connections besides sessions: questions, and what has not said hello yet
ENGINE_DESCRIPTORS = (
    96  # a small palace with two clients has 39 open; bigger ones have more segments
)


def assemble(
    owner: Owner,
    config: Config,
    environ: Mapping[str, str],
    kernel: Kernel,
    listening: tuple[Endpoint | None, str],
) -> Desk:
    """Return an owner's desk with the real engine; `listening` is its endpoint and its mode."""
    endpoint, mode = listening
    stamp = Stamp(epoch=owner.epoch, writer=owner.incarnation)
    engine = MempalaceEngine(owner.paths, config, environ, kernel, stamp)
    lanes = Lanes(
        engine=engine,
        readers=config.readers,
        polls=config.polls,
        batch_max=config.batch_max,
    )
    return Desk(
        owner=owner,
        config=config,
        engine=engine,
        kernel=kernel,
        endpoint=endpoint,
        mode=mode,
        catalogue=None,
        admission=Admission(
            capacity=lanes.capacity(),
            queue_depth_max=config.queue_depth_max,
            session_depth_max=config.session_depth_max,
        ),
        lifecycle=Lifecycle(idle_s=config.idle_s, grace_s=config.grace_s),
        lanes=lanes,
        home=home_dir(environ),
        connections_max=connections_max(config, kernel.descriptor_limit()),
    )


def connections_max(config: Config, descriptors: int) -> int:
    """Return how many connections leave the engine what it needs."""
    return max(1, min(config.sessions_max + STRANGERS, descriptors - ENGINE_DESCRIPTORS))


def catalogue_at_start(paths: Paths, kernel: Kernel) -> Catalogue | None:
    """Return the catalogue to answer with while the engine loads: only one of its own version."""
    catalogue = load_catalogue(kernel.read_hint(paths.catalogue, 1 << 22))
    return catalogue if catalogue.engine_version == installed_version() else None
