"""A search's query, embedded before the search waits for the store.

Stock embeds it between two turns at its request lock, so that a search waits for the writers twice.
Here it is embedded first, without any lock, and stock then finds its vector in the cache of
palace/engine/embedding/inference.py.  With no embedding left to do, the lock is needed once.
"""

import logging
from collections.abc import Callable, Iterator

from palace.engine.embedding.inference import CACHED_CHARS_MAX
from palace.engine.hosting.current_call import CurrentCall
from palace.engine.patches import Patch, need
from palace.engine.stock import JsonObject, Method, Server

NAME = "embed_ahead"
SEARCH = "mempalace_search"

logger = logging.getLogger("palace.engine")


class QueryPrefetch:
    """Embeds queries early for one hosted mempalace; its patches tell stock's dispatcher."""

    def __init__(self, server: Server, current: CurrentCall) -> None:
        from mempalace import embedding

        self._sanitize: Method = need(server, "sanitize_query", NAME)
        self._function: Method = need(embedding, "configured_embedding_function", NAME)
        self._server = server
        self._current = current

    def patches(self) -> Iterator[Patch]:
        yield Patch(
            name=NAME,
            why="a search whose query is embedded needs its lock once",
            owner=self._server,
            attribute="_embedding_release_mode",
            replace=self._keeping_the_lock,
        )

    def _keeping_the_lock(self, stock: Method) -> Method:
        current = self._current

        def mode(tool: str, request: object, access: str) -> object:
            """Say whether to release the lock around the embedding: not if that takes no time.

            A release would cost the search its turn: every writer that waits goes first.
            """
            is_ready = tool == SEARCH and current.query_is_embedded
            return None if is_ready else stock(tool, request, access)

        return mode

    def warm(self, query: str) -> None:
        """Embed a query of palace's own searches; whatever is wrong with it, the search says so."""
        self._try(lambda: query)

    def prepare(self, message: JsonObject) -> None:
        """Embed what a call will search for; whatever is wrong with it, stock says so itself."""
        self._current.query_is_embedded = self._embed_query_of(message)

    def _embed_query_of(self, message: JsonObject) -> bool:
        params = message["params"]
        arguments = params.get("arguments")
        if params["name"] != SEARCH or not isinstance(arguments, dict):
            return False
        query = arguments.get("query")
        if not isinstance(query, str) or arguments.get("cli_compatible"):
            return False
        return self._try(lambda: str(self._sanitize(query)["clean_query"]))

    def _try(self, text: Callable[[], str]) -> bool:
        try:
            return self._embed(text())
        except Exception:
            logger.debug("a query could not be embedded early", exc_info=True)
            return False

    def _embed(self, text: str) -> bool:
        from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

        function = self._function()
        if len(text) > CACHED_CHARS_MAX or not isinstance(function, ONNXMiniLM_L6_V2):
            return False  # its vector would not be cached, and be computed twice
        function([text])
        return True
