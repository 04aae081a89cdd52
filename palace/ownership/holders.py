"""How a stock process that holds mempalace's writer lock is ended: by the command made for it.

One text for broker, shim and doctor.  Standard library only: loaded where the lock is not free.
"""

from palace.settings.paths import Paths

DAEMON = ("mempalace.daemon", "mempalace daemon")
SESSIONS = ("mcp_server", "mempalace-mcp")
SERVERS = ("mempalace serve",)


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
