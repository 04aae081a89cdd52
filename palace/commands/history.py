"""`palace history`: the journal for people, one line per record."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import attrs

from palace.commands.cursors import cursor_of
from palace.doctor.finding import DATA_ERROR
from palace.journal.aside import read_aside
from palace.journal.author import author_text
from palace.journal.feed import Fed, Snapshot, Summary, go_on, read_feed
from palace.journal.following import Follower
from palace.journal.inspect import Gap
from palace.journal.journal import read_tail
from palace.journal.record import ADOPT, ADOPTION, DELETE, ENTITIES, Record
from palace.journal.replay import replay
from palace.journal.schema import FILE_KIND
from palace.journal.segment import Broken, list_segments
from palace.kernel.kernel import Kernel
from palace.kernel.output import complain, one_line, say
from palace.ownership.keys import known_keys
from palace.protocol.keyring import ANYBODYS, Keyring
from palace.settings.paths import Paths

FOLLOW_S = 0.5


def print_history(
    paths: Paths,
    kernel: Kernel,
    *,
    since: int,
    follow: bool,
    as_json: bool,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Print the records from a seq on; return 65 if some are missing.

    Those that brokers have set aside come first: they are not part of it.  Without `environ`,
    which says where the keys are, every record counts.
    """
    keys = ANYBODYS if environ is None else known_keys(paths, environ, kernel)
    missing = False
    follower = Follower(directory=paths.journal, kernel=kernel, keys=keys, expected=since)
    for one in read_aside(paths.journal, kernel):
        say(_aside_json(one) if as_json else f"SET ASIDE {_text_line(one).lstrip()}")
    while True:
        for found in follower.read(ends=not follow):
            missing |= isinstance(found, Gap)
            _say(found, follower, as_json=as_json, flush=follow)
        if not follow:
            _complain_of_adoption(paths, kernel, keys)
            return DATA_ERROR if missing else 0
        time.sleep(FOLLOW_S)


def print_feed(
    paths: Paths,
    kernel: Kernel,
    environ: Mapping[str, str],
    *,
    name: str,
    follow: bool,
    as_json: bool,
) -> int:
    """Print what is new since this cursor was here; return 65 if records are missing.

    The cursor is moved once they are printed, so that a reader that dies gets some of them again.
    """
    cursor = cursor_of(name, paths, environ, kernel)
    keys = known_keys(paths, environ, kernel)
    follower = Follower(directory=paths.journal, kernel=kernel, keys=keys)
    missing = False
    for summary in go_on(follower, cursor.position()):
        missing = True
        _say(summary, follower, as_json=as_json, flush=True)
    while True:
        for found in read_feed(follower):
            missing |= isinstance(found, Gap | Summary)
            _say(found, follower, as_json=as_json, flush=follow)
        sys.stdout.flush()
        cursor.keep(follower.position)
        if not follow:
            _complain_of_adoption(paths, kernel, keys)
            return DATA_ERROR if missing else 0
        time.sleep(FOLLOW_S)


def _say(found: Fed, follower: Follower, *, as_json: bool, flush: bool) -> None:
    say(_json_line(found, follower.origin) if as_json else _text_line(found), flush=flush)


def _complain_of_adoption(paths: Paths, kernel: Kernel, keys: Keyring) -> None:
    tail = read_tail(list_segments(paths.journal, kernel), kernel, keys)
    if tail.adopting is not None:
        complain(tail.adopting.problem(len(replay(paths.journal, kernel, keys=keys).live)))


def _aside_json(found: Record | Broken) -> str:
    return f'{{"set_aside": {_json_line(found)}}}'


def _json_line(found: Fed, origin: str = "") -> str:
    if isinstance(found, Record):
        return json.dumps({**attrs.asdict(found), "origin": origin})
    if isinstance(found, Snapshot):
        return json.dumps({"snapshot": attrs.asdict(found.record)})
    if isinstance(found, Summary):
        return json.dumps({"gap": attrs.asdict(found)})
    if isinstance(found, Gap):
        return json.dumps({"gap": [found.first, found.last]})
    return json.dumps({"broken": found.why, "file": found.place.path, "offset": found.place.offset})


def _text_line(found: Fed) -> str:
    if isinstance(found, Summary):
        return f"{found.first:>8} GAP: {_summary_text(found)}"
    if isinstance(found, Snapshot):
        return _text_line(found.record)
    if isinstance(found, Gap):
        return f"{found.first:>8} GAP: records {found.first} to {found.last} are missing"
    if isinstance(found, Broken):
        return f"         {found.place.path} at byte {found.place.offset}: {found.why}"
    what = _entity_text(found) if found.action in ENTITIES else _control_text(found)
    by = f"  [{found.key}]" if found.key and found.key != ADOPTION else ""
    # An id may be a name in somebody's graph, and a key is made of the name of a client's session.
    line = f"{found.seq:>8} {found.ts} {found.action:<10} {what}".rstrip() + by
    return one_line(line)


def _summary_text(found: Summary) -> str:
    if not found.upto:
        return f"this is not the journal that was read up to {found.last}: all of it follows"
    return (
        f"records {found.first} to {found.last} are not here; the {found.entities} entities that "
        f"there were at {found.upto} follow"
    )


def _entity_text(record: Record) -> str:
    """Name an entity, and what of it the action alone doesn't say: who did it, that it is gone."""
    gone = record.payload is None and record.action != DELETE
    found = record.key == ADOPTION or record.kind == FILE_KIND  # stock writes those within a broker
    if record.action == ADOPT and found and not gone:
        return f"{record.kind} {record.id} (found in the palace)"
    if record.action == ADOPT:
        done = "deleted" if gone else "written"
        return f"{record.kind} {record.id} ({done} by another program)"
    return f"{record.kind} {record.id}{' (gone again)' if gone else ''}"


def _control_text(record: Record) -> str:
    payload: Any = record.payload
    if isinstance(payload, dict):
        return f"{payload.get('why', '')} {author_text(payload)}".strip()
    return str(payload or record.id)
