"""What lets a broker start where another process has what it needs: one text for broker and doctor.

Standard library only: loaded where the lock is not free.
"""

import os

from palace.settings.paths import Paths

BESIDE = ("tunnels.json", "hallways.json")  # what mempalace keeps in a palace's parent directory
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
    if any(word in title for word in SESSIONS):
        return f"It is a session of stock's, which ends with its agent: close that, or {kill}"
    if any(word in title for word in SERVERS):
        return f"It is stock's server, which runs until it is ended: {kill}"
    return f"Let it finish, or {kill}"


def how_to_part(data_file: str, paths: Paths) -> str:
    """Return how two palaces stop sharing a file, as a sentence without its full stop.

    `data_file` is the knowledge graph, or one that mempalace keeps beside a palace.
    """
    parent = os.path.dirname(paths.root)
    if os.path.dirname(data_file) == parent and os.path.basename(data_file) in BESIDE:
        return (
            f"Only one of the two can be in use at a time, since both lie in {parent}, where "
            f"mempalace keeps {' and '.join(BESIDE)} for them. Stop the other one's broker, or "
            "move one palace into a directory of its own while it is on hold (palace stop --hold)"
        )
    return (
        "Only one of the two can be in use at a time. Stop the other one's broker, or give this "
        f"palace a graph of its own, which begins without facts: "
        f"palace config set graph=knowledge_graph.sqlite3 --palace {paths.root}"
    )
