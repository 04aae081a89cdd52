"""Lets what a test has put into a process's environment stay there, and pass on to its brokers.

The product drops what it doesn't know (palace/settings/inherited.py).  Each `sitecustomize.py` of
the tests runs this file first, by its path, since it may be all that can be imported by then.
"""

import os
from collections.abc import Mapping

from palace.kernel.kernel import Kernel
from palace.settings import process
from palace.settings.environment import ShimEnvironment

PREPARED = (
    *("PYTHONPATH", "LD_PRELOAD", "TEST_", "STEPS"),
    *("PALACEKILLS", "PALACELIGHT", "PALACESANDBOX", "PALACEFAULTS", "PALACEBOOT"),
)


def prepared(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(PREPARED)}


GIVEN = prepared(os.environ)
for_broker = ShimEnvironment.for_broker
replace_environment = Kernel.replace_environment

process.prepare_process = lambda: os.environ.update(process.QUIET)
ShimEnvironment.for_broker = (  # type: ignore[method-assign]
    lambda self: for_broker(self) | prepared(self.all)
)
Kernel.replace_environment = (  # type: ignore[method-assign]
    lambda self, environ: replace_environment(self, {**environ, **GIVEN})
)
