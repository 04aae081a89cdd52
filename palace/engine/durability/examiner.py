"""Looking at open stores while no client asks for anything.

What a look at files can't show is tried: a sample of each index's vectors is asked for itself, and
must find itself.  And the files are read whole, vectors against the journal's, by a process of its
own: that may take seconds, and a database that is closed in this process would drop the locks that
Chroma holds on it.  A look is only believed if no call ran meanwhile, and damage only if it is seen
twice.

What is found is written down in the palace (`index.suspect`) before it is told: the next owner
builds the index again because of that, though its files may look whole.  Texts that are others than
the journal's are noted as well (`texts.suspect`), for the doctor: no database tells where a bit has
flipped in one.  They stay as they are, since a program may have meant what it wrote.
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

from palace.engine.stores.chroma import COLLECTION, PREFIX, Chroma, vector_of
from palace.engine.stores.health import (
    SUSPECT,
    WHOLE_BESIDE_THE_OWNER,
    find_damage,
    flushed_texts,
    flushed_vectors,
)
from palace.engine.stores.palace_stores import Stores, unopened_stores
from palace.journal.replay import Replay, replay
from palace.kernel.kernel import Kernel
from palace.kernel.output import say
from palace.protocol.decoding import decode_json
from palace.settings.config import Config
from palace.settings.paths import Paths

if TYPE_CHECKING:
    from palace.engine.stores.chroma_api import RecordPayload

QUIET_S = 5.0  # without a call
FIRST_S = 60.0  # after the palace was opened
EVERY_S = 900.0
SAMPLE = 24
MISSES_SHARE = 0.25  # of a sample; an index finds nearly all of its vectors, if not all
NEAR = 1e-3  # another record may hold the same vector
WAIT_S = 300.0

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

    `calls` returns a number that changes with each call.  `suspicion` is what it has found.
    """

    stores: Stores
    paths: Paths
    kernel: Kernel
    calls: Callable[[], int]
    suspicion: str = ""
    differing: str = ""
    first_s: float = FIRST_S
    _ended: threading.Event = attrs.field(factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._serve, name="palace-examiner", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _serve(self) -> None:
        pause_s = self.first_s
        while not self._ended.wait(pause_s):
            calls = self.calls()
            if self._ended.wait(QUIET_S):
                return
            if calls != self.calls():  # not now: somebody works
                pause_s = QUIET_S
                continue
            pause_s = EVERY_S
            if self.look():
                return

    def look(self) -> str:
        """Look once, and note what is wrong; return it, "" for nothing."""
        problem = self._look_twice(self._look_at_index)
        if not problem:
            calls, self.differing = self.calls(), ""
            problem = self._look_twice(self._look_at_files)
            if calls == self.calls() and not self._ended.is_set():
                self._note_differing()
        if problem:
            logger.error("%s", problem)
            self.kernel.write_durable(f"{self.paths.root}/{SUSPECT}", problem.encode())
            self.suspicion = problem
        return problem

    def _look_twice(self, look: Callable[[], str]) -> str:
        calls = self.calls()
        problem = look()
        if problem and look() and calls == self.calls() and not self._ended.is_set():
            return problem
        return ""

    def _note_differing(self) -> None:
        """Note which texts differ, if they still do at a second look."""
        path = self.paths.differing_texts
        noted = self.kernel.read_hint(path)
        found = self.differing
        if found:
            self._look_at_files()
            found = found if found == self.differing else ""
        if not found:
            if noted is not None:
                self.kernel.unlink(path)
        elif noted != found.encode():
            logger.error("%s", found)
            self.kernel.write_durable(path, found.encode())

    def _look_at_index(self) -> str:
        return sample_index(self.stores.chroma)

    def _look_at_files(self) -> str:
        """Have the files read by another process; return what damage it finds.

        `differing` says afterwards which texts are others than the journal's.
        """
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
            self.differing = str(said["differing"])
            return str(said["damage"])
        except (ValueError, KeyError, TypeError):  # of another version, which is installed by now
            return ""


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


def compare_texts(stores: Stores, known: Replay) -> str:
    """Compare the texts of rows with the journal's; return which differ, "" for none.

    Rows of which the journal knows nothing are another program's, and are taken over at an opening.
    """
    differing: dict[str, list[str]] = {}
    for collection, record, text in flushed_texts(stores):
        entity = (PREFIX + collection, record)
        payload = known.payload(entity) if entity in known.live else None
        if isinstance(payload, dict) and "document" in payload and payload["document"] != text:
            differing.setdefault(collection, []).append(record)
    return "; ".join(
        f"{len(records)} of the records in {collection} hold another text than the journal has for "
        f"them, such as {records[0]}"
        for collection, records in differing.items()
    )


def main(root: str, graph: str) -> None:
    """Print what is wrong with the stores' files, beside the process that has them open."""
    os.nice(10)
    paths, kernel = Paths(root), Kernel()
    stores = unopened_stores(paths, Config(graph=graph, config_dir=""), kernel)
    damages = find_damage(stores, None, WHOLE_BESIDE_THE_OWNER)
    said = {"damage": damages[0].text if damages else "", "differing": ""}
    if not damages:
        known = replay(paths.journal, kernel)
        said["damage"] = compare_vectors(stores, known)
        said["differing"] = compare_texts(stores, known)
    say(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
