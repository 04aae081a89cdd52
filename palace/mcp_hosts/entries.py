"""What an entry of a host's configuration starts: palace, stock, or something else, and how.

An entry may start its server through another program (uvx, docker, ssh, a multiplexer, `sh -c`).
The words of that program are read only as far as it takes to find the server among them.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs

from palace.protocol.errors import ConfigError
from palace.settings.paths import find_palace

STOCK_PROGRAMS = ("mempalace-mcp", "mempalace-light-mcp")
_STOCK_MODULES = ("mempalace.mcp_server", "mempalace.mcp_proxy", "mempalace.mcp_light_server")
_STOCK_FILES = (
    *("/mempalace/mcp_server.py", "/mempalace/mcp_proxy.py", "/mempalace/mcp_light_server.py"),
    *("/mempalace/mcp_server", "/mempalace/mcp_server/__main__.py"),
)
_STOCK_CODE = re.compile(rf"\b(?:{'|'.join(map(re.escape, _STOCK_MODULES))})\b")
# Stock's image, whose server runs without another word; a container's name is no image.
_STOCK_IMAGE = re.compile(r"(?:[\w.-]+(?::\d+)?/)+mempalace(?::[\w.-]+)?(?:@sha256:[0-9a-f]+)?")
_IMAGES_RUN_BY = ("docker", "podman", "nerdctl")
_NESTED_MAX = 4  # shells within shells
# Programs whose palace is not, or may not be, the one that this machine's user would open.
_ELSEWHERE = (
    *("ssh", "docker", "podman", "nerdctl", "kubectl", "lxc", "incus", "wsl", "wsl.exe"),
    *("devcontainer", "distrobox", "toolbox", "flatpak-spawn", "sudo", "su", "doas", "chroot"),
)


class Program(StrEnum):
    """Which server an entry starts."""

    PALACE = "palace"
    STOCK = "stock"
    REMOTE = "remote"  # nothing is started: the host connects to a URL
    OTHER = "other"


@attrs.frozen(kw_only=True)
class Launch:
    """How an entry starts its server.

    `wrapper` are the words before the program, `arguments` those after it (for palace, after
    `shim`).  `embedded` says that the program stands inside one of the words, as in `sh -c`.
    """

    program: Program
    wrapper: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    embedded: bool = False

    @property
    def through(self) -> str:
        """Return the name of the program that starts the server, "" if the host itself does."""
        return os.path.basename(self.wrapper[0]) if self.wrapper else ""

    @property
    def elsewhere(self) -> bool:
        """Tell whether the server may run on another machine, in a container or as another user."""
        words = [word for outer in self.wrapper for word in outer.split()]
        return any(os.path.basename(word) in _ELSEWHERE for word in words)


def launch_of(entry: object) -> Launch:
    """Read an entry, in whichever form its host has; never raises."""
    if not isinstance(entry, dict):
        return Launch(program=Program.OTHER)
    words = words_of(entry)
    if not words:
        remote = any(isinstance(entry.get(key), str) for key in ("url", "httpUrl", "serverUrl"))
        return Launch(program=Program.REMOTE if remote else Program.OTHER)
    return _located(words) or Launch(
        program=Program.OTHER, command=(words[0],), arguments=tuple(words[1:])
    )


def words_of(entry: object) -> list[str]:
    """Return the command line of an entry, its program first."""
    if not isinstance(entry, dict):
        return []
    command: Any = entry.get("command")
    arguments = entry.get("args", [])
    if isinstance(command, dict):  # Zed, before its entries became flat
        command, arguments = command.get("path"), command.get("args", [])
    words = command if isinstance(command, list) else [command]
    if not isinstance(words[0] if words else None, str):
        return []
    words = [*words, *(arguments if isinstance(arguments, list) else [])]
    return [word for word in words if isinstance(word, str)]


def starts_palace(entry: object) -> bool:
    """Tell whether an entry starts a shim, however it is written."""
    return launch_of(entry).program is Program.PALACE


def is_disabled(entry: object) -> bool:
    """Tell whether an entry is switched off in one of the ways that hosts have."""
    if not isinstance(entry, dict):
        return False
    return entry.get("disabled") is True or entry.get("enabled") is False


def opened_palace(entry: object, environ: Mapping[str, str]) -> str:
    """Return the palace that an entry which starts palace opens, "" if that can't be told.

    The host's own environment is taken to be `environ`, with what the entry adds to it.
    """
    launch = launch_of(entry)
    if launch.elsewhere or launch.embedded or not isinstance(entry, dict):
        return ""
    added = entry.get("env", entry.get("environment", {}))
    texts = added.items() if isinstance(added, dict) else ()
    both = dict(environ) | {name: text for name, text in texts if isinstance(text, str)}
    assigned = (word.partition("=") for word in launch.wrapper if "=" in word)
    both |= {name: text for name, _, text in assigned if not name.startswith("-")}
    try:
        return find_palace(palace_option(launch.arguments), both).root
    except ConfigError:
        return ""


def palace_option(arguments: Sequence[str]) -> str:
    """Return the value of `--palace` among some arguments, "" if it isn't there."""
    for index, word in enumerate(arguments):
        if word.startswith("--palace="):
            return word.removeprefix("--palace=")
        if word == "--palace":
            return arguments[index + 1] if index + 1 < len(arguments) else ""
    return ""


def _located(words: Sequence[str], depth: int = 0) -> Launch | None:
    """Return the first server of ours or stock's among some words."""
    for index, word in enumerate(words):
        found = _program_at(words, index)
        if found is not None:
            program, start, end = found
            return Launch(
                program=program,
                wrapper=tuple(words[:start]),
                command=tuple(words[start:end]),
                arguments=tuple(words[end:]),
            )
        if index and words[index - 1] == "-c" and _STOCK_CODE.search(word):
            return Launch(
                program=Program.STOCK,
                wrapper=tuple(words[:index]),
                command=(word,),
                arguments=tuple(words[index + 1 :]),
                embedded=True,
            )
        if any(sign in word for sign in " \t\n;&|") and depth < _NESTED_MAX:
            inner = _located(_split(word), depth + 1)
            if inner is not None:
                outer = tuple(words[: max(index, 1)])
                return attrs.evolve(inner, wrapper=(*outer, *inner.wrapper), embedded=True)
    return None


def _program_at(words: Sequence[str], index: int) -> tuple[Program, int, int] | None:
    """Return the server whose name stands there, where its command begins, and where it ends."""
    word = words[index]
    name = os.path.basename(word).partition("@")[0].partition(":")[0]
    following = words[index + 1 : index + 3]
    if name == "palace" and following[:1] == ["shim"]:
        return Program.PALACE, index, index + 2
    if name in STOCK_PROGRAMS:
        return Program.STOCK, index, index + 1
    if word == "-m" and following == ["palace", "shim"]:
        return Program.PALACE, _interpreter_before(words, index), index + 3
    if word == "-m" and following and following[0] in _STOCK_MODULES:
        return Program.STOCK, _interpreter_before(words, index), index + 2
    if word.startswith("-m") and word[2:] in _STOCK_MODULES:
        return Program.STOCK, _interpreter_before(words, index), index + 1
    runs = any(os.path.basename(each) in _IMAGES_RUN_BY for each in words[:index])
    if runs and "run" in words[:index] and _STOCK_IMAGE.fullmatch(word):
        return Program.STOCK, index, index + 1
    if index and word.endswith(_STOCK_FILES):
        return Program.STOCK, _interpreter_before(words, index), index + 1
    return None


def _interpreter_before(words: Sequence[str], index: int) -> int:
    """Return where the interpreter stands whose options lead to an index."""
    start = index - 1
    while start > 0 and words[start].startswith("-"):
        start -= 1
    return max(start, 0)


def _split(text: str) -> list[str]:
    """Return the words of a shell's line; what is no such line is split at white space."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return text.split()


def described(entry: Any) -> str:
    """Return the command line of an entry as a person would type it, or its URL."""
    words = words_of(entry)
    if words:
        return shlex.join(words)
    url = entry.get("url") or entry.get("httpUrl") if isinstance(entry, dict) else None
    return url if isinstance(url, str) else "nothing"
