"""What lets a broker start where another process has what it needs: one text for broker and doctor.

Standard library only: loaded where the lock is not free.
"""

import os

from palace.settings.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.kernel.kernel import Kernel

BESIDE = ("tunnels.json", "hallways.json")  # what mempalace keeps in a palace's parent directory
LATER_HALLWAYS = "hallways.sqlite3"  # what mempalace 3.12 makes of hallways.json
DAEMON = ("mempalace.daemon", "mempalace daemon")
SESSIONS = ("mcp_server", "mempalace-mcp")
SERVERS = ("mempalace serve",)

MAINTENANCE = ("rebuild", "purge", "restore", "recover", "trust", "doctor")  # take broker.lock


def maintenance_in(title: str) -> str:
    """Return which of palace's commands a process carries out that need the palace for themselves.

    "" for none: a broker, or another program.
    """
    words = title.split()
    for program, command in zip(words, words[1:], strict=False):
        if os.path.basename(program) == "palace" and command in MAINTENANCE:
            return f"palace {command}"
    return ""


def stays(title: str) -> bool:
    """Tell whether a process keeps the lock until it is ended: a session, a server, the daemon.

    Commands and hooks of stock's have it for seconds.
    """
    return any(word in title for word in (*DAEMON, *SESSIONS, *SERVERS))


def is_hub(title: str) -> bool:
    """Tell whether a process serves stock's sessions over HTTP, as `--ensure-hub` starts one."""
    words = title.replace("=", " ").split()
    over_http = ("--transport", "http") in zip(words, words[1:], strict=False)
    return over_http and any(word in title for word in SESSIONS)


def daemon_stop(paths: Paths) -> str:
    """Return the command that ends mempalace's daemon of a palace."""
    is_ours = paths.found_by in ("--palace", "MEMPALACE_PATH")  # which stock doesn't know
    return f"mempalace --palace {paths.root} daemon stop" if is_ours else "mempalace daemon stop"


def how_to_end(title: str, pid: "int | None", paths: Paths) -> str:
    """Return what lets a broker start, as a sentence without its full stop.

    `title` is the holder's command line, "" where the kernel doesn't tell.
    """
    if any(word in title for word in DAEMON):
        command = daemon_stop(paths)
        return f"It is mempalace's daemon, which ends only when it is told to: {command}"
    kill = f"end it (kill {pid})" if pid else "end it"
    if is_hub(title):
        return (
            "It is stock's hub, which serves agents over HTTP and outlives each of them: to take "
            f"it over, {kill}; the sessions that went through it go on through palace's broker"
        )
    if any(word in title for word in SESSIONS):
        return f"It is a session of stock's, which ends with its agent: close that, or {kill}"
    if any(word in title for word in SERVERS):
        return f"It is stock's server, which runs until it is ended: {kill}"
    return f"Let it finish, or {kill}"


def how_to_avoid(title: str) -> str:
    """Return what keeps a holder from coming back, as a sentence after a blank, "" for nothing.

    Commands and the daemon serve no agents, so there is nothing that could take their place.
    """
    if any(word in title for word in DAEMON):
        return ""
    if any(word in title for word in (*SESSIONS, *SERVERS)):
        return " Let its agents start `palace shim` in its place: palace install --list."
    return ""


def hidden_text(pid: int, kernel: "Kernel") -> str:
    """Say why a holder's socket is not to be seen here, "" where that is not the reason."""
    try:
        theirs = os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""
    if theirs == kernel.mount_namespace():
        return ""
    return "It runs in another mount namespace (a container), and its socket may not be seen here."


HOW_TO_SHOW = "Mount the palace's directory in both, with its socket, or run both in one container"


def how_to_part(data_file: str, note: str, *, alone: bool) -> str:
    """Return how to get a file that several palaces share, as a sentence without its full stop.

    `note` is what its holder wrote into its lock; `alone`: to have it without any other one.
    """
    other = note.rpartition(" serves ")[2]
    stop = f"palace stop --palace {other}" if other.startswith("/") else "palace stop"
    if alone:
        return f"Stop that one's broker first, and start again what you did: {stop}"
    return (
        "Brokers of this version share it; that one is of an earlier version, or a command that "
        f"needs {os.path.basename(data_file)} for itself. Let it end, or stop it: {stop}"
    )
