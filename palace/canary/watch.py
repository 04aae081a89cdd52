"""Runs a canary: `python -I -S palace/canary/watch.py`, by its file, since -S knows no packages.

Nothing but the start is here: a program's own file is compiled each time.
"""

import sys

if __name__ == "__main__":
    sys.path.append(__file__.removesuffix("/palace/canary/watch.py"))

    from palace.canary.process import main

    sys.exit(main())
