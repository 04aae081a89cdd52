"""What stock looks up at each call is cached for a moment, and not across anything else."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from palace.engine.hosting import lookup_cache
from palace.engine.hosting.lookup_cache import LOOKUP_S, LookupCache


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Counted:
    """Answers with how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, *_asked: object, **_named: object) -> int:
        self.times += 1
        return self.times


class Collection:
    """LookupCache like stock's, over an open Chroma or a closed one."""

    def __init__(self) -> None:
        self._collection = self
        self._client = ModuleType("client")
        self._client.bindings = object()  # type: ignore[attr-defined]


def test_an_answer_holds_for_a_moment() -> None:
    clock, find = Clock(), Counted()
    cache = LookupCache(clock)

    assert cache.look_up("a", find) == 1
    clock.now_s += LOOKUP_S * 0.9
    assert cache.look_up("a", find) == 1
    assert cache.look_up("b", find) == 2
    clock.now_s += LOOKUP_S * 0.2
    assert cache.look_up("a", find) == 3


def test_what_no_longer_holds_is_looked_up() -> None:
    cache, find = LookupCache(Clock()), Counted()

    cache.look_up("a", find)

    assert cache.look_up("a", find, lambda found: found > 1) == 2


def test_after_clearing_all_is_looked_up_again_even_what_was_under_way() -> None:
    cache, find = LookupCache(Clock()), Counted()
    cache.look_up("a", find)

    cache.clear()
    assert cache.look_up("a", find) == 2

    def overtaken() -> int:
        cache.clear()
        return 7

    assert cache.look_up("b", overtaken) == 7
    assert cache.look_up("b", find) == 3


def test_a_failing_lookup_is_not_cached() -> None:
    cache = LookupCache(Clock())

    def fail() -> Any:
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            cache.look_up("a", fail)
    assert cache.look_up("a", lambda: 5) == 5


def test_a_suspended_cache_keeps_nothing() -> None:
    cache, find = LookupCache(Clock()), Counted()
    cache.look_up("a", find)

    with cache.suspended():
        assert cache.look_up("a", find) == 2  # it reads what it has just changed
        assert cache.look_up("a", find) == 3

    assert cache.look_up("a", find) == 4
    assert cache.look_up("a", find) == 4


def test_a_collection_that_is_created_or_deleted_clears_the_cache() -> None:
    class Chroma:
        def create_collection(self, name: str) -> str:
            return name

        def delete_collection(self, name: str) -> None:
            raise LookupError(name)

    cache, find = LookupCache(Clock()), Counted()
    for name in ("create_collection", "delete_collection"):
        setattr(Chroma, name, lookup_cache.clearing(getattr(Chroma, name), cache))
    cache.look_up("a", find)

    assert Chroma().create_collection(name="c") == "c"
    assert cache.look_up("a", find) == 2
    with pytest.raises(LookupError):
        Chroma().delete_collection("c")
    assert cache.look_up("a", find) == 3


def test_collections_of_other_backends_are_opened_each_time() -> None:
    assert not lookup_cache.is_open(None)
    assert not lookup_cache.is_open(object())
    assert lookup_cache.is_open(Collection())


def test_packages_are_listed_again_once_one_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "soon_replaced-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: soon-replaced\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    counted = Counted()
    ask = lookup_cache.caching_versions(
        counted, ("soon-replaced", "not-there"), LookupCache(Clock())
    )

    assert [ask(), ask()] == [1, 1]
    metadata.write_text("Metadata-Version: 2.1\nName: soon-replaced\nVersion: 1.0.1\n")
    assert [ask(), ask()] == [2, 2]
    metadata.unlink()
    assert [ask(), ask()] == [3, 3]


def test_settings_are_read_once_and_each_reader_has_its_own() -> None:
    class Config:
        read = 0

        def __init__(self, config_dir: str | None = None) -> None:
            Config.read += 1
            self._file_config = {"hooks": {"a": 1}}
            self.place = config_dir

    cache = LookupCache(Clock())
    Config.__init__ = lookup_cache.caching_settings(Config.__init__, cache)  # type: ignore[method-assign]

    one, other = Config(), Config()
    one._file_config["hooks"]["a"] = 2
    assert (Config.read, other._file_config, Config()._file_config["hooks"]) == (
        1,
        {"hooks": {"a": 1}},
        {"a": 1},
    )
    assert Config("/elsewhere").place == "/elsewhere"
    assert Config.read == 2
    cache.clear()
    Config()
    assert Config.read == 3


def searcher(opened: Any) -> Any:
    """Return a module like stock's, whose lookups are cached; LookupError says "not there"."""
    module, cache = ModuleType("searcher"), LookupCache(Clock())
    for name in ("get_collection", "get_closets_collection"):
        cached = lookup_cache.caching_collections(opened, name, LookupError, cache)
        setattr(module, name, cached)
    return module


def test_a_collection_is_opened_once_and_again_when_chroma_was_closed() -> None:
    opened: list[Collection] = []

    def open_it(*_asked: object, **_named: object) -> Collection:
        opened.append(Collection())
        return opened[-1]

    module = searcher(open_it)

    first = module.get_collection("/p", collection_name="a", create=False)
    assert module.get_collection("/p", collection_name="a", create=False) is first
    assert module.get_collection("/p", collection_name="b", create=False) is not first
    assert module.get_closets_collection("/p") is not first
    del first._client.bindings
    assert module.get_collection("/p", collection_name="a", create=False) is opened[-1]
    assert len(opened) == 4


def test_a_collection_that_is_not_there_is_looked_for_once_and_other_failures_again() -> None:
    looked = Counted()

    def open_it(what: type[Exception]) -> Any:
        looked()
        raise what("not there")

    module = searcher(open_it)

    for error, times in ((LookupError, 1), (LookupError, 1), (OSError, 2), (OSError, 3)):
        with pytest.raises(error, match="not there"):
            module.get_collection(error)
        assert looked.times == times


def test_good_verdicts_are_cached_for_their_place_and_state() -> None:
    state, counted = [0], Counted()
    verdict: dict[str, Any] = {"sqlite_count": 5, "diverged": False}

    def capacity(*_place: object) -> dict[str, Any]:
        counted()
        return verdict

    ask = lookup_cache.caching_verdicts(capacity, lambda: state[0])

    ask("/p", "a")["sqlite_count"] = 0  # a copy each
    assert ask("/p", "a") == verdict
    assert counted.times == 1
    ask("/p", "b")
    assert counted.times == 2
    state[0] += 1
    ask("/p", "a")
    assert counted.times == 3


@pytest.mark.parametrize("bad", [{"sqlite_count": 5, "diverged": True}, {"sqlite_count": None}])
def test_a_bad_verdict_is_not_cached(bad: dict[str, Any]) -> None:
    counted = Counted()

    def capacity(*_place: object) -> dict[str, Any]:
        counted()
        return bad

    ask = lookup_cache.caching_verdicts(capacity, lambda: 0)

    assert ask("/p") == ask("/p") == bad
    assert counted.times == 2
