"""What an embedder answers is looked at before it is kept, and what was kept is not asked again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from palace.engine.embedding import anew
from palace.engine.embedding.anew import Embedded, Embedder, Text
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreUnavailable

pytestmark = pytest.mark.engine

SIZE = 3
TEXTS: list[Text] = [("one", {}), ("two", {})]


def embedder(answer: Callable[[Sequence[Text]], object]) -> Embedder:
    return Embedder(name="e", dimension=SIZE, ask=answer)  # type: ignore[arg-type]


def plain(texts: Sequence[Text]) -> list[list[float]]:
    return [[float(len(text))] * SIZE for text, _ in texts]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda texts: plain(texts)[:-1], "1 vectors for 2 texts"),
        (lambda texts: [vector[:-1] for vector in plain(texts)], "2 numbers, and with 3 before"),
        (lambda texts: [[[1.0] * SIZE] for _ in texts], "3 numbers, and with 3 before"),
        (lambda texts: [[float("nan")] * SIZE for _ in texts], "numbers that are none"),
        (lambda texts: [[1.0, float("inf"), 1.0] for _ in texts], "numbers that are none"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    answer: Callable[[Sequence[Text]], object], told: str
) -> None:
    with pytest.raises(StoreUnavailable, match=told):
        embedder(answer).embed(TEXTS)


def test_a_failure_is_tried_again_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "PAUSE_S", 0.0)
    asked: list[int] = []

    def fails(texts: Sequence[Text]) -> object:
        asked.append(len(texts))
        if len(asked) < anew.TRIES:
            raise OSError("busy")
        return plain(texts)

    assert len(embedder(fails).embed(TEXTS)) == 2
    with pytest.raises(StoreUnavailable, match="failed 3 times: gone"):
        embedder(_gone).embed(TEXTS)


def _gone(_texts: Sequence[Text]) -> object:
    raise OSError("gone")


def test_what_was_embedded_is_kept_and_another_embedders_is_not(tmp_path: Path) -> None:
    path, asked = str(tmp_path / "vectors"), list[str]()

    def counted(texts: Sequence[Text]) -> object:
        asked.extend(text for text, _ in texts)
        return plain(texts)

    kept = Embedded(path, ["e", SIZE], Kernel())
    kept.fill(TEXTS, embedder(counted), lambda _: None)
    kept.close()
    kept = Embedded(path, ["e", SIZE], Kernel())
    kept.fill([*TEXTS, ("one", {"title": "t"}), ("one", {"n": 1})], embedder(counted), print)
    assert asked == ["one", "two", "one"], "a title may count, a number doesn't"
    assert kept.find(("two", {})) is not None
    kept.close()
    other = Embedded(path, ["another", SIZE], Kernel())
    assert other.find(("two", {})) is None
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(b"SQLite format 3\0" + b"x" * 200)
    kept = Embedded(str(path), ["e", SIZE], Kernel())
    kept.fill(TEXTS, embedder(plain), lambda _: None)
    assert kept.find(("one", {})) is not None
    kept.close()
    assert path.stat().st_mode & 0o077 == 0
