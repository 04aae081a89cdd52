"""Whether Chroma's rows say what was stored, where no broker runs that would look (examiner.py).

Their numbers have to stand where the last broker left them.  Otherwise another program has changed
rows in Chroma's own way, which is no fault: the next broker takes that over.
"""

import sqlite3
import time
from contextlib import closing

from palace.doctor.diagnostics import Diagnostics
from palace.journal.tail import Tail
from palace.protocol.errors import JournalBroken

WITHIN_S = 10.0  # for texts and metadata: 100 microseconds a record


def changed_rows(found: Diagnostics, tail: Tail) -> str | None:
    """Return which records hold something else, as a clause; "" for none, None for too many.

    "" as well where it isn't known: other checks say what is wrong with a database or a journal.
    """
    assert found.config is not None
    if found.config.journal == "off" or not found.words.are_known or not found.words.seq:
        return ""
    # Late, since they load the stores' modules.
    from palace.engine.durability.beside import Comparison
    from palace.engine.stores.file_ids import TimeIsUpError
    from palace.engine.stores.health import UNFINISHED, Access, connect
    from palace.engine.stores.palace_stores import unopened_stores
    from palace.journal.replay import replay

    stores = unopened_stores(found.paths, found.config, found.kernel)
    chroma, baseline = stores.chroma, (tail.baseline or {}).get(stores.drawers.name)
    if chroma is None or baseline is None or not found.kernel.file_id(chroma.path):
        return ""
    if any(found.kernel.file_id(f"{chroma.path}{end}") for end in UNFINISHED):
        return ""  # a transaction has to be taken back first, which is the next owner's
    until_s = time.monotonic() + WITHIN_S

    def is_up() -> bool:
        return time.monotonic() > until_s

    def look_at_the_time(_stage: str, _fraction: float) -> None:
        if is_up():
            raise TimeIsUpError

    try:
        with closing(connect(chroma.path, Access.IDLE)) as connection:
            chroma.take_fingerprint(connection)
        if chroma.suspects(baseline, tail.touched):
            return ""
        directory = found.paths.journal
        return Comparison(
            stores=stores,
            known=replay(directory, found.kernel, look_at_the_time, keys=found.keys),
            directory=directory,
            kernel=found.kernel,
            keys=found.keys,
            access=Access.IDLE,
            time_is_up=is_up,
        ).changed()
    except TimeIsUpError:
        return None
    except (sqlite3.Error, JournalBroken, KeyError, TypeError, ValueError):
        return ""
