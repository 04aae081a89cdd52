"""A batch's writes: what one call hands in, and what was read once for all of a batch's calls."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from palace.engine.batch import Batch
from palace.engine.durability.durable import Group
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
    """A batch, and which of the drawers that its calls ask for were there before any of them."""

    asked: frozenset[str] = frozenset()
    before: frozenset[str] | None = None  # of `asked`; None: its first call has not asked yet
    empty: GetResult | None = None  # an answer of stock's without records, which answers copy
