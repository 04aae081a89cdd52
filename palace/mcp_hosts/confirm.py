"""Asking at a terminal before a file is written."""

import sys

from palace.protocol.errors import Unconfirmed


def confirm(*, yes: bool) -> None:
    """Ask whether what was shown is to be written; raises Unconfirmed. `yes` has answered."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Unconfirmed("Nothing was written, since there is no terminal to ask. Write it: --yes")
    if input("Write this? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Unconfirmed("Nothing was written.")
