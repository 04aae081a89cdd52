"""Putting an owner's parts together, once it holds the lock."""

from collections.abc import Mapping
from functools import partial

from palace.broker.heartbeat import Heartbeat
from palace.broker.lanes import Lanes
from palace.broker.leaving import Leaving
from palace.broker.memory import ClientMemory
from palace.broker.mesh.part import MeshPart
from palace.broker.open_connections import RESERVE, OpenConnections
from palace.broker.progress import ProgressNotes
from palace.broker.reading import Reading
from palace.broker.scheduling import Scheduler
from palace.broker.services import Listening, Services
from palace.broker.sessions import Sessions
from palace.broker.state import BrokerState
from palace.broker.telemetry.telemetry import Telemetry
from palace.broker.watch import Watch
from palace.engine.hosting.mempalace import MempalaceEngine
from palace.engine.stores.snapshot import Originals
from palace.engine.versions import installed_version
from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.guest_book import guests_directory
from palace.ownership.lock import Ownership
from palace.ownership.owners import owners_directory
from palace.protocol.admission import Admission
from palace.protocol.jsonrpc import Catalogue
from palace.protocol.keyring import ANYBODYS
from palace.protocol.lifecycle import Lifecycle
from palace.settings.catalogue import load_catalogue
from palace.settings.config import Config
from palace.settings.paths import Paths, copies_for_readers, heartbeat_file, home_dir
from palace.settings.stock_config import backend_of

# Connections besides sessions: control questions, and those that have not said hello yet.
OTHER_CONNECTIONS = 64
ENGINE_DESCRIPTORS = (
    96  # a small palace with two clients has 39 open; bigger ones have more segments
)


def assemble(
    ownership: Ownership,
    config: Config,
    environ: Mapping[str, str],
    kernel: Kernel,
    listening: Listening,
) -> BrokerState:
    """Return an owner's parts with the real engine."""
    memory = ownership.memory
    keys = memory.keys.ring if memory is not None and memory.keys is not None else ANYBODYS
    if memory is not None:
        memory.in_place = partial(kernel.same_file, ownership.lock_fd, ownership.paths.lock)
    stamp = Stamp(
        epoch=ownership.epoch,
        writer=ownership.incarnation,
        keys=keys,
        origin=ownership.palace_id,
    )
    services = Services(
        ownership=ownership,
        config=config,
        engine=MempalaceEngine(ownership.paths, config, environ, kernel, stamp, ownership),
        kernel=kernel,
        endpoint=listening.endpoint,
        mode=listening.mode,
        backend=backend_of(ownership.paths.root, config.config_dir, config.environment).name,
        home=home_dir(environ),
        guests_directory=guests_directory(ownership.paths.root, environ),
        owners_directory=owners_directory(ownership.paths.root, environ),
    )
    stays = config.idle_s == 0
    return connect_parts(
        services,
        lifecycle=Lifecycle(idle_s=config.idle_s, grace_s=config.grace_s),
        connections=connections_max(config, kernel.descriptor_limit()),
        heartbeat=Heartbeat(heartbeat_file(ownership.paths.root, environ) if stays else ""),
        mesh=MeshPart.of(ownership, kernel, environ, wanted=config.mesh),
    )


def reading_of(state: BrokerState, environ: Mapping[str, str]) -> Reading:
    """Return what answers queries while another program has the stores."""
    services, lifecycle = state.services, state.lifecycle
    ownership = services.ownership
    return Reading(
        originals=Originals(ownership.paths, services.config, services.kernel),
        directory=copies_for_readers(ownership.palace_id, environ),
        environ=environ,
        who=lambda: lifecycle.waiting,
    )


def connect_parts(
    services: Services,
    *,
    lifecycle: Lifecycle,
    connections: int,
    heartbeat: Heartbeat | None = None,
    mesh: MeshPart | None = None,
) -> BrokerState:
    """Return the parts of a broker that work with `services`, each given those it needs."""
    config = services.config
    telemetry = Telemetry()
    sessions = Sessions(services=services)
    lanes = Lanes(
        engine=services.engine,
        readers=config.readers,
        polls=config.polls,
        batch_max=config.batch_max,
    )
    admission = Admission(
        capacity=lanes.capacity(),
        queue_depth_max=config.queue_depth_max,
        session_depth_max=config.session_depth_max,
        put_back_s=services.engine.put_back_s,
    )
    scheduler = Scheduler(
        services=services,
        lifecycle=lifecycle,
        telemetry=telemetry,
        sessions=sessions,
        admission=admission,
        lanes=lanes,
        progress=ProgressNotes(
            services=services, lifecycle=lifecycle, sessions=sessions, admission=admission
        ),
    )
    leaving = Leaving(
        services=services, lifecycle=lifecycle, sessions=sessions, scheduler=scheduler
    )
    return BrokerState(
        services=services,
        lifecycle=lifecycle,
        telemetry=telemetry,
        sessions=sessions,
        scheduler=scheduler,
        leaving=leaving,
        watch=Watch(lifecycle=lifecycle, telemetry=telemetry, leaving=leaving),
        connections=OpenConnections.of(connections),
        memory=ClientMemory(sessions=sessions, telemetry=telemetry),
        heartbeat=heartbeat or Heartbeat(),
        mesh=mesh or MeshPart(),
    )


def connections_max(config: Config, descriptors: int) -> int:
    """Return how many connections of clients leave the engine, and `palace status`, some room."""
    room = descriptors - ENGINE_DESCRIPTORS - RESERVE
    return max(1, min(config.sessions_max + OTHER_CONNECTIONS, room))


def catalogue_at_start(paths: Paths, kernel: Kernel) -> Catalogue | None:
    """Return the catalogue to answer with while the engine loads: only one of its own version."""
    catalogue = load_catalogue(kernel.read_hint(paths.catalogue, 1 << 22))
    return catalogue if catalogue.engine_version == installed_version() else None
