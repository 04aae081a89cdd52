"""Embedding without waste.

chromadb pads every text to the model's 256 tokens and attends to none of the padding; padded to the
longest beside it, a text gets the same vector for a fraction of the work.  What is left costs
processor time by the token: texts of like lengths are run in small parts, as many at once as the
machine has room for.  A single text, which is a query in most cases, waits for no part, and single
texts that arrive at the same time share a run (palace/engine/embedding/batcher.py).

Several runs of few threads do more than one run of many, whose threads wait for each other; and the
runtime's threads sleep between runs instead of spinning, since shims and readers share the machine.
Equal texts are embedded once, and the vectors of recent single texts are cached.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import attrs

from palace.engine.embedding.batcher import EmbeddingBatcher
from palace.engine.embedding.precedence import Precedence
from palace.engine.patches import Patch, Patches, always
from palace.engine.stock import Encoding, MiniLM, Session

if TYPE_CHECKING:
    from palace.engine.stock import Vector, Vectors

NAME = "short_padding"
PART_TEXTS = 4  # in one run: enough to share the reading of the weights
FEW_TEXTS = 8  # as a batch of small changes has them: they wait for no part of a long one
THREADS_MAX = 4  # of one run: more have nothing to do at these lengths
SPIN_US = 100  # between two steps of a run of several; asleep, they would take 50 us to wake up
CACHED_MAX = 512  # single texts, most of them queries: 1.5 KiB each, and the text
CACHED_CHARS_MAX = 1000

T = TypeVar("T")


def install(threads: int = 0) -> None:
    """Replace chromadb's own loop and session, for the life of this process.

    `threads` of one run, 0 for stock's own choice: half of the cores, here up to four.
    """
    Patches().apply(patches(threads))


def patches(threads: int = 0) -> Iterator[Patch]:
    """Return what `install` applies."""
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    threads = threads or _threads()
    pool = EmbeddingPool(runs_max=max(1, _cores() // threads))

    def _forward(model: MiniLM, documents: Sequence[str], _batch_size: int = 32) -> "Vectors":
        return forward(model, documents, pool)

    yield Patch(
        name=NAME,
        why="it pads each text to 256 tokens",
        owner=ONNXMiniLM_L6_V2,
        attribute="_forward",
        replace=always(_forward),
    )
    yield Patch(
        name=NAME,
        why="its threads spin between runs",
        owner=ONNXMiniLM_L6_V2,
        attribute="model",
        expected=lambda found: isinstance(found, cached_property),
        replace=always(_opening(ONNXMiniLM_L6_V2, threads)),
    )


def model_patch(name: str, require: Callable[[], None]) -> Patch:
    """Return the patch that asks `require` for the model, which raises where there is none."""
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    return Patch(
        name=name,
        why="it downloads the model within a call, from one place",
        owner=ONNXMiniLM_L6_V2,
        attribute="_download_model_if_not_exists",
        replace=always(lambda _function: require()),
    )


def give_session(kind: type, threads: int = 0) -> type:
    """Let a new class of embedding functions, which is still ours alone, open its model here."""
    kind.model = _opening(kind, threads or _threads())  # type: ignore[attr-defined]
    return kind


def _opening(kind: type, threads: int) -> "cached_property[Session]":
    session = cached_property[Session](lambda function: open_session(function, threads))
    session.__set_name__(kind, "model")
    return session


@attrs.define(eq=False)
class VectorCache:
    """The vectors of single texts that were embedded lately; the least recently used go first."""

    size: int = CACHED_MAX
    _vectors: "OrderedDict[str, Vector]" = attrs.field(factory=OrderedDict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def get(self, text: str) -> "Vector | None":
        with self._lock:
            vector = self._vectors.get(text)
            if vector is not None:
                self._vectors.move_to_end(text)
            return vector

    def put(self, text: str, vector: "Vector") -> None:
        if len(text) > CACHED_CHARS_MAX:
            return
        with self._lock:
            self._vectors[text] = vector
            if len(self._vectors) > self.size:
                self._vectors.popitem(last=False)


@attrs.define(eq=False)
class EmbeddingPool:
    """What all threads that embed share.

    Single texts have a limit of their own, in the batcher, and go before the parts of several: a
    query would wait behind every part of a large document.  So do the few texts of a batch.
    """

    runs_max: int = 1
    cache: VectorCache = attrs.field(factory=VectorCache)
    batcher: EmbeddingBatcher = attrs.field(init=False)
    precedence: Precedence = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.batcher = EmbeddingBatcher(self.runs_max)
        self.precedence = Precedence(self.runs_max)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    return min(max(1, _cores() // 2), THREADS_MAX)


def open_session(model: MiniLM, threads: int) -> Session:
    """Open the model as chromadb does, but with threads that sleep between runs."""
    options = model.ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = model.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    wanted = model._preferred_providers or model.ort.get_available_providers()  # noqa: SLF001
    session: Session = model.ort.InferenceSession(
        os.path.join(model.DOWNLOAD_PATH, model.EXTRACTED_FOLDER_NAME, "model.onnx"),
        providers=[name for name in wanted if name != "CoreMLExecutionProvider"],  # as chromadb
        sess_options=options,
    )
    return session


def forward(
    model: MiniLM, documents: Sequence[str], pool: EmbeddingPool | None = None
) -> "Vectors":
    """Return vectors as `ONNXMiniLM_L6_V2._forward` does, which this replaces."""
    import numpy as np

    pool = pool or EmbeddingPool()
    unique = list(dict.fromkeys(documents))
    if len(unique) == 1:
        vector = _embed_single(model, unique[0], pool)
        return np.stack([vector for _ in documents])
    encodings = _encode(model, unique)
    # Neighbours by length share a part, so that little of it is padding.
    by_length = sorted(range(len(unique)), key=lambda place: len(encodings[place].ids))
    parts = [by_length[start : start + PART_TEXTS] for start in range(0, len(unique), PART_TEXTS)]
    vectors: dict[str, Vector] = {}

    few = len(unique) <= FEW_TEXTS

    def run(places: Sequence[int]) -> None:
        with pool.precedence.short() if few else pool.precedence.part():
            batch = _run(model, [encodings[place] for place in places])
        vectors.update(zip((unique[place] for place in places), batch, strict=True))

    run_all(run, parts, pool.runs_max)
    return np.stack([vectors[document] for document in documents])


def run_all(run: Callable[[T], None], parts: Sequence[T], runs_max: int) -> None:
    """Run all parts, at most `runs_max` at once; raises the first error that one of them raised."""
    rest = list(parts)
    errors: list[BaseException] = []

    def work() -> None:
        while rest and not errors:
            try:
                part = rest.pop()  # the longest first: it would keep the others waiting at the end
            except IndexError:  # another thread took the last one since `rest` was looked at
                return
            try:
                run(part)
            except BaseException as error:
                errors.append(error)

    threads = min(len(parts), runs_max) - 1
    helpers = [threading.Thread(target=work, name="palace-embed") for _ in range(threads)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


def _embed_single(model: MiniLM, text: str, pool: EmbeddingPool) -> "Vector":
    vector = pool.cache.get(text)
    if vector is None:
        (encoding,) = _encode(model, [text])
        with pool.precedence.short():
            vector = pool.batcher.embed(encoding, lambda several: _run(model, several))
        pool.cache.put(text, vector)
    return vector


def _encode(model: MiniLM, texts: Sequence[str]) -> Sequence[Encoding]:
    tokenizer = model.tokenizer
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch(list(texts))
    longest = max((len(encoding.ids) for encoding in encodings), default=0)
    if longest > model.max_tokens():
        raise ValueError(
            f"Document length {longest} is greater than the max tokens {model.max_tokens()}"
        )
    return encodings


def _run(model: MiniLM, encodings: Sequence[Encoding]) -> "Vectors":
    import numpy as np

    shape = len(encodings), max(len(encoding.ids) for encoding in encodings)
    ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = encoding.attention_mask
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states = model.model.run(None, inputs)[0]
    wide = mask[:, :, None]
    means = np.sum(states * wide, 1) / np.clip(wide.sum(1), a_min=1e-9, a_max=None)
    return model._normalize(means).astype(np.float32)  # noqa: SLF001
