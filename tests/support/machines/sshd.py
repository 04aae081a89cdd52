"""A real sshd on the loopback, with keys of its own, and the client's configuration for it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.support.machines.needs import need_command

NAME = "palace-host"  # as the client's configuration calls it
START_S = 20.0


@attrs.define(kw_only=True)
class Sshd:
    """One server; `config` is the client's file for it (-F), whose host is called NAME."""

    directory: Path
    port: int
    config: Path
    process: "subprocess.Popen[bytes]"

    def connections(self) -> list[int]:
        """Return the pids of the server's processes that serve a connection."""
        return _children(self.process.pid)

    def end(self) -> None:
        """End the server first, then every connection; safe to call twice."""
        served = {pid: _children(pid) for pid in self.connections()}
        self.process.kill()
        self.process.wait()
        for pid, inner in served.items():
            for child in (*inner, pid):
                _kill(child)
        deadline_s = time.monotonic() + START_S
        while (self.directory / "m").exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)  # a ControlMaster that lost its server removes its socket by itself

    def cut(self) -> int:
        """Kill every connection as a failing network would; return how many there were."""
        pids = self.connections()
        for pid in pids:
            for child in _children(pid):
                _kill(child)
            _kill(pid)
        return len(pids)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def open_sshd(
    directory: Path,
    *,
    forwarding: bool = True,
    master: bool = False,
    known: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Sshd]:
    """Run a server that lets this user in, and end it with all its connections.

    `forwarding`: whether it forwards sockets; `master`: whether the client shares connections;
    `known`: whether the client knows the host's key; `environ`: what its shells find set.
    """
    server, keygen = need_command("sshd"), need_command("ssh-keygen")
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    for name in ("host", "user"):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    shutil.copy(directory / "user.pub", directory / "authorized")
    port = free_port()
    config = _write_configs(
        directory, port, forwarding=forwarding, master=master, environ=environ or {}
    )
    host_key = (directory / "host.pub").read_text().split()
    entry = f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n"
    (directory / "known").write_text(entry if known else "")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [server, "-D", "-e", "-f", str(directory / "sshd_config")], stderr=log
        )
    sshd = Sshd(directory=directory, port=port, config=config, process=process)
    try:
        _wait_for(port, process)
        yield sshd
    finally:
        sshd.end()


def _write_configs(
    directory: Path, port: int, *, forwarding: bool, master: bool, environ: Mapping[str, str]
) -> Path:
    words = " ".join(f"{name}={value}" for name, value in environ.items())
    (directory / "sshd_config").write_text(
        f"""Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowStreamLocalForwarding {"yes" if forwarding else "no"}
{f"SetEnv {words}" if words else ""}
"""
    )
    config = directory / "ssh_config"
    shared = (
        f"ControlMaster auto\n  ControlPath {directory}/m\n  ControlPersist 30\n" if master else ""
    )
    config.write_text(
        f"""Host {NAME}
  HostName 127.0.0.1
  Port {port}
  IdentityFile {directory}/user
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known
  GlobalKnownHostsFile /dev/null
  {shared}"""
    )
    return config


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        assert process.poll() is None, "sshd has ended"
        assert time.monotonic() < deadline_s, "sshd does not listen"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
