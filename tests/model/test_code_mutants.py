"""Mutants of the code itself: all patches fit, and what they break turns a test red."""

import os

import pytest

from tests.model.code_mutants import Patch, all_patches, applies, try_patch
from tests.support.machines.needs import need_command

PATCHES = all_patches()
SAMPLE = ("lock_unverified", "goodbye_forgotten", "busy_is_dead")
IS_FULL = os.environ.get("PALACE_MODEL") == "full"


def test_there_are_enough() -> None:
    assert len(PATCHES) >= 12


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_patch_fits_the_code(patch: Patch) -> None:
    need_command("patch")
    assert applies(patch) == ""


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_patch_turns_its_test_red(patch: Patch) -> None:
    if patch.name not in SAMPLE and not IS_FULL:
        pytest.skip("left to the full profile")
    need_command("patch")
    outcome = try_patch(patch)
    assert outcome.killed, outcome.words


def test_the_copy_is_green_without_a_patch() -> None:
    outcome = try_patch(None, "tests/protocol/test_ledger.py tests/protocol/test_election.py")
    assert not outcome.killed
    assert " passed" in outcome.words
