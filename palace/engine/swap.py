"""Putting new stores in the place of old ones, all or none.

A list of renames is made durable first; whoever holds the lock next carries it through, however
often it was interrupted.
"""

import json
import os
from collections.abc import Sequence

import attrs

from palace.host import Host

PLAN = "swap.json"


@attrs.frozen
class Move:
    """One rename; it is done when its source is gone.

    Where another move puts something in its source's place, it is done when its target is there.
    """

    old: str
    new: str


def swap(root: str, host: Host, moves: Sequence[Move]) -> None:
    """Carry out renames within one file system each; a crash leaves them to `finish_swap`."""
    plan = json.dumps([[move.old, move.new] for move in moves]).encode()
    host.write_durable(f"{root}/{PLAN}", plan)
    finish_swap(root, host)


def finish_swap(root: str, host: Host) -> bool:
    """Carry through what an interrupted swap has left; False where there was none."""
    plan = host.read_file(f"{root}/{PLAN}", 1 << 22)
    if plan is None:
        return False
    moves = json.loads(plan)
    targets = {new for _, new in moves}
    for old, new in moves:
        if host.file_id(old) is None or (old in targets and host.file_id(new) is not None):
            continue
        host.make_directory(os.path.dirname(new))
        host.rename(old, new)
        host.sync_directory(os.path.dirname(new))
        host.sync_directory(os.path.dirname(old))
    host.unlink(f"{root}/{PLAN}")
    host.sync_directory(root)
    return True
