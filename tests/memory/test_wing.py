"""Which wing a namespace's memories are in: one for each, and none that plain tools may use."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mempalace.config import normalize_wing_name, sanitize_name

from palace.memory.wing import is_reserved_wing, wing_of
from palace.protocol.errors import WorkspaceRefused

DIGEST = "x" + hashlib.sha256(b"a:b").hexdigest()[:40]
HOSTILE_IDS = ["a", "a-", "x", "xa", "a--b", "0", DIGEST, DIGEST[1:], "a" * 60, "a" * 61, "a" * 63]
HOSTILE_NAMES = ["A", "a.b", "a:b", "a_b", "ns.org.a", "org:a", "Xa", "a" * 249, DIGEST.upper()]
ids = st.one_of(
    st.sampled_from(HOSTILE_IDS),
    st.from_regex(r"[ax0][ax0-]{0,7}", fullmatch=True),
    st.text("abcdef0123456789", min_size=40, max_size=40).map("x".__add__),
)
names = st.one_of(
    ids.map(lambda name: name.rstrip("-")),
    st.sampled_from(HOSTILE_NAMES),
    st.from_regex(r"[axX](?:[axX_:-][axX])?", fullmatch=True),
)
namespaces = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["workspace", "team", "org"]), ids),
    names.map("custom:{}".format),
)


@given(namespaces, namespaces)
def test_no_two_namespaces_share_a_wing(one: str, other: str) -> None:
    assert (wing_of(one) == wing_of(other)) == (one == other)


@given(namespaces)
def test_every_wing_is_one_to_stock_and_reserved(namespace: str) -> None:
    wing = wing_of(namespace)

    assert sanitize_name(wing) == wing
    assert is_reserved_wing(wing)


@pytest.mark.parametrize(
    ("name", "wing"),
    [
        ("team:core", "ns.team.core"),
        ("org:a" + "b" * 59, "ns.org.a" + "b" * 59),
        ("custom:a:b", f"ns.custom.{DIGEST}"),
        (f"custom:{DIGEST}", f"ns.custom.x{hashlib.sha256(DIGEST.encode()).hexdigest()[:40]}"),
        ("org:" + "b" * 61, f"ns.org.x{hashlib.sha256(b'b' * 61).hexdigest()[:40]}"),
    ],
)
def test_plain_ids_are_shown_and_all_others_are_digests(name: str, wing: str) -> None:
    assert wing_of(name) == wing


@pytest.mark.parametrize("name", ["", "team", "team:", "team:a ", "team:\uff41", "org:a\n", "a:b"])
def test_what_is_no_namespace_has_no_wing(name: str) -> None:
    with pytest.raises(WorkspaceRefused):
        wing_of(name)


@pytest.mark.parametrize(
    "name",
    [
        *("ns.org.root", " ns.org.root", "ns.org.root\n", "NS.org.root", "Ns.Team.a", "_ns.org.a"),
        *("-ns.org.a", "ns.anything", "ns.", "\u1680ns.org.a", "\uff4e\uff53.org.a"),
        *("n\u200bs.org.a", "\u3000 _-ns.org.a", "n\u017f.org.a"),
    ],
)
def test_wings_that_pass_for_a_namespace_are_reserved(name: str) -> None:
    assert is_reserved_wing(name)


@pytest.mark.parametrize("name", ["ns", "nso.org", "answers", "a ns.org.a", "ns org", "", None, 3])
def test_all_other_wings_are_free(name: object) -> None:
    assert not is_reserved_wing(name)


@given(st.text(st.characters(categories=["L", "N", "P", "Z", "Cf", "Cc"]), max_size=8))
def test_whatever_stock_makes_a_reserved_wing_of_is_reserved(around: str) -> None:
    for name in (f"{around}ns.org.a", f"{around}NS.org.a"):
        try:
            made = sanitize_name(name)
        except ValueError:
            made = ""
        if made.startswith("ns.") or normalize_wing_name(name).startswith("ns."):
            assert is_reserved_wing(name)
