"""The texts of a large change, embedded before its turn comes.

One drawer of 100,000 characters is embedded for seconds, in which nobody else could change or
search anything.  An embedding depends on its text alone.  So what stock is about to embed is
embedded without any lock, and handed in where stock writes; all that stock reads and decides, it
does in the call's turn, as ever.  What stock embeds is worked out by stock's own functions.  Should
it be another text after all, stock embeds that itself, and is merely slower.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from palace.engine.hosting.current_call import CurrentCall
from palace.engine.patches import Patch, need
from palace.engine.stock import Arguments, Collection, JsonObject, Method, RequestLock, Server
from palace.protocol.tools import LARGE_TEXTS

if TYPE_CHECKING:
    from palace.engine.stock import RawCollection, Vector

NAME = "embed_ahead"
logger = logging.getLogger("palace.engine")


class TextAhead:
    """Embeds texts early for one hosted mempalace; its patches hand them in at stock's writes."""

    def __init__(self, server: Server, current: CurrentCall, kind: type) -> None:
        self._lock: RequestLock = need(server, "_HTTP_REQUEST_LOCK", NAME)
        self._sanitize: Method = need(server, "sanitize_content", NAME)
        self._name: Method = need(server, "sanitize_name", NAME)
        self._strip: Method = need(server, "strip_lone_surrogates", NAME)
        self._make_id: Method = need(server, "make_drawer_id_from_content", NAME)
        self._kind = kind  # stock's class of collections
        self._server = server
        self._current = current

    def patches(self) -> Iterator[Patch]:
        for attribute in ("add", "upsert"):
            yield Patch(
                name=NAME,
                why="it embeds with the writer held what could be embedded before",
                owner=self._kind,
                attribute=attribute,
                replace=self._writing,
            )
        yield Patch(
            name=NAME,
            why="it embeds with the writer held what could be embedded before",
            owner=self._kind,
            attribute="query",
            replace=self._querying,
        )

    # In a call's turn.

    def _writing(self, stock: Method) -> Method:
        def write(collection: Collection, **given: object) -> object:
            return stock(collection, **self._with_vectors(collection, given))

        return write

    def _with_vectors(self, collection: Collection, given: Arguments) -> Arguments:
        known = self._current.vectors
        if not known or given.get("embeddings") is not None or not given.get("documents"):
            return given
        texts = collection._sanitize_documents_for_chromadb(given["documents"])  # noqa: SLF001
        if not all(text in known for text in texts):
            return given
        return {**given, "embeddings": [known[text] for text in texts]}

    def _querying(self, stock: Method) -> Method:
        def query(collection: Collection, **given: object) -> object:
            known, texts = self._current.query_vectors, given.get("query_texts")
            if known and isinstance(texts, list) and all(text in known for text in texts):
                given = {**given, "query_embeddings": [known[text] for text in texts]}
                del given["query_texts"]
            return stock(collection, **given)

        return query

    # Outside of it.

    def prepare(self, message: JsonObject) -> None:
        """Embed what a call of lane LARGE will file; whatever is wrong with it, stock says so."""
        params = message["params"]
        arguments = params.get("arguments")
        text = arguments.get(LARGE_TEXTS[params["name"]])
        if isinstance(text, str):
            self._try(lambda: self._prepare(params["name"], arguments, text))

    def _prepare(self, tool: str, arguments: Mapping[str, str], text: str) -> None:
        with self._lock.read_lock():
            collection = self._server._get_collection()  # noqa: SLF001
            if collection is None:
                return
            if tool == "mempalace_add_drawer" and self._is_there(collection, arguments, text):
                return
        self._embed(collection._collection, self._chunks(text))  # noqa: SLF001

    def _is_there(self, collection: Collection, arguments: Mapping[str, str], text: str) -> bool:
        wing, room = (self._name(arguments[part], part) for part in ("wing", "room"))
        ident = str(self._make_id(wing, room, self._sanitize(text)))
        last = len(self._chunks(text)) - 1
        asked = [ident, f"{ident}_chunk_{last:06d}"]
        return bool(collection.get(ids=asked, include=[]).ids)

    def opened(self) -> "RawCollection | None":
        """Return the collection that stock has open; for a thread that has stock's lock."""
        collection = self._server._get_collection()  # noqa: SLF001
        return collection._collection if collection is not None else None  # noqa: SLF001

    def embed_query(self, raw: "RawCollection", text: str) -> None:
        """Embed what a checkpoint's item is compared by."""
        asked = self._strip(text)

        def embed() -> None:
            (vector,) = raw._embed(input=[asked], is_query=True)  # noqa: SLF001
            self._current.query_vectors = {asked: vector}

        self._try(embed)

    def embed_item(self, raw: "RawCollection", text: str) -> None:
        """Embed what a checkpoint's item will be filed as."""
        self._try(lambda: self._embed(raw, self._chunks(text)))

    def _chunks(self, text: str) -> Sequence[str]:
        """Return the documents that stock makes of a text."""
        content = self._sanitize(text)
        size = self._server._config.chunk_size  # noqa: SLF001
        return [content[start : start + size] for start in range(0, len(content), size)]

    def _embed(self, raw: "RawCollection", texts: Sequence[str]) -> None:
        # With the collection's own function, as chromadb would at the write.
        vectors: Sequence[Vector] = raw._embed(input=list(texts))  # noqa: SLF001
        self._current.vectors = dict(zip(texts, vectors, strict=True))

    def _try(self, embed: Callable[[], None]) -> None:
        try:
            embed()
        except Exception as error:  # stock meets it again, and answers in its own words
            logger.debug("a text could not be embedded early (%s)", type(error).__name__)
