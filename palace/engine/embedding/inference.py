"""Embedding without waste.

chromadb pads every text to the model's 256 tokens and attends to none of the padding; padded to the
longest beside it, a text gets the same vector for a fraction of the work.  What is left
costs processor time by the token: texts of like lengths are run in small parts, as many at once as
the machine has room for; a single text, which is a query in most cases, waits for no part, and
single texts that come at the same time share a run (palace/engine/embedding/batcher.py).

Several runs of few threads do more than one run of many, whose threads wait for each other; and the
runtime's threads sleep between runs instead of spinning, since shims and readers share the machine.
Equal texts are embedded once, and what was asked for lately is kept.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import attrs

from palace.engine.embedding.batcher import Singles

PART = 4  # texts in one run: enough to share the reading of the weights
THREADS_MAX = 4  # of one run: more have nothing to do at these lengths
SPIN_US = 100  # between two steps of a run of several; asleep, they would take 50 us to wake up
KEPT = 512  # single texts, most of them queries: 1.5 KiB each, and the text
KEPT_CHARS_MAX = 1000


def install(threads: int = 0) -> None:
    """Take the place of chromadb's own loop and session, for the life of this process.

    `threads` of one run, 0 for stock's own choice: half of the cores, here up to four.
    """
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    threads = threads or _threads()
    at_once = max(1, _cores() // threads)
    shared = Shared(at_once)

    def _forward(model: Any, documents: Sequence[str], _batch_size: int = 32) -> Any:
        return forward(model, documents, shared)

    ONNXMiniLM_L6_V2._forward = _forward  # noqa: SLF001
    give_session(ONNXMiniLM_L6_V2, threads)


def give_session(kind: Any, threads: int = 0) -> None:
    """Let a class of embedding functions open its model here."""
    threads = threads or _threads()
    session = cached_property(lambda function: open_session(function, threads))
    session.__set_name__(kind, "model")
    kind.model = session


@attrs.define(eq=False)
class Kept:
    """The vectors of single texts that were embedded lately, the least used go first."""

    size: int = KEPT
    _vectors: "OrderedDict[str, Any]" = attrs.field(factory=OrderedDict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def get(self, text: str) -> Any:
        with self._lock:
            vector = self._vectors.get(text)
            if vector is not None:
                self._vectors.move_to_end(text)
            return vector

    def put(self, text: str, vector: Any) -> None:
        if len(text) > KEPT_CHARS_MAX:
            return
        with self._lock:
            self._vectors[text] = vector
            if len(self._vectors) > self.size:
                self._vectors.popitem(last=False)


@attrs.define(eq=False)
class Shared:
    """What all threads that embed have in common; `turn` is taken by the parts of several texts."""

    at_once: int = 1
    kept: Kept = attrs.field(factory=Kept)
    singles: Singles = attrs.field(init=False)
    turn: threading.Semaphore = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.singles = Singles(self.at_once)
        self.turn = threading.Semaphore(self.at_once)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    return min(max(1, _cores() // 2), THREADS_MAX)


def open_session(self: Any, threads: int) -> Any:
    """Open the model as chromadb does, but with threads that sleep between runs."""
    options = self.ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    wanted = self._preferred_providers or self.ort.get_available_providers()
    return self.ort.InferenceSession(
        os.path.join(self.DOWNLOAD_PATH, self.EXTRACTED_FOLDER_NAME, "model.onnx"),
        providers=[name for name in wanted if name != "CoreMLExecutionProvider"],  # as chromadb
        sess_options=options,
    )


def forward(self: Any, documents: Sequence[str], shared: Shared | None = None) -> Any:
    """Return vectors as `ONNXMiniLM_L6_V2._forward` does, whose place this takes."""
    import numpy as np

    shared = shared or Shared()
    unique = list(dict.fromkeys(documents))
    if len(unique) == 1:
        vector = _embed_single(self, unique[0], shared)
        return np.stack([vector for _ in documents])
    encoded = _encode(self, unique)
    by_length = sorted(range(len(unique)), key=lambda place: len(encoded[place].ids))
    parts = [by_length[start : start + PART] for start in range(0, len(unique), PART)]
    vectors: dict[str, Any] = {}

    def run(places: Sequence[int]) -> None:
        with shared.turn:
            batch = _run(self, [encoded[place] for place in places])
        vectors.update(zip((unique[place] for place in places), batch, strict=True))

    run_all(run, parts, shared.at_once)
    return np.stack([vectors[document] for document in documents])


def run_all(run: Callable[[Any], None], parts: Sequence[Any], at_once: int) -> None:
    """Run all parts, so many at once; raises the first thing that one of them raised."""
    rest = list(parts)
    errors: list[BaseException] = []

    def work() -> None:
        while rest and not errors:
            try:
                part = rest.pop()  # the longest first
            except IndexError:
                return
            try:
                run(part)
            except BaseException as error:
                errors.append(error)

    threads = min(len(parts), at_once) - 1
    helpers = [threading.Thread(target=work, name="palace-embed") for _ in range(threads)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


def _embed_single(self: Any, text: str, shared: Shared) -> Any:
    vector = shared.kept.get(text)
    if vector is None:
        (encoded,) = _encode(self, [text])
        vector = shared.singles.embed(encoded, lambda several: _run(self, several))
        shared.kept.put(text, vector)
    return vector


def _encode(self: Any, texts: Sequence[str]) -> Any:
    tokenizer = self.tokenizer
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(list(texts))
    longest = max((len(text.ids) for text in encoded), default=0)
    if longest > self.max_tokens():
        raise ValueError(
            f"Document length {longest} is greater than the max tokens {self.max_tokens()}"
        )
    return encoded


def _run(self: Any, encoded: Sequence[Any]) -> Any:
    import numpy as np

    shape = len(encoded), max(len(text.ids) for text in encoded)
    ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, text in enumerate(encoded):
        ids[row, : len(text.ids)] = text.ids
        mask[row, : len(text.ids)] = text.attention_mask
    asked = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states = self.model.run(None, asked)[0]
    wide = mask[:, :, None]
    means = np.sum(states * wide, 1) / np.clip(wide.sum(1), a_min=1e-9, a_max=None)
    return self._normalize(means).astype(np.float32)
