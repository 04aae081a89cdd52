"""The shim of one of palace's own commands, which asks a broker for what is the owner's.

Its session says so in its HELLO: it may call the owner's tools, which no MCP client may, and
nothing else (palace/protocol/rights.py).  Commands start it (palace/commands/agent.py).
"""

import sys

from palace.settings.process import prepare_process
from palace.shim.relay import main

if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:], {"command": "1"}))
