"""What real processes wrote down of the protocol's steps, held against the model."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.model.follow import problems_of, read_trace
from tests.support.processes.clients import Site

NAME = "trace.jsonl"


@contextmanager
def traced(site: Site) -> Iterator[Path]:
    """Let every process of a site write its steps; at the end all of them must be the model's.

    Where the body fails, that failure is the better news, and the trace is not judged.
    """
    path = site.home / NAME
    site.extra["PALACE_TRACE"] = str(path)
    yield path
    assert_followed(path)


def assert_followed(path: Path) -> Counter[str]:
    """Check a trace, and keep it if it is bad; return how often each step is in it."""
    events = read_trace(path)
    problems = problems_of(events)
    assert not problems, f"{problems[0]}\n(all of it: {_kept(path)})"
    counts = Counter(str(event["act"]) for event in events)
    print(f"trace: {len(events)} events, {dict(sorted(counts.items()))}")
    assert counts["B7.publish"], "nothing was traced"
    return counts


def _kept(path: Path) -> str:
    kept = os.environ.get("PALACE_KEEP_TRACES", "")
    if not kept:
        return str(path)
    copy = Path(kept) / f"{path.parent.parent.name}.jsonl"
    copy.write_bytes(path.read_bytes())
    return str(copy)
