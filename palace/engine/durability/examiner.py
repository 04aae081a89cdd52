"""Looking at open stores while no client asks for anything.

What a look at files can't show is tried: a sample of each index's vectors is asked for itself, and
must find itself.  And the files are read whole, vectors and rows against the journal's, by a
process of its own: that may take seconds, and a database that is closed in this process would drop
the locks that Chroma holds on it.  A look is only believed if no call ran meanwhile, and damage
only if it is seen twice; which rows are there is known beside calls, too (beside.py).

| what is found | what is done |
|---|---|
| an index finds less, or holds other vectors | the next owner builds it again (`index.suspect`) |
| rows are missing, or in no record | the next owner writes them, or adopts them (`rows.suspect`) |
| rows say something else | they stay: a program may have meant it (`texts.suspect`) |

It is written down in the palace before it is told.  What another owner would not help against is
said in each reply that it may have made poorer (`doubt`): rows that say something else, that are
missing from a store which nothing is written to (dual), or that an owner has been told of before.

No call is needed for a look that comes early: where Chroma's database has changed, and nothing of
ours has, some other program has written into it.
"""

import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import attrs

from palace.engine.durability.beside import (
    Comparison,
    Differences,
    Note,
    differences_of,
    read_note,
    write_note,
)
from palace.engine.stores.chroma import Chroma
from palace.engine.stores.drawers import COLLECTION, PREFIX, vector_of
from palace.engine.stores.health import (
    WHOLE_BESIDE_THE_OWNER,
    find_damage,
    flushed_vectors,
    note_suspect,
)
from palace.engine.stores.palace_stores import Stores, unopened_stores
from palace.journal.journal import Journal
from palace.journal.replay import Replay, replay
from palace.kernel.kernel import Kernel
from palace.kernel.output import say
from palace.ownership.keys import known_keys
from palace.protocol.decoding import decode_json
from palace.settings.config import load_config
from palace.settings.environment import read_environment
from palace.settings.paths import Paths

if TYPE_CHECKING:
    from palace.engine.stores.drawers import RecordPayload
    from palace.journal.record import JsonObject

QUIET_S = 5.0  # without a call
FIRST_S = 60.0  # after the palace was opened
EVERY_S = 900.0
SAMPLE = 24
MISSES_SHARE = 0.25  # of a sample; an index finds nearly all of its vectors, if not all
NEAR = 1e-3  # another record may hold the same vector
WAIT_S = 300.0
ASK = "palace doctor says what helps."

logger = logging.getLogger("palace.journal")


def sample_index(chroma: Chroma) -> str:
    """Ask for some vectors of each collection; return what is wrong, "" where they are found."""
    for kind in chroma.kinds():
        if kind == COLLECTION or not chroma.count(kind):
            continue
        try:
            with chroma.lock:
                missed, asked = _ask(chroma, kind)
        except AttributeError:  # stock has closed it meanwhile
            continue
        except Exception as error:  # Chroma's own, of many kinds
            return f"the index of {kind.removeprefix(PREFIX)} is damaged: {error}"
        if missed > MISSES_SHARE * asked:
            name = kind.removeprefix(PREFIX)
            return f"the index of {name} is damaged: it finds {asked - missed} of {asked} vectors"
    return ""


def _ask(chroma: Chroma, kind: str) -> tuple[int, int]:
    """Return how many vectors are not found, and of how many."""
    api = chroma.opened_api()  # opening it is stock's, whose other threads may use the old one
    if api is None:
        return 0, 0
    ident = chroma.id_of(kind)
    assert ident is not None
    start = random.randrange(max(1, chroma.count(kind) - SAMPLE + 1))  # noqa: S311
    found = api._get(ident, limit=SAMPLE, offset=start, include=["embeddings"])  # noqa: SLF001
    vectors = list(found["embeddings"])
    if not vectors:
        return 0, 0
    nearest = api._query(ident, vectors, n_results=1, include=["distances"])  # noqa: SLF001
    answers = zip(found["ids"], nearest["ids"], nearest["distances"], strict=True)
    missed = sum(not ids or (ids[0] != own and far[0] > NEAR) for own, ids, far in answers)
    return missed, len(vectors)


@attrs.define(eq=False, kw_only=True)
class Examiner:
    """A thread that looks now and then.  A daemon: it may die at any step.

    `calls` returns a number that changes with each call.  `suspicion` is what it has found that
    another owner mends, `doubt` a sentence about what stays.
    """

    stores: Stores
    paths: Paths
    journal: Journal
    calls: Callable[[], int]
    dual: bool = False
    suspicion: str = ""
    doubt: str = ""
    first_s: float = FIRST_S
    _found: Differences | None = None  # by the last look at the files; None: it failed
    _ended: threading.Event = attrs.field(factory=threading.Event)

    @property
    def kernel(self) -> Kernel:
        return self.journal.kernel

    def start(self) -> None:
        """Begin, after a recovery: what the last owner has noted was seen to."""
        noted = read_note(self.paths, self.kernel)
        if noted is not None and noted.entities():
            settled = Note(text=noted.text, changed=noted.changed)
            write_note(self.paths, self.kernel, settled)
        self.doubt = _doubt("", self._noted_changed())
        threading.Thread(target=self._serve, name="palace-examiner", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _serve(self) -> None:
        monotonic = self.kernel.monotonic
        due_s, early_s = monotonic() + self.first_s, monotonic()
        calls, written = -1, Written()
        while not self._ended.wait(QUIET_S):
            before, calls = calls, self.calls()
            last, written = written, self._written()
            is_foreign = written.by_others(last) and monotonic() >= early_s
            if not is_foreign and (monotonic() < due_s or before != calls):
                continue  # not now: somebody works, or there is no need
            if self.look():
                return
            due_s, early_s = monotonic() + EVERY_S, monotonic() + self.first_s

    def _written(self) -> "Written":
        """Return what is known of the last write to the database of drawers."""
        if self.journal.tail.open:
            return Written()
        if self.stores.pgvector is not None or self.stores.milvus is not None:
            return Written()  # no file tells
        seq, path = self.journal.seq, self.stores.drawers.path
        return Written(seq, [self.kernel.signature(path + end) for end in ("", "-wal")])

    def look(self) -> str:
        """Look once, and note what is wrong; return what another owner mends, "" for nothing."""
        problem = self._look_twice(self._look_at_index)
        if not problem:
            calls = self.calls()
            problem = self._look_twice(self._look_at_files)
            found = self._found
            if found is not None and not self._ended.is_set():
                is_quiet = calls == self.calls()
                changed = self._note_changed(found) if is_quiet else self._noted_changed()
                rows = self._note_rows(found)
                if not problem:
                    self.suspicion = rows
                    self.doubt = _doubt("" if rows else found.told(), changed)
                    return rows
        if problem:
            logger.error("%s", problem)
            note_suspect(self.stores, problem)
            self.suspicion = problem
        return problem

    def _look_twice(self, look: Callable[[], str]) -> str:
        calls = self.calls()
        problem = look()
        if problem and look() and calls == self.calls() and not self._ended.is_set():
            return problem
        return ""

    def _noted_changed(self) -> str:
        noted = self.kernel.read_hint(self.paths.differing_texts)
        return (noted or b"").decode("utf-8", "replace")

    def _note_changed(self, found: Differences) -> str:
        """Note which rows say something else, if they still do at a second look; return it."""
        path = self.paths.differing_texts
        noted = self.kernel.read_hint(path)
        told = found.changed()
        if told:
            self._look_at_files()
            if self._found is None:
                return self._noted_changed()
            told = told if told == self._found.changed() else ""
        if not told:
            if noted is not None:
                self.kernel.unlink(path)
        elif noted != told.encode():
            logger.error("%s", told)
            self.kernel.write_durable(path, told.encode())
        return told

    def _note_rows(self, found: Differences) -> str:
        """Note what is missing or foreign; return it if another owner mends that."""
        noted, told = read_note(self.paths, self.kernel), found.told()
        changed = found.altered()
        if not told and not changed:
            if noted is not None:
                self.kernel.unlink(self.paths.suspect_rows)
            return ""
        note = Note(text=told, missing=found.missing, foreign=found.foreign, changed=changed)
        if note != noted:
            write_note(self.paths, self.kernel, note)
        if not told:
            return ""
        logger.error("%s", told)
        was_told = noted is not None and noted.text == told
        return "" if was_told or (self.dual and found.missing) else told

    def _look_at_index(self) -> str:
        return sample_index(self.stores.chroma) if self.stores.chroma is not None else ""

    def _look_at_files(self) -> str:
        """Have the files read by another process; return what damage it finds.

        `_found` says afterwards which rows are others than the journal's.
        """
        self._found = None
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, self.paths.root, self.stores.graph.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        if done.returncode:
            logger.warning("the stores could not be read: %s", done.stderr.strip()[-500:])
            return ""
        try:
            said = decode_json(done.stdout)
            self._found = differences_of(said["rows"]) if said["rows"] is not None else None
            return str(said["damage"])
        except (ValueError, KeyError, TypeError):  # of another version, which is installed by now
            return ""


@attrs.frozen
class Written:
    """The journal's last record, and what a file was then; nothing while a change is under way."""

    seq: int = -1
    signature: object = None

    def by_others(self, before: "Written") -> bool:
        """Tell whether a file has changed since `before`, and nothing of ours has."""
        is_still = self.seq == before.seq and self.seq >= 0
        return is_still and self.signature != before.signature


def _doubt(told: str, changed: str) -> str:
    clauses = "; ".join(clause for clause in (told, changed) if clause)
    return f"This reply may not be what was stored: {clauses}. {ASK}" if clauses else ""


def compare_vectors(stores: Stores, known: Replay) -> str:
    """Compare an index's vectors with the journal's; return what is wrong, "" for nothing.

    Their lengths are left out: Chroma divides by them.
    """
    import numpy as np

    differing: dict[str, list[str]] = {}
    for collection, record, vector in flushed_vectors(stores):
        entity = (PREFIX + collection, record)
        payload = known.payload(entity) if entity in known.live else None
        if not isinstance(payload, dict) or not payload.get("vector"):
            continue
        told = np.asarray(vector_of(cast("RecordPayload", payload)))
        lengths = float(np.linalg.norm(told)) * float(np.linalg.norm(vector))
        if told.shape != vector.shape or float(told @ vector) < (1.0 - NEAR) * lengths:
            differing.setdefault(collection, []).append(record)
    for collection, records in differing.items():
        return (
            f"the index of {collection} is damaged: it holds other vectors for {len(records)} of "
            "its records than were stored"
        )
    return ""


def main(root: str, graph: str) -> None:
    """Print what is wrong with the stores' files, beside the process that has them open."""
    os.nice(10)
    paths, kernel = Paths(root), Kernel()
    config = attrs.evolve(load_config(paths, read_environment().all, kernel), graph=graph)
    stores = unopened_stores(paths, config, kernel)
    damages = find_damage(stores, None, WHOLE_BESIDE_THE_OWNER)
    said: JsonObject = {"damage": damages[0].text if damages else "", "rows": None}
    if all(damage.words for damage in damages):  # the rows are whole
        keys = known_keys(paths, read_environment().all, kernel)
        known = replay(paths.journal, kernel, keys=keys)
        said["damage"] = compare_vectors(stores, known)
        said["rows"] = attrs.asdict(
            Comparison(
                stores=stores, known=known, directory=paths.journal, kernel=kernel, keys=keys
            ).run()
        )
    say(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
