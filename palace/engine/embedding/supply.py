"""The embedding model of a running engine: there, on its way, or not to be had.

What embeds asks for it; what doesn't never waits for it.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from palace.engine.embedding.model_files import is_complete, model_dir
from palace.engine.embedding.sources import Progress
from palace.protocol.errors import StoreUnavailable

RETRY_S = 60.0

logger = logging.getLogger("palace.engine")


class ModelUnavailable(StoreUnavailable):
    """The model is neither installed nor to be had; the text says what was tried and what to do."""

    name = "model_unavailable"


@attrs.frozen(kw_only=True)
class ModelState:
    """`text` is "" where the model is there; `pending` says that it is being fetched at first."""

    pending: bool = False
    text: str = ""


@attrs.define(eq=False)
class ModelSupply:
    """Fetches the default model in a thread of its own; any thread may ask.

    `fetch` is given a function that takes its progress, and raises ModelUnavailable.  `missing` is
    told of each refusal, in the thread that was refused.
    """

    home: Path
    fetch: Callable[[Progress], object]
    missing: Callable[[ModelUnavailable], None] = lambda _: None
    retry_s: float = RETRY_S
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _fetching: bool = False
    _stage: str = ""
    _problem: ModelUnavailable | None = None
    _tried_s: float = 0.0

    def begin(self) -> None:
        """Fetch the model unless it is there; return at once."""
        if not is_complete(model_dir(self.home)):
            with self._lock:
                self._begin()

    def state(self) -> ModelState:
        with self._lock:
            if self._fetching and self._problem is None:
                return ModelState(pending=True, text=self._stage)
            problem = self._problem
        return ModelState(text=problem.message if problem is not None else "")

    def require(self) -> None:
        """Return if the model is there; raises ModelUnavailable at once, and tries again later."""
        if not self._fetching and self._problem is None:
            return
        if is_complete(model_dir(self.home)):  # by whatever way
            with self._lock:
                self._problem = None
            return
        with self._lock:
            if not self._fetching and time.monotonic() - self._tried_s >= self.retry_s:
                self._begin()
            problem = self._problem or ModelUnavailable(
                f"The embedding model is still being fetched: {self._stage}. Ask again."
            )
        self.missing(problem)
        raise problem

    def _begin(self) -> None:
        self._fetching, self._stage = True, "fetching the embedding model"
        threading.Thread(target=self._fetch, name="palace-model", daemon=True).start()

    def _fetch(self) -> None:
        logger.info("the embedding model is missing: fetching it")
        problem: ModelUnavailable | None = ModelUnavailable(
            "The embedding model could not be fetched, by an error of palace's own that its log "
            "shows. Fetch it by hand: palace model"
        )
        try:
            self.fetch(self._tell)
            problem = None
        except ModelUnavailable as error:
            problem = error
        finally:
            with self._lock:
                self._fetching, self._problem = False, problem
                self._tried_s = time.monotonic()

    def _tell(self, stage: str, fraction: float) -> None:
        self._stage = f"{stage} ({fraction:.0%})"
