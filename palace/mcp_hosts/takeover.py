"""Making an existing entry start palace: its command and arguments change, and nothing else does.

What the old command line said and palace's can't say is refused by name: an entry that quietly
lost a choice of its user's would be worse than one that palace doesn't touch.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import attrs

from palace.mcp_hosts.entries import Launch, Program, described, launch_of, words_of
from palace.mcp_hosts.values import Place, value_at

# Programs that only prepare a process: they and their options stay where they are.
_PREPARING = (
    *("env", "nice", "ionice", "nohup", "setsid", "timeout", "taskset", "chrt", "stdbuf"),
    *("caffeinate", "prlimit"),
)
# Programs that only find stock's: with these options alone they say nothing that palace must keep.
_FINDING = {
    ("uvx",): ("--from", "--python", "-p", "--isolated", "--quiet", "-q", "--offline"),
    ("uv", "tool", "run"): ("--from", "--python", "-p", "--isolated", "--quiet", "-q", "--offline"),
    ("uv", "run"): ("--python", "-p", "--quiet", "-q", "--project", "--directory", "--no-sync"),
    ("pipx", "run"): ("--spec", "--python", "--quiet", "-q"),
}
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z-]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
_DISPENSABLE = (("--transport", "stdio"), ("--ensure-hub", ""))  # what palace does anyway
_READ_ONLY = "set MEMPALACE_MCP_READ_ONLY=1 in the entry's environment instead"


class CannotKeep(Exception):
    """Something of an old entry that an entry of palace's can't say; its text names it."""


@attrs.frozen(kw_only=True)
class Edit:
    """One value of an entry, at a place within it, as it should be."""

    place: Place
    value: Any


def edits_to_palace(entry: Any, command: Sequence[str]) -> list[Edit]:
    """Return what to change in an entry so that it starts palace; nothing if it does already.

    `command` are the words for palace with `shim` at their end.  Raises CannotKeep.
    """
    launch = launch_of(entry)
    if launch.program is Program.REMOTE or not words_of(entry):
        raise CannotKeep(_without_command(entry))
    arguments = entry.get("args", [])
    if not isinstance(arguments, list) or not all(isinstance(word, str) for word in arguments):
        raise CannotKeep("its args are not a list of texts")
    if launch.embedded or launch.elsewhere:
        raise CannotKeep(
            f"it starts {launch.program} through {launch.through} ({described(entry)}), and what "
            "else that line does can't be kept"
        )
    words = [*_kept_wrapper(launch, entry), *command, *_kept_arguments(launch, entry)]
    if words == words_of(entry):
        return []
    return [edit for edit in _as_written(entry, words) if value_at(entry, edit.place) != edit.value]


def _without_command(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"it is {type(entry).__name__}, not a table"
    names = [key for key in ("url", "httpUrl", "serverUrl", "type", "headers") if key in entry]
    if names:
        return f"it connects to a server ({described(entry)}): its {', '.join(names)} can't be kept"
    return f"it names no command: its {', '.join(map(str, entry)) or 'emptiness'} can't be kept"


def _as_written(entry: dict[str, Any], words: list[str]) -> list[Edit]:
    """Return edits in the form that the entry has: one list, two members, or a nested table."""
    command = entry["command"]
    if isinstance(command, list):
        return [Edit(place=("command",), value=words)]
    outer: Place = ("command",) if isinstance(command, dict) else ()
    first: Place = ("command", "path") if isinstance(command, dict) else ("command",)
    return [Edit(place=first, value=words[0]), Edit(place=(*outer, "args"), value=words[1:])]


def _kept_wrapper(launch: Launch, entry: Any) -> list[str]:
    """Return the words before the program that stay; raises CannotKeep for what can't."""
    wrapper = list(launch.wrapper)
    if not wrapper:
        return []
    prepared = all(_prepares(wrapper, index) for index in range(1, len(wrapper)))
    if launch.through in _PREPARING and prepared:
        return wrapper
    for found_by, dispensable in _FINDING.items():
        if tuple(wrapper[: len(found_by)]) == found_by:
            rest = wrapper[len(found_by) :]
            unknown = [word for word in rest if word.startswith("-") and word not in dispensable]
            if not unknown:
                return []
            raise CannotKeep(f"{' '.join(found_by)}'s {', '.join(unknown)} can't be kept")
    raise CannotKeep(
        f"it starts {launch.program} through {launch.through} ({described(entry)}), which palace "
        "does not know"
    )


def _prepares(wrapper: list[str], index: int) -> bool:
    """Tell whether a word is an option, an option's value, an assignment or a number."""
    word = wrapper[index]
    if word.startswith("-") or _ASSIGNMENT.match(word) or word[:1].isdigit():
        return True
    return bool(_OPTION.fullmatch(wrapper[index - 1])) and os.sep not in word


def _kept_arguments(launch: Launch, entry: Any) -> list[str]:
    """Return the shim's arguments that say what the old ones said; raises CannotKeep."""
    if launch.program is Program.PALACE:
        return list(launch.arguments)
    kept: list[str] = []
    rest = list(launch.arguments)
    while rest:
        name, given, text = rest.pop(0).partition("=")
        if name in ("--palace", "--transport") and not given:
            if not rest:
                raise CannotKeep(f"its {name} names nothing ({described(entry)})")
            text = rest.pop(0)
        if name == "--palace":
            # The flag stays a flag: with it, stock keeps the graph in the palace, and so do we.
            kept += ["--palace", text]
        elif (name, text) not in _DISPENSABLE:
            hint = f" ({_READ_ONLY})" if name == "--read-only" else ""
            whole = f"{name}={text}" if given else name
            raise CannotKeep(f"its argument {whole} can't be kept{hint}")
    return kept
