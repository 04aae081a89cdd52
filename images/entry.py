"""Looks which palace there is, says plainly what is wrong with it, and runs the command given.

In Python, since not every image has a shell.  A process that is started beside it later has none of
what it sets: so that is only what such a process can do without.
"""

import os
import stat
import sys

from palace.protocol.errors import PalaceError
from palace.settings.paths import find_palace

MODEL = "/opt/palace-model"
NO_PALACE = 66
ALONE = ("model", "try")  # palace's commands that need no palace


def say(text: str) -> None:
    print(f"palace's image: {text}", file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    """Run a command in this process's place; return an exit code where it is not to be run."""
    try:
        root = find_palace("", os.environ).root
    except PalaceError as error:
        say(error.message)
        return error.exit_code
    find_home(os.path.dirname(root))
    link_model()
    if words[:2] == ["palace", "serve"]:  # made to serve: it stays, though nobody asks for a while
        os.environ.setdefault("PALACE_IDLE_S", "0")
    problem = "" if is_named(words) else problem_of(root)
    if problem:
        say(problem)
        if needs_palace(words):
            return NO_PALACE
    try:
        os.execvp(words[0], words)
    except OSError as error:
        say(f"{words[0]} can't be run: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126


def find_home(volume: str, temporary: str = "/tmp") -> None:
    """Name a home and a directory for temporary files that can be written.

    Where the image is mounted read-only, the palace's volume may be all that there is.  In /tmp
    anybody could have made a directory of that name before, so one that isn't ours is passed over.
    """
    home, uid = os.environ.get("HOME") or "/", os.getuid()
    if not os.access(home, os.W_OK):
        found, other = f"{temporary}/home-{uid}", f"{volume}/home-{uid}"
        if not is_made(found) or not is_ours(found, uid):
            found = other
            is_made(found)
        say(
            f"uid {uid} can't write its home {home}, so it is {found} from now on. "
            "Name another: --env HOME=DIRECTORY"
        )
        os.environ["HOME"] = home = found
    if not os.access(os.environ.get("TMPDIR") or "/tmp", os.W_OK) and is_made(f"{home}/tmp"):
        os.environ["TMPDIR"] = f"{home}/tmp"


def is_made(path: str) -> bool:
    """Tell whether a directory is there and can be written; make it where it is absent."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK)


def is_ours(path: str, uid: int) -> bool:
    """Tell whether this is a directory, no link to one, that nobody else can write."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == uid
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def link_model() -> None:
    """Let another home than the image's own have the model, too."""
    models = f"{os.environ['HOME']}/.cache/chroma/onnx_models"
    link = f"{models}/all-MiniLM-L6-v2"
    if not os.path.isdir(MODEL) or os.path.exists(link):
        return
    try:
        os.makedirs(models, exist_ok=True)
        os.symlink(MODEL, link)
    except OSError:
        say(f"{models} can't be written; without a network there is no model. Mount one there.")


def is_named(words: list[str]) -> bool:
    """Tell whether a broker, or the command's own palace, is named: then it says what is wrong."""
    return bool(os.environ.get("MEMPALACE_BROKER")) or any("--palace" in word for word in words)


def needs_palace(words: list[str]) -> bool:
    """Tell whether a command of palace's can do nothing without one; others are only told."""
    if words[0] != "palace" or len(words) == 1:
        return False
    return words[1] not in ALONE and not words[1].startswith("-")


def problem_of(root: str) -> str:
    """Return why a palace can't be used, "" where it can; say where one would be lost."""
    parent, uid = os.path.dirname(root), os.getuid()
    if os.path.isdir(root):
        owner = os.stat(root)
        if owner.st_uid != uid:
            return (
                f"{root} belongs to uid {owner.st_uid}, and this container runs as uid {uid}. Run "
                f"it as that user (--user {owner.st_uid}:{owner.st_gid}), or build the image with "
                f"--build-arg PALACE_UID={owner.st_uid}."
            )
    elif not os.path.isdir(MODEL):
        return (
            f"there is no palace at {root}, and this image can't make one. Mount the host's "
            f'(--volume "$HOME/.config/mempalace/palace:{root}"), or name a broker with '
            "MEMPALACE_BROKER, or take the full image."
        )
    elif not os.access(parent, os.W_OK):
        return (
            f"there is no palace at {root}, and uid {uid} can't make one in {parent}. Mount a "
            "directory or a volume of its own there, or name a palace with MEMPALACE_PATH."
        )
    elif os.stat(parent).st_dev == os.stat("/").st_dev:
        say(
            f"the palace {root} is kept in this container alone, and is lost with it. "
            f"To keep it: --volume palace:{parent}"
        )
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
