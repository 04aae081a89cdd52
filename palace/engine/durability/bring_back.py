"""Bringing a palace's identity, journal and settings back to the directory that it was served from.

Other programs replace that directory: stock's `repair rebuild-index` renames it away and builds a
new one, `migrate` does and removes the old one, and people move and remove it.  What is there then
has stores at best.  The rest is looked for

| where | what put it there |
|---|---|
| in the directory itself | nothing: only the identity was removed |
| in the user's state directory | a broker whose directory was replaced under it |
| beside the directory | stock: its archives and copies, by the names that it gives them |
| where it was seen to go | whoever moved it; only if the user asks for it |

and the journal that reaches furthest is taken; one that was begun beside the palace's own, by an
owner whose directory was replaced as it opened it, counts last, however far it reaches.  It is
copied, so that an archive stays what it was.
The stores are left as they are: the owner that opens them next compares them with the journal,
writes again what they lack, and adopts the rest as another program's changes.

Everything is put in place by one list of renames (swap.py), the identity last: until it is there,
the next owner begins again.
"""

import os
import shutil
from collections.abc import Iterator, Mapping

import attrs

from palace.engine.durability.swap import PLAN, Exchange, Move
from palace.journal.copying import copy_file
from palace.journal.journal import Journal, read_tail
from palace.journal.origin import begun_in
from palace.journal.segment import ARCHIVE, SUFFIX, list_segments
from palace.kernel.kernel import Kernel
from palace.ownership.keys import ring_of
from palace.ownership.lock import (
    Ownership,
    attempts,
    replaced_meanwhile,
    wait_for_mempalace,
)
from palace.ownership.served import (
    ARCHIVED,
    REPLACED,
    Served,
    find_missing,
    gone,
    holds,
    is_on_another_disk,
    keep,
    saved_copies,
    where_moved,
)
from palace.protocol.keyring import Keyring
from palace.settings.config import load_config
from palace.settings.paths import Paths

# Beside the palace, by stock's names: what `repair rebuild-index` and `repair --mode from-sqlite`
# archive, what `migrate` copies and what it renames away, and what `repair` copies.
ARCHIVES = (*ARCHIVED, ".backup")
SCRATCH = "recover-"
SWAP_S = 60.0  # for a stock migrate that is putting its directory in place
SWAP_QUIET_S = 5.0
SWAP_POLL_S = 0.1


@attrs.frozen(kw_only=True)
class Source:
    """A journal of the palace that is missing; `seq` is its last record.

    `known` says that it is the one which was served, as far as its beginning tells.
    """

    root: str
    seq: int
    epoch: int
    whole: bool
    known: bool = True

    @property
    def journal(self) -> str:
        return f"{self.root}/journal"

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        return self.known, self.whole, self.seq, self.epoch


def bring_back(
    ownership: Ownership, environ: Mapping[str, str], kernel: Kernel, *, asked: bool = False
) -> str:
    """Bring back what was served at a path and is missing there; return what was done.

    `asked`: by the user, who may want it from where it was moved to.
    Raises PalaceReplaced where it is nowhere, or on a disk that isn't mounted, ForeignWriter while
    stock works on the directory, LockReplaced where the directory that was locked is replaced
    meanwhile, OSError.
    """
    paths = ownership.paths
    if kernel.file_id(f"{paths.root}/{PLAN}") is not None:
        Exchange(paths, load_config(paths, environ, kernel).graph, kernel).finish()
    missing = find_missing(paths, environ, kernel)
    if missing is None:
        return ""
    if not asked and is_on_another_disk(missing, kernel):
        raise gone(missing, environ, kernel)  # it would be hidden once the disk is there again
    _wait_for_others(paths, environ, kernel, missing)
    sources = find_sources(paths, environ, kernel, missing, asked=asked)
    if not sources:
        raise gone(missing, environ, kernel, tried=", nor in an archive of stock's beside it")
    best = max(sources, key=lambda source: source.rank)
    _put_in_place(ownership, kernel, missing, best, sources)
    lost = missing.seq - best.seq
    missing.seq = max(missing.seq, best.seq)
    if lost > 0:
        # A resent line may be among what is missing: it is answered with "unknown".
        Journal.note_lost(paths.journal, kernel)
        missing.lost_from, missing.lost_to, missing.seq = best.seq + 1, missing.seq, best.seq
        is_there = kernel.file_id(missing.saved) is not None
        missing.lost_with = "" if is_there else missing.saved
    copies = saved_copies(paths.root, environ, kernel)
    missing.moved_to = missing.saved = ""
    keep(missing, environ, kernel, durable=True)
    for copy in copies:
        shutil.rmtree(copy, ignore_errors=True)
    text = (
        f"another program had replaced {paths.root}: {missing.name} was brought back from "
        f"{best.root}, up to record {best.seq}"
    )
    if lost > 0:
        text += f"; records {missing.lost_from} to {missing.lost_to} are in no copy"
    return text


def _wait_for_others(
    paths: Paths, environ: Mapping[str, str], kernel: Kernel, missing: Served
) -> None:
    """Wait for a broker that still saves what it held, and for stock that rebuilds or swaps."""
    kernel.close(wait_for_mempalace(paths, environ, kernel))
    # migrate takes no lock.  Between its two renames, and after the second one if that is a copy
    # from another disk, the old directory has this name.
    quiet_s, seen = kernel.monotonic(), kernel.signature(paths.store)
    for _ in attempts(kernel, SWAP_S, SWAP_POLL_S):
        if not holds(paths.root + REPLACED, missing.palace_id, kernel):
            return
        found = kernel.signature(paths.store)
        if found != seen:
            quiet_s, seen = kernel.monotonic(), found
        if kernel.monotonic() - quiet_s >= SWAP_QUIET_S:
            return  # it was interrupted, or is a copy that somebody else made


def find_sources(
    paths: Paths,
    environ: Mapping[str, str],
    kernel: Kernel,
    missing: Served,
    *,
    asked: bool = False,
) -> list[Source]:
    """Return the journals of a missing palace that can be found."""
    keys = ring_of(missing.palace_id, environ, kernel)
    roots = [paths.root, *saved_copies(paths.root, environ, kernel)]
    roots += archives_of(paths, missing, kernel)
    if asked and (moved_to := where_moved(missing, kernel)):
        roots.append(moved_to)
    found = (_source(root, kernel, keys, missing.begun) for root in roots)
    return [source for source in found if source is not None]


def archives_of(paths: Paths, missing: Served, kernel: Kernel) -> list[str]:
    """Return stock's archives beside a palace's directory that are of the missing palace."""
    parent, name = os.path.split(paths.root)
    found = [
        f"{parent}/{other}"
        for other in sorted(kernel.list_directory(parent))
        if any(other.startswith(name + ending) for ending in ARCHIVES)
    ]
    return [root for root in found if holds(root, missing.palace_id, kernel)]


def _source(root: str, kernel: Kernel, keys: Keyring, begun: int) -> Source | None:
    segments = list_segments(f"{root}/journal", kernel)
    if not segments:
        return None
    tail = read_tail(segments, kernel, keys)
    first = begun_in(list_segments(f"{root}/journal", kernel, archived=True), kernel, keys)
    known = not begun or not first or first == begun
    return Source(root=root, seq=tail.seq, epoch=tail.epoch, whole=not tail.gaps, known=known)


def _put_in_place(
    ownership: Ownership, kernel: Kernel, missing: Served, best: Source, sources: list[Source]
) -> None:
    paths = ownership.paths
    scratch = f"{paths.root}/{SCRATCH}{missing.epoch}"
    shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
    kernel.make_directory(scratch)
    moves = []
    if best.root != paths.root:
        others = [source for source in sources if source is not best]
        _copy_journal(best, others, f"{scratch}/journal", kernel)
        if kernel.file_id(paths.journal) is not None:
            moves.append(Move(paths.journal, f"{paths.root}/replaced-{missing.epoch}/journal"))
        moves.append(Move(f"{scratch}/journal", paths.journal))
        moves += _settings(paths, best, scratch, kernel)
    epoch = max(missing.epoch, best.epoch)
    for path, text in ((paths.epoch, f"{epoch}\n"), (paths.palace_id, f"{missing.palace_id}\n")):
        new = f"{scratch}/{os.path.basename(path)}"
        kernel.write_durable(new, text.encode())
    # Copying and waiting take long.  The palace itself may be back by now, under another owner.
    if not kernel.same_file(ownership.lock_fd, paths.lock):
        shutil.rmtree(scratch, ignore_errors=True)
        raise replaced_meanwhile(paths)
    for path in (paths.epoch, paths.palace_id):
        if kernel.file_id(path) is not None:
            kernel.unlink(path)  # an empty one, or an epoch that counts for nothing
        moves.append(Move(f"{scratch}/{os.path.basename(path)}", path))
    Exchange(paths, "", kernel).swap(moves)
    shutil.rmtree(scratch, ignore_errors=True)


def _settings(paths: Paths, best: Source, scratch: str, kernel: Kernel) -> Iterator[Move]:
    for path in (paths.settings, paths.protocol):
        name = os.path.basename(path)
        if kernel.file_id(path) is None and kernel.file_id(f"{best.root}/{name}") is not None:
            copy_file(f"{best.root}/{name}", f"{scratch}/{name}", kernel)
            yield Move(f"{scratch}/{name}", path)


def _copy_journal(best: Source, others: list[Source], target: str, kernel: Kernel) -> None:
    """Copy a journal whole, and into its archive what only the others still have of its past."""
    kernel.make_directory(target)
    kernel.make_directory(f"{target}/{ARCHIVE}")
    last = list_segments(best.journal, kernel)[-1].path
    for name in _names(best.journal, kernel):
        source = f"{best.journal}/{name}"
        # What was closed never changes: another name for it is as good as a copy.
        copy = copy_file if source == last else _link_or_copy
        copy(source, f"{target}/{name}", kernel)
    there = {*_names(target, kernel)}
    for journal in [best.journal, *(source.journal for source in others)]:
        for directory in (f"{journal}/{ARCHIVE}", journal):
            for name in _names(directory, kernel):
                if name not in there and name < os.path.basename(last):
                    there.add(name)
                    _link_or_copy(f"{directory}/{name}", f"{target}/{ARCHIVE}/{name}", kernel)
    kernel.sync_directory(f"{target}/{ARCHIVE}")
    kernel.sync_directory(target)


def _names(directory: str, kernel: Kernel) -> list[str]:
    return sorted(name for name in kernel.list_directory(directory) if name.endswith(SUFFIX))


def _link_or_copy(source: str, target: str, kernel: Kernel) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # on another disk, or where links aren't known
        copy_file(source, target, kernel)
