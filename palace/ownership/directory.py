"""Which directories may hold control files: one check for the palace, its lock, its socket.

Standard library only, and light: every election runs through here.
"""

import os

from palace.kernel.kernel import Kernel
from palace.kernel.whose import above_problem, is_shared
from palace.protocol.errors import UnsafePalace
from palace.settings.paths import Paths

_OURS = (
    *(
        "engine",
        "epoch",
        "journal",
        "owner.json",
        "palace.toml",
        "palace_id",
        "protocol",
        "swap.json",
    ),
    *("tunnels.json", "hallways.json", "replica.json", "mempalace_embedder.json"),  # stock's
)
_BEGINNINGS = (
    *("chroma.sqlite3", "sqlite_exact.sqlite3", "knowledge_graph.sqlite3"),
    *("logstream.sqlite3", "palace.sqlite3", "hallways.sqlite3"),
    *("broker.", "rebuild-", "restore-", "replaced-"),
)


def check_private(path: str, kernel: Kernel, *, called: str, remedy: str) -> None:
    """Refuse a directory that another user owns or may write to; raises UnsafePalace.

    `called` and `remedy` are the message's words for what it is and for what to do.
    """
    problem = kernel.trust_problem(path)
    if problem:
        raise UnsafePalace(f"{called} {path} can't be used: {problem}. {remedy}")
    check_above(path, called=called)


def check_above(path: str, *, called: str) -> None:
    """Refuse a directory that others could replace by another; raises UnsafePalace."""
    problem = above_problem(path)
    if problem:
        raise UnsafePalace(
            f"{called} {path} can't be used: {problem}, so that others could put another one in "
            "its place. Move it below a directory that only you and root may write to."
        )


def prepare_private(path: str, kernel: Kernel, *, called: str, remedy: str) -> None:
    """Create a directory for this user alone where there is none, and check it either way.

    What it lies in is checked before, and itself after: another user may have been faster (/tmp).
    """
    check_above(path, called=called)
    kernel.make_directory(path)
    check_private(path, kernel, called=called, remedy=remedy)


def prepare_in_state(path: str, kernel: Kernel, *, called: str, remedy: str) -> None:
    """Prepare a directory two levels below the user's state directory, and the one above it."""
    for one in (os.path.dirname(path), path):
        os.makedirs(os.path.dirname(one), 0o700, exist_ok=True)
        prepare_private(one, kernel, called=called, remedy=remedy)


def check_palace(paths: Paths, kernel: Kernel) -> None:
    """Refuse a palace's directory that this user can't serve; raises UnsafePalace."""
    root = paths.root
    if os.path.exists(root) and not os.path.isdir(root):
        raise UnsafePalace(
            f"The palace {root} can't be used: it is not a directory. Name the palace's directory, "
            "as --palace DIR or MEMPALACE_PATH=DIR."
        )
    check_private(
        root,
        kernel,
        called="The palace",
        remedy=f"Run as its owner, and take write access from others: chmod go-w {root}",
    )
    if not kernel.writable(root):
        raise UnsafePalace(
            f"The palace {root} is read-only for this process: its owner must be able to write "
            f"there. Mount it read-write, or chmod u+w {root}"
        )


def check_no_links(paths: Paths, kernel: Kernel) -> None:
    """Refuse a palace in which a link, a FIFO or a device stands for something of its own.

    Whoever may write there could have us open, and write, any file of ours by it.  The record may
    be a FIFO: it is read without waiting, and each owner puts another file in its place.
    """
    from palace.kernel.odd_files import is_odd

    for name in kernel.list_directory(paths.root):
        path = f"{paths.root}/{name}"
        if _is_ours(name) and kernel.is_link(path):
            raise UnsafePalace(
                f"{path} is a link, and what palace keeps must lie in the palace itself: whoever "
                "may write there could lead it to any file of yours. Put the file in the link's "
                "place, and bind mount a directory that must be elsewhere."
            )
        if _is_ours(name) and path != paths.record and is_odd(path):
            raise UnsafePalace(
                f"{path} is a FIFO or a device, where a file of the palace belongs: whoever opens "
                "it would wait for ever. Move it away, or put the file back."
            )


def _is_ours(name: str) -> bool:
    head = name.partition(".")[0]
    is_segment = len(head) == 36 and head.count("-") == 4
    return is_segment or name in _OURS or name.startswith(_BEGINNINGS)


def place_of_lists(root: str) -> str:
    """Return the directory of mempalace's lists: beside the palace, as stock has it, or in it.

    Where others may put files beside it, a list there may be anybody's, and so may its lock be.
    """
    parent = os.path.dirname(root)
    return root if is_shared(parent) else parent


def prepare_palace(paths: Paths, kernel: Kernel) -> None:
    """Create a palace's directory where that is sane, and check it either way."""
    if kernel.file_id(paths.root) is None:
        _create_palace(paths, kernel)
    check_palace(paths, kernel)
    check_no_links(paths, kernel)


def _create_palace(paths: Paths, kernel: Kernel) -> None:
    root = paths.root
    parent = os.path.dirname(root)
    if kernel.file_id(parent) is None:
        # A missing parent is more likely a mount that is missing than a wish: a palace created
        # beneath it would be hidden as soon as that is mounted.
        if paths.found_by != "default" and os.path.basename(root) != "palace":
            raise UnsafePalace(
                f"The palace {root} (from {paths.found_by}) does not exist, and neither does "
                f"{parent}. If it is a mount, mount it; if it is new: mkdir -p {root}"
            )
        os.makedirs(parent, 0o700, exist_ok=True)
    try:
        kernel.make_directory(root)
    except OSError as error:
        raise UnsafePalace(
            f"The palace {root} does not exist and can't be created: {error.strerror}. "
            f"Create it by hand: mkdir -p {root}"
        ) from None
