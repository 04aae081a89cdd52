"""A palace that this process owns: where it is, how it is set up, and who writes its records."""

import attrs

from palace.journal.record import Stamp
from palace.kernel.kernel import Kernel
from palace.settings.config import Config
from palace.settings.paths import Paths


@attrs.frozen(kw_only=True)
class OwnedPalace:
    """Valid for as long as the palace's lock is held."""

    paths: Paths
    config: Config
    kernel: Kernel
    stamp: Stamp
