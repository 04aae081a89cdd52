"""A palace that this process owns: where it is, how it is set up, and who writes its records."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext

import attrs

from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.data_locks import alone_with
from palace.ownership.keys import KeyFile
from palace.ownership.lock import Ownership
from palace.ownership.served import Memory
from palace.settings.config import Config
from palace.settings.paths import Paths


@attrs.frozen(kw_only=True)
class OwnedPalace:
    """Valid for as long as the palace's lock is held.

    `memory` is what is remembered of the palace outside of it, None if nothing is; `keys` is where
    those of its journal are kept, None where they can't be.  `ownership` has its locks, None where
    no other palace can have any of its files open.
    """

    paths: Paths
    config: Config
    kernel: Kernel
    stamp: Stamp
    memory: Memory | None = None
    keys: KeyFile | None = None
    ownership: Ownership | None = None

    def alone_with(self, files: Collection[str]) -> AbstractContextManager[None]:
        """Keep other palaces' brokers from having files open; raises StoreUnavailable."""
        if self.ownership is None:
            return nullcontext()
        return alone_with(self.ownership, files, self.kernel)
