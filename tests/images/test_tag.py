"""The tag of the images: everything that goes into a build changes it, and nothing else does."""

import itertools
import re
import string

from hypothesis import given
from hypothesis import strategies as st

from images.references import Reference, Resolved, Unresolved
from images.tag import image_tag

PATHS = st.text(string.ascii_letters + "/._", min_size=1, max_size=8)
TEXTS = st.text(max_size=8)
FILES = st.dictionaries(PATHS, TEXTS, min_size=1, max_size=5)
RESOLVED = st.builds(Resolved, TEXTS)
REFERENCES = st.dictionaries(PATHS, RESOLVED, min_size=1, max_size=5)
NONCES = st.text(string.hexdigits, min_size=4, max_size=4)


def never() -> str:
    raise AssertionError("a nonce was asked for, though all is resolved")


def tag_of(files: dict[str, str], references: dict[str, Reference]) -> str:
    return image_tag(files, references, never)


@given(FILES, REFERENCES)
def test_the_same_inputs_have_the_same_tag_in_whatever_order(
    files: dict[str, str], references: dict[str, Reference]
) -> None:
    turned = tag_of(dict(reversed(files.items())), dict(reversed(references.items())))

    assert tag_of(files, references) == turned
    assert re.fullmatch(r"[0-9a-f]{20}", turned)


@given(FILES, FILES, REFERENCES, REFERENCES)
def test_tags_are_the_same_for_the_same_inputs_alone(
    files: dict[str, str],
    others: dict[str, str],
    references: dict[str, Reference],
    different: dict[str, Reference],
) -> None:
    same = (files, references) == (others, different)

    assert (tag_of(files, references) == tag_of(others, different)) == same


@given(FILES, REFERENCES, st.data())
def test_each_input_changed_alone_changes_it(
    files: dict[str, str], references: dict[str, Reference], data: st.DataObject
) -> None:
    before = tag_of(files, references)
    path, name = (
        data.draw(st.sampled_from(sorted(files))),
        data.draw(st.sampled_from(sorted(references))),
    )
    more = data.draw(TEXTS.filter(bool))
    gone = {other: digest for other, digest in files.items() if other != path}
    less = {other: each for other, each in references.items() if other != name}
    value = references[name].value

    tags = [
        tag_of({**files, path: files[path] + more}, references),
        tag_of(gone, references),
        tag_of({**gone, path + "/new": files[path]}, references),
        tag_of(files, {**references, name: Resolved(value + more)}),
        tag_of(files, less),
        tag_of(files, {**less, name + "/new": Resolved(value)}),
    ]

    assert before not in tags


@given(FILES, REFERENCES, st.data(), st.lists(NONCES, min_size=2, max_size=4, unique=True))
def test_what_can_not_be_resolved_makes_each_tag_a_new_one(
    files: dict[str, str],
    references: dict[str, Reference],
    data: st.DataObject,
    nonces: list[str],
) -> None:
    names = data.draw(st.sets(st.sampled_from(sorted(references)), min_size=1))
    lost = {
        name: Unresolved(each.value, "no network") if name in names else each
        for name, each in references.items()
    }
    tags = [image_tag(files, lost, lambda nonce=nonce: nonce) for nonce in nonces]

    assert len({*tags, tag_of(files, references)}) == len(nonces) + 1


@given(FILES, REFERENCES, TEXTS, TEXTS)
def test_why_it_could_not_be_resolved_is_no_input(
    files: dict[str, str], references: dict[str, Reference], why: str, other: str
) -> None:
    name = min(references)
    value = references[name].value
    tags = {
        image_tag(files, {**references, name: Unresolved(value, text)}, lambda: "0")
        for text in (why, other)
    }

    assert len(tags) == 1


def test_texts_do_not_run_into_each_other() -> None:
    pairs = [("a", "bc"), ("ab", "c"), ('a": "', "bc"), ("a\n", "bc"), ("", "abc")]
    tags = [tag_of(dict([pair]), {}) for pair in pairs]
    tags += [tag_of({}, {name: Resolved(value)}) for name, value in pairs]

    assert all(one != other for one, other in itertools.combinations(tags, 2))
