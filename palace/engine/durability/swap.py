"""Putting new stores in the place of old ones, all or none.

A list of renames is made durable first; whoever holds the lock next carries it through, however
often it was interrupted.
"""

import json
import os
from collections.abc import Sequence

import attrs

from palace.kernel.kernel import Kernel

PLAN = "swap.json"


@attrs.frozen
class Move:
    """One rename; it is done when its source is gone.

    Where another move puts something in its source's place, it is done when its target is there.
    """

    old: str
    new: str


def swap(root: str, kernel: Kernel, moves: Sequence[Move]) -> None:
    """Carry out renames within one file system each; a crash leaves them to `finish_swap`."""
    plan = json.dumps([[move.old, move.new] for move in moves]).encode()
    kernel.write_durable(f"{root}/{PLAN}", plan)
    finish_swap(root, kernel)


def finish_swap(root: str, kernel: Kernel) -> bool:
    """Carry through what an interrupted swap has left; False where there was none."""
    plan = kernel.read_file(f"{root}/{PLAN}", 1 << 22)
    if plan is None:
        return False
    moves = json.loads(plan)
    targets = {new for _, new in moves}
    for old, new in moves:
        if kernel.file_id(old) is None or (old in targets and kernel.file_id(new) is not None):
            continue
        kernel.make_directory(os.path.dirname(new))
        kernel.rename(old, new)
        kernel.sync_directory(os.path.dirname(new))
        kernel.sync_directory(os.path.dirname(old))
    kernel.unlink(f"{root}/{PLAN}")
    kernel.sync_directory(root)
    return True
