"""Short padding gives the vectors that chromadb gives."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palace.engine import embedding

WORDS = (Path(__file__).parents[2] / "docs" / "design.md").read_text().split()
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
    asked = texts(COUNT)
    theirs = stock._forward(asked)

    ours = embedding.forward(stock.__class__(), asked)

    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-7)


def test_a_text_gets_the_same_vector_alone_and_among_others(stock: Any) -> None:
    fresh = stock.__class__()
    asked = texts(40)

    together = embedding.forward(fresh, asked)

    alone = np.concatenate([embedding.forward(fresh, [text]) for text in asked])
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-7)


def test_equal_texts_are_embedded_once(stock: Any) -> None:
    fresh = stock.__class__()
    runs: list[int] = []
    model = fresh.model

    class Counting:
        def run(self, names: Any, asked: Any) -> Any:
            runs.append(len(asked["input_ids"]))
            return model.run(names, asked)

    fresh.__dict__["model"] = Counting()

    vectors = embedding.forward(fresh, ["same", "other", "same", "same"])

    assert runs == [2]
    np.testing.assert_array_equal(vectors[0], vectors[3])
