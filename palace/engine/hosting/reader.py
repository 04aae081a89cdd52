"""Queries answered from a copy of the stores, while another program has the right to write.

A process of its own, started by the owner that waits for that program (palace/broker/reading.py).
It copies the stores (stores/snapshot.py), opens the copy as a palace of its own, and answers one
request after the other: a line of JSON each, on standard input and output.  The copy is removed
when its input ends.

    here    {"copied": SIGNATURES, "at": "12:00:00Z", "lacks": TEXT}   or   {"failed": TEXT}
    here    {"id": 7, "reply": {...}}        for        {"id": 7, "message": {...}}

Nothing is printed but that, and nothing logged: stock's words may quote a memory.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from typing import IO

import attrs

from palace.engine.api import Call
from palace.engine.hosting.degraded import load_error
from palace.engine.hosting.mempalace import MempalaceEngine
from palace.engine.stores.health import WHOLE_BUT_WORDS, counts_in, find_damage
from palace.engine.stores.palace_stores import Stores, unopened_stores
from palace.engine.stores.snapshot import GRAPH, Originals, Stamp, copy_stores
from palace.journal.journal import read_tail
from palace.journal.record import JsonObject
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.protocol.errors import PalaceError
from palace.protocol.request import ToolCall, read_request
from palace.settings.config import Config, load_config
from palace.settings.environment import read_environment
from palace.settings.paths import Paths
from palace.settings.process import prepare_process

TORN_TRIES = 3


@attrs.frozen
class Copy:
    """An opened copy: what was copied, when, and what it is known to lack ("" for nothing)."""

    engine: MempalaceEngine
    stamp: Stamp
    at: str
    lacks: str


def open_copy(originals: Originals, into: str, environ: Mapping[str, str]) -> Copy:
    """Copy a palace's stores into a directory that is ours, and open the copy; raises PalaceError.

    `into` is made, and emptied first.
    """
    kernel = originals.kernel
    for _ in range(TORN_TRIES):
        shutil.rmtree(into, ignore_errors=True)
        os.makedirs(f"{into}/palace", 0o700)
        at = kernel.utc_text()[11:]
        stamp = copy_stores(originals, into)
        paths = Paths(f"{into}/palace")
        config = attrs.evolve(originals.config, journal="off", graph=f"{into}/{GRAPH}")
        stores = unopened_stores(paths, config, kernel)
        # An index that was being written looks damaged; one that is damaged still does next time.
        if not any(damage.index for damage in find_damage(stores, None, WHOLE_BUT_WORDS)):
            break
    lacks = what_lacks(originals, stores)
    engine = MempalaceEngine(paths, config, environ, kernel)
    engine.load()
    return Copy(engine, stamp, at, lacks)


def what_lacks(originals: Originals, copied: Stores) -> str:
    """Say what the stores lack of what palace's journal last knew, as a clause; "" for nothing.

    The program that writes may have removed it, may be rebuilding it just now, or may have lost it:
    the owner that has the store to itself finds out.
    """
    kernel = originals.kernel
    segments = list_segments(originals.paths.journal, kernel, archived=True)
    try:
        baseline = read_tail(segments, kernel).baseline or {}
    except (KeyError, TypeError, ValueError, OSError):
        return "palace's journal can't be read, so that whether all is there isn't known"
    for store in (copied.drawers, copied.graph, copied.logstream, copied.tunnels, copied.hallways):
        known = counts_in(baseline.get(store.name))
        there = counts_in(store.read_fingerprint())
        for part, count in known.items():
            if there.get(part, 0) < count:
                what = f"{store.name} {part}".strip()
                return f"{what} holds {there.get(part, 0)} entities where palace last knew {count}"
    return ""


def answer(copy: Copy, request: JsonObject, originals: Originals, into: str) -> JsonObject:
    """Answer one request as stock would beside its writer, with the real palace's paths."""
    call = read_request(json.dumps(request["message"]).encode())
    assert isinstance(call, ToolCall)
    payload = copy.engine.call(Call(request=call, read_only=True)).payload
    if payload is None:
        return {"id": request["id"], "reply": None}
    real = originals.paths.root
    for ours, theirs in (
        (f"{into}/palace", real),
        (f"{into}/{GRAPH}", originals.config.graph),
        (into, os.path.dirname(real)),
    ):
        payload = payload.replace(_in_json(ours), _in_json(theirs))
    return {"id": request["id"], "reply": decode_json(payload)}


def _in_json(path: str) -> bytes:
    # Stock's replies are JSON within JSON: what has to be escaped in a path is so twice.
    for _ in range(2):
        path = json.dumps(path, ensure_ascii=False)[1:-1]
    return path.encode()


def serve(originals: Originals, into: str, requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the requests end."""
    environ = read_environment().all

    def say(value: JsonObject) -> None:
        replies.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        replies.flush()

    try:
        copy = open_copy(originals, into, environ)
    except (PalaceError, OSError) as error:
        say({"failed": str(error)})
        return
    except Exception as error:  # whatever a library raises: the owner has to be told
        say({"failed": load_error(error).message})
        return
    say({"copied": dict(copy.stamp), "at": copy.at, "lacks": copy.lacks})
    for line in requests:
        say(answer(copy, decode_json(line), originals, into))


def main(root: str, found_by: str, into: str) -> None:
    """Serve on the descriptors that were standard input and output."""
    prepare_process()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes where nobody reads it
    kernel, paths = Kernel(), Paths(root, found_by=found_by)
    config: Config = load_config(paths, read_environment().all, kernel)
    try:
        serve(Originals(paths, config, kernel), into, sys.stdin.buffer, replies)
    except BrokenPipeError:
        pass  # the owner is gone
    finally:
        shutil.rmtree(into, ignore_errors=True)
    # Threads that native code holds must not keep it.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
