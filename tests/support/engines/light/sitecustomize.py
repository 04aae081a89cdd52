"""Python imports this at its start where PYTHONPATH names this directory: for storms of processes.

The product knows no environment variable for either, and its brokers are started by its own shims
with its own command line.

PALACELIGHT: a broker imports tests/support/engines/light/engine.py where it asks for
`hosting.mempalace`: all else of it (lock, record, socket, journal, admission, lanes) is as it
is installed, and it imports nothing earlier than it would.
PALACESANDBOX: while this file is there, a broker that is started detached dies without a word, as
in a sandbox that kills such processes; its shim then becomes a direct opener.
PALACEBOOT: a broker takes this for its kernel's boot id, as one of another machine has its own.
PALACEKILLS: see tests/support/faults/failpoints/sitecustomize.py, which is the one that does it
here, too.
"""

import os
import runpy
import signal
import sys

support = os.path.abspath(__file__).rsplit(os.sep, 3)[0]
runpy.run_path(f"{support}/faults/prepared.py")

if "serve" in sys.orig_argv:
    if "--detached" in sys.orig_argv and os.path.exists(os.environ.get("PALACESANDBOX", "")):
        os.kill(os.getpid(), signal.SIGKILL)
    if "PALACEKILLS" in os.environ:
        runpy.run_path(f"{support}/faults/failpoints/sitecustomize.py")
    if "PALACELIGHT" in os.environ:
        from importlib.util import spec_from_file_location

        class LightFinder:
            """Finds one module elsewhere."""

            @staticmethod
            def find_spec(name: str, _path: object = None, _target: object = None) -> object:
                if name != "palace.engine.hosting.mempalace":
                    return None
                return spec_from_file_location(name, f"{os.path.dirname(__file__)}/engine.py")

        sys.meta_path.insert(0, LightFinder)  # type: ignore[arg-type]
    if "PALACEBOOT" in os.environ:
        from palace.kernel.kernel import Kernel

        boot_id = os.environ["PALACEBOOT"]  # the broker replaces its environment later
        Kernel.boot_id = lambda _self: boot_id  # type: ignore[assignment, method-assign]
