"""Workspaces and their tokens; what names may be is in test_resolver.py."""

import hashlib

import pytest

from palace.protocol.workspaces import (
    RESTORED,
    Token,
    Workspace,
    checked_id,
    digest_of,
    id_in,
    is_digits,
    key_of,
)


def test_a_workspace_is_known_by_its_own_namespace() -> None:
    assert Workspace(id="reviewer").key == key_of("reviewer") == "workspace:reviewer"
    assert id_in("workspace:reviewer") == "reviewer"


def test_a_token_counts_until_it_is_revoked_or_its_palace_restored() -> None:
    token = Token(digest=digest_of("secret"), workspace="reviewer", epoch=7)

    assert token.counts(7)
    assert token.counts(7 + RESTORED - 1)
    assert not token.counts(7 + RESTORED)
    assert not Token(digest="", workspace="r", epoch=7, revoked_at="now").counts(7)


def test_of_a_token_its_digest_alone_is_kept() -> None:
    assert digest_of("secret") == hashlib.sha256(b"secret").hexdigest()
    assert digest_of("\ud800")


def test_digits_are_hexadecimal_and_as_many_as_asked_for() -> None:
    assert is_digits("0af9", 4, 4)
    assert not is_digits("0af", 4, 8)
    assert not is_digits("0AF9", 4, 4)
    assert not is_digits(1234, 1, 9)


@pytest.mark.parametrize("text", ["a", "0", "a-1", "reviewer", "a" * 63])
def test_what_can_be_a_workspace(text: str) -> None:
    assert checked_id(text) == text
