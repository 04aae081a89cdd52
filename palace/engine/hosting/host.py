"""What the host of a mempalace keeps beside the package, for its adjustments and for each call."""

from collections.abc import Callable, Mapping

import attrs

from palace.engine.embedding.supply import ModelSupply
from palace.engine.hosting.batched_writer import BatchedWriter
from palace.engine.hosting.current_call import CurrentCall
from palace.engine.hosting.lent_files import LentFiles
from palace.engine.hosting.lookup_cache import LookupCache
from palace.engine.hosting.query_prefetch import QueryPrefetch
from palace.engine.hosting.text_ahead import TextAhead
from palace.engine.hosting.turns import Turns
from palace.engine.hosting.writes import DrawerBatch
from palace.engine.stock import Server
from palace.settings.config import Config
from palace.settings.paths import Paths


def _nothing() -> None:
    return


@attrs.define(eq=False)
class HostedState:
    """What adjustments and calls share; `progress` changes whenever storage moves."""

    environ: Mapping[str, str] = attrs.field(factory=dict)
    current: CurrentCall = attrs.field(factory=CurrentCall)
    lookups: LookupCache = attrs.field(factory=LookupCache)
    writer: BatchedWriter | None = None  # where calls may be stored together
    prefetch: QueryPrefetch | None = None  # where queries are embedded early
    supply: ModelSupply | None = None  # where the default model embeds
    lent: LentFiles | None = None  # where path_map lends something
    at_boundary: Callable[[], None] = _nothing
    turns: Turns = attrs.field(factory=Turns)
    ahead: TextAhead | None = None  # where large texts are embedded before their turn
    refuses_outdated: Callable[[], bool] = lambda: True
    progress: int = 0

    def begin_call(
        self,
        *,
        read_only: bool,
        batch: DrawerBatch | None,
        yields: bool,
        party: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.progress += 1
        self.current.begin(read_only=read_only, batch=batch, yields=yields, party=party)
        self.current.is_stopping = is_stopping

    def end_call(self) -> None:
        self.progress += 1
        self.current.end()

    def tick(self) -> None:
        """Note that storage is moving, for the watchdog; a lost increment does no harm."""
        self.progress += 1

    def boundary(self) -> None:
        """Note that a call is between two of its parts, where it may be interrupted for good."""
        self.tick()
        self.at_boundary()


@attrs.frozen(kw_only=True)
class Host:
    """What an adjustment is planned for."""

    server: Server
    state: HostedState
    paths: Paths
    config: Config
