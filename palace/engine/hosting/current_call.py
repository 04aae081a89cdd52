"""The call that a thread runs: one context, set by the host and read by all that needs it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from palace.engine.api import goes_on
from palace.engine.durability.groups import CallContext
from palace.engine.embedding.supply import ModelUnavailable
from palace.engine.hosting.screened import Screen
from palace.engine.hosting.writes import DrawerBatch, Write

if TYPE_CHECKING:
    from palace.engine.stock import Vector

_NONE: Mapping[str, "Vector"] = {}
_UNSEEN: dict[str, bytes] = {}
_UNDELETED: set[str] = set()


class CurrentCall(CallContext):
    """What adjustments know of this thread's call; outside of any call, the defaults.

    The journal's part (`group`) is set and reset by `CallGroups.group`, around the host's.
    """

    read_only: bool = False  # its session may only read
    yields: bool = False  # others may come between its parts
    batch: DrawerBatch | None = None
    party: str = ""  # whose it is
    stored: Write | None = None  # what it has stored with its batch
    screen: Screen | None = None  # of what is printed, where memories are to be marked
    query_is_embedded: bool = False  # before it asks for stock's request lock

    # By text, what was embedded before its turn (text_ahead.py): as documents, and as a query.
    vectors: Mapping[str, "Vector"] = _NONE
    query_vectors: Mapping[str, "Vector"] = _NONE

    # Of a deletion in parts (deletions.py): the metadata of each row that it saw, as a digest, and
    # the ids that it has deleted.
    seen: dict[str, bytes] = _UNSEEN
    deleted: set[str] = _UNDELETED

    problem: ModelUnavailable | None = None  # why something could not be embedded
    is_stopping: Callable[[], bool] = staticmethod(goes_on)  # before it is done

    def begin(
        self,
        *,
        read_only: bool,
        batch: DrawerBatch | None,
        yields: bool = False,
        party: str = "",
    ) -> None:
        self.read_only = read_only
        self.yields = yields
        self.batch = batch
        self.party = party
        self.stored = None
        self.screen = None
        self.query_is_embedded = False
        self.problem = None
        self.is_stopping = goes_on
        if yields:
            self.seen, self.deleted = {}, set()

    def end(self) -> None:
        self.begin(read_only=False, batch=None)
        self.forget_vectors()

    def forget_vectors(self) -> None:
        self.vectors = self.query_vectors = _NONE
