"""Imports are made without rounds of the collector, and everything else with them."""

import gc

import pytest

from palace.kernel.collector import imports_uncollected


def test_nothing_is_collected_meanwhile_and_what_came_is_left_out_later() -> None:
    before = gc.get_freeze_count()
    with imports_uncollected():
        assert not gc.isenabled()
        kept: list[list[int]] = [[] for _ in range(1000)]
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_a_failed_import_leaves_the_collector_on() -> None:
    try:
        with pytest.raises(ImportError), imports_uncollected():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_where_it_is_off_it_stays_off() -> None:
    gc.disable()
    try:
        with imports_uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()
