"""When Chroma writes its index: after 100 records instead of 1,000, more where it is large.

Each write reads again what the index on the disk lacks, some 20 us a record.  Chroma reads the
setting when it loads an index, and keeps it for as long as it has the store open.  So wherever a
store is opened, the setting is changed, each index loaded, and the setting changed back: the
palace's files stay as stock writes them (a process that is killed in between leaves the lower
setting, which stock takes as well).  An index without records isn't loaded; its turn comes with the
first record.
"""

import functools
import glob
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from palace.engine.patches import Patch
from palace.engine.stock import ChromaApi, RawCollection

NAME = "persist_often"
PERSIST_MIN, PERSIST_MAX = 100, 1000
PERSIST_SHARE = 200  # of the index: writing 20,000 records takes 30 ms
RECORD_BYTES = 1676  # of one in data_level0.bin: its vector, its neighbours, its label

T = TypeVar("T")
logger = logging.getLogger("palace.engine")


def patches(root: str) -> Iterator[Patch]:
    """Return the patches of chromadb's class, which lie under the journal's."""
    from chromadb.api.rust import RustBindingsAPI

    plan = functools.partial(Patch, name=NAME, owner=RustBindingsAPI)
    yield plan(
        why="an index that has records is loaded with the lower setting",
        attribute="start",
        replace=lambda stock: _starting(stock, root),
    )
    yield plan(
        why="a new index is loaded when its first record comes",
        attribute="create_collection",
        replace=_creating,
    )
    for name in ("_add", "_upsert"):
        yield plan(
            why="the first record loads the index",
            attribute=name,
            replace=lambda stock: _putting(stock, root),
        )


def _starting(stock: Callable[[ChromaApi], None], root: str) -> Callable[[ChromaApi], None]:
    def start(api: ChromaApi) -> None:
        stock(api)
        api.palace_usual = {}  # collection id -> its own setting; 0: its index is loaded
        try:
            for collection in api.list_collections():
                _load(api, collection, root)
        except Exception:  # whatever is wrong with a store, stock says so in its own words
            logger.warning("Chroma's setting of when to write an index stays", exc_info=True)

    return start


def _creating(stock: Callable[..., RawCollection]) -> Callable[..., RawCollection]:
    @functools.wraps(stock)
    def create_collection(api: ChromaApi, *given: object, **named: object) -> RawCollection:
        collection = stock(api, *given, **named)
        api.palace_usual.setdefault(collection.id, _usual(collection))
        return collection

    return create_collection


def _usual(collection: RawCollection) -> int:
    """Return the setting of a collection as it is configured now, 0 where it is low enough."""
    configured = (collection.configuration_json or {}).get("hnsw") or {}
    usual = configured.get("sync_threshold")
    return usual if isinstance(usual, int) and usual > PERSIST_MIN else 0


def _load(api: ChromaApi, collection: RawCollection, root: str) -> None:
    usual = _usual(collection)
    if not usual:
        return
    with _setting(api, collection.id, usual, root):
        count = api._count(collection.id)  # noqa: SLF001
    api.palace_usual[collection.id] = 0 if count else usual


def _putting(stock: Callable[..., T], root: str) -> Callable[..., T]:
    """Return a method that puts records, and that loads the index on the way where it is new."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def put(api: ChromaApi, *given: object, **named: object) -> T:
        ident = signature.bind(api, *given, **named).arguments["collection_id"]
        usual = api.palace_usual.get(ident)
        if not usual:
            return stock(api, *given, **named)
        api.palace_usual[ident] = 0  # tried once, whatever comes of it
        with _setting(api, ident, usual, root):
            return stock(api, *given, **named)

    return put


@contextmanager
def _setting(api: ChromaApi, ident: UUID, usual: int, root: str) -> Iterator[None]:
    """Change the setting for a moment.  Where that fails, nothing else fails with it."""
    _change(api, ident, min(usual, _persist_after(root)))
    try:
        yield
    finally:
        _change(api, ident, usual)


def _change(api: ChromaApi, ident: UUID, records: int) -> None:
    from chromadb.api.collection_configuration import (
        UpdateCollectionConfiguration,
        UpdateHNSWConfiguration,
    )

    hnsw = UpdateHNSWConfiguration(sync_threshold=records)
    configuration = UpdateCollectionConfiguration(hnsw=hnsw)
    try:
        api._modify(ident, new_configuration=configuration)  # noqa: SLF001
    except Exception:
        logger.warning("an index is not set to be written after %d records", records, exc_info=True)


def _persist_after(root: str) -> int:
    """Return after how many records an index is written; counting them would load it."""
    sizes = [os.path.getsize(path) for path in glob.glob(f"{glob.escape(root)}/*/data_level0.bin")]
    return min(PERSIST_MAX, max(PERSIST_MIN, sum(sizes) // RECORD_BYTES // PERSIST_SHARE))
