"""Fills a palace with made drawers straight through chromadb, past mempalace and palace.

Usage: python -P tests/support/stores/filling.py PALACE COUNT [SIZE]; nobody else may have it open.
"""

import sys

import numpy as np
from mempalace.backends.chroma import ChromaBackend

BATCH = 2000


def fill(root: str, count: int, size: int) -> None:
    client = ChromaBackend.make_client(root)
    drawers = client.get_or_create_collection(
        "mempalace_drawers", metadata={"hnsw:space": "cosine"}, embedding_function=None
    )
    rng = np.random.default_rng(5)
    for start in range(0, count, BATCH):
        numbers = range(start, min(count, start + BATCH))
        vectors = rng.normal(size=(len(numbers), size)).astype("float32")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        drawers.add(
            ids=[f"drawer_made_{number}" for number in numbers],
            embeddings=vectors,
            documents=[f"Made drawer {number} says {number * 7919}." for number in numbers],
            metadatas=[
                {"wing": "made", "room": f"r{number % 7}", "chunk_index": 0} for number in numbers
            ],
        )
    client.close()


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 384)
