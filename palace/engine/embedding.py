"""Embedding without waste.

chromadb pads every text to the model's 256 tokens and attends to none of the padding; padded to the
longest beside it, a text gets the same vector for a fraction of the work.  What is left
costs processor time by the token: texts of like lengths are run in small parts, each on all cores
that the model may use, and one after the other, since parts that run beside each other wait for
each other's threads.  A single text, which is a query in most cases, waits for nobody.

The runtime's threads spin for as long as a run has work for them every few microseconds, and sleep
between runs, since shims and readers share the machine.  Equal texts are embedded once, and what
was asked for lately is kept.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import attrs

PART = 4  # texts in one run: enough to share the reading of the weights
THREADS_MAX = 4  # of one run: more have nothing to do at these lengths
SPIN_US = 100  # between two steps of a run; asleep, they would take 50 us to wake up
KEPT = 512  # single texts, most of them queries: 1.5 KiB each, and the text
KEPT_CHARS_MAX = 1000


def install(threads: int = 0) -> None:
    """Take the place of chromadb's own loop and session, for the life of this process.

    `threads` of one run, 0 for as many as the machine has cores, up to four.
    """
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    threads = threads or min(_cores(), THREADS_MAX)
    kept, turn = Kept(), threading.Semaphore(max(1, _cores() // threads))

    def _forward(model: Any, documents: Sequence[str], _batch_size: int = 32) -> Any:
        return forward(model, documents, kept, turn)

    ONNXMiniLM_L6_V2._forward = _forward  # noqa: SLF001
    give_session(ONNXMiniLM_L6_V2, threads)


def give_session(kind: Any, threads: int = 0) -> None:
    """Let a class of embedding functions open its model here."""
    threads = threads or min(_cores(), THREADS_MAX)
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def forward(
    self: Any,
    documents: Sequence[str],
    kept: Kept | None = None,
    turn: threading.Semaphore | None = None,
) -> Any:
    """Return vectors as `ONNXMiniLM_L6_V2._forward` does, whose place this takes."""
    import numpy as np

    unique = list(dict.fromkeys(documents))
    kept = kept or Kept()
    if len(unique) == 1 and (vector := kept.get(unique[0])) is not None:
        return np.stack([vector for _ in documents])
    tokenizer = self.tokenizer
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(unique)
    longest = max((len(text.ids) for text in encoded), default=0)
    if longest > self.max_tokens():
        raise ValueError(
            f"Document length {longest} is greater than the max tokens {self.max_tokens()}"
        )
    by_length = sorted(range(len(unique)), key=lambda place: len(encoded[place].ids))
    vectors: dict[str, Any] = {}
    for start in range(0, len(unique), PART):
        places = by_length[start : start + PART]
        with turn if turn is not None and len(unique) > 1 else nullcontext():
            batch = _run(self, [encoded[place] for place in places])
        vectors.update(zip((unique[place] for place in places), batch, strict=True))
    if len(unique) == 1:
        kept.put(unique[0], vectors[unique[0]])
    return np.stack([vectors[document] for document in documents])


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
