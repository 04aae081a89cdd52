"""The shim of a palace's command that files memories for the palace's owner, as an agent would.

Its HELLO says that it is nobody's workspace, as one does that was the owner's before.  So it is the
owner's wherever the command was started: a directory that is bound to a workspace counts for
nothing.
"""

import sys

from palace.settings.process import prepare_process
from palace.shim.relay import main

if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:], {"workspace": ""}))
