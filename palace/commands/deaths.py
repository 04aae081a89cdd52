"""`palace deaths`: which brokers of a palace died, of what, and where their records are."""

import json

from palace.canary.records import RECORD, deaths_of, open_directory
from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line, say
from palace.protocol.deaths import MEANINGS
from palace.settings.paths import Paths


def print_deaths(paths: Paths, *, as_json: bool) -> int:
    """Print all recorded deaths, the latest last; one JSON object each with `as_json`.

    Raises OSError where the records are not this user's alone.
    """
    found = list(deaths_of(paths.root, Kernel()))
    for death in found:
        if as_json:
            say(json.dumps({"epoch": death.owner.epoch, **death.about, "file": death.file}))
        else:
            say(one_line(death_text(death.owner.epoch, death.about)))
            say(f"  {death.file}")
    if not found and not as_json:
        say(f"No broker of {paths.root} has died, as far as is recorded.")
    return 0


def death_text(epoch: int, about: "dict[str, str]") -> str:
    """Return one death as a line for people."""
    cause = about.get("cause", "")
    pid = about.get("server_pid", "unknown")
    meaning = MEANINGS.get(cause, "its record can't be read")
    return f"{about.get('time', '?')}  epoch {epoch}, pid {pid}: {meaning} ({cause or 'unknown'})"


def clear_deaths(paths: Paths) -> int:
    """Remove all records; return how many.  Marks of owners that may still die stay."""
    try:
        directory = open_directory(paths.root, Kernel())
    except FileNotFoundError:
        return 0
    try:
        recorded = directory.owners(RECORD)
        directory.prune(0)
    finally:
        directory.close()
    return len(recorded)
