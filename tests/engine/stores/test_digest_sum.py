"""A store's contents as a count and a sum: equal for equal contents, whatever the order."""

from hypothesis import given
from hypothesis import strategies as st

from palace.engine.stores.digest_sum import DigestSum

digests = st.lists(st.integers(0, (1 << 64) - 1), max_size=8)


@given(digests, digests)
def test_what_is_taken_out_leaves_the_sum_of_the_rest(kept: list[int], gone: list[int]) -> None:
    whole = DigestSum.of([*gone, *kept])

    assert whole.without(gone) == DigestSum.of(kept)
    assert whole.as_json() == DigestSum.of([*reversed(kept), *gone]).as_json()


@given(digests)
def test_sum_is_kept_up_to_date_change_by_change(changed: list[int]) -> None:
    found = DigestSum.of(changed)
    for digest in changed:
        found.remove(digest)

    assert found == DigestSum(0, 0)


def test_sum_wraps_at_64_bits() -> None:
    """As it stands in journals: fingerprints of an older palace must compare as equal."""
    highest = (1 << 64) - 1

    assert DigestSum.of([highest, 2]).as_json() == [2, 1]
    assert DigestSum(1, 0).without([1]).as_json() == [0, highest]


def test_another_digest_is_another_sum() -> None:
    assert DigestSum.of([1, 2]) != DigestSum.of([1, 3])
    assert DigestSum.of([0]) != DigestSum.of([])
