"""Vectors of another embedder for texts that a palace has: asked of mempalace, checked, and kept.

What was embedded is kept in a file of the user's until all of it is used, so that whoever begins
again goes on from there.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError, StoreUnavailable
from palace.settings.inherited import EMBEDDERS

Text = tuple[str, Mapping[str, object]]  # a document, and what its record says besides
Vectors = Sequence[Sequence[float]]

BATCH = 64
TRIES = 3
PAUSE_S = 1.0  # before the second try; four times as long before the third
TITLES = ("title", "source_file", "source_path", "media_type")  # mempalace 3.11: what some embed
PROBE = "Where herons live."
GOES_ON = "Nothing was replaced. What was embedded is kept: the same command goes on from there."


@attrs.frozen(eq=False, kw_only=True)
class Embedder:
    """What mempalace embeds with in this process, by its settings; `name` is as it records it."""

    name: str
    dimension: int
    ask: Callable[[Sequence[Text]], Vectors]

    def embed(self, texts: Sequence[Text]) -> list[bytes]:
        """Return a vector for each text, as little-endian float32; raises StoreUnavailable."""
        import numpy as np

        for number in range(TRIES):
            try:
                answer = self.ask(texts)
                break
            except Exception as error:  # a server's, a library's: what it is, its text says
                if number == TRIES - 1:
                    raise StoreUnavailable(
                        f"The embedder {self.name} failed {TRIES} times: {error}. {GOES_ON}"
                    ) from None
                time.sleep(PAUSE_S * 4**number)
        if len(answer) != len(texts):
            raise self._odd(f"{len(answer)} vectors for {len(texts)} texts")
        found = [np.asarray(vector, dtype="<f4") for vector in answer]
        for vector in found:
            if vector.shape != (self.dimension,):
                raise self._odd(f"{vector.size} numbers, and with {self.dimension} before")
            if not np.isfinite(vector).all():
                raise self._odd("numbers that are none")
        return [vector.tobytes() for vector in found]

    def _odd(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"The embedder {self.name} answered with {what}: a palace's vectors have to be alike. "
            f"{GOES_ON}"
        )


@contextmanager
def embedding_with(fixed: Mapping[str, str]) -> Iterator[None]:
    """Have mempalace, in this process, embed as in a broker with this fixed environment."""
    before = {name: os.environ.pop(name) for name in EMBEDDERS if name in os.environ}
    try:
        os.environ.update({name: fixed[name] for name in EMBEDDERS if name in fixed})
        yield
    finally:
        for name in EMBEDDERS:
            os.environ.pop(name, None)
        os.environ.update(before)


def find_embedder(wanted: str, *, as_chroma: bool) -> Embedder:
    """Return the embedder that the environment names, having asked it once.

    `as_chroma`: as Chroma asks it, and not as mempalace's other backends do.  Raises ConfigError
    for a name that mempalace reads as another one's, StoreUnavailable where it can't be had.
    """
    from mempalace import embedding

    try:
        name = embedding.current_model_name()
    except embedding.UnknownEmbeddingModelError as error:
        raise ConfigError(str(error)) from None
    if name.partition(":")[0] != wanted:
        known = ", ".join(sorted(embedding._KNOWN_EMBEDDING_MODELS))  # noqa: SLF001
        raise ConfigError(f"mempalace knows no embedder {wanted[:80]!r}. It may be: {known}.")
    try:
        function = embedding.get_embedding_function()
        ask = _as_chroma(function) if as_chroma else _as_others(function)
        dimension = len(ask([(PROBE, {})])[0])
    except Exception as error:
        raise StoreUnavailable(
            f"The embedder {name} can't be used: {error}. Nothing was changed."
        ) from None
    found = Embedder(name=name, dimension=dimension, ask=ask)
    found.embed([(PROBE, {})])
    return found


def _as_chroma(function: Callable[..., Vectors]) -> Callable[[Sequence[Text]], Vectors]:
    def ask(texts: Sequence[Text]) -> Vectors:
        return function(input=[text for text, _ in texts])

    return ask


def _as_others(function: object) -> Callable[[Sequence[Text]], Vectors]:
    from mempalace.backends.embedding_wrapper import _embed_texts

    def ask(texts: Sequence[Text]) -> Vectors:
        besides = [dict(more) for _, more in texts]
        found: Vectors = _embed_texts(
            [text for text, _ in texts], metadatas=besides, embedder=function
        )
        return found

    return ask


class Embedded:
    """Vectors by their texts, in a file that `close` keeps and `remove` removes.

    `made_by` names the embedder, its address and its dimension: what another one made is dropped.
    """

    def __init__(self, path: str, made_by: Sequence[object], kernel: Kernel) -> None:
        self.path = path
        self._kernel = kernel
        self._made_by = json.dumps(list(made_by))
        self._rows = self._opened()
        if self._noted() != self._made_by:
            self.remove()
            self._rows = self._opened()
            self._rows.execute("INSERT INTO made_by VALUES (?)", [self._made_by])
            self._rows.commit()

    def _opened(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        rows = sqlite3.connect(self.path)
        try:
            rows.execute("CREATE TABLE IF NOT EXISTS made_by (name TEXT)")
            rows.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB)")
        except sqlite3.DatabaseError:  # cut off, or somebody else's: nothing is lost by it
            rows.close()
            self._kernel.unlink(self.path)
            return self._opened()
        return rows

    def _noted(self) -> str:
        row = self._rows.execute("SELECT name FROM made_by").fetchone()
        return str(row[0]) if row else ""

    def find(self, text: Text) -> bytes | None:
        row = self._rows.execute(
            "SELECT vector FROM vectors WHERE key = ?", [_key(text)]
        ).fetchone()
        return None if row is None else bytes(row[0])

    def fill(self, texts: Iterable[Text], embedder: Embedder, done: Callable[[int], None]) -> None:
        """Embed what is not here yet, a batch at a time; `done` is told how many texts were met."""
        batch: list[Text] = []
        met = 0
        for text in texts:
            met += 1
            if self.find(text) is None:
                batch.append(text)
            if len(batch) == BATCH:
                self._keep(batch, embedder)
                batch = []
                done(met)
        if batch:
            self._keep(batch, embedder)
        done(met)

    def _keep(self, texts: Sequence[Text], embedder: Embedder) -> None:
        vectors = embedder.embed(texts)
        rows = zip(map(_key, texts), vectors, strict=True)
        self._rows.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        self._rows.commit()
        self._kernel.failpoint("embedded")

    def close(self) -> None:
        self._rows.close()

    def remove(self) -> None:
        self._rows.close()
        forget_embedded(self.path, self._kernel)


def forget_embedded(path: str, kernel: Kernel) -> None:
    """Remove what was kept; all of it can be embedded again."""
    for end in ("", "-journal"):
        kernel.unlink(f"{path}{end}")


def _key(text: Text) -> bytes:
    """Name a text by all that an embedder may look at."""
    document, besides = text
    titles = {name: besides[name] for name in TITLES if name in besides}
    said = json.dumps([document, titles], sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()
