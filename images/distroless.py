"""What an image needs of Debian to run palace, and nothing else: no shell, no package manager.

    python3 distroless.py ROOT OWNED UID GID

ROOT gets Python, an ssh client, the libraries that these and palace's packages are linked to, the
certificates, the time zones, and, for whoever scans the image, which of Debian's packages all that
is of (/var/lib/dpkg/status.d, as other images without a package manager have it).  OWNED gets, in
directories of their own, what is to be the user's.  Run as root, in a Debian that has all this.

Standard library only.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PALACE = Path("/opt/palace")
PROGRAMS = ("/usr/bin/python3", "/usr/bin/ssh")
LINKS = ("bin", "lib", "lib64", "sbin")  # to what is below usr
WHOLE = ("libc6", "libgcc-s1", "libpython3.*-stdlib", "libpython3.*-minimal", "python3.*-minimal")
TREES = (
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/usr/lib/ssl/certs", "/usr/lib/ssl/openssl.cnf"),
    *("/usr/share/ca-certificates", "/usr/share/zoneinfo", "/usr/lib/locale/C.utf8"),
    *("/etc/debian_version", "/etc/os-release", "/usr/lib/os-release", "/etc/nsswitch.conf"),
    *("/etc/host.conf", "/etc/ssh/ssh_config", "/etc/mime.types"),
)
# Of the packages that are taken whole: what is for people, other programs, or a shell.
LEFT = re.compile(
    r"/usr/(?:share/(?!ca-certificates|zoneinfo)|bin/(?!python3)|sbin/|lib/[^/]+/gconv/|lib/python3/)"
    r"|/usr/lib/python3\.\d+/(?:ensurepip|pydoc_data|test|config-\d.*|turtledemo|idlelib)/|/etc/(?!ssl)|/usr/lib/binfmt"
    r"|.*/__pycache__/"
)


def output(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def installed() -> list[str]:
    """Return the installed packages whose files are taken whole."""
    known = [line.partition(":")[0] for line in output("dpkg-query", "-W", "-f", "${Package}\n")]
    return [name for name in known if any(re.fullmatch(one, name) for one in WHOLE)]


def below(trees: Iterable[str]) -> Iterator[str]:
    for tree in trees:
        if os.path.isdir(tree) and not os.path.islink(tree):
            for directory, _, files in os.walk(tree):
                yield from (f"{directory}/{name}" for name in files)
        elif os.path.lexists(tree):
            yield tree


def led_to(path: str) -> Iterator[str]:
    """Yield a path as it is below usr, and whatever its links lead to."""
    while True:
        directory, name = os.path.split(path)
        path = f"{os.path.realpath(directory)}/{name}"
        if is_directory(path):  # its files are named by themselves
            return
        yield path
        if not os.path.islink(path):
            return
        path = os.path.join(os.path.dirname(path), os.readlink(path))


def is_linked(path: str) -> bool:
    """Tell whether a file is a program or a library of machine code."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def libraries(paths: Iterable[str]) -> set[str]:
    """Return the libraries that files are linked to, and the loader, outside of palace."""
    found: set[str] = set()
    for path in filter(is_linked, paths):
        for line in output("ldd", path):
            for word in re.findall(r"(/\S+) \(0x", line):
                if not word.startswith(f"{PALACE}/"):
                    found |= set(led_to(word))
    return found


def needed() -> set[str]:
    """Return all files of Debian's that are needed."""
    found = {path for program in PROGRAMS for path in led_to(program)}
    for line in output("dpkg-query", "-L", *installed()):
        if not LEFT.match(line) and os.path.lexists(line) and not is_directory(line):
            found |= set(led_to(line))
    for path in below(TREES):
        found |= set(led_to(path))
    ours = [str(path) for path in PALACE.rglob("*.so*")]
    while more := libraries([*found, *ours]) - found:
        found |= more
    return {path for path in found if os.path.lexists(path)}


def is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def owners(paths: Iterable[str]) -> set[str]:
    """Return the packages that files are of; some were made when a package was installed."""
    listed = "\n".join(sorted(paths))
    done = subprocess.run(
        ["xargs", "-d", "\n", "dpkg-query", "-S"],
        input=listed,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition(": ")[0] for line in done.stdout.splitlines() if ": /" in line]
    return {name.partition(":")[0] for line in lines for name in line.split(", ")}


def copy(path: str, root: Path) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)


def describe(package: str, root: Path) -> None:
    """Note a package, with its licence."""
    status = root / "var/lib/dpkg/status.d" / package
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("\n".join([*output("dpkg-query", "-s", package), ""]))
    licence = Path(f"/usr/share/doc/{package}/copyright")
    if licence.exists():  # its directory may be a link to another package's
        target = root / str(licence).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(licence, target)


def make_root(root: Path, uid: int, gid: int) -> None:
    root.mkdir()
    for name in LINKS:
        if os.path.islink(f"/{name}"):
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(f"usr/{name}")
    paths = needed()
    for path in sorted(paths):
        copy(path, root)
    for package in sorted(owners(paths)):
        describe(package, root)
    for name in ("etc", "home", "tmp", "var/tmp", "run", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    users = f"root:x:0:0:root:/root:/nonexistent\npalace:x:{uid}:{gid}::/home/palace:/nonexistent\n"
    (root / "etc/passwd").write_text(users)
    (root / "etc/group").write_text(f"root:x:0:\npalace:x:{gid}:\n")
    (root / "root").mkdir(mode=0o700)
    compile_library(root)


def compile_library(root: Path) -> None:
    """Compile Python's library: nobody can write there later.  By content, since times differ."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    [library] = root.glob("usr/lib/python3.*")
    good = compileall.compile_dir(
        library, quiet=1, force=True, stripdir=str(root), invalidation_mode=mode
    )
    assert good, library


def make_owned(owned: Path) -> None:
    """Make what is to be the user's: the volume's place, and a home that leads to the model."""
    (owned / "top" / "mempalace").mkdir(parents=True)
    (owned / "top" / "mempalace").chmod(0o700)
    models = owned / "home" / "palace" / ".cache" / "chroma" / "onnx_models"
    models.mkdir(parents=True)
    (models / "all-MiniLM-L6-v2").symlink_to("/opt/palace-model")


def main(root: str, owned: str, uid: str, gid: str) -> None:
    if 0 in (int(uid), int(gid)):
        sys.exit(f"distroless: uid {uid}, gid {gid}: these images don't run as root. Give others.")
    os.umask(0o022)
    make_root(Path(root), int(uid), int(gid))
    make_owned(Path(owned))


if __name__ == "__main__":
    main(*sys.argv[1:])
