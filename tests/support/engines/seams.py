"""The table of seams: all that palace puts its hand on in mempalace and chromadb, and where it is.

    python -m tests.support.engines.seams           the table of the installed engine, as JSON
    python -m tests.support.engines.seams --page    writes docs/reference/seams.md

It is made of the patches themselves, so that it can't say anything else than what a broker checks
at its start; unlike that, it goes on after the first that is missing, and names them all.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import attrs

from palace.engine.durability.groups import CallContext, CallGroups
from palace.engine.embedding.supply import ModelSupply
from palace.engine.hosting import adjustments
from palace.engine.hosting.host import Host, HostedState
from palace.engine.hosting.light_imports import import_server
from palace.engine.patches import JOURNAL, Patch
from palace.engine.stores.palace_stores import unopened_stores
from palace.engine.stores.seams import seam_patches
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreUnavailable
from palace.settings.config import Config
from palace.settings.paths import Paths

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "seams.md"


@attrs.frozen(kw_only=True)
class Seam:
    """One thing that must be there.  `name` is the adjustment's, or the journal's.

    `place` is what is replaced, `file` where it stands, `why` what for; `problem` says what an
    engine lacks, "" for nothing, and then the others are empty where it can't be told.
    """

    name: str
    place: str = ""
    file: str = ""
    why: str = ""
    problem: str = ""


def survey() -> list[Seam]:
    """Return what palace needs of the engine that is installed."""
    with tempfile.TemporaryDirectory(prefix="p-") as scratch:
        os.environ["HOME"] = scratch
        server = import_server(())
        paths = Paths(f"{scratch}/palace")
        config = Config(
            graph=f"{scratch}/graph", config_dir=scratch, path_map={"/there": f"{scratch}/here"}
        )
        supply = ModelSupply(Path("/nowhere"), fetch=lambda _: None)
        state = HostedState({"HOME": scratch}, supply=supply)
        host = Host(server=cast("Any", server), state=state, paths=paths, config=config)
        stores = unopened_stores(paths, config, Kernel())
        groups = CallGroups(cast("Any", None), context=CallContext())
        return [
            *(seam for one in adjustments.ALL for seam in _seams_of(one.__name__, one, host)),
            *_seams_of(JOURNAL, seam_patches, stores, groups),
        ]


def _seams_of(name: str, plan: Any, *arguments: object) -> Iterator[Seam]:
    try:
        patches: list[Patch] = list(plan(*arguments))
    except (StoreUnavailable, AttributeError, ImportError) as problem:
        yield Seam(name=name, problem=str(problem))
        return
    for patch in patches:
        problem_text = ""
        try:
            patch.check()
        except StoreUnavailable as problem:
            problem_text = problem.message
        module = sys.modules.get(_module_of(patch.owner))
        file = getattr(module, "__file__", None) or ""
        yield Seam(
            name=name,
            place=f"{_module_of(patch.owner)}: {_place(patch)}",
            file=_within(file, module.__name__.partition(".")[0]) if module and file else "",
            why=patch.why,
            problem=problem_text,
        )


def _within(file: str, package: str) -> str:
    """Return a file's path from its package on; a module of the standard library is its own."""
    _, found, rest = file.rpartition(f"/{package}/")
    return f"{package}/{rest}" if found else Path(file).name


def _module_of(owner: object) -> str:
    found = getattr(owner, "__module__", None) or getattr(owner, "__name__", None)
    module = sys.modules.get(str(found))
    # Entries of dicts, of a tool's, belong to the server.
    return str(found) if getattr(module, "__file__", None) else "mempalace.mcp_server"


def _place(patch: Patch) -> str:
    name = getattr(patch.owner, "__qualname__", "")
    return f"{name}.{patch.attribute}" if name else patch.attribute


def table() -> dict[str, Any]:
    """Return the table, JSON-ready; for a process of its own, since mempalace takes its streams."""
    seams = [attrs.asdict(seam) for seam in survey()]
    return {"version": importlib.metadata.version("mempalace"), "seams": seams}


def page(found: dict[str, Any]) -> str:
    """Return docs/reference/seams.md."""
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for seam in found["seams"]:
        rows.setdefault((seam["name"], seam["file"]), []).append(seam)
    lines = [
        "# What palace needs of the engine\n",
        "Everything that palace replaces in mempalace and chromadb, each checked at a broker's "
        "start before the first is changed ([design](../design.md#a-requests-way) says what the "
        "adjustments are for). Made by `python -m tests.support.engines.seams --page` from the "
        f"patches themselves, for mempalace {found['version']}; `tests/engine/test_seams.py` tries "
        "every version that the package index has in the range.\n",
        "| adjustment, or the journal | file | what is replaced | why |",
        "|---|---|---|---|",
    ]
    for (name, file), seams in sorted(rows.items()):
        places = sorted({f"`{seam['place'].rpartition(': ')[2]}`" for seam in seams})
        why = "; ".join(dict.fromkeys(seam["why"] for seam in seams))
        lines.append(f"| `{name}` | `{file}` | {', '.join(places)} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    found = table()
    if "--page" in sys.argv:
        PAGE.write_text(page(found))
    else:
        answers.write(json.dumps(found))
    answers.close()


if __name__ == "__main__":
    main()
