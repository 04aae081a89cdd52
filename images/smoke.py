"""What a built image must be able to do, run inside of it with its own Python:

    docker run --rm -v "$PWD/images/smoke.py:/smoke.py:ro" IMAGE python /smoke.py files
    docker run --rm -v PALACE:/mempalace/palace -v ...    IMAGE python /smoke.py shim [WAY]
    docker run --rm --network none -v ...                 IMAGE python /smoke.py own

`files`: nothing of the image may be written by its user, no compiler and no cache is in it; prints
sizes.  `shim`: a shim reaches the broker that the environment leads to (over the way of that
number), files a fact and finds it.  `own`: `palace try`, then a shim on the image's own palace.
Exits with 1 and says why where something is wrong.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from palace.commands.agent import Agent
from palace.protocol.errors import PalaceError

ELSEWHERE = ("/dev", "/mempalace", "/proc", "/run", "/sys", "/tmp")
SHELLS = ("ash", "bash", "busybox", "dash", "ksh", "sh", "zsh")
MANAGERS = ("apk", "apt", "apt-get", "dpkg", "perl", "rpm")
COMPILERS = ("as", "c++", "cc", "clang", "g++", "gcc", "git", "ld", "make", "pip", "rustc")
PACKAGES = "/var/lib/dpkg/status.d"
CACHES = (
    *("/etc/pip.conf", "/locks", "/run/secrets", "/steps", "/tools", "/var/cache/apt/pkgcache.bin"),
    *("/var/lib/apt/lists", "/var/log/apt", "/wheels"),
)
MB = 1_000_000


class Failed(Exception):
    """Something is not as it must be; the text says what."""


def check(good: object, text: str) -> None:
    if not good:
        raise Failed(text)
    print(f"ok  {text}", flush=True)


def everything() -> Iterator[str]:
    """Yield all paths of the image but for what is its user's own, or isn't the image's."""
    home = os.path.realpath(os.path.expanduser("~"))
    for directory, names, files in os.walk("/"):
        names[:] = [
            name
            for name in names
            if (path := os.path.join(directory, name)) not in ELSEWHERE and path != home
        ]
        yield directory
        yield from (os.path.join(directory, name) for name in files)


def check_files() -> None:
    """Look at the image as its own user."""
    check(os.getuid() != 0, f"not root, but uid {os.getuid()}")
    paths = list(everything())
    loose = [path for path in paths if not os.path.islink(path) and os.access(path, os.W_OK)]
    outside = [path for path in loose if not os.path.ismount(path) and path != "/smoke.py"]
    world = [path for path in outside if path not in ("/var/tmp", "/var/lock")]
    check(not world, f"nothing outside of its home can be written ({world[:5]})")
    check(os.stat(os.path.expanduser("~")).st_uid == os.getuid(), "its home is its own")
    found = [name for name in COMPILERS if shutil.which(name)]
    check(not found, f"no compiler, and no pip ({found})")
    if os.path.isdir(PACKAGES):  # an image without a package manager
        there = {os.path.basename(path) for path in paths if not os.path.isdir(path)}
        found = sorted(there & {*SHELLS, *MANAGERS, *COMPILERS})
        check(not found, f"no shell, and no package manager ({found})")
    left = [path for path in CACHES if os.path.isdir(path) and os.listdir(path)]
    left += [path for path in CACHES if os.path.isfile(path)]
    check(not left, f"no cache is left ({left})")
    ours = [path for path in paths if path.startswith("/opt/palace/lib/")]
    stale = [path for path in ours if path.endswith(".py") and "/palace/" in path.split("/lib/")[1]]
    compiled = {path.rpartition("/__pycache__/")[0] for path in ours if path.endswith(".pyc")}
    check(stale and all(os.path.dirname(path) in compiled for path in stale), "it is compiled")
    print_sizes(paths)


def print_sizes(paths: list[str]) -> None:
    """Print how large the image is unpacked, and what of it is palace's."""
    sizes = {path: os.lstat(path).st_size for path in paths if not os.path.isdir(path)}
    parts = {"all": "/", "palace": "/opt/palace/", "model": "/opt/palace-model/"}
    for name, prefix in parts.items():
        total = sum(size for path, size in sizes.items() if path.startswith(prefix))
        print(f"    {name:<8} {total / MB:6.1f} MB", flush=True)


def check_shim(way: str = "") -> None:
    """Use the palace that the environment leads to, as an agent would."""
    if way:
        done = subprocess.run(
            ["palace", "doctor", "--boundary", "--json"], capture_output=True, check=False
        )
        answer = json.loads(done.stdout or b"{}")
        check(str(answer.get("rung")) == way, f"way {way} leads to a broker: {answer['ways']}")
    agent = Agent("smoke", ["palace", "shim"], dict(os.environ))
    check(agent.welcome.get("serverInfo"), "initialize is answered")
    tools = agent.request("tools/list").get("result", {}).get("tools", [])
    check(len(tools) > 40, f"{len(tools)} tools are listed")
    name = f"smoke{os.urandom(4).hex()}"
    agent.tool("mempalace_kg_add", subject=name, predicate="is", object="filed")
    found = agent.tool("mempalace_kg_query", entity=name)
    check("filed" in json.dumps(found), "what was filed is found")
    check(agent.close() == 0, "the shim left when its client did")


def check_own() -> None:
    """Own palaces with nothing but what is in the image."""
    done = subprocess.run(["palace", "try"], check=False)
    check(done.returncode == 0, "palace try")
    check_shim("0")
    check(subprocess.run(["palace", "status"], check=False).returncode == 0, "palace status")
    subprocess.run(["palace", "stop"], check=True)


def main(words: list[str]) -> int:
    commands = {"files": check_files, "shim": check_shim, "own": check_own}
    if not words or words[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        commands[words[0]](*words[1:])
    except (Failed, PalaceError) as error:
        print(f"BAD {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
