"""A palace that this process owns: where it is, how it is set up, and who writes its records."""

import attrs

from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.ownership.keys import KeyFile
from palace.ownership.served import Memory
from palace.settings.config import Config
from palace.settings.paths import Paths


@attrs.frozen(kw_only=True)
class OwnedPalace:
    """Valid for as long as the palace's lock is held.

    `memory` is what is remembered of the palace outside of it, None if nothing is; `keys` is where
    those of its journal are kept, None where they can't be.
    """

    paths: Paths
    config: Config
    kernel: Kernel
    stamp: Stamp
    memory: Memory | None = None
    keys: KeyFile | None = None
