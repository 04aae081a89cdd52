"""Fills a palace with made drawers straight through its backend, past palace.

Usage: python -P tests/support/stores/filling.py PALACE COUNT [SIZE]; nobody else may have it open.
"""

import os
import sys
from typing import Any

import numpy as np
from mempalace.backends.chroma import ChromaBackend
from mempalace.backends.pgvector import PgVectorBackend
from mempalace.backends.sqlite_exact import SQLiteExactBackend

BATCH = 2000


def fill(root: str, count: int, size: int) -> None:
    backend: Any
    if os.environ.get("MEMPALACE_BACKEND") == "sqlite_exact":
        backend = SQLiteExactBackend()
        drawers = backend.get_collection(root, "mempalace_drawers", create=True)
    elif os.environ.get("MEMPALACE_BACKEND") == "pgvector":
        backend = PgVectorBackend()
        drawers = backend.get_collection(root, "mempalace_drawers", create=True)
    else:
        backend = ChromaBackend.make_client(root)
        drawers = backend.get_or_create_collection(
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
    backend.close()


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 384)
