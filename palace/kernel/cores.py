"""Core dumps: those of palace's processes hold nothing of what their memory holds."""

import os


def empty_cores() -> None:
    """Let dumps of this process and its children hold no memory, whoever takes them.

    A program that the kernel hands dumps to (systemd-coredump, apport) is not bound by a limit.
    """
    try:
        fd = os.open("/proc/self/coredump_filter", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # another system's, or /proc is not there
    try:
        os.write(fd, b"0")
    except OSError:
        return
    finally:
        os.close(fd)


def forbid_cores() -> None:
    """Let this process and its children leave no dumps where they run."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
