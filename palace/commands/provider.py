"""`palace provider`, `provision-peer` and `unprovision-peer`: palace in a slot of memory."""

import json
import os
from collections.abc import Mapping

import attrs

from palace.commands.agent import ask_broker
from palace.commands.provisioning import workspaces_in
from palace.commands.service import service_of
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.protocol.workspaces import checked_id
from palace.provider.births import ARRIVING, OFF_ALL, OFF_PEER, REMOVE
from palace.provider.claim import claim_slot
from palace.provider.declaration import (
    Command,
    Declaration,
    heartbeat_age_s,
    read_slot,
    slot_file,
    writable_for_others,
)
from palace.provider.peers import arrive, in_turn, leave, personalities
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, heartbeat_file


@attrs.frozen(kw_only=True)
class Call:
    """What a core asks of palace for one agent as one runtime."""

    cwd: str
    runtime: str
    personality: str
    occasion: str


def slot_text(slot: str, environ: Mapping[str, str]) -> str:
    """Return what a slot says, "" for palace's own."""
    found = read_slot(slot or slot_file(environ))
    if found.problem:
        return f"{found.path} counts as empty: {found.problem}."
    if found.declaration is None:
        return f"none: {found.path} does not exist. To let palace be it: palace provider claim"
    return "\n".join(_rows(found.path, found.declaration))


def slot_json(slot: str, environ: Mapping[str, str]) -> str:
    """Return what a slot says as JSON (contract/provider-v1.schema.json: `shown`)."""
    found = read_slot(slot or slot_file(environ))
    told = found.declaration
    shown = {
        "slot": found.path,
        "problem": found.problem,
        "declaration": None if told is None else told.as_json(),
        "heartbeat_age_s": None if told is None else heartbeat_age_s(told),
    }
    return json.dumps(shown)


def _rows(path: str, found: Declaration) -> list[str]:
    rows = [
        f"{found.provider} {found.version} ({found.package}), registered {found.registered_at}",
        f"  slot         {path}",
        f"  heartbeat    {_heartbeat(found)}",
        f"  provision    {_command(found.provision)}",
        f"  unprovision  {_command(found.unprovision)}",
    ]
    if found.has_plugin:
        rows.append("  plugin       deprecated, and never carried out")
    return rows


def _heartbeat(found: Declaration) -> str:
    if not found.heartbeat:
        return "none declared"
    age_s = heartbeat_age_s(found)
    if age_s is None:
        return f"missing: {found.heartbeat}"
    if age_s < 0:
        return f"{-age_s:.0f} s in the future: {found.heartbeat}"
    return f"{age_s:.0f} s ago: {found.heartbeat}"


def _command(block: Command | None) -> str:
    if block is None:
        return "none"
    words = " ".join((block.command, *block.args))
    if not os.access(block.command, os.X_OK):
        return f"{words} (can't be executed)"
    return f"{words} (others may write to it)" if writable_for_others(block.command) else words


def claim(paths: Paths, environment: ShimEnvironment, slot: str, *, replace: bool) -> str:
    """Put palace into a slot, its own where none is named; return what to tell.

    The palace is in the commands if it was named.  Raises SlotTaken, ConfigError.
    """
    environ = environment.all
    named = paths.root if paths.found_by == "--palace" else ""
    beat = _heartbeat_of(paths, environ)
    path = slot or slot_file(environ)
    return claim_slot(path, named, environ, heartbeat=beat, replace=replace)


def _heartbeat_of(paths: Paths, environ: Mapping[str, str]) -> str:
    """Return the file that this palace's broker touches, "" where none stays.

    One that leaves when idle would look dead to whoever reads it.
    """
    kernel = Kernel()
    stays = load_config(paths, environ, kernel).idle_s == 0
    if not stays and not os.path.exists(service_of(paths, environ).file):
        return ""
    path = heartbeat_file(paths.root, environ)
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    # A broker touches the file that is there, and makes none.
    kernel.close(kernel.open_append(path))
    return path


def provision_peer(paths: Paths, environment: ShimEnvironment, call: Call) -> str:
    """Register an agent's workspace, and give it its entry; return what to tell.

    As often as it is asked, and one at a time.
    Raises WorkspaceRefused, UnknownPeer, ConfigError, HostFile, HostEntry.
    """
    checked_id(call.personality)
    _check_occasion(call, ARRIVING)
    if not os.path.isdir(call.cwd):
        raise ConfigError(f"--cwd {call.cwd} is no directory. Make it before the agent is born.")
    cwd = os.path.realpath(call.cwd)
    with in_turn(environment.all):
        told = arrive(call.runtime, call.personality, cwd, environment.all)
        _register(paths, environment, call, cwd)
    return told


def _register(paths: Paths, environment: ShimEnvironment, call: Call, cwd: str) -> None:
    """Register the workspace where another core asks; ours has done so."""
    known = workspaces_in(paths, environment).get(call.personality)
    if known is not None and not known.removed and call.runtime in known.runtimes:
        return
    named = {"id": call.personality, "runtimes": [call.runtime]}
    if known is not None and not known.removed:
        ask_broker(paths, environment, "palace_workspace_runtimes", **named)
    else:
        ask_broker(paths, environment, "palace_workspace_add", cwd=cwd, **named)


def unprovision_peer(paths: Paths, environment: ShimEnvironment, call: Call) -> str:
    """Take away what an agent was given; return what to tell.  As often as it is asked.

    A removed one's workspace is marked as removed; what was filed under it stays.
    Raises UnknownPeer, HostFile, HostEntry.
    """
    checked_id(call.personality)
    _check_occasion(call, (OFF_PEER, OFF_ALL, REMOVE))
    with in_turn(environment.all):
        told = leave(call.runtime, call.personality, environment.all)
        if call.occasion == REMOVE and call.personality not in personalities(environment.all):
            known = workspaces_in(paths, environment).get(call.personality)
            if known is not None and not known.removed:
                ask_broker(paths, environment, "palace_workspace_remove", id=call.personality)
    return "\n".join(told) or "Nothing of it was there."


def _check_occasion(call: Call, allowed: tuple[str, ...]) -> None:
    if call.occasion not in allowed:
        raise ConfigError(
            f"--occasion {call.occasion[:40]!a} is not for this command. Use one of: "
            f"{', '.join(allowed)}."
        )
