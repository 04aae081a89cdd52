"""What calls are told while a store is damaged and could not be brought back.

Stock has words of its own for Chroma: a damaged database refuses every call that needs it (-32002),
and an index that lacks records turns searches into ones by words, with `vector_search_disabled` and
the reason in each reply, and refuses writes.  Both are what its clients know, so they are used as
they are.  For other stores stock has nothing: it reads an unreadable list as an empty one.  A call
that needs such a store is refused.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from palace.engine.durability.healing import Health, Left
from palace.engine.patches import JOURNAL, Patch
from palace.engine.stock import JsonObject, Server
from palace.kernel.causes import cause_text
from palace.protocol.errors import EngineError, StoreCorrupt, StoreUnavailable

CHROMA = "chroma"
# What a tool's name says of the stores that it reads; no more than one of these fits a tool.
_NEEDS = {
    "kg_": ("graph",),
    "event_": ("logstream",),
    "task_": ("logstream",),
    "artifact_": ("logstream",),
    "patch_": ("logstream",),
    "mesh_": ("logstream",),
    "delegat": ("logstream",),
    "heartbeat": ("logstream",),
    "hallway": ("hallways",),
    "tunnel": ("tunnels",),
    "traverse": ("tunnels",),
    "graph_stats": ("tunnels",),
    "mine": ("hallways", "tunnels"),
    "palace_workspace": ("register",),
    "_accept_candidate": ("candidates", "graph"),
    "candidate_accept": ("candidates", "graph"),
    "_candidate": ("candidates",),
    "palace_remote": ("candidates",),
    "palace_token": ("register",),
    "palace_commit": ("register",),
    "palace_forget": ("register",),
    "palace_search": ("register",),
}

_LISTS = frozenset({"hallways", "tunnels"})
# Which have all that a tool needs, and the tools that show nothing but a list.
_OF_ROWS = frozenset({"graph", "logstream"})
_OF_LISTS = frozenset({"list_hallways", "list_tunnels"})


@functools.lru_cache(maxsize=256)  # names come from clients
def stores_of(tool: str) -> tuple[str, ...]:
    """Return the stores beside Chroma without which a tool would say less than there is."""
    name = tool.removeprefix("mempalace_")
    return next((stores for part, stores in _NEEDS.items() if part in name), ())


def reads_lists(tool: str) -> bool:
    """Tell whether a tool opens files when it is called; databases are open all the time."""
    return not _LISTS.isdisjoint(stores_of(tool))


def reads_drawers(tool: str) -> bool:
    """Tell whether a tool's answer depends on drawers."""
    stores = frozenset(stores_of(tool))
    return tool.removeprefix("mempalace_") not in _OF_LISTS and not (stores and stores <= _OF_ROWS)


def refusal(health: Health, tool: str) -> StoreCorrupt | None:
    """Return the error that a call of a tool is answered with, None where it may run."""
    left = health.left_of(*stores_of(tool)) if health.left else None
    return None if left is None else StoreCorrupt(words(left))


def reopening(trouble: str) -> StoreCorrupt:
    """Return the error for a call whose store was taken away, should no other owner answer it."""
    return StoreCorrupt(
        f"{trouble[:1].upper()}{trouble[1:]}. Nothing was done. This broker leaves, and the next "
        "one brings it back from the journal: ask again."
    )


def words(left: Left) -> str:
    """Say what is damaged, why that stayed, and what to do."""
    text = left.damage.text
    return f"{text[:1].upper()}{text[1:]}. It was not brought back: {left.why}. {left.remedy}"


def index_patches(server: Server, left: Left) -> Iterator[Patch]:
    """Return what makes stock see that an index isn't whole, wherever it asks."""

    def judging(stock: Callable[..., JsonObject]) -> object:
        def judge(*place: Any) -> JsonObject:
            verdict = {"diverged": True, "status": "diverged", "message": words(left)}
            return {**stock(*place), **verdict}

        return judge

    for owner in (server, importlib.import_module("mempalace.backends.chroma")):
        yield Patch(
            name=JOURNAL,
            why="stock finds an index damaged by its counts alone",
            owner=owner,
            attribute="hnsw_capacity_status",
            replace=judging,
        )


def load_error(error: BaseException) -> EngineError:
    """Turn whatever `load` raised into an error that a client can read."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError) and error.filename:
        return StoreUnavailable(f"The palace can't be opened: {cause_text(error)}")
    return StoreUnavailable(
        f"The memory engine could not be loaded: {type(error).__name__}: {error}. "
        "See the broker's log: palace status names it."
    )
