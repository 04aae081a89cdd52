"""An embedder that speaks as OpenAI's, on loopback: vectors of 384 numbers, the same for a text."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.brokers.loopback import Answering, serving

SIZE = 384


def vector(text: str) -> list[float]:
    """Return a vector to which each word of a text contributes."""
    found = [0.0] * SIZE
    for word in text.lower().split():
        found[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % SIZE] += 1.0
    return [number + 0.001 for number in found]


class _Handler(Answering):
    def post(self) -> None:
        asked = json.loads(self.body())["input"]
        texts = [asked] if isinstance(asked, str) else asked
        data = [{"index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
        self.send_json(200, {"data": data})


@contextmanager
def serve_embedder() -> Iterator[str]:
    """Serve until the block ends; yield the base URL."""
    with serving(_Handler) as url:
        yield f"{url}/v1"
