"""Short padding gives the vectors that chromadb gives."""

import os
import random
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palace.engine.embedding import inference

WORDS = (Path(__file__).parents[3] / "docs" / "design.md").read_text().split()
COUNT = 1000 if os.environ.get("PALACE_TEST_PROFILE") == "full" else 60


@pytest.fixture(scope="module")
def stock(model_home: Path) -> Any:
    from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2

    class AtHand(ONNXMiniLM_L6_V2):
        DOWNLOAD_PATH = model_home / ".cache" / "chroma" / "onnx_models" / "all-MiniLM-L6-v2"

    return AtHand()


def texts(count: int) -> list[str]:
    rng = random.Random(7)
    sizes = (0, 1, 2, 5, 14, 20, 60, 130, 300)
    made = [" ".join(rng.choices(WORDS, k=rng.choice(sizes))) for _ in range(count - 3)]
    return [*made, made[0], "naïve 東京 🙂", " "]


def test_vectors_are_those_of_chromadb(stock: Any) -> None:
    given = texts(COUNT)
    theirs = stock._forward(given)

    ours = inference.forward(stock.__class__(), given)

    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7)


def test_a_text_gets_the_same_vector_alone_and_among_others(stock: Any) -> None:
    fresh = stock.__class__()
    given = texts(40)

    together = inference.forward(fresh, given)

    alone = np.concatenate([inference.forward(fresh, [text]) for text in given])
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-7)


def test_equal_texts_are_embedded_once(stock: Any) -> None:
    fresh = stock.__class__()
    runs: list[int] = []
    model = fresh.model

    class Counting:
        def run(self, names: Any, given: Any) -> Any:
            runs.append(len(given["input_ids"]))
            return model.run(names, given)

    fresh.__dict__["model"] = Counting()

    vectors = inference.forward(fresh, ["same", "other", "same", "same"])

    assert sum(runs) == 2
    np.testing.assert_array_equal(vectors[0], vectors[3])


def test_a_recent_single_text_is_not_embedded_again(stock: Any) -> None:
    fresh, kept = stock.__class__(), inference.EmbeddingPool(cache=inference.VectorCache(size=2))
    first = inference.forward(fresh, ["one"], kept)
    fresh.__dict__["model"] = None  # whoever runs it now fails

    again = inference.forward(fresh, ["one", "one"], kept)

    np.testing.assert_array_equal(again, np.concatenate([first, first]))
    with pytest.raises(AttributeError):
        inference.forward(fresh, ["two"], kept)


def test_the_least_recently_used_goes_first_and_long_texts_are_not_cached() -> None:
    kept = inference.VectorCache(size=2)
    vectors: dict[str, Any] = {text: text for text in ("a", "b", "c", "long")}  # any will do
    for text in ("a", "b"):
        kept.put(text, vectors[text])
    assert kept.get("a") == "a"
    kept.put("c", vectors["c"])
    kept.put("long" * inference.CACHED_CHARS_MAX, vectors["long"])

    assert [kept.get(text) for text in ("a", "b", "c")] == ["a", None, "c"]
    assert kept.get("long" * inference.CACHED_CHARS_MAX) is None


def test_parts_take_turns_and_a_few_texts_wait_for_none(stock: Any) -> None:
    fresh, shared = stock.__class__(), inference.EmbeddingPool()
    done: list[int] = []

    def embed(texts: list[str]) -> threading.Thread:
        def work() -> None:
            done.append(len(inference.forward(fresh, texts, shared)))

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    many = [f"text {number}" for number in range(inference.FEW_TEXTS + 1)]
    with shared.precedence.part():
        several = embed(many)
        embed(["a query"]).join(20)
        embed(["one", "another"]).join(20)
        assert done == [1, 2]
        assert several.is_alive()
    several.join(20)
    assert done == [1, 2, len(many)]
    assert shared.precedence.has_room()


@pytest.mark.parametrize("runs_max", [1, 2, 9])
def test_all_parts_run_and_the_first_failure_is_raised(runs_max: int) -> None:
    done: list[int] = []
    inference.run_all(done.append, [3, 1, 2], runs_max)
    assert sorted(done) == [1, 2, 3]

    def fails(_part: int) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        inference.run_all(fails, [1, 2, 3], runs_max)


def test_an_error_gives_the_slot_back(stock: Any) -> None:
    fresh, shared = stock.__class__(), inference.EmbeddingPool()
    fresh.__dict__["model"] = None  # whoever runs it fails

    for count in (1, 2, inference.FEW_TEXTS + 1):
        with pytest.raises(AttributeError):
            inference.forward(fresh, [f"text {number}" for number in range(count)], shared)

    assert shared.precedence.has_room()


def test_the_session_has_the_given_number_of_threads(model_home: Path) -> None:
    code = """
        from palace.engine.embedding import inference
        inference.install(THREADS)
        from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2
        function = ONNXMiniLM_L6_V2(preferred_providers=["CPUExecutionProvider"])
        print(function.model.get_session_options().intra_op_num_threads, len(function(["a text"])))
    """
    answers = []
    for threads in (1, 3, 0):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code).replace("THREADS", str(threads))],
            env=os.environ | {"HOME": str(model_home)},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(done.stdout.strip())

    assert answers == ["1 1", "3 1", f"{min(max(1, len(os.sched_getaffinity(0)) // 2), 4)} 1"]
