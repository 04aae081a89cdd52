"""When Chroma writes its index: after 100 records instead of 1,000, more where it is large.

Each write reads again what the index on the disk lacks, some 20 us a record.  Chroma reads the
setting when it loads an index, and keeps it for as long as it has the store open.  So wherever a
store is opened, the setting is changed, each index loaded, and the setting changed back: the
palace's files stay as stock makes them (who is killed in between leaves the lower setting, which
stock takes as well).  An index without records isn't loaded; its turn comes with the first.
"""

import functools
import glob
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PERSIST_MIN, PERSIST_MAX = 100, 1000
PERSIST_SHARE = 200  # of the index: writing 20,000 records takes 30 ms
RECORD_BYTES = 1676  # of one in data_level0.bin: its vector, its neighbours, its label

Api = Any
logger = logging.getLogger("palace.engine")


def install(root: str) -> None:
    """Put this into chromadb's class, under the journal's seam, for the life of this process."""
    from chromadb.api.rust import RustBindingsAPI

    stock_start, stock_create = RustBindingsAPI.start, RustBindingsAPI.create_collection

    def start(api: Api) -> None:
        stock_start(api)
        api.palace_usual = {}  # collection id -> its own setting; 0: its index is loaded
        try:
            for collection in api.list_collections():
                _load(api, collection, root)
        except Exception:  # whatever is wrong with a store, stock says so in its own words
            logger.warning("Chroma's setting of when to write an index stays", exc_info=True)

    @functools.wraps(stock_create)
    def create_collection(api: Api, *asked: Any, **named: Any) -> Any:
        collection = stock_create(api, *asked, **named)
        api.palace_usual.setdefault(collection.id, _usual(collection))
        return collection

    RustBindingsAPI.start = start
    RustBindingsAPI.create_collection = create_collection
    for name in ("_add", "_upsert"):
        setattr(RustBindingsAPI, name, _loading(getattr(RustBindingsAPI, name), root))


def _usual(collection: Any) -> int:
    """Return the setting of a collection as it is configured now, 0 where it is low enough."""
    configured = (collection.configuration_json or {}).get("hnsw") or {}
    usual = configured.get("sync_threshold")
    return usual if isinstance(usual, int) and usual > PERSIST_MIN else 0


def _load(api: Api, collection: Any, root: str) -> None:
    usual = _usual(collection)
    if not usual:
        return
    with _setting(api, collection.id, usual, root):
        count = api._count(collection.id)  # noqa: SLF001
    api.palace_usual[collection.id] = 0 if count else usual


def _loading(stock: Any, root: str) -> Any:
    """Return a method that puts records, and that loads the index on the way where it is new."""
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def put(api: Api, *asked: Any, **named: Any) -> Any:
        ident = signature.bind(api, *asked, **named).arguments["collection_id"]
        usual = api.palace_usual.get(ident)
        if not usual:
            return stock(api, *asked, **named)
        api.palace_usual[ident] = 0  # tried once, whatever comes of it
        with _setting(api, ident, usual, root):
            return stock(api, *asked, **named)

    return put


@contextmanager
def _setting(api: Api, ident: Any, usual: int, root: str) -> Iterator[None]:
    """Change the setting for a moment.  Where that fails, nothing else fails with it."""
    _change(api, ident, min(usual, _persist_after(root)))
    try:
        yield
    finally:
        _change(api, ident, usual)


def _change(api: Api, ident: Any, records: int) -> None:
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
