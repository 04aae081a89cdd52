"""Putting new stores in the place of old ones, all or none.

Theory of operation.  No system call renames several files at once.  So the renames are written
down first: until that plan is durable nothing has happened, and from then on it is carried through,
by the next holder of the lock if need be, however often it is interrupted.  Each rename is made
durable before the next, in order, so that old files are away before new ones take their names; a
rename is recognized as done by its source being gone.
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
        # Where `old` is also a target, a file of that name may be the new one, which a later rename
        # of this plan has put there already: then it is the presence of `new` that tells.
        if kernel.file_id(old) is None or (old in targets and kernel.file_id(new) is not None):
            continue
        kernel.make_directory(os.path.dirname(new))
        kernel.rename(old, new)
        # The new name first: a power cut between the two leaves the file under both names rather
        # than under none.
        kernel.sync_directory(os.path.dirname(new))
        kernel.sync_directory(os.path.dirname(old))
    kernel.unlink(f"{root}/{PLAN}")  # only now: until the last rename is durable it must be found
    kernel.sync_directory(root)
    return True
