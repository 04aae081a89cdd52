"""A tunnel over ssh, with the user's own configuration: keys, jump hosts, ControlMaster.

    ssh HOST palace ensure          elects over there, where the lock means something
    ssh -L LOCAL:SOCKET HOST cat    forwards the broker's socket for as long as we hold its input
    ssh HOST palace dial            carries the bytes itself, where the server forwards no sockets

Every ssh ends with its standard input, so that none outlives a shim that was killed.  Nothing is
ever asked at a terminal (BatchMode); what ssh says on its standard error reaches the user.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from palace.client.guest.tunnel import READ_BYTES, SocketEnd, TunnelProblem, carry
from palace.protocol.decoding import decode_json
from palace.protocol.election import FINAL_EXITS

ENSURE_S = 90.0
FORWARD_S = 15.0
FIRST_LINE_S = 30.0
FIRST_LINE_BYTES_MAX = 1 << 17
END_S = 2.0
PREFIX = "palace-ssh-"
LOST_EXIT = 255
UNKNOWN_COMMAND_EXIT = 127
OPTIONS = (
    # Banners and warnings of ssh would stand between the words that tell what is wrong.
    *("-T", "-oBatchMode=yes", "-oConnectTimeout=10", "-oLogLevel=ERROR"),
    *("-oServerAliveInterval=15", "-oServerAliveCountMax=2"),
)
# What ssh says, in lines of its own, that won't be otherwise at the next attempt; all else may be a
# network that comes and goes.  Others say the same words: a start file of the remote shell, a
# proxy's command, a warning about one of several keys.
_FINAL_LINES = re.compile(
    r"Host key verification failed\.$"
    r"|\S+: Permission denied \([\w,-]+\)\.$"
    r"|ssh: Could not resolve hostname \S+: (?!Temporary failure)"
    r"|Bad owner or permissions on "
    r"|.+: Bad configuration option: "
    r"|Can't open user config file "
)


class Target:
    """Where to go: `ssh://[USER@]HOST[:PORT][/PALACE]`, and how.

    `config` names an ssh configuration file (-F); `command` is how palace is called over there.
    """

    def __init__(self, url: str, *, config: str = "", command: str = "palace") -> None:
        parts = urlsplit(url)
        if parts.scheme != "ssh" or not parts.hostname or parts.hostname.startswith("-"):
            raise TunnelProblem("config", f"{url!r} is no ssh://[USER@]HOST[:PORT][/PALACE]")
        self.url = url
        self.command = command
        self.palace = unquote(parts.path) if len(parts.path) > 1 else ""
        self._kernel = parts.netloc.rpartition("@")[2].rpartition(":")[0] or parts.hostname
        self._kernel = self._kernel.strip("[]") if parts.port else parts.netloc.rpartition("@")[2]
        self._options = [*OPTIONS]
        if parts.username:
            self._options += ["-l", unquote(parts.username)]
        if parts.port:
            self._options += ["-p", str(parts.port)]
        if config:
            self._options += ["-F", config]

    def argv(self, *more: str, command: str = "") -> list[str]:
        words = ["ssh", *self._options, *more, "--", self._kernel]
        return [*words, command] if command else words

    def remote(self, verb: str) -> str:
        """Return the remote shell's command line."""
        given = f" --palace {shlex.quote(self.palace)}" if self.palace else ""
        return f"{self.command} {verb}{given}"


class Bridge:
    """One shim's way over ssh; it remembers whether the server forwards sockets."""

    def __init__(self, target: Target, *, palace_id: str, directory: str) -> None:
        self._target = target
        self._palace_id = palace_id
        self._directory = directory
        self._forwards = True

    def carry(self, near: socket.socket) -> None:
        """Make sure of a broker over there and carry bytes; raises TunnelProblem."""
        if shutil.which("ssh") is None:
            raise TunnelProblem("config", f"{self._target.url} needs an ssh client: install one")
        remote = self._ensure()
        first = _first_line(near)
        if not first:
            return
        if self._forwards and self._forward(near, remote, first):
            return
        self._forwards = False
        self._dial(near, first)

    def _ensure(self) -> str:
        """Return the path of the broker's socket on its own machine."""
        argv = self._target.argv("-oClearAllForwardings=yes", command=self._target.remote("ensure"))
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=ENSURE_S, check=False
            )
        except subprocess.TimeoutExpired:
            text = f"{self._target.url}: `palace ensure` gave no answer in {ENSURE_S:.0f} s"
            raise TunnelProblem("broker_unreachable", text, final=False) from None
        if done.returncode:
            raise problem_of(self._target, done.returncode, done.stderr.decode(errors="replace"))
        try:
            record = decode_json(done.stdout.splitlines()[-1])
            found, endpoints = record["palace_id"], record["endpoints"]
        except (ValueError, IndexError, KeyError, TypeError):
            text = (
                f"{self._target.url}: `{self._target.remote('ensure')}` printed no record. A start "
                "file of the remote shell may print something of its own"
            )
            raise TunnelProblem("broker_unreachable", text) from None
        if self._palace_id and found != self._palace_id:
            text = (
                f"{self._target.url} serves another palace ({found}) than this one "
                f"({self._palace_id}): name it in the URL, ssh://HOST/PATH/OF/THE/PALACE; or, if "
                "that one is meant, let MEMPALACE_PATH name no palace of this machine"
            )
            raise TunnelProblem("wrong_palace", text)
        paths = [
            str(url).removeprefix("unix:") for url in endpoints if str(url).startswith("unix:")
        ]
        return paths[0] if paths else ""

    # Forwarding the broker's socket.

    def _forward(self, near: socket.socket, remote: str, first: bytes) -> bool:
        """Carry bytes over a forwarded socket; False where the server won't forward it."""
        if not remote:
            return False
        _tidy_up(self._directory)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=self._directory) as directory:
            local = f"{directory}/s"
            with self._forwarding(local, remote) as process:
                socket_end = _connected(local, process)
                if socket_end is None:
                    return False
                with socket_end:
                    answer = _ask(socket_end, first)
                    if not answer:
                        return False
                    near.sendall(answer)
                    carry(near, SocketEnd(socket_end))
        return True

    @contextmanager
    def _forwarding(self, local: str, remote: str) -> "Iterator[subprocess.Popen[bytes]]":
        forward = ("-oStreamLocalBindMask=0177", "-L", f"{local}:{remote}")
        argv = self._target.argv(*forward, command="cat")
        null = subprocess.DEVNULL
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=null, stderr=null)
        try:
            yield process
        finally:
            end_ssh(process)
            # A ControlMaster keeps what was forwarded through it; without one this does nothing.
            argv = self._target.argv("-O", "cancel", "-L", f"{local}:{remote}")
            try:
                subprocess.run(
                    argv, stdin=null, stdout=null, stderr=null, timeout=END_S, check=False
                )
            except subprocess.TimeoutExpired:
                pass  # its master is stuck: it is the user's own

    # Carrying the bytes over standard input and output.

    def _dial(self, near: socket.socket, first: bytes) -> None:
        ours, theirs = socket.socketpair()
        argv = self._target.argv("-oClearAllForwardings=yes", command=self._target.remote("dial"))
        with tempfile.TemporaryFile() as said, ours:
            process = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=said
            )
            theirs.close()
            try:
                carry(near, SocketEnd(ours), first)
            finally:
                ours.close()
                end_ssh(process)
            if process.returncode > 0:
                said.seek(0)
                words = said.read().decode(errors="replace")
                raise problem_of(self._target, process.returncode, words)


def problem_of(target: Target, status: int, said: str) -> TunnelProblem:
    """Say what went wrong, in the words of whoever knows."""
    words = "; ".join(line.strip() for line in said.splitlines() if line.strip())[-600:]
    url = target.url
    if status == LOST_EXIT:
        final = any(_FINAL_LINES.match(line.strip()) for line in said.splitlines())
        text = f"ssh to {url} failed: {words or 'it said nothing'}"
        return TunnelProblem("broker_unreachable", text, final=final)
    if status == UNKNOWN_COMMAND_EXIT or "not found" in words:
        text = (
            f"{url} knows no command {target.command!r} in a shell without a login "
            f"({words}). Install palace there, or say where it is: "
            "palace config set bridge_command=/path/to/palace, or PALACE_BRIDGE_COMMAND"
        )
        return TunnelProblem("spawn_failed", text)
    name = FINAL_EXITS.get(status, "broker_unreachable")
    return TunnelProblem(name, f"{url}: {words or f'exit code {status}'}")


def _first_line(near: socket.socket) -> bytes:
    """Take the relay's HELLO, which may have to be said twice; b"" where it has gone."""
    near.settimeout(FIRST_LINE_S)
    data = b""
    while b"\n" not in data and len(data) < FIRST_LINE_BYTES_MAX:
        try:
            piece = near.recv(READ_BYTES)
        except OSError:
            return b""
        if not piece:
            return b""
        data += piece
    return data


def _tidy_up(directory: str) -> None:
    """Remove what killed shims left: sockets at which nothing listens any more."""
    for name in os.listdir(directory):
        path = f"{directory}/{name}/s"
        if not name.startswith(PREFIX) or not os.path.exists(path):
            continue  # another shim's ssh has not made its socket yet
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                shutil.rmtree(f"{directory}/{name}", ignore_errors=True)
            except OSError:
                continue


def _connected(path: str, process: "subprocess.Popen[bytes]") -> socket.socket | None:
    """Connect to a socket as soon as ssh has made it; None where it ends without."""
    deadline_s = time.monotonic() + FORWARD_S
    while process.poll() is None and time.monotonic() < deadline_s:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            time.sleep(0.01)
        else:
            return sock
    return None


def _ask(socket_end: socket.socket, first: bytes) -> bytes:
    """Say hello; return the first words of the answer, b"" where there is none."""
    socket_end.settimeout(FIRST_LINE_S)
    try:
        socket_end.sendall(first)
        return socket_end.recv(READ_BYTES)
    except OSError:
        return b""


def end_ssh(process: "subprocess.Popen[bytes]") -> None:
    """Let an ssh end by itself, as it does when its input ends; help where it doesn't."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
