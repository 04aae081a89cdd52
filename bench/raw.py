"""chromadb alone, in a process of its own: the limit of what an engine on top of it can do.

Reads one JSON line per task and answers with one.  `embed_and_upsert` stores batch after batch for
some seconds, with the same embedding as palace; `upsert_rows` does so in a PostgreSQL table as
stock makes one; `seed` fills a palace with made-up vectors, of
drawers or of memories of namespaces.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.work import note

if TYPE_CHECKING:
    from chromadb import Collection

PLAIN: dict[str, str | int] = {
    "wing": "bench",
    "room": "bench",
    "source_file": "",
    "added_by": "mcp",
    "filed_at": "2026-01-01T00:00:00",
    "id_recipe": "2",
    "chunk_index": 0,
}
Embed = Callable[[list[str]], Any]
CHUNK = 800  # characters: mempalace makes several records of a longer drawer


def embed_and_upsert(
    collection: "Collection", embed: Embed, first: int, words: int, batch: int, seconds: float
) -> dict[str, float]:
    def put(texts: list[str], number: int) -> None:
        store(collection, texts, embed(texts), number)

    return _repeat(put, first, words, batch, seconds)


def _repeat(
    put: Callable[[list[str], int], None], first: int, words: int, batch: int, seconds: float
) -> dict[str, float]:
    begun_s = time.perf_counter()
    count = 0
    while time.perf_counter() - begun_s < seconds:
        whole = [note(first + count + place, words) for place in range(batch)]
        texts = [text[at : at + CHUNK] for text in whole for at in range(0, len(text), CHUNK)]
        put(texts, (first + count) * 10)
        count += batch
    return {"count": count, "seconds": time.perf_counter() - begun_s}


def upsert_rows(
    session: Any, embed: Embed, first: int, words: int, batch: int, seconds: float
) -> dict[str, float]:
    """Write rows as stock's pgvector backend does, one transaction for each batch."""
    query = (
        "INSERT INTO drawers (id, document, metadata, embedding, updated_at) "
        "VALUES (%s, %s, %s::jsonb, %s::vector, now()) ON CONFLICT (id) DO UPDATE SET "
        "document = EXCLUDED.document, metadata = EXCLUDED.metadata, "
        "embedding = EXCLUDED.embedding, updated_at = EXCLUDED.updated_at"
    )

    def put(texts: list[str], number: int) -> None:
        metadata = json.dumps(PLAIN)
        rows = [
            (f"drawer_bench_bench_{number + place:024x}", text, metadata, str(list(map(float, v))))
            for place, (text, v) in enumerate(zip(texts, embed(texts), strict=True))
        ]
        with session.transaction(), session.cursor() as cursor:
            cursor.executemany(query, rows)

    return _repeat(put, first, words, batch, seconds)


def open_rows() -> tuple[Any, Embed]:
    import psycopg

    session = psycopg.connect(os.environ["MEMPALACE_PGVECTOR_DSN"], autocommit=True)
    session.execute("CREATE EXTENSION IF NOT EXISTS vector")
    session.execute(
        "CREATE TABLE IF NOT EXISTS drawers (id text PRIMARY KEY, document text NOT NULL, "
        "metadata jsonb NOT NULL, embedding vector(384), updated_at timestamptz)"
    )
    return session, open_embedder()


def store(
    collection: "Collection",
    texts: list[str],
    vectors: Sequence[Any],
    first: int,
    namespaces: Sequence[str] = (),
) -> None:
    metadata = PLAIN
    ids = [f"drawer_bench_bench_{first + place:024x}" for place in range(len(texts))]
    entries = [metadata] * len(texts)
    if namespaces:
        ids = [f"mem-{first + place:024x}" for place in range(len(texts))]
        entries = [
            metadata | _memory(namespaces[(first + place) % len(namespaces)])
            for place in range(len(texts))
        ]
    collection.upsert(ids=ids, documents=texts, embeddings=vectors, metadatas=entries)


def _memory(namespace: str) -> dict[str, str | int]:
    """Return what makes a drawer one of a namespace's memories (palace/memory/memory.py)."""
    kind, _, ident = namespace.partition(":")
    about: dict[str, str | int] = {
        "wing": f"ns.{kind}.{ident}",
        "room": "memory",
        "palace_kind": "memory",
    }
    ends: dict[str, str | int] = {
        "palace_until": 900_000_000_000,
        "palace_expires_at": "",
        "palace_pin": 0,
    }
    return {**about, **ends, "palace_ns": namespace, "palace_by": ident}


def seed(root: str, count: int, namespaces: Sequence[str] = ()) -> dict[str, float]:
    import numpy as np
    from mempalace.backends.chroma import ChromaBackend

    collection = ChromaBackend().get_collection(root, "mempalace_drawers", create=True)
    rng = np.random.default_rng(5)
    for first in range(0, count, 500):
        texts = [note(10**9 + first + place, 60) for place in range(min(500, count - first))]
        vectors = rng.normal(size=(len(texts), 384)).astype("f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        raw = collection._collection  # noqa: SLF001
        store(raw, texts, list(vectors), 10**9 + first, namespaces)
    return {"count": collection.count()}


def open_raw(root: str) -> "tuple[Collection, Embed]":
    import chromadb
    from chromadb.config import Settings

    embed = open_embedder()
    client = chromadb.PersistentClient(root, settings=Settings(anonymized_telemetry=False))
    metadata = {"hnsw:space": "cosine", "hnsw:num_threads": 1}
    collection = client.get_or_create_collection("bench", metadata=metadata)
    return collection, embed


def open_embedder() -> Embed:
    """Return the embedding of texts as palace makes it."""
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    from palace.engine.embedding import inference

    inference.install()
    embed: Embed = ONNXMiniLM_L6_V2(preferred_providers=["CPUExecutionProvider"])
    return embed


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # importing mempalace does so, too
    opened: Any = None
    for line in sys.stdin:
        task = json.loads(line)
        what = task.pop("do")
        if what == "seed":
            answer = seed(**task)
        else:
            root = task.pop("root")
            if opened is None:
                opened = open_rows() if what == "upsert_rows" else open_raw(root)
            answer = (upsert_rows if what == "upsert_rows" else embed_and_upsert)(*opened, **task)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
