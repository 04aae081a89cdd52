"""Namespaces as the owner keeps them in the register: custom ones, and those that end.

A custom namespace is for the workspaces that its owner names.  One that ends is nobody's from then
on; its memories go in parts (`palace_sweep`), each a group of its own, so that a death in the
middle leaves the rest to the next sweep, and none that could be read.
"""

from collections.abc import Mapping, Sequence

import attrs

from palace.engine.durability.groups import CallGroups
from palace.engine.stores.register import NAMESPACE, Register, namespace_of, row_of_namespace
from palace.protocol.errors import WorkspaceRefused
from palace.protocol.workspaces import (
    CUSTOM,
    CUSTOMS_MAX,
    MEMBERS_MAX,
    PLUGIN,
    Namespace,
    checked_id,
    checked_namespace,
)

Json = dict[str, object]


def custom_in(arguments: Mapping[str, object]) -> str:
    """Return the custom namespace that is asked about; raises WorkspaceRefused."""
    name = checked_namespace(arguments.get("name"))
    if not name.startswith(f"{CUSTOM}:"):
        raise WorkspaceRefused(
            f"{name} is there by itself, with its workspaces. Only custom:NAME is made and removed."
        )
    return name


def removable_in(arguments: Mapping[str, object]) -> str:
    """Return the namespace that is to go, a custom one or a plugin's; raises WorkspaceRefused.

    A plugin's goes with what is in it, which would be nobody's: that has to be said.
    """
    name = checked_namespace(arguments.get("name"))
    if not name.startswith(f"{PLUGIN}:"):
        return custom_in(arguments)
    if arguments.get("purge") is not True:
        raise WorkspaceRefused(
            f"{name} is a namespace of the memory contract's, and goes with its memories alone: "
            "say --purge."
        )
    return name


def members_in(arguments: Mapping[str, object]) -> list[str]:
    """Return the ids of those whom a namespace shall be for; raises WorkspaceRefused."""
    members = arguments.get("members")
    if not isinstance(members, list) or not 1 <= len(members) <= MEMBERS_MAX:
        raise WorkspaceRefused(f"A custom namespace is for 1 to {MEMBERS_MAX} workspaces.")
    return sorted({checked_id(member) for member in members})


def put_custom(
    register: Register, groups: CallGroups, name: str, members: Sequence[str], at: str
) -> Json:
    """Make a custom namespace, or say anew whom it is for."""
    check_not_ending(register, name)
    rows = register.rows(NAMESPACE)
    customs = sum(known.startswith(f"{CUSTOM}:") for known in rows)
    old = namespace_of(rows[name]) if name in rows else None
    if old is None and customs >= CUSTOMS_MAX:
        raise WorkspaceRefused(
            f"The register holds {CUSTOMS_MAX} custom namespaces, which is as many as it takes. "
            "Remove one: palace namespace list"
        )
    found = Namespace(
        name=name, members=tuple(members), created_at=old.created_at if old is not None else at
    )
    register.put(groups, NAMESPACE, name, row_of_namespace(found))
    return attrs.asdict(found)


def check_known(register: Register, name: str) -> None:
    """Raise WorkspaceRefused where the register has no such namespace."""
    check_not_ending(register, name)
    if name not in register.rows(NAMESPACE):
        raise WorkspaceRefused(f"There is no {name}. See which there are: palace namespace list")


def check_not_ending(register: Register, name: str) -> None:
    """Raise WorkspaceRefused while what was in a namespace of this name is being forgotten."""
    row = register.rows(NAMESPACE).get(name)
    if row is not None and namespace_of(row).ends:
        raise WorkspaceRefused(
            f"What was in {name} is still being forgotten. Ask again in a minute, or choose "
            "another name."
        )


def end_namespace(register: Register, groups: CallGroups, name: str, at: str) -> None:
    """Let a namespace end: nobody reads or writes it from now on, and sweeps forget what it has."""
    found = Namespace(name=name, ends=True, created_at=at)
    register.put(groups, NAMESPACE, name, row_of_namespace(found))


def leave_all(register: Register, groups: CallGroups, ident: str) -> None:
    """Let a workspace be a member of no custom namespace."""
    for found in register.namespaces():
        if ident in found.members:
            rest = tuple(member for member in found.members if member != ident)
            left = attrs.evolve(found, members=rest)
            register.put(groups, NAMESPACE, found.name, row_of_namespace(left))
