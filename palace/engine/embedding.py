"""Embedding without waste.

chromadb pads every text to the model's 256 tokens and attends to none of the padding; padded to the
longest beside it, a text gets the same vector for a fraction of the work.  What is left
costs processor time by the token: texts of like lengths are run in small parts, as many at once as
there are cores, and the runtime's threads sleep between runs instead of spinning, since shims and
readers share the machine.  Equal texts are embedded once, and what was asked for lately is kept.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import attrs

PART = 4  # texts in one run: enough to share the reading of the weights
THREADS_MAX = 4
KEPT = 512  # single texts, most of them queries: 1.5 KiB each, and the text
KEPT_CHARS_MAX = 1000


def install() -> None:
    """Take the place of chromadb's own loop and session, for the life of this process."""
    from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

    kept = Kept()

    def _forward(model: Any, documents: Sequence[str], _batch_size: int = 32) -> Any:
        return forward(model, documents, kept)

    session = cached_property(open_session)
    session.__set_name__(ONNXMiniLM_L6_V2, "model")
    ONNXMiniLM_L6_V2._forward = _forward  # noqa: SLF001
    ONNXMiniLM_L6_V2.model = session


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


def open_session(self: Any) -> Any:
    """Open the model as chromadb does, but let idle threads sleep."""
    options = self.ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = self._preferred_providers or self.ort.get_available_providers()
    return self.ort.InferenceSession(
        os.path.join(self.DOWNLOAD_PATH, self.EXTRACTED_FOLDER_NAME, "model.onnx"),
        providers=[name for name in wanted if name != "CoreMLExecutionProvider"],  # as chromadb
        sess_options=options,
    )


def forward(self: Any, documents: Sequence[str], kept: Kept | None = None) -> Any:
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
    parts = [by_length[start : start + PART] for start in range(0, len(unique), PART)]
    vectors: dict[str, Any] = {}

    def run(places: Sequence[int]) -> None:
        batch = _run(self, [encoded[place] for place in places])
        vectors.update(zip((unique[place] for place in places), batch, strict=True))

    run_all(run, parts)
    if len(unique) == 1:
        kept.put(unique[0], vectors[unique[0]])
    return np.stack([vectors[document] for document in documents])


def run_all(run: Any, parts: Sequence[Any]) -> None:
    """Run all parts, on some threads at once; raises the first thing that one of them raised."""
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

    threads = min(len(parts), os.cpu_count() or 1, THREADS_MAX) - 1
    helpers = [threading.Thread(target=work, name="palace-embed") for _ in range(threads)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


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
