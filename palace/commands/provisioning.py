"""Births and removals of agents: the register's part first, then the provider's.

What is registered is durable before a provider's command runs, and what is removed is, too: a death
in between leaves a workspace that `palace workspace on` or `off` brings in order.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from palace.canary.lifecycle_log import LifecycleLog
from palace.commands.agent import ask_broker
from palace.kernel.kernel import Kernel
from palace.kernel.output import complain
from palace.protocol.errors import EmptySlot, UnknownPeer
from palace.protocol.workspaces import Workspace
from palace.provider.births import (
    BIRTH,
    OFF_ALL,
    OFF_PEER,
    REMOVE,
    SWEEP_ON,
    Peer,
    Provider,
    Result,
)
from palace.provider.declaration import Slot, read_slot, slot_file
from palace.settings.concurrency import PROVISIONS
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

EVENT = "memory-provision"


def born(paths: Paths, environment: ShimEnvironment, workspace: Workspace) -> list[str]:
    """Ask the slot's provider for a new workspace; return what to tell, one line an outcome.

    An empty slot is a slot: nothing is told.  What failed is complained of as well, aloud.
    """
    return _at_once(paths, environment, workspace, BIRTH)


def gone(paths: Paths, environment: ShimEnvironment, workspace: Workspace) -> list[str]:
    """Ask the slot's provider to take away what a removed workspace had, as `born` does."""
    return _at_once(paths, environment, workspace, REMOVE)


def _at_once(
    paths: Paths, environment: ShimEnvironment, workspace: Workspace, occasion: str
) -> list[str]:
    slot = read_slot(slot_file(environment.all))
    if slot.problem:
        complain(f"warning: {slot.path} counts as empty: {slot.problem}. See palace doctor.")
    if slot.declaration is None or not workspace.runtimes:
        return []
    results = _ask(paths, environment, slot, [workspace], occasion)
    repair = _repair(workspace.id, occasion)
    lacking = "it has no memory there" if occasion == BIRTH else "its memory may still be there"
    for one in results:
        if not one.is_fine:
            complain(f"WARNING: {_line(one)}: {lacking}. Repair: {repair}")
    return [_line(one, repair) for one in results]


def switch_on(
    paths: Paths, environment: ShimEnvironment, names: Sequence[str], runtimes: Sequence[str]
) -> tuple[list[str], bool]:
    """Provide workspaces, all where none is named; return what to tell, and whether all is well.

    `runtimes` are added to those that the named ones have.  Raises UnknownPeer, EmptySlot.
    """
    slot = _filled(environment)
    for name in names if runtimes else ():
        ask_broker(
            *(paths, environment, "palace_workspace_runtimes"), id=name, runtimes=list(runtimes)
        )
    return _swept(paths, environment, slot, names, SWEEP_ON)


def switch_off(
    paths: Paths, environment: ShimEnvironment, names: Sequence[str]
) -> tuple[list[str], bool]:
    """Take away what workspaces have, all where none is named; as `switch_on`.

    They stay registered.  One that was removed may be named, too: its removal may have been cut
    off.
    """
    occasion = OFF_PEER if names else OFF_ALL
    return _swept(paths, environment, _filled(environment), names, occasion)


def _swept(
    paths: Paths, environment: ShimEnvironment, slot: Slot, names: Sequence[str], occasion: str
) -> tuple[list[str], bool]:
    chosen = _chosen(workspaces_in(paths, environment), names, removed=occasion != SWEEP_ON)
    results = _ask(paths, environment, slot, chosen, occasion)
    rows = [_line(one, _repair(one.personality, occasion)) for one in results]
    return rows or ["There is no workspace."], all(one.is_fine for one in results)


def _filled(environment: ShimEnvironment) -> Slot:
    slot = read_slot(slot_file(environment.all))
    if slot.declaration is None:
        why = f"counts as empty: {slot.problem}" if slot.problem else "does not exist"
        raise EmptySlot(
            f"No provider of memory is declared: {slot.path} {why}. To let palace be it: palace "
            "provider claim"
        )
    return slot


def workspaces_in(paths: Paths, environment: ShimEnvironment) -> dict[str, Workspace]:
    """Return the register's workspaces by their ids, removed ones as well."""
    told = ask_broker(paths, environment, "palace_workspace_list")["workspaces"]
    found = (Workspace(**{**one, "runtimes": tuple(one["runtimes"])}) for one in told)
    return {one.id: one for one in found}


def _chosen(known: dict[str, Workspace], names: Sequence[str], *, removed: bool) -> list[Workspace]:
    if not names:
        return [known[name] for name in sorted(known) if not known[name].removed]
    for name in names:
        if name not in known or (known[name].removed and not removed):
            gone = "was removed" if name in known else "isn't registered"
            raise UnknownPeer(
                f"The workspace {name[:80]!a} {gone}, so nothing was done for any. See which there "
                "are: palace workspace list"
            )
    return [known[name] for name in dict.fromkeys(names)]


def _ask(
    paths: Paths,
    environment: ShimEnvironment,
    slot: Slot,
    workspaces: Iterable[Workspace],
    occasion: str,
) -> list[Result]:
    assert slot.declaration is not None
    limit = PROVISIONS.limit(environment.all, complain)
    log = LifecycleLog(paths.root, Kernel())
    name = slot.declaration.provider
    peers = [Peer(personality=one.id, cwd=one.cwd, runtimes=one.runtimes) for one in workspaces]
    asked = {"state": "asked", "occasion": occasion, "provider": name}
    log.note(EVENT, asked | {"peers": str(len(peers)), "at_once": str(limit)})
    environ = dict(environment.all)
    if paths.found_by == "--palace":  # which a command of the provider's can't see otherwise
        environ["MEMPALACE_PATH"] = paths.root
    note = partial(_note, log, name)
    provider = Provider(declaration=slot.declaration, environ=environ, limit=limit, note=note)
    return provider.sweep(peers, occasion)


def _note(log: LifecycleLog, provider: str, result: Result) -> None:
    log.note(EVENT, {**result.fields(), "provider": provider})


def _line(result: Result, repair: str = "") -> str:
    """Return an outcome as a line."""
    who = f"{result.personality} {result.runtime}".rstrip()
    text = f"{who}: {result.state}"
    if result.detail:
        text += f" ({result.detail})"
    if repair and not result.is_fine:
        text += f"; repair: {repair}"
    return text


def _repair(ident: str, occasion: str) -> str:
    way = "on" if occasion in (BIRTH, SWEEP_ON) else "off"
    return f"palace workspace {way} {ident}"
