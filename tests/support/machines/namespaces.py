"""Machines and containers to test with: namespaces of their own, ended with all that runs in them.

Each has a network, a host name, a password file, processes and a view of the files of its own.  A
container sees what is mounted into it; where its kernel is another one, that is over FUSE, and the
boot id is another, too.  Nothing is left on this machine: no link, no mount, no process.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import attrs

from palace.settings.paths import runtime_dir
from tests.support.processes.brokers import children_of, is_alive, wait_gone
from tests.support.processes.clients import Client

GATEWAY = "172.17.0.1"  # Docker's own
SERVER = "192.0.2.7"  # where another machine reaches the first one
RUN_S = 120.0
SOCKETS = runtime_dir({})  # in /tmp, which is one for all here
KINDS = ("mount", "pid", "net", "uts", "ipc")


@attrs.frozen(kw_only=True)
class Volume:
    """A directory that a container sees as `target`."""

    source: Path
    target: str
    foreign: bool  # over FUSE
    read_only: bool = False


@attrs.define(kw_only=True)
class Machine:
    """One machine, or container; `pid` is its first process, as it is called out here."""

    name: str
    home: Path
    environ: dict[str, str]
    pid: int

    def enter(self, *argv: str) -> list[str]:
        """Return the command that runs a command in there."""
        kinds = [f"--{kind}" for kind in KINDS]
        inside = ["env", f"--chdir={self.home}", *argv]
        return ["nsenter", f"--target={self.pid}", *kinds, "--", *inside]

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a script in a shell as a user would; errors are part of the output."""
        return subprocess.run(
            self.enter("bash", "-eu", "-c", script),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    def client(self, command: str, *arguments: str) -> Client:
        """Start an MCP server as an agent would that was started from a shell."""
        argv = self.enter("bash", "-c", 'exec "$@"', "agent", command, *arguments)
        return Client(argv, self.environ)

    def brokers(self) -> list[int]:
        """Return the brokers that run in there, as they are called out here."""
        found = []
        ours = os.readlink(f"/proc/{self.pid}/ns/pid")
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if _is_pid(entry) else []
                if b"serve" in words and os.readlink(entry / "ns" / "pid") == ours:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def _is_pid(entry: Path) -> bool:
    return entry.name.isdigit()


@attrs.define(kw_only=True)
class Country:
    """What machines of one test have in common: a directory, and the cable between them."""

    root: Path
    environ: dict[str, str]  # PATH and the like
    _stack: ExitStack = attrs.field(factory=ExitStack)
    _count: int = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def host(self, name: str) -> Machine:
        """Start the machine that has the palace: with sshd, and the network that Docker makes."""
        home = self._home(name)
        sshd = self._sshd_config(home)
        lines = [
            "ip link add docker0 type bridge",
            f"ip addr add {GATEWAY}/16 dev docker0",
            f"ip addr add {SERVER}/24 dev docker0",
            "ip link set docker0 up",
            "mkdir /run/sshd",
            f"/usr/sbin/sshd -f {sshd} -E {self.root}/sshd.log",
            "until (: < /dev/tcp/127.0.0.1/22) 2>/dev/null; do sleep 0.05; done",
        ]
        return self._start(name, home, lines, {"localhost": "127.0.0.1"})

    def second(self, name: str, host: Machine) -> Machine:
        """Start another machine, which has ssh's key for the first one."""
        home = self._home(name)
        (home / ".ssh").mkdir(mode=0o700)
        files = [host.home / ".ssh", home / ".ssh"]
        make_key(files[1] / "id_ed25519")
        allowed = (files[1] / "id_ed25519.pub").read_text()
        with (files[0] / "authorized_keys").open("a") as file:
            file.write(allowed)
        key = (self.root / "hostkey.pub").read_text()
        (files[1] / "known_hosts").write_text(f"{host.name} {key}")
        lines = [*self._another_kernel(name), self._hide(host)]
        return self._plug(self._start(name, home, lines, {host.name: SERVER}), host, SERVER)

    def container(
        self,
        name: str,
        host: Machine,
        volumes: list[Volume],
        *,
        environ: dict[str, str],
        hosts: dict[str, str],
        own_kernel: bool,
    ) -> Machine:
        """Start what `docker run` would: `own_kernel` is behind a virtual machine, as on macOS."""
        lines = [": > /run/.containerenv", "mount -t tmpfs none /mnt"]
        lines += self._another_kernel("docker") if own_kernel else []
        for number, volume in enumerate(volumes):
            stage = f"/mnt/.{number}"
            mount = "bindfs" if volume.foreign else "mount --bind"
            mount += " -o ro" if volume.read_only else ""
            lines.append(f"mkdir {stage}; {mount} {shlex.quote(str(volume.source))} {stage}")
        lines.append(self._hide(host))
        for number, volume in enumerate(volumes):
            target = shlex.quote(volume.target)
            lines.append(f"mkdir -p {target}; mount --move /mnt/.{number} {target}")
            lines.append(f"rmdir /mnt/.{number}")
        inside = self._start(name, self._home(name), lines, hosts, environ)
        return self._plug(inside, host, GATEWAY)

    def _home(self, name: str) -> Path:
        home = self.root / name
        home.mkdir()
        return home

    def _sshd_config(self, home: Path) -> Path:
        (home / ".ssh").mkdir(mode=0o700)
        make_key(self.root / "hostkey")
        config = self.root / "sshd_config"
        config.write_text(
            f"HostKey {self.root}/hostkey\nAuthorizedKeysFile .ssh/authorized_keys\n"
            "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "Subsystem sftp internal-sftp\n"
            f"KbdInteractiveAuthentication no\nSetEnv PATH={self.environ['PATH']}\n"
        )
        return config

    def _another_kernel(self, name: str) -> list[str]:
        path = self.root / f"{name}.boot"
        if not path.exists():
            path.write_text(Path("/proc/sys/kernel/random/uuid").read_text())
        return [f"mount --bind {path} /proc/sys/kernel/random/boot_id"]

    def _hide(self, host: Machine) -> str:
        return f"mount -t tmpfs none {host.home}"

    def _start(
        self,
        name: str,
        home: Path,
        lines: list[str],
        hosts: dict[str, str],
        environ: dict[str, str] | None = None,
    ) -> Machine:
        passwd = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        for row in passwd:
            if row[2] == str(os.geteuid()):
                row[5:7] = [str(home), "/bin/bash"]  # where ssh and its server look
        (self.root / f"{name}.passwd").write_text("".join(":".join(r) + "\n" for r in passwd))
        rows = {"localhost": "127.0.0.1", name: "127.0.1.1"} | hosts
        text = "".join(f"{address} {known}\n" for known, address in rows.items())
        (self.root / f"{name}.hosts").write_text(text)
        first = [
            f"hostname {name}",
            "ip link set lo up",
            "mount -t tmpfs none /run",
            f"mkdir -p -m 700 {SOCKETS}; mount -t tmpfs -o mode=700 none {SOCKETS}",
            *(
                f"mount --bind {self.root}/{name}.{file} /etc/{file}"
                for file in ("passwd", "hosts")
            ),
        ]
        script = "\n".join([*first, *lines, "echo ready", "read -r _"])
        pid = self._stack.enter_context(_unshared(script, self.environ))
        mine = self.environ | {"HOME": str(home), "BASH_ENV": str(home / ".profile")}
        return Machine(name=name, home=home, environ=mine | (environ or {}), pid=pid)

    def _plug(self, machine: Machine, host: Machine, network: str) -> Machine:
        """Connect a machine with the first one, by an address beside that one's."""
        self._count += 1
        address = f"{network.rpartition('.')[0]}.{100 + self._count}/24"
        link = f"veth{self._count}"
        commands = (
            (host, f"ip link add {link} type veth peer name eth0 netns {machine.pid}"),
            (host, f"ip link set {link} master docker0 up"),
            (machine, f"ip addr add {address} dev eth0"),
            (machine, "ip link set eth0 up"),
        )
        for where, command in commands:
            argv = ["nsenter", f"--target={where.pid}", "--net", "--", *command.split()]
            subprocess.run(argv, check=True)
        return machine


@contextmanager
def _unshared(script: str, environ: dict[str, str]) -> Iterator[int]:
    """Run a script as the first process of new namespaces, up to where it says that it is ready.

    It ends with its standard input, and everything else in there with it.
    """
    kinds = [f"--{kind}" for kind in KINDS]
    argv = ["unshare", *kinds, "--fork", "--mount-proc", "--kill-child", "bash", "-eu", "-c"]
    process = subprocess.Popen(
        [*argv, script], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pid = 0
    try:
        assert process.stdout.readline() == b"ready\n", script
        pid = children_of(process.pid)[0]
        yield pid
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        if pid and is_alive(pid):
            wait_gone(pid)


def make_key(path: Path) -> None:
    """Make a pair of ssh keys without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
