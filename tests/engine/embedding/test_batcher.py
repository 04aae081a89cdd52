"""Single texts of many threads share runs, and each gets its own vector or error."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from palace.engine.embedding.batcher import LENGTH_SPREAD_MAX, RUN_TEXTS_MAX, EmbeddingBatcher
from tests.support.processes.clients import wait_until

PATIENCE_S = 20


class Text:
    """Encoded as the tokenizer does it: what counts is how many ids there are."""

    def __init__(self, name: str, tokens: int = 5) -> None:
        self.name = name
        self.ids = [0] * tokens
        self.attention_mask = [1] * tokens


class Runs:
    """A model that notes its runs; the first is held until `go`."""

    def __init__(self, *, poison: str = "") -> None:
        self.seen: list[list[str]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self._poison = poison

    def __call__(self, texts: Sequence[Any]) -> Any:
        names = [text.name for text in texts]
        self.seen.append(names)
        if len(self.seen) == 1:
            self.begun.set()
            assert self.go.wait(PATIENCE_S)
        if self._poison in names:
            raise LookupError(self._poison)
        return [f"vector of {name}" for name in names]


def start(
    batcher: EmbeddingBatcher, runs: Runs, text: Text, results: dict[str, Any]
) -> Callable[[], None]:
    """Embed in a thread; return what waits for its end."""

    def work() -> None:
        try:
            results[text.name] = batcher.embed(text, runs)
        except BaseException as error:
            results[text.name] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def end() -> None:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), text.name

    return end


def embed_beside_a_run(
    batcher: EmbeddingBatcher, runs: Runs, texts: Sequence[Text]
) -> dict[str, Any]:
    """Hold a first run until all other texts have arrived; return what each thread got."""
    results: dict[str, Any] = {}
    ends = [start(batcher, runs, Text("first"), results)]
    assert runs.begun.wait(PATIENCE_S)
    for count, text in enumerate(texts, 1):
        ends.append(start(batcher, runs, text, results))
        wait_until(lambda count=count: len(batcher._waiting) == count, what="it waits")
    runs.go.set()
    for end in ends:
        end()
    return results


def test_a_lone_text_has_a_run_of_its_own() -> None:
    runs = Runs()
    runs.go.set()

    assert EmbeddingBatcher().embed(Text("a"), runs) == "vector of a"
    assert runs.seen == [["a"]]


def test_texts_that_arrive_during_a_run_share_the_next() -> None:
    runs = Runs()

    results = embed_beside_a_run(EmbeddingBatcher(), runs, [Text(name) for name in "abc"])

    assert [runs.seen[0], sorted(runs.seen[1])] == [["first"], ["a", "b", "c"]]
    assert len(runs.seen) == 2
    assert results == {name: f"vector of {name}" for name in ("first", "a", "b", "c")}


def test_texts_of_other_lengths_and_more_than_fit_go_into_later_runs() -> None:
    runs = Runs()
    texts = [Text(f"short{number}") for number in range(RUN_TEXTS_MAX + 2)]
    texts += [Text("long", 5 + LENGTH_SPREAD_MAX + 1)]

    results = embed_beside_a_run(EmbeddingBatcher(), runs, texts)

    assert all(results[text.name] == f"vector of {text.name}" for text in texts)
    assert ["long"] in runs.seen
    assert max(map(len, runs.seen)) <= RUN_TEXTS_MAX
    assert len(runs.seen) == 4


def test_an_error_is_raised_for_all_texts_of_its_run_and_no_other() -> None:
    runs = Runs(poison="b")
    batcher = EmbeddingBatcher()

    results = embed_beside_a_run(batcher, runs, [Text("a"), Text("b")])

    assert results["first"] == "vector of first"
    assert [type(results[name]) for name in "ab"] == [LookupError, LookupError]
    assert batcher.embed(Text("c"), runs) == "vector of c"


@pytest.mark.parametrize("runs_max", [1, 2, 3])
def test_each_text_gets_its_own_vector(runs_max: int) -> None:
    batcher, runs, results = EmbeddingBatcher(runs_max), Runs(), {}
    runs.go.set()

    ends = [start(batcher, runs, Text(str(n), 5 + n % 40), results) for n in range(60)]
    for end in ends:
        end()

    assert results == {str(n): f"vector of {n}" for n in range(60)}
    assert sum(map(len, runs.seen)) == 60


def test_a_second_run_begins_beside_the_first_where_there_is_room() -> None:
    batcher, runs, results = EmbeddingBatcher(2), Runs(), {}
    end = start(batcher, runs, Text("first"), results)
    assert runs.begun.wait(PATIENCE_S)

    assert batcher.embed(Text("second"), runs) == "vector of second"

    runs.go.set()
    end()
    assert results == {"first": "vector of first"}
