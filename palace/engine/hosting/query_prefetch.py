"""A search's query, embedded before the search waits for the store.

Stock embeds it between two turns at its request lock, so that a search waits for the writers twice.
Here it is embedded first, without any lock, and stock finds its vector among what was embedded
lately (palace/engine/embedding/inference.py): one turn is enough.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from palace.engine.embedding.inference import KEPT_CHARS_MAX
from palace.engine.hosting.adjustments import need

SEARCH = "mempalace_search"

logger = logging.getLogger("palace.engine")


class _Here(threading.local):
    """Whether the query of this thread's call was embedded."""

    done: bool = False


class Ahead:
    """Embeds ahead for one hosted mempalace; `install` tells stock's dispatcher."""

    def __init__(self, server: ModuleType) -> None:
        from mempalace import embedding

        self._sanitize = need(server, "sanitize_query", "embed_ahead")
        self._function = need(embedding, "configured_embedding_function", "embed_ahead")
        self._mode: Callable[..., Any] = need(server, "_embedding_release_mode", "embed_ahead")
        self._server = server
        self._here = _Here()

    def install(self) -> None:
        def mode(tool: str, request: object, access: str) -> Any:
            """Say whether the lock is let go around the embedding: it takes no time any more."""
            is_ready = tool == SEARCH and self._here.done
            return None if is_ready else self._mode(tool, request, access)

        self._server._embedding_release_mode = mode  # type: ignore[attr-defined]  # noqa: SLF001

    def prepare(self, message: Mapping[str, Any]) -> None:
        """Embed what a call will search for; whatever is wrong with it, stock says so itself."""
        self._here.done = False
        params = message["params"]
        arguments = params.get("arguments")
        if params["name"] != SEARCH or not isinstance(arguments, dict):
            return
        query = arguments.get("query")
        if not isinstance(query, str) or arguments.get("cli_compatible"):
            return
        try:
            self._here.done = self._embed(self._sanitize(query)["clean_query"])
        except Exception:
            logger.debug("a query could not be embedded ahead", exc_info=True)

    def _embed(self, text: str) -> bool:
        from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

        function = self._function()
        if len(text) > KEPT_CHARS_MAX or not isinstance(function, ONNXMiniLM_L6_V2):
            return False
        function([text])
        return True
