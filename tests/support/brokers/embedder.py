"""An embedder that speaks as OpenAI's, on loopback: the same vector for a text, whenever asked."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from tests.support.brokers.loopback import Answering, serving

SIZE = 384
MODEL = "words"


def vector(text: str, size: int = SIZE) -> list[float]:
    """Return a vector to which each word of a text contributes."""
    found = [0.0] * size
    for word in text.lower().split():
        found[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % size] += 1.0
    return [number + 0.001 for number in found]


@attrs.define
class Embedder:
    """One that is served; `spoil` changes its next answers: a status, or what it sends."""

    size: int
    model: str
    url: str = ""
    asked: int = 0  # for how many texts
    spoil: Callable[[list[list[float]]], object] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which mempalace asks it."""
        return {
            "MEMPALACE_EMBEDDING_MODEL": "openai-compat",
            "MEMPALACE_EMBEDDING_API_URL": self.url,
            "MEMPALACE_EMBEDDING_API_MODEL": self.model,
        }

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return what `palace set-embedder` is given for it."""
        return ("openai-compat", "--url", self.url, "--api-model", self.model)

    def answer(self, texts: list[str]) -> tuple[int, object]:
        self.asked += len(texts)
        vectors = [vector(text, self.size) for text in texts]
        spoilt = self.spoil(vectors) if self.spoil is not None else vectors
        if isinstance(spoilt, int):
            return spoilt, {"error": {"message": "spoilt"}}
        assert isinstance(spoilt, list)
        return 200, {"data": [{"index": i, "embedding": one} for i, one in enumerate(spoilt)]}


@contextmanager
def serve_embedder(size: int = SIZE, model: str = MODEL) -> Iterator[Embedder]:
    """Serve until the block ends; yield it, with its base URL."""
    embedder = Embedder(size, model)

    class Handler(Answering):
        def post(self) -> None:
            asked = json.loads(self.body())["input"]
            texts = [asked] if isinstance(asked, str) else asked
            self.send_json(*embedder.answer(texts))

    with serving(Handler) as url:
        embedder.url = f"{url}/v1"
        yield embedder
