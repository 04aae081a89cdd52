"""Damaged stores, made whole from the journal before anything opens them.

Theory of operation.  When a palace is opened, its stores' files are checked (stores/health.py).
What is wrong is mended here, and what then differs from the journal is written by the recovery that
follows, as after any replacement of a store (recovery.py):

| damage | what is done |
|---|---|
| a file is gone or empty | nothing here: recovery writes what the store has lost |
| tables or a list can't be read | the file is moved away; recovery writes a new one |
| a small file can't be read, or is gone | it is moved away, and written as it was |
| the index of words | it is made again in place, from the documents (stores/words.py) |
| Chroma's index | a new store is built from the journal and from the rows, and put in its place |
| the database of drawers | the same, from the journal alone |

Nothing is deleted: what was damaged stays in `replaced-EPOCH`, or beside where it was.  Where only
an index is damaged every row can be read, so what another program wrote is taken over first; its
vectors are made again from the documents.  A database that can't be read may hold what another
program wrote after the last broker, which is why the doctor names what was kept.

Where the journal doesn't know everything (it lacks records, or the palace was not taken into it
whole yet), nothing is mended that it would have to know alone: the damage is left, and calls say
so.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence

import attrs

from palace.engine.durability.accounting import is_accounted_for
from palace.engine.durability.backends import backend_to_build
from palace.engine.durability.beside import read_note
from palace.engine.durability.owned import OwnedPalace
from palace.engine.durability.rebuild import (
    fill_stores,
    in_order,
    make_scratch,
    moves_away,
    scratch_palace,
    verify_stores,
)
from palace.engine.durability.reconciliation import append_adopted
from palace.engine.durability.swap import Exchange, Move
from palace.engine.stores.chroma import Chroma
from palace.engine.stores.drawers import (
    COLLECTION,
    RecordPayload,
    is_drawer_file,
    packed_vector,
)
from palace.engine.stores.files import KIND as FILE
from palace.engine.stores.files import NAMES
from palace.engine.stores.health import (
    AT_OPENING,
    SUSPECT,
    Damage,
    Depth,
    find_damage,
    mend_words_of,
)
from palace.engine.stores.orphans import remove_orphans
from palace.engine.stores.palace_stores import Stores, embedded, opened_stores, unopened_stores
from palace.engine.stores.projection import in_batches, same
from palace.journal.journal import Journal
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.replay import Progress, Replay, replay
from palace.protocol.decoding import decode_json
from palace.protocol.errors import JournalBroken, StoreUnavailable
from palace.settings.config import DUAL

PARTIAL = "Build new stores from what the journal has: palace rebuild --stop --partial"
AGAIN = "Correct that, and open the palace again: palace stop; palace start"
FROM_COPY = "Put a copy of the file back, or move it away to begin with an empty one."
FROM_ROWS = (
    "Let a broker make a new index from the rows, and begin a journal: palace config set "
    "journal=on; palace stop; palace start"
)
FROM_DUAL = (
    "Let a broker bring it back from the journal: palace config set journal=on; palace stop; "
    "palace start. Or go on without it: palace config set journal=off"
)
FULL = (errno.ENOSPC, errno.EDQUOT)
NOTE = "why.json"  # in `replaced-EPOCH`: what was replaced, for the doctor

logger = logging.getLogger("palace.journal")


@attrs.frozen(kw_only=True)
class Healed:
    """One store that was damaged and is whole again; `kept` is where its old files are, "" none."""

    damage: Damage
    kept: str


@attrs.frozen(kw_only=True)
class Left:
    """One store that is still damaged, and why it was not healed."""

    damage: Damage
    why: str
    remedy: str


@attrs.frozen
class Health:
    """What was found when the stores were opened, and what became of it."""

    healed: tuple[Healed, ...] = ()
    left: tuple[Left, ...] = ()

    def as_json(self) -> JsonObject:
        """Return it as `palace status` shows it."""
        return {
            "damaged": [
                {
                    "store": one.damage.store,
                    "text": one.damage.text,
                    "why": one.why,
                    "remedy": one.remedy,
                }
                for one in self.left
            ],
            "healed": [
                {"store": one.damage.store, "text": one.damage.text, "kept": one.kept}
                for one in self.healed
            ],
        }

    @property
    def left_names(self) -> frozenset[str]:
        return frozenset(left.damage.store for left in self.left)

    def left_of(self, *stores: str) -> Left | None:
        """Return the damage of the first of these stores that is still damaged."""
        return next((left for left in self.left if left.damage.store in stores), None)


def heal_stores(
    palace: OwnedPalace,
    journal: Journal,
    stores: Stores,
    progress: Progress,
    depth: Depth = AT_OPENING,
) -> Health:
    """Check a palace's stores and mend what is damaged; call it before any of them is opened."""
    progress("checking the stores", 0.0)
    if palace.config.journal == DUAL:
        return _left_as_they_are(stores, journal, depth)
    mended = _mend_words(stores, depth)
    if stores.chroma is not None:
        remove_orphans(stores.chroma.path)
    healed = mended
    left: list[Left] = []
    for damage in find_damage(stores, journal.tail.baseline, depth):
        logger.error("%s", damage.text)
        try:
            kept = _Healing(palace, journal, stores, progress, damage).run()
        except _NotDamagedError as error:
            logger.warning("%s", error)
        except Exception as error:  # whatever it is, the store is as it was, and is not opened
            if isinstance(error, OSError) and error.errno in FULL:
                raise StoreUnavailable(
                    f"{damage.text}. It can't be brought back: {error.strerror}. "
                    f"{_done_before(healed)}; free some space and ask again."
                ) from None
            logger.exception("it could not be brought back")
            left.append(_left(damage, error))
        else:
            how = f"the old files are in {kept}" if kept else "it is written again"
            logger.warning("%s was brought back from the journal: %s", damage.store, how)
            healed.append(Healed(damage=damage, kept=kept))
    if left:
        # Recovery runs over whole stores alone.  One that it was to write again is empty until
        # then, and would be taken for a palace's that never held anything.
        waiting = [
            one
            for one in healed
            if one.damage.store not in (stores.drawers.name, stores.files.name)
        ]
        healed = [one for one in healed if one not in waiting]
        left += [_waiting(one.damage, left[0]) for one in waiting]
    return Health(tuple(healed), tuple(left))


def _mend_words(stores: Stores, depth: Depth) -> list[Healed]:
    """Make a damaged index of words again: no memory is in it that isn't in a row."""
    damage = mend_words_of(stores, depth)
    if damage is None:
        return []
    logger.warning("%s: it was made again from the documents", damage.text)
    return [Healed(damage=damage, kept="")]


def _done_before(healed: Sequence[Healed]) -> str:
    """Say what an opening did before it failed, which stays: a text may not deny it."""
    if not healed:
        return "Nothing was done"
    files = ", ".join(one.kept for one in healed if one.kept) or "none"
    stores = ", ".join(one.damage.store for one in healed)
    return f"What was done for {stores} stays (the old files: {files})"


def _left_as_they_are(stores: Stores, journal: Journal, depth: Depth) -> Health:
    """Check the stores of a palace whose journal decides nothing about them yet."""
    found = find_damage(stores, journal.tail.baseline, depth)
    for damage in found:
        logger.error("%s", damage.text)
    why = 'nothing is written to a store while journal = "dual"'
    return Health(left=tuple(Left(damage=one, why=why, remedy=FROM_DUAL) for one in found))


def look_at_stores(stores: Stores) -> Health:
    """Check the stores of a palace without a journal: what is damaged there is left."""
    return Health(
        healed=tuple(_mend_words(stores, AT_OPENING)),
        left=tuple(
            Left(
                damage=damage,
                why="this palace has no journal",
                remedy=remedy_without_journal(damage),
            )
            for damage in find_damage(stores, None, AT_OPENING)
        ),
    )


def _left(damage: Damage, error: Exception) -> Left:
    if isinstance(error, _UnknownError):
        return Left(damage=damage, why=str(error), remedy=remedy_without_journal(damage))
    if isinstance(error, JournalBroken):
        return Left(damage=damage, why=error.message, remedy=PARTIAL)
    return Left(damage=damage, why=f"{type(error).__name__}: {error}", remedy=AGAIN)


def _waiting(damage: Damage, other: Left) -> Left:
    why = f"it is written again from the journal once {other.damage.store} is whole"
    return Left(damage=damage, why=f"{why} ({other.damage.text}: {other.why})", remedy=other.remedy)


def remedy_without_journal(damage: Damage) -> str:
    """Return what helps where no journal knows what was in a store."""
    return FROM_ROWS if damage.index else FROM_COPY


class _NotDamagedError(Exception):
    """A check found in a new store what it found in the old one: it is the check that is wrong."""


class _UnknownError(Exception):
    """The journal can't know what was in a store."""


@attrs.frozen(eq=False)
class _Healing:
    """One store's."""

    palace: OwnedPalace
    journal: Journal
    stores: Stores
    progress: Progress
    damage: Damage

    def run(self) -> str:
        """Return where the old files are, "" where none was kept."""
        if self.damage.store == self.stores.files.name:
            return self._write_files()
        if self.damage.lost:
            self._check_adopted()
            return ""
        if self.damage.store != self.stores.drawers.name:
            self._check_journal()
            return self._put_away(self._files())
        if self.damage.index:
            self._take_over_rows()
        else:
            self._check_journal()
        return self._rebuild_drawers()

    def _check_journal(self) -> None:
        """Raise unless the journal knows all that was in the store."""
        if self.journal.tail.baseline is None:
            raise _UnknownError("the palace was never taken into its journal whole")
        if self.journal.tail.gaps:
            raise JournalBroken("the journal lacks records, as palace doctor says")
        self._check_adopted()

    def _check_adopted(self) -> None:
        """Raise while the store may have held what no record speaks of."""
        adopting = self.journal.tail.adopting
        if adopting is not None:
            known = len(
                replay(self.journal.directory, self.palace.kernel, keys=self.journal.keys).live
            )
            raise JournalBroken(
                f"only {known} of about {adopting.total} entries had been taken into the journal"
            )

    def _files(self) -> Iterator[str]:
        stores, name = self.stores, self.damage.store
        for rows in stores.tables:
            if name == rows.name:
                yield from rows.files
        for own in (stores.tunnels, stores.hallways):
            if name == own.name:
                yield from own.files

    def _write_files(self) -> str:
        """Write small files at once: stock makes new ones, of other contents, when it is opened."""
        files = self.stores.files
        known = replay(
            self.palace.paths.journal,
            self.palace.kernel,
            self.progress,
            keys=self.palace.stamp.keys,
        )
        wrong = [name for name in NAMES if self.damage.speaks_of(f"{files.root}/{name}")]
        kept = "" if self.damage.lost else self._put_away(f"{files.root}/{n}" for n in wrong)
        for name in wrong:
            if (FILE, name) in known.live:
                files.write(FILE, {name: known.payload((FILE, name))})
        return kept

    def _put_away(self, files: Iterable[str]) -> str:
        moves = list(moves_away(self.palace.paths, files, self.palace.kernel, self._suffix))
        with self.palace.alone_with([move.old for move in moves]):
            self._note(moves)
            self._exchange.swap(moves)
        return os.path.dirname(moves[0].new) if self._is_inside(moves) else moves[0].new

    def _is_inside(self, moves: Sequence[Move]) -> bool:
        return moves[0].new.startswith(f"{self._kept}/")

    @property
    def _exchange(self) -> Exchange:
        palace = self.palace
        return Exchange(palace.paths, palace.config.graph, palace.kernel)

    @property
    def _suffix(self) -> str:
        return str(self.palace.stamp.epoch)

    @property
    def _kept(self) -> str:
        return f"{self.palace.paths.root}/replaced-{self._suffix}"

    def _note(self, moves: Sequence[Move]) -> None:
        """Write down beside the old files why they were replaced; before they are there."""
        path = f"{self._kept}/{NOTE}"
        self.palace.kernel.make_directory(self._kept)
        notes = decode_json(self.palace.kernel.read_hint(path) or b"[]")
        notes.append(
            {
                "store": self.damage.store,
                "text": self.damage.text,
                "index": self.damage.index,
                "at": self.palace.kernel.utc_text(),
                "kept": [move.new for move in moves],
            }
        )
        self.palace.kernel.write_durable(path, json.dumps(notes, indent=2).encode())

    # Drawers.

    def _rebuild_drawers(self) -> str:
        palace, kernel = self.palace, self.palace.kernel
        known = replay(palace.paths.journal, kernel, self.progress, keys=palace.stamp.keys)
        kinds = [kind for kind in in_order(known) if self.stores.drawers.owns(kind)]
        scratch = make_scratch(palace)
        try:
            with opened_stores(*scratch_palace(palace, scratch, self._backend), kernel) as new:
                new.drawers.make()
                fill_stores(new, known, kinds, self.progress)
                verify_stores(new, known, kinds, self.progress)
            self._check_new(
                unopened_stores(*scratch_palace(palace, scratch, self._backend), kernel)
            )
            root = palace.paths.root
            old = (f"{root}/{n}" for n in sorted(os.listdir(root)) if is_drawer_file(root, n))
            made = f"{scratch}/palace"
            away = list(moves_away(palace.paths, old, kernel, self._suffix))
            come = [
                Move(f"{made}/{name}", f"{root}/{name}")
                for name in sorted(os.listdir(made))
                if is_drawer_file(made, name)
            ]
            self._note(away)
            self._exchange.swap([*away, *come])
            kernel.unlink(f"{root}/{SUSPECT}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self._kept

    @property
    def _backend(self) -> str:
        return backend_to_build(self.palace, self.journal.tail)

    def _check_new(self, new: Stores) -> None:
        """Raise where a new store doesn't pass: else it would be built again at every opening."""
        for damage in find_damage(new, None, AT_OPENING):
            if damage.store == new.drawers.name:
                raise _NotDamagedError(
                    f"a new store looks no better, so it is not used: {damage.text}"
                )

    def _take_over_rows(self) -> None:
        """Journal what another program did to the rows of a store whose index is damaged."""
        tail, chroma = self.journal.tail, self.stores.chroma
        assert chroma is not None, "no other store of drawers has an index of its own"
        chroma.read_fingerprint()
        baseline = (tail.baseline or {}).get(chroma.name)
        is_whole = not tail.gaps and tail.adopting is None
        if is_whole and baseline is not None and not chroma.suspects(baseline, tail.touched):
            return
        # What is missing in a store that went on was deleted; in another one it was lost.
        deletes = not (
            baseline is None
            or chroma.was_replaced(baseline)
            or is_accounted_for(self.journal, chroma, baseline)
        )
        scratch = make_scratch(self.palace)
        try:
            # Without its indexes, which Chroma makes empty ones of, and makes no use of here.
            paths, config = scratch_palace(self.palace, scratch, self._backend)
            shutil.copyfile(chroma.path, paths.store)
            with opened_stores(paths, config, self.palace.kernel) as copy:
                assert copy.chroma is not None
                copy.chroma.read_fingerprint()
                self._take_over(copy.chroma, deletes=deletes)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.journal.sync(self.journal.seq)

    def _take_over(self, rows: Chroma, *, deletes: bool) -> None:
        known = replay(
            self.journal.directory, self.palace.kernel, self.progress, keys=self.journal.keys
        )
        tail = self.journal.tail
        # What our own last work touched is left to recovery: the journal knows it.
        ours = {change.entity for changes in tail.open.values() for change in changes}
        ours |= tail.touched.keys()
        noted = read_note(self.palace.paths, self.palace.kernel)
        missed = noted.lost() if noted is not None else frozenset()
        for name, payload in rows.scan(COLLECTION):
            if (COLLECTION, name) not in known.live:
                append_adopted(self.journal, COLLECTION, [(name, payload)])
        for kind in rows.kinds():
            if kind == COLLECTION:
                continue
            there: set[str] = set()
            for batch in in_batches(rows.scan_documents(kind)):
                there.update(ident for ident, _ in batch)
                new = [
                    (ident, record)
                    for ident, record in batch
                    if (kind, ident) not in ours and not _is_known(known, (kind, ident), record)
                ]
                self.progress(f"making vectors again: {kind}", 0.0)
                dimension = rows.dimension_of(kind)
                append_adopted(self.journal, kind, _with_vectors(new, dimension))
            gone = [i for i in known.ids(kind) if i not in there and (kind, i) not in ours]
            if not deletes:  # of what an adoption has not come to, the journal may be out of date
                gone = [i for i in gone if not tail.is_settled(known.live[kind, i].seq)]
            gone = [i for i in gone if (kind, i) not in missed]
            append_adopted(self.journal, kind, [(ident, None) for ident in gone])


def _is_known(known: Replay, entity: Entity, record: RecordPayload) -> bool:
    """Tell whether the journal has this record, its vector left out."""
    if entity not in known.live:
        return False
    payload = known.payload(entity)
    assert isinstance(payload, dict)
    return same({**record, "vector": payload["vector"]}, payload)


def _with_vectors(
    new: Sequence[tuple[str, RecordPayload]], dimension: int | None
) -> Iterator[tuple[str, Payload]]:
    """Yield records with vectors made again; raises _UnknownError where the model isn't theirs."""
    if not new:
        return
    vectors = embedded([record["document"] or "" for _, record in new])
    if dimension is not None and any(len(vector) != dimension for vector in vectors):
        raise _UnknownError(
            f"its vectors of {dimension} numbers were not made by the model that is set, which "
            f"makes {len(vectors[0])}"
        )
    for (ident, record), vector in zip(new, vectors, strict=True):
        yield ident, {**record, "vector": packed_vector(vector)}
