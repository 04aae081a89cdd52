"""What the kernel tells people of another process: for `palace doctor` and `palace status`.

Nothing is decided by it: a pid may belong to another process by the time that it is read.
"""

TITLE_CHARS_MAX = 200


class Process:
    """One process; `age_s` is negative and `home` is "" where the kernel doesn't tell.

    `stopped` says that a signal or a debugger has halted it.
    """

    __slots__ = ("age_s", "home", "memory_bytes", "pid", "stopped", "title", "user")

    def __init__(self, pid: int, *, title: str, user: str, age_s: float, stopped: bool) -> None:
        self.pid = pid
        self.title = title[:TITLE_CHARS_MAX]
        self.user = user
        self.age_s = age_s
        self.stopped = stopped
        self.home = ""
        self.memory_bytes = 0


def user_name(uid: int) -> str:
    """Return a user's name, or its number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
