"""Images without a Docker engine: built by buildah in chroots, run in namespaces.

buildah carries out Dockerfile.base as it stands, on a Debian that mmdebstrap unpacks.  What is
built runs in a mount, a pid and, if wanted, a network namespace of its own, chrooted to an overlay
over the image, as its user, with its environment.  Namespaces take their mounts with them.  Nothing
of an image is needed to start a command in it: it may have no shell.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.support.machines.needs import need_command, need_root
from tests.support.processes.brokers import children_of
from tests.support.processes.clients import wait_until

ROOT = Path(__file__).parent.parent.parent.parent
SUITE = "trixie"  # as BASE_IMAGE in Dockerfile.base
BASE = "localhost/palace-test-base"
# What Debian's slim images leave out.
SLIM = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem")
RUN = """
set -eu
root=$1 scratch=$2 mode=$3
shift 3
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
options="lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work"
mount -t overlay -o "$options" overlay "$scratch/root"
mount -t proc proc "$scratch/root/proc"
mount --rbind /dev "$scratch/root/dev"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$scratch/root$2"; else : > "$scratch/root$2"; fi
  mount --bind "$1" "$scratch/root$2"
  shift 2
done
shift
[ "$mode" = rw ] || mount -o "remount,$mode" "$scratch/root"
exec "$@"
"""
# Runs a command in a root, as a user, with an environment.
ENTER = """
import os, sys, warnings  # which execvpe imports
root, user, directory, count, *rest = sys.argv[1:]
pairs, words = rest[: int(count)], rest[int(count) :]
uid, gid = map(int, user.split(":"))
os.chroot(root)
os.chdir(directory)
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
environ = dict(pair.split("=", 1) for pair in pairs)
os.execvpe(words[0], words, environ)
"""


@attrs.frozen(kw_only=True)
class Image:
    """A built image, unpacked at `root`; `config` is what Docker would know of it."""

    root: Path
    config: dict[str, Any]

    def environ(self, user: str) -> dict[str, str]:
        """Return what Docker sets: a user whom the image doesn't know lives in /."""
        pairs = (entry.partition("=") for entry in self.config["Env"])
        homes = {self.config["User"]: "/home/palace", "0:0": "/root"}
        return {name: value for name, _, value in pairs} | {"HOME": homes.get(user, "/")}

    @contextmanager
    def container(
        self,
        *words: str,
        user: str = "",
        mounts: Mapping[Path, str] | None = None,
        network: bool = True,
        read_only: bool = False,
        **environ: str,
    ) -> Iterator["Container"]:
        """Start a command by the image's entry point, or its own one; kill it at the end.

        `read_only`: the image, not the mounts, as for `docker run --read-only`.
        """
        user = user or self.config["User"]
        values = self.environ(user) | environ
        pairs = [f"{name}={value}" for name, value in values.items()]
        inside = [user, self.config["WorkingDir"], str(len(pairs)), *pairs]
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        binds = [word for pair in (mounts or {}).items() for word in map(str, pair)]
        command = [*self.config["Entrypoint"], *(words or self.config["Cmd"])]
        with tempfile.TemporaryDirectory(prefix="palace-container-") as scratch:
            enter = [sys.executable, "-I", "-S", "-c", ENTER, f"{scratch}/root", *inside]
            process = subprocess.Popen(
                [
                    *(*unshare, *([] if network else ["--net"])),
                    *("sh", "-c", RUN, "sh", str(self.root), scratch, "ro" if read_only else "rw"),
                    *(*binds, "--", *enter, *command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                yield Container(process=process, enter=enter)
            finally:
                process.kill()
                process.communicate()

    def run(self, *words: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, as `container` starts it; stdout has stderr, too."""
        with self.container(*words, **more) as container:
            output, _ = container.process.communicate(timeout=300)
        return subprocess.CompletedProcess(words, container.process.returncode, output)


@attrs.frozen(kw_only=True)
class Container:
    """A container that runs."""

    process: "subprocess.Popen[str]"
    enter: list[str]

    def execute(self, *words: str) -> int:
        """Run another command in it, as `docker exec` does; return its exit code."""
        wait_until(self._is_inside, what="the container's command runs")
        (first,) = children_of(self.process.pid)
        done = subprocess.run(
            [
                *("nsenter", f"--target={first}", "--mount", "--pid", "--net", "--"),
                *(*self.enter, *words),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode

    def _is_inside(self) -> bool:
        """Tell whether its first process has the image for its root."""
        children = children_of(self.process.pid)
        try:
            return bool(children) and not Path(f"/proc/{children[0]}/root").samefile("/")
        except FileNotFoundError:
            return False


@attrs.frozen(kw_only=True)
class Builder:
    """Builds images in a directory of its own; made by `open_builder`."""

    directory: Path

    def buildah(self, *words: str) -> str:
        """Run buildah on this directory's storage alone; return what it prints."""
        storage = (f"--root={self.directory}/root", f"--runroot={self.directory}/runroot")
        done = subprocess.run(
            [need_command("buildah"), *storage, "--storage-driver=vfs", *words],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"buildah {words[0]}:\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def make_base(self) -> None:
        """Unpack a Debian as BASE; its packages come from where this machine's do."""
        archive = self.directory / "base.tar"
        options = [f"--dpkgopt={option}" for option in SLIM]
        command = [need_command("mmdebstrap"), "--variant=minbase", "--quiet", *options]
        subprocess.run([*command, SUITE, str(archive), mirror()], check=True, capture_output=True)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        self.buildah("commit", "--quiet", "--rm", container, BASE)
        archive.unlink()

    def build(self, target: str, name: str = "", **arguments: str) -> Image:
        """Carry out Dockerfile.base up to a target."""
        given = {"BASE_IMAGE": BASE, "DEBIAN_SNAPSHOT": "", **arguments}
        name = name or target
        secrets = [f"--secret=id={path.name},src={path}" for path in self._secrets()]
        self.buildah(
            *("build", "--isolation=chroot", "--format=docker", "--layers=false", "--pull=never"),
            *(*secrets, *(f"--build-arg={key}={value}" for key, value in given.items())),
            *("--file=Dockerfile.base", f"--target={target}", f"--tag={name}", "."),
        )
        described = json.loads(self.buildah("inspect", "--type=image", name))
        root = self.buildah("mount", self.buildah("from", "--pull-never", name))
        return Image(root=Path(root), config=described["Docker"]["config"])

    def _secrets(self) -> Iterator[Path]:
        """Yield how pip reaches its index from here: for the build, and never in an image."""
        certificates = next((path for path in CERTIFICATES if Path(path).exists()), None)
        lines = ["[global]"]
        if certificates:
            shutil.copy(certificates, self.directory / "ca.crt")
            yield self.directory / "ca.crt"
            lines.append("cert = /run/secrets/ca.crt")
        for name in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout"):
            asked = subprocess.run(
                ["pip", "config", "get", f"global.{name}"],
                capture_output=True,
                text=True,
                check=False,
            )
            values = [word for word in asked.stdout.split() if not word.startswith("file:")]
            lines += [f"{name} = {' '.join(values)}"] if values else []
        (self.directory / "pip.conf").write_text("\n".join([*lines, ""]))
        yield self.directory / "pip.conf"


def mirror() -> str:
    """Return where this machine gets Debian from, if it is one."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.split() if line.rstrip("/").endswith("/debian")]
    return found[0] if found else "http://deb.debian.org/debian"


@contextmanager
def open_builder(directory: Path) -> Iterator[Builder]:
    """Yield a builder that has BASE; takes all that it made away at the end."""
    need_root()
    for name in ("buildah", "mmdebstrap", "unshare", "nsenter"):
        need_command(name)
    builder = Builder(directory=directory)
    try:
        builder.make_base()
        yield builder
    finally:
        builder.buildah("rm", "--all")
        builder.buildah("rmi", "--all", "--force")
        shutil.rmtree(directory, ignore_errors=True)


def fingerprints(root: Path) -> dict[str, str]:
    """Return, by path, what each file of a tree is: kind, mode, owner and content, but no times."""
    found = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        content = ""
        if stat.S_ISLNK(about.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(about.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(root))
        found[name] = f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {content}"
    return found
