"""Sites that outlive one test: for fixtures of a module, where a start costs seconds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.processes.clients import PALACE, Client, Site
from tests.support.stores.nonces import PGVECTOR_DSN


def make_site(
    root: Path, model_home: Path, palace: str = "store/palace", backend: str = "chroma"
) -> Site:
    """Make a home with the genuine model below `root`, and the directory of an empty palace.

    The caller ends its brokers (`end_brokers`).
    """
    home = root / "home"
    if not home.exists():
        (home / ".cache").mkdir(parents=True)
        (home / ".cache" / "chroma").symlink_to(model_home / ".cache" / "chroma")
    site = Site(home=home, palace=root / palace, extra={"TZ": "UTC", **naming(backend)})
    site.palace.mkdir(parents=True, exist_ok=True)
    return site


def naming(backend: str) -> dict[str, str]:
    """Return the variables that name a backend."""
    if backend == "chroma":
        return {}
    where = {"MEMPALACE_PGVECTOR_DSN": os.environ[PGVECTOR_DSN]} if backend == "pgvector" else {}
    return {"MEMPALACE_BACKEND": backend, **where}


def empty_database() -> None:
    """Remove all tables of the database that sites are made in."""
    import psycopg

    with psycopg.connect(os.environ[PGVECTOR_DSN], autocommit=True) as session:
        session.execute("DROP SCHEMA public CASCADE")
        session.execute("CREATE SCHEMA public")


def start_stock(environ: dict[str, str], *arguments: str, **popen: Any) -> Client:
    """Start a stock `mempalace-mcp` in exactly this environment; it logs into nothing."""
    argv = [sys.executable, "-P", "-m", "mempalace.mcp_server", *arguments]
    popen.setdefault("stderr", subprocess.DEVNULL)
    return Client(argv, environ | {"MEMPALACE_HUB_FORWARD": "0"}, **popen)


def start_shim(environ: dict[str, str], *arguments: str, **popen: Any) -> Client:
    """Start a `palace shim` in exactly this environment; it logs into nothing."""
    popen.setdefault("stderr", subprocess.DEVNULL)
    return Client([*PALACE, "shim", *arguments], environ, **popen)


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}
