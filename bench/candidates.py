"""What a pull of another palace's drawers costs, and what accepting them does.

usage: python -m bench.candidates [--quick] [--home DIR] [--json FILE]

A broker with the real engine pulls from a directory, and from one whose texts are longer by as much
as a vector of 384 numbers is in base64.  Then one agent accepts candidates, and files as many texts
of its own; the model alone embeds them once more.  It asserts nothing about time.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes.clients import Client, Site, end_brokers
from tests.support.processes.sites import make_site
from tests.support.stores.exporter import export

PULLED, ACCEPTED = (5_000, 200)
QUICK = (500, 50)
WORDS = "what many agents learn about one house, said once more "


VECTOR = "A" * (384 * 4 * 4 // 3)  # as long as one is in a line of JSON


def text(name: str, number: int) -> str:
    return f"{name} {number}: " + WORDS * 8


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_ms(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    p95 = times[len(times) * 95 // 100]
    return {"p50_ms": round(statistics.median(times) * 1e3, 2), "p95_ms": round(p95 * 1e3, 2)}


def told(agent: Client, tool: str, **arguments: Any) -> Any:
    reply = agent.call(tool, **arguments)
    return json.loads(reply["result"]["content"][0]["text"])


def waiting(agent: Client, many: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    after = ""
    while len(found) < many:
        page = told(agent, "palace_search_candidates", remote="desk", limit=50, after=after)
        found += [{"key": one["key"], "digest": one["digest"]} for one in page["candidates"]]
        after = page["next"]
    return found[:many]


def embedding_alone(site: Site, texts: list[str]) -> list[float]:
    os.environ["HOME"] = str(site.home)
    from mempalace.embedding import configured_embedding_function

    from palace.engine.embedding.inference import install

    install()
    function = configured_embedding_function()
    function(["it is loaded"])
    return [timed(lambda one=one: function([one])) for one in texts]  # type: ignore[misc]


def measure(site: Site, there: Path, pulled: int, accepted: int) -> dict[str, Any]:
    export(there, {f"{number}": text("theirs", number) for number in range(pulled)})
    longer = there.with_name("longer")
    export(longer, {f"{number}": text("theirs", number) + VECTOR for number in range(pulled)})
    (longer / "palace_id").write_text("0c" * 16)
    for name, root in (("desk", there), ("vectors", longer)):
        assert site.run("remote", "add", name, str(root)).returncode == 0
    with site.session() as agent:
        agent.tool("add_drawer", wing="w", room="r", content="the model is loaded")
        pull_s = timed(lambda: site.run("pull", "desk"))
        again_s = timed(lambda: site.run("pull", "desk"))
        longer_s = timed(lambda: site.run("pull", "vectors"))
        found = waiting(agent, accepted)
        accepting = [
            timed(lambda one=one: told(agent, "palace_accept_candidate", **one))  # type: ignore[misc]
            for one in found
        ]
        filing = [
            timed(
                lambda number=number: agent.tool(  # type: ignore[misc]
                    "add_drawer", wing="w", room="r", content=text("ours", number)
                )
            )
            for number in range(accepted)
        ]
    alone = embedding_alone(site, [text("alone", number) for number in range(accepted)])
    return {
        "pulled": pulled,
        "pull_s": round(pull_s, 2),
        "pull_of_nothing_s": round(again_s, 2),
        "pull_of_as_much_more_as_vectors_s": round(longer_s, 2),
        "accept": in_ms(accepting),
        "add_drawer": in_ms(filing),
        "embedding_alone": in_ms(alone),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--home", default=".pytest_cache/d/model-home", help="with the model")
    parser.add_argument("--json", dest="json_path")
    asked = parser.parse_args(argv)
    many = QUICK if asked.quick else (PULLED, ACCEPTED)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        site = make_site(root / "here", Path(asked.home).resolve())
        try:
            found = measure(site, root / "there", *many)
        finally:
            end_brokers(root)
    print(json.dumps(found, indent=1))
    if asked.json_path:
        Path(asked.json_path).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
