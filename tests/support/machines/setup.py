"""System packages that tests use: installs what is absent, where it may; `just setup`.

    python -m tests.support.machines.setup [--images]

Packages are installed on Debian and its descendants, as root or with a sudo that asks for no
password.  Anywhere else each absent part is named with the way to get it, and the tests that need
it are skipped and counted.  With PALACE_TEST_STRICT set, an absent part is an error.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence

# Commands by what provides them on Debian; tests ask for them by these names (needs.py).
PACKAGES = {
    "bindfs": ("bindfs",),
    "cc": ("gcc", "libc6-dev"),
    "curl": ("curl",),
    "git": ("git",),
    "ip": ("iproute2",),
    "mount": ("mount",),
    "node": ("nodejs",),
    "npm": ("npm",),
    "nsenter": ("util-linux",),
    "openssl": ("openssl",),
    "patch": ("patch",),
    "scp": ("openssh-client",),
    "spin": ("spin",),
    "ssh": ("openssh-client",),
    "ssh-keygen": ("openssh-client",),
    "ssh-keyscan": ("openssh-client",),
    "sshd": ("openssh-server",),
    "systemd-analyze": ("systemd",),
    "systemd-socket-activate": ("systemd",),
    "unshare": ("util-linux",),
}
IMAGES = {
    "buildah": ("buildah",),
    "mmdebstrap": ("mmdebstrap", "debian-archive-keyring"),
}
ALL = PACKAGES | IMAGES
# Debian starts what these install, and at each boot; on a person's machine that isn't ours to do.
SERVERS = frozenset({"sshd"})
SYSTEMD = "/run/systemd/system"  # there where systemd is the first process
STRICT = "PALACE_TEST_STRICT"


def is_strict() -> bool:
    """Tell whether every part has to be here, as it must where the result is a gate."""
    return bool(os.environ.get(STRICT))


def find(command: str) -> str | None:
    """Return a command's path; administrators' directories count, whatever PATH says.

    PALACE_TEST_SBIN names others, so that a machine without any of the parts can be imitated.
    """
    sbin = os.environ.get("PALACE_TEST_SBIN", "/usr/sbin:/sbin")
    places = os.pathsep.join(filter(None, (os.environ.get("PATH"), sbin)))
    return shutil.which(command, path=places)


def remedy(command: str) -> str:
    """Return how to get a part, as a command for Debian and its descendants."""
    return f"apt-get install {' '.join(ALL[command])}"


def as_root() -> list[str] | None:
    """Return what precedes a command to run it as root; None where that takes a password."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    if not find("sudo"):
        return None
    asked = subprocess.run([*sudo, "true"], stderr=subprocess.DEVNULL, check=False)
    return None if asked.returncode else sudo


def install(commands: Collection[str]) -> None:
    """Install the packages of some commands, as many as there are; apt-get says what is wrong."""
    prefix = as_root()
    if prefix is None or not find("apt-get"):
        return
    packages = sorted({name for command in commands for name in ALL[command]})
    print(f"setup: installing {' '.join(packages)}", flush=True)
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2"]
    adding = [*apt, "install", "--yes", "--no-upgrade", "--no-install-recommends"]
    subprocess.run([*apt, "update"], stdout=sys.stderr, check=False)
    together = subprocess.run([*adding, *packages], stdout=subprocess.DEVNULL, check=False)
    if together.returncode:  # one that this release lacks must not keep the others away
        for package in packages:
            subprocess.run([*adding, package], stdout=subprocess.DEVNULL, check=False)


def main(arguments: Sequence[str]) -> int:
    """Install what is absent; return 1 where a part is still absent and must not be."""
    wanted = [*PACKAGES, *(IMAGES if "--images" in arguments else ())]
    absent = [command for command in wanted if not find(command)]
    left_out = SERVERS if os.path.isdir(SYSTEMD) and not is_strict() else frozenset()
    if chosen := [command for command in absent if command not in left_out]:
        install(chosen)
    absent = [command for command in absent if not find(command)]
    for command in absent:
        why = ", which starts a server" if command in left_out else ""
        print(f"setup: no {command}; to get it, as root: {remedy(command)}{why}")
    return 1 if absent and is_strict() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
