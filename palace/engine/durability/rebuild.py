"""New stores from the journal alone: built beside the old ones, checked, and put in their place."""

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from palace import __version__
from palace.engine.durability.backends import (
    backend_to_build,
    named_backend,
    store_of,
    store_of_name,
)
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.pinned import (
    check_not_older,
    installed_versions,
    note_made_by,
    older_packages,
    way_up,
)
from palace.engine.durability.reconciliation import take_over
from palace.engine.durability.reembedding import Reembedded, Reembedding
from palace.engine.durability.swap import Exchange, Move
from palace.engine.durability.translation import Source, Translation, fits
from palace.engine.stores.drawers import COLLECTION, PGVECTOR, backend_in, is_drawer_file
from palace.engine.stores.files import KIND as FILE
from palace.engine.stores.files import NAMES as FILES
from palace.engine.stores.palace_stores import (
    MADE_FOR,
    Stores,
    opened_stores,
    unopened_stores,
)
from palace.engine.stores.projection import BATCH, Projection, fingerprints_of, in_batches
from palace.engine.stores.rows import FILE_ENDS
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, STATE, Draft
from palace.journal.replay import Progress, Replay, replay
from palace.journal.tail import MOVING
from palace.journal.undo import records_of_undoing
from palace.kernel.kernel import Kernel
from palace.ownership.directory import place_of_lists
from palace.ownership.format import need_register
from palace.ownership.holders import BESIDE, LATER_HALLWAYS
from palace.protocol.errors import JournalBroken, StoreCorrupt, StoreOwned, StoreUnavailable
from palace.settings.config import Config
from palace.settings.paths import Paths

if TYPE_CHECKING:
    from palace.engine.stores.pgvector import PgVector

# How stores have changed, in words for their names, and how a broker takes that over.
_BY_ANOTHER = (
    "Another program has changed {} since a broker last had the palace open.",
    "palace start",
)
_WITHOUT_IT = (
    "What is in {} has changed while the journal was off.",
    "palace config set journal=on; palace stop; palace start",
)


@attrs.frozen(kw_only=True)
class Rebuilt:
    """What a rebuild has made; `kept` is where the old stores are, "" where they are gone.

    Of a move to another backend: how many entities that keeps otherwise (`altered`), and why the
    old tables of a server were not renamed, "" where they were, or weren't any.
    """

    entities: int
    kinds: dict[str, int]
    kept: str
    altered: int = 0
    tables_stayed: str = ""


@attrs.define(eq=False, kw_only=True)
class Rebuild:
    """One rebuild.  Call it under the palace's lock, with no store open in this process."""

    palace: OwnedPalace
    journal: Journal
    progress: Progress
    partial: bool = False
    keep: bool = True
    downgrade: bool = False  # for an engine that is older than one that has served the palace
    backend: str = ""  # which keeps the drawers from now on, "" the one that does
    anew: "Reembedding | None" = None  # whose vectors the drawers have from now on
    is_proof: bool = False  # with another backend: its stores are looked at, and never served

    def run(self) -> Rebuilt:
        """Check, then `build`; raises what `check` does."""
        self.check()
        return self.build()

    def build(self) -> Rebuilt:
        """Build new stores, compare them, swap: of a journal that was checked."""
        self._close_open_keys()
        self._adopt_files()
        known = replay(self.paths.journal, self.kernel, self.progress, keys=self.journal.keys)
        made = self._entities(known)
        scratch = make_scratch(self.palace)
        palace = scratch_palace(self.palace, scratch, self._to_build)
        with opened_stores(*palace, self.kernel, self._to_build) as new:
            new.drawers.make()  # a palace without drawers has a store, too
            fill_stores(new, made, in_order(made), self.progress)
            verify_stores(new, made, in_order(made), self.progress)
        if any(new.register.owns(kind) for kind in known.kinds()):
            need_register(self.paths, self.kernel)
        self._note_move()
        tables = self._tables_in(new)
        # Chroma is closed now: what it still had to write is in the files that move.
        moves = [*self._old_away(), *self._new_in(new, made)]
        if new.pgvector is not None and tables is not None:
            # Killed between the two, either is what the journal says.
            tables.put_in_place(new.pgvector, self._suffix if self.keep else "")
        Exchange(self.paths, self.palace.config.graph, self.kernel).swap(moves)
        self.kernel.failpoint("swapped")
        shutil.rmtree(scratch, ignore_errors=True)
        if not self.keep:
            self._remove_old()
        altered, stayed = 0, ""
        if not self.is_proof:
            altered = self._take_over(known)
            stayed = self._old_tables_away()
            self._record_fingerprints()
        if self.downgrade:  # last: until then no older engine may open what is there
            note_made_by(self.paths, self.kernel, installed_versions())
        return Rebuilt(
            entities=len(known.live),
            kinds={kind: len(known.ids(kind)) for kind in sorted(known.kinds())},
            kept=self._kept if self.keep else "",
            altered=altered,
            tables_stayed=stayed,
        )

    # Where the drawers go to another backend.

    @property
    def _kept_by(self) -> str:
        """Return the store that keeps the drawers now."""
        named = store_of(named_backend(self.palace))
        return backend_in(self.journal.tail.baseline) or named

    @property
    def _to_build(self) -> str:
        return self.backend or backend_to_build(self.palace, self.journal.tail)

    @property
    def _is_move(self) -> bool:
        return store_of_name(self._to_build) != self._kept_by

    @property
    def _differs(self) -> bool:
        """Tell whether the new stores hold something else than the journal says until now."""
        return self._is_move or self.anew is not None

    def _entities(self, known: Replay) -> Source:
        """Return what the new stores are made of; raises StoreUnavailable for what can't be."""
        if self.anew is not None:
            self.anew.embed(known, self.progress)
            return Reembedded(known, self.anew, store_of_name(self._to_build))
        if not self._is_move:
            return known
        translation = Translation(known, store_of_name(self._to_build))
        translation.check()
        return translation

    def _note_move(self) -> None:
        """Have the next owner know, durably, that either store may be in place."""
        if self._differs and not self.is_proof:
            moving = {MOVING: store_of_name(self._to_build)}
            self.journal.sync(self.journal.append([Draft(action=STATE, payload=moving)]))

    def _tables_in(self, new: Stores) -> "PgVector | None":
        """Return the tables of a server that new ones replace; stock finds these by a file."""
        if new.pgvector is None:
            return None
        from palace.engine.stores.pgvector_tables import mark

        real = self._real(self._to_build).pgvector
        assert real is not None
        mark(self.paths.root, real.target, new.drawers.root)
        return real

    def _take_over(self, known: Replay) -> int:
        """Have the journal say what the new store made of entities that it keeps otherwise.

        Returns of how many, collections left out.
        """
        return self._adopt_new(known) if self._differs else 0

    def settle(self) -> None:
        """Journal what a change of the vectors that was killed has put in place, if one was."""
        if self.journal.tail.moving == self._kept_by:
            self._adopt_new(replay(self.paths.journal, self.kernel, keys=self.journal.keys))
            self._record_fingerprints()

    def _adopt_new(self, known: Replay) -> int:
        altered = 0
        with opened_stores(self.paths, self.palace.config, self.kernel, self._to_build) as stores:
            for store in (stores.files, stores.drawers):
                store.read_fingerprint()
                work = take_over(self.journal, store, known)
                for number, kind in enumerate(kinds := sorted(store.kinds())):
                    self.progress("comparing it with the journal", number / len(kinds))
                    before = self.journal.seq
                    work.run(kind)
                    altered += self.journal.seq - before if kind != COLLECTION else 0
        return altered

    def _old_tables_away(self) -> str:
        """Rename the tables of a server that were left; return why not, where they stay."""
        old = self._real(PGVECTOR).pgvector if self._kept_by == PGVECTOR else None
        if old is None or not self._is_move:
            return ""
        if old.target.is_shared:
            return (
                f"other directories may name {old.target.prefix}_*, too "
                "(MEMPALACE_PGVECTOR_SHARED_NAMESPACE). Drop them once nobody does."
            )
        try:
            old.put_aside(self._suffix)
        except StoreUnavailable as error:
            return str(error)
        return ""

    @property
    def paths(self) -> Paths:
        return self.palace.paths

    @property
    def kernel(self) -> Kernel:
        return self.palace.kernel

    @property
    def _suffix(self) -> str:
        return str(self.journal.stamp.epoch)

    @property
    def _kept(self) -> str:
        return f"{self.paths.root}/replaced-{self._suffix}"

    def _close_open_keys(self) -> None:
        """Roll back in the journal what a dead owner left unfinished: no store will hold it."""
        drafts = list(records_of_undoing(self.journal.tail.open, "its owner died"))
        if drafts:
            self.journal.append(drafts)
        self.journal.sync(self.journal.seq)

    def check(self) -> None:
        """Raise EngineOlder unless `downgrade`, where what is installed is older than the stores.

        Unless `partial`, raise JournalBroken where the journal lacks what they may hold.
        """
        if not self.downgrade:
            check_not_older(self.paths, self.kernel, installed_versions())
        self._claim_tables()
        if self.partial:
            return
        known = replay(self.paths.journal, self.kernel, self.progress, keys=self.journal.keys)
        if known.gaps:
            gaps = ", ".join(f"{first} to {last}" for first, last in known.gaps[:5])
            raise JournalBroken(
                f"The journal lacks records {gaps}, so that stores made from it would lack "
                "memories, too. See palace doctor; build what there is: palace rebuild --partial"
            )
        adopting = self.journal.tail.adopting
        if adopting is not None:
            raise JournalBroken(
                f"{adopting.problem(len(known.live))} Or build stores of what there is, and keep "
                "the old ones: palace rebuild --partial"
            )
        if self.is_proof:
            return  # there are no stores yet, and those of the palace itself are its own matter
        if changed := ", ".join(self._changed_by_others()):
            by, way = _BY_ANOTHER
            if self.journal.tail.paused:
                by, way = _WITHOUT_IT
            raise JournalBroken(
                f"{by.format(changed)} Stores made from the journal would lack that: "
                f"{self._taken_over_by(way)}"
            )

    def _taken_over_by(self, way: str) -> str:
        installed = installed_versions()
        if not older_packages(self.paths, self.kernel, installed):
            return (
                f"let a broker take it over first ({way}), or go without it, the old stores are "
                "kept: palace rebuild --partial"
            )
        up = way_up(self.paths, self.kernel, installed)
        return (
            f"let a broker of the newer version take it over first ({up}; {way}; palace stop), and "
            "go back then; or go without it, the old stores are kept: palace rebuild --downgrade "
            "--partial"
        )

    def _claim_tables(self) -> None:
        """Have the right to write a server's tables, where some are left or replaced.

        One that will not come back is left without.
        """
        builds = store_of_name(self._to_build) == PGVECTOR
        if self.is_proof or not (builds or self._kept_by == PGVECTOR):
            return
        real = self._real(PGVECTOR).pgvector
        assert real is not None
        try:
            real.claim()
        except StoreOwned:
            raise
        except StoreUnavailable:
            if builds or not self.partial:
                raise

    def _changed_by_others(self) -> Iterator[str]:
        """Yield stores that hold what the journal may lack; unreadable ones are passed over."""
        tail = self.journal.tail
        stores = self._real(self._kept_by)
        for store in (
            stores.drawers,
            stores.graph,
            stores.logstream,
            stores.tunnels,
            stores.hallways,
        ):
            baseline = (tail.baseline or {}).get(store.name)
            try:
                store.read_fingerprint()
                if not any(store.count(kind) for kind in store.kinds()):
                    continue
                if baseline is None or store.suspects(baseline, tail.touched):
                    yield store.name
            except (sqlite3.DatabaseError, StoreCorrupt):
                continue

    def _adopt_files(self) -> None:
        """Journal stock's small files: a broker does that when it leaves, not when it dies."""
        known = replay(self.paths.journal, self.kernel, keys=self.journal.keys)
        found = [
            entry for entry in self._real().files.scan(FILE) if (FILE, entry[0]) not in known.live
        ]
        drafts = [Draft(action=ADOPT, kind=FILE, id=name, payload=data) for name, data in found]
        if drafts:
            self.journal.append(drafts)

    def _real(self, backend: str = "") -> Stores:
        return unopened_stores(self.paths, self.palace.config, self.kernel, backend)

    def _old_files(self) -> Iterator[str]:
        return old_files(self.paths, self.palace.config, self.kernel)

    def _old_away(self) -> Iterator[Move]:
        return moves_away(self.paths, self._old_files(), self.kernel, self._suffix)

    def _new_in(self, new: Stores, made: Source) -> Iterator[Move]:
        inside, kept = new.drawers.root, made.ids(FILE)
        for name in sorted(os.listdir(inside)):
            if name not in FILES or name in kept:
                yield Move(f"{inside}/{name}", f"{self.paths.root}/{name}")
        real = self._real()
        for built, final in (
            (new.graph.path, real.graph.path),
            (new.tunnels.path, real.tunnels.path),
            (new.hallways.path, real.hallways.path),
        ):
            if os.path.exists(built):
                yield Move(self._near(built, final), final)

    def _near(self, made: str, final: str) -> str:
        """Copy a new file to the file system where it belongs, so that a rename can end it."""
        near = f"{final}.rebuilt"
        shutil.copyfile(made, near)
        fd = self.kernel.open_read(near)
        try:
            self.kernel.sync(fd)
        finally:
            self.kernel.close(fd)
        return near

    def _remove_old(self) -> None:
        shutil.rmtree(self._kept, ignore_errors=True)
        for path in self._old_files():
            self.kernel.unlink(f"{path}.replaced-{self._suffix}")

    def _record_fingerprints(self) -> None:
        stores = self._real(self._to_build)
        for store in stores.all:
            store.read_fingerprint()
        fingerprints = fingerprints_of(stores.all)
        self.journal.fingerprints = lambda: fingerprints
        for note in (self.paths.differing_texts, self.paths.suspect_rows):
            self.kernel.unlink(note)  # the stores are new
        self.journal.end_adoption()  # a partial one: the stores hold what the journal does


def old_files(paths: Paths, config: Config, kernel: Kernel) -> Iterator[str]:
    """Yield the paths of a palace's stores, there or not; small files (files.py) left out."""
    real = unopened_stores(paths, config, kernel)
    for name in sorted(os.listdir(paths.root)):
        if is_drawer_file(paths.root, name):
            yield f"{paths.root}/{name}"
    for rows in real.tables:
        yield from rows.files
    # In both forms: mempalace would import the other one's as soon as it looks there.
    lists = place_of_lists(paths.root)
    yield from (f"{lists}/{name}" for name in BESIDE)
    yield from (f"{lists}/{LATER_HALLWAYS}{end}" for end in FILE_ENDS)


def moves_away(paths: Paths, files: Iterable[str], kernel: Kernel, suffix: str) -> Iterator[Move]:
    """Yield where files go: to `replaced-SUFFIX`, or beside themselves if outside the palace."""
    for path in files:
        inside = path.startswith(f"{paths.root}/")
        kept = f"{paths.root}/replaced-{suffix}/{os.path.basename(path)}"
        if kernel.file_id(path) is not None:
            yield Move(path, kept if inside else f"{path}.replaced-{suffix}")


def make_scratch(palace: OwnedPalace) -> str:
    """Make the directory in which new stores are built, and remove those of killed rebuilds."""
    root = palace.paths.root
    for name in os.listdir(root):
        if name.startswith("rebuild-"):
            shutil.rmtree(f"{root}/{name}", ignore_errors=True)
    scratch = f"{root}/rebuild-{palace.stamp.epoch}"
    palace.kernel.make_directory(scratch)
    return scratch


def scratch_palace(palace: OwnedPalace, scratch: str, backend: str) -> tuple[Paths, Config]:
    """Return where new stores are built: as in a palace, with the graph beside it.

    `backend` is the one that keeps them, though it may have no file there yet.
    """
    old = palace.config
    config = attrs.evolve(
        old,
        graph=f"{scratch}/knowledge_graph.sqlite3",
        environment={
            **old.environment,
            "MEMPALACE_BACKEND": backend,
            MADE_FOR: palace.paths.root,
        },
    )
    palace.kernel.make_directory(f"{scratch}/palace")
    return Paths(f"{scratch}/palace"), config


def fill_stores(new: Stores, known: Source, kinds: Sequence[str], progress: Progress) -> None:
    """Write what the journal knows of these kinds, in this order, into empty stores."""
    total, done = max(1, sum(len(known.ids(kind)) for kind in kinds)), 0
    for kind in kinds:
        store = _store_of(new, kind)
        for batch in in_batches(known.payloads(kind)):
            store.write(kind, dict(batch))
            done += len(batch)
            progress("writing new stores", done / total)


def verify_stores(new: Stores, known: Source, kinds: Sequence[str], progress: Progress) -> None:
    """Raise StoreCorrupt unless the new stores hold these kinds as the journal does."""
    total, done = max(1, sum(len(known.ids(kind)) for kind in kinds)), 0
    for kind in kinds:
        store, ids = _store_of(new, kind), known.ids(kind)
        for start in range(0, len(ids), BATCH):
            found = store.read(kind, ids[start : start + BATCH])
            for ident in ids[start : start + BATCH]:
                if not fits(found.get(ident), known.payload((kind, ident))):
                    raise StoreCorrupt(
                        f"The new store doesn't hold {kind} {ident} as the journal does. "
                        "Nothing was replaced; please report this."
                    )
            done += len(found)
            progress("checking them", done / total)


def _store_of(stores: Stores, kind: str) -> Projection:
    for store in stores.all:
        if store.owns(kind):
            return store
    raise JournalBroken(
        f"The journal holds entities of kind {kind[:80]!r}, which no store of palace {__version__} "
        "keeps. A newer palace wrote them, or somebody else did: palace history"
    )


def in_order(known: Source) -> list[str]:
    """Return kinds in an order in which they can be written: collections before records."""
    return sorted(known.kinds(), key=lambda kind: (kind != COLLECTION, kind != FILE, kind))
