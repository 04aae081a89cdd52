"""A batch's writes: what one call hands in, and what was read once for all of a batch's calls."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from palace.engine.batch import Batch
from palace.engine.durability.groups import Group
from palace.engine.stock import Collection, GetResult, Metadata

if TYPE_CHECKING:
    from palace.engine.stock import Vector


@attrs.define(eq=False, kw_only=True)
class Write:
    """What one call writes: stock's collection and method with the method's arguments."""

    collection: Collection
    method: str
    ids: Sequence[str]
    documents: Sequence[str]
    metadatas: Sequence[Metadata]
    group: Group | None
    vectors: "Sequence[Vector]" = ()
    present: frozenset[str] | None = None  # of its ids, once stored; None: that is not known


@attrs.define(eq=False)
class DrawerBatch(Batch[Write]):
    """A batch, and which of the drawers that its calls will file were there before them.

    Handlers read and set this under stock's request lock, so one at a time.
    """

    drawers: frozenset[str] = frozenset()  # ids, as far as they are known from the messages
    present_before: frozenset[str] | None = None  # of `drawers`; None: not queried yet
    empty_result: GetResult | None = None  # stock's answer without records, which answers copy
