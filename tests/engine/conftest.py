"""What the engine's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines.maintenance import MaintenanceProcess
from tests.support.engines.milvus import need_milvus
from tests.support.processes.sites import make_site
from tests.support.stores.nonces import PGVECTOR_DSN

BACKENDS = (
    "chroma",
    "sqlite_exact",
    "pgvector",
    "milvus",
)  # each keeps the journal's promises, by the same tests


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that says `EACH_BACKEND` on each, if they use a palace.

    It is True, or names the backends.
    """
    wanted = getattr(metafunc.module, "EACH_BACKEND", ())
    if "backend" in metafunc.fixturenames and wanted:
        backends = BACKENDS if wanted is True else wanted
        metafunc.parametrize("backend", backends, indirect=True, scope="module")


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend that keeps the drawers; each module has a database of its own on a server."""
    name = str(getattr(request, "param", "chroma"))
    with pytest.MonkeyPatch.context() as patch:
        if name == "pgvector":
            server = request.getfixturevalue("postgres")
            database = f"of_{request.module.__name__.rpartition('.')[2]}"
            server.ask(f"CREATE DATABASE {database}")
            patch.setenv(PGVECTOR_DSN, server.dsn(database))
        if name == "milvus":
            need_milvus()
        yield name


@pytest.fixture(scope="module")
def maintenance(
    tmp_path_factory: pytest.TempPathFactory, model_home: Path, backend: str
) -> Iterator[MaintenanceProcess]:
    """The process that rebuilds, purges, copies and reads palaces for a module's tests."""
    root = tmp_path_factory.mktemp("maintenance")
    site = make_site(root, model_home, backend=backend)
    with MaintenanceProcess(site.environ(), root / "log") as maintenance:
        yield maintenance
