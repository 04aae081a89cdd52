"""Stand-ins for modules give the real ones to whoever uses them, and never stay in the table."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from palace.kernel.left_out import Deferred, left_out

NAME = "left_out_by_a_test"
SOURCE = """
CONSTANT = "real"
class Error(Exception): ...
def add(a, b=1): return a + b
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{NAME}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(NAME, None)


def test_a_name_taken_meanwhile_imports_the_module_at_its_call() -> None:
    with left_out(Deferred(NAME)):
        add = importlib.import_module(NAME).add

    assert NAME not in sys.modules
    assert add(1, b=2) == 3
    assert sys.modules[NAME].CONSTANT == "real"
    assert add(1) == 2


def test_a_call_meanwhile_puts_the_real_module_into_the_table_for_good() -> None:
    with left_out(Deferred(NAME)) as _:
        assert importlib.import_module(NAME).add(1) == 2
        real = sys.modules[NAME]
        assert real.CONSTANT == "real"

    assert sys.modules[NAME] is real


def test_who_holds_the_module_itself_finds_the_real_ones_names_later() -> None:
    with left_out(Deferred(NAME, CONSTANT="given")):
        held = importlib.import_module(NAME)
        assert held.CONSTANT == "given"

    assert issubclass(held.Error, Exception)
    assert held.Error is importlib.import_module(NAME).Error
    with pytest.raises(AttributeError, match="nothing"):
        _ = held.nothing


def test_what_the_import_system_asks_for_is_not_there() -> None:
    with left_out(Deferred(NAME)):
        assert not hasattr(importlib.import_module(NAME), "__path__")


def test_no_stand_in_stays_where_the_import_fails() -> None:
    def fail() -> None:
        with left_out(Deferred(NAME), ModuleType("left_out_too"), absent=("absent_by_a_test",)):
            raise ImportError

    with pytest.raises(ImportError):
        fail()

    assert not {NAME, "left_out_too", "absent_by_a_test"} & sys.modules.keys()


def test_an_imported_module_stays_as_it_is() -> None:
    real = importlib.import_module(NAME)
    with left_out(Deferred(NAME), absent=("json",)):
        assert sys.modules[NAME] is real
        assert importlib.import_module("json").loads("1") == 1

    assert sys.modules[NAME] is real


def test_an_absent_module_cannot_be_imported_meanwhile() -> None:
    def ask() -> None:
        with left_out(absent=(NAME,)):
            importlib.import_module(NAME)

    with pytest.raises(ImportError):
        ask()

    assert importlib.import_module(NAME).CONSTANT == "real"
