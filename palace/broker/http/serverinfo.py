"""How stock mempalace finds a server: its serverinfo.json and token, in its place.

Stock's command line, hooks and `mempalace-mcp` read `~/.mempalace/server/KEY/serverinfo.json`
(mempalace 3.11: server_registry.py), trust it while its pid lives, and log in with the token beside
it.  KEY stands for the palace.  The file is ours from the step in which we listen to the step in
which the record goes; one that another server has put there since is left alone.
"""

import json
import os
from collections.abc import Callable, Iterator

import attrs

from palace.broker.watch import Holding, Lost, PublishedFile
from palace.kernel.kernel import Kernel
from palace.kernel.whose import above_problem
from palace.protocol.decoding import decode_json, number_in
from palace.protocol.errors import LockFailed
from palace.settings.stock_config import server_directory

# What stock's clients ask for before they hand over a call (3.11: cli/_hub.py).
CAPABILITIES = ("mine_include_ignored", "mine_include_subagents", "search_cli_compatible")


@attrs.define(eq=False, kw_only=True)
class ServerInfo:
    """What a broker says of itself to stock; `home` is the user's, `palace` a resolved path."""

    home: str
    palace: str
    kernel: Kernel
    _published: bytes = b""

    @property
    def directory(self) -> str:
        return server_directory(self.home, self.palace)

    @property
    def path(self) -> str:
        return f"{self.directory}/serverinfo.json"

    @property
    def token_path(self) -> str:
        return f"{self.directory}/token"

    def token(self) -> str:
        """Make this broker's token; raises LockFailed or OSError.

        Each broker has its own: while none runs, another process may listen at a port that the user
        has fixed, and is then told the token that clients have.
        """
        self._make_directory()
        token = self.kernel.token(32)
        self.kernel.write_durable(self.token_path, token.encode() + b"\n")
        return token

    def _make_directory(self) -> None:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        problem = self.kernel.trust_problem(self.directory) or above_problem(self.directory)
        if problem:
            raise LockFailed(f"{self.directory} can't hold a token: {problem}. Remove it.")

    def publish(self, *, port: int, fingerprint: str) -> None:
        """Tell stock; the file is replaced whole, and readable by its user alone."""
        told = {
            "pid": os.getpid(),
            "host": "127.0.0.1",
            "port": port,
            "scheme": "http",
            "read_only": False,
            "capabilities": list(CAPABILITIES),
            "search_config_fingerprint": fingerprint,
            "palace_path": self.palace,
            "server": "palace",
        }
        data = json.dumps(told).encode() + b"\n"
        self.kernel.replace_file(self.path, data)
        self._published = data

    @property
    def is_published(self) -> bool:
        return bool(self._published)

    def is_anothers(self) -> bool:
        """Tell whether stock's clients are led to another server, which lives, and its token."""
        pid = self._pid_in(self.kernel.read_hint(self.path) or b"")
        return pid not in (0, os.getpid()) and self.kernel.process_of(pid) is not None

    def _pid_in(self, found: bytes) -> int:
        """Return whose file it is, 0 where that can't be told."""
        try:
            return number_in(decode_json(found), "pid")
        except (ValueError, KeyError, TypeError):
            return 0

    def holdings(self) -> Iterator[Holding]:
        """Yield what has to stay where stock looks; call it after `publish`."""
        yield self._holding("token", self.token_path, self._judge_token, vital=True)
        yield self._holding("serverinfo.json", self.path, self._judge_server, vital=False)

    def _holding(
        self, name: str, path: str, judge: Callable[[bytes], bytes | None], *, vital: bool
    ) -> Holding:
        data = self.kernel.read_hint(path)
        file = PublishedFile(path=path, kernel=self.kernel, data=data, judge=judge, durable=vital)

        def renew() -> None:
            self._make_directory()
            file.renew()

        return Holding(name=name, path=path, is_ours=file.is_ours, renew=renew, vital=vital)

    def _judge_token(self, _found: bytes) -> bytes | None:
        raise Lost(f"{self.token_path} was changed, and each broker makes its own")

    def _judge_server(self, found: bytes) -> bytes | None:
        """Leave the file to another server that lives: its clients trust the pid in it."""
        pid = self._pid_in(found)
        if pid not in (0, os.getpid()) and self.kernel.process_of(pid) is not None:
            raise Lost(f"{self.path} is that of another server, pid {pid}")
        return self._published

    def withdraw(self) -> None:
        """Remove what `publish` wrote, if it is still there; safe to call twice."""
        if self._published and self.kernel.read_hint(self.path) == self._published:
            self.kernel.unlink(self.path)
        self._published = b""

    def remove_dead(self) -> None:
        """Remove what a killed broker left: its pid may be another process's by now.

        Call it as the palace's owner: then every other broker of it is dead.
        """
        try:
            told = decode_json(self.kernel.read_hint(self.path) or b"{}")
        except ValueError:
            return
        if isinstance(told, dict) and told.get("server") == "palace":
            self.kernel.unlink(self.path)
