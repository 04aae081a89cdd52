"""What nearly every step of a client needs: the kernel, a palace's paths, and the environment."""

from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths


class Site:
    """One palace as one process sees it; the three never change while the process lives."""

    __slots__ = ("environment", "kernel", "paths")

    def __init__(self, kernel: Kernel, paths: Paths, environment: ShimEnvironment) -> None:
        self.kernel = kernel
        self.paths = paths
        self.environment = environment
