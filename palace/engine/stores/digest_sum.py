"""A store's contents as two numbers, kept up to date change by change."""

from collections.abc import Iterable

import attrs

_64_BITS = (1 << 64) - 1


@attrs.define
class DigestSum:
    """How many entities there are, and the sum of their digests modulo 2**64.

    The order of the entities doesn't count, and one can be taken out again, so that what our own
    records touched can be left out of a comparison.
    """

    count: int = 0
    total: int = 0

    @classmethod
    def of(cls, digests: Iterable[int]) -> "DigestSum":
        found = cls()
        for digest in digests:
            found.add(digest)
        return found

    def add(self, digest: int) -> None:
        self.count += 1
        self.total = (self.total + digest) & _64_BITS

    def remove(self, digest: int) -> None:
        self.count -= 1
        self.total = (self.total - digest) & _64_BITS

    def without(self, digests: Iterable[int]) -> "DigestSum":
        """Return what is left when entities are taken out."""
        gone = DigestSum.of(digests)
        return DigestSum(self.count - gone.count, (self.total - gone.total) & _64_BITS)

    def as_json(self) -> list[int]:
        return [self.count, self.total]
