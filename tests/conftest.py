"""What all tests share: a home with the genuine embedding model, and palaces in it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from palace.engine.embedding.model import install_model, is_installed
from tests.support.engines.postgres import Postgres, running_postgres
from tests.support.machines.needs import summary
from tests.support.processes.clients import Site, end_brokers
from tests.support.processes.traces import traced
from tests.support.stores.nonces import PGVECTOR_DSN

# How long an example takes says more of what else the machine does.
hypothesis.settings.register_profile("palace", deadline=None)
hypothesis.settings.load_profile("palace")


# Files that one worker has for a minute: at the end all others would wait for it.
LONG = ("tests/sim/test_sim.py", "tests/security/test_fuzz.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; leave out, and say so, what reads /proc where there is none."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    if sys.platform == "linux":
        return
    for item in items:
        if item.get_closest_marker("process"):
            item.add_marker(pytest.mark.skip(reason="reads Linux's /proc"))


SHORT_TEMP = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep paths short, whatever TMPDIR and the user's name: sockets lie in tests' directories."""
    # mutmut's children end without a word, and would leave theirs behind; pytest's own are few.
    if config.option.basetemp is None and "MUTANT_UNDER_TEST" not in os.environ:
        config.option.basetemp = tempfile.mkdtemp(prefix="p-", dir="/tmp")
        config.stash[SHORT_TEMP] = Path(config.option.basetemp)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the very last line what was skipped because a part of the machine is absent."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker's
        return
    if SHORT_TEMP in config.stash and not {"failed", "error"} & reporter.stats.keys():
        shutil.rmtree(config.stash[SHORT_TEMP], ignore_errors=True)
    skipped = reporter.stats.get("skipped", [])
    if line := summary(report.longreprtext for report in skipped):
        reporter.write_line(line, yellow=True)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Fail the test that leaves the process another umask, and not one of those after it."""
    before = _current_umask()
    yield
    after = _current_umask()
    os.umask(before)
    assert after == before, f"this test left the umask {after:#o}"


def _current_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, one for a session of tests; each palace has tables of its own in it."""
    with running_postgres() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(PGVECTOR_DSN, server.dsn())
        yield server


@pytest.fixture(scope="session")
def model_home(pytestconfig: pytest.Config) -> Path:
    """A home that holds the genuine MiniLM; fetched once for a checkout, kept in its cache."""
    home = Path(pytestconfig.cache.mkdir("model-home"))
    if not is_installed(home):
        install_model(home)
    return home


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    """A fresh home and an empty palace, with the model at hand; its brokers are ended."""
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    (home / ".cache" / "chroma").symlink_to(model_home / ".cache" / "chroma")
    site = Site(home=home, palace=tmp_path / "store" / "palace")
    site.palace.parent.mkdir()
    try:
        yield site
    finally:
        end_brokers(tmp_path)


@pytest.fixture
def follow_trace(site: Site) -> Iterator[Path]:
    """Have the site's processes write their steps, and hold them against the model at the end."""
    with traced(site) as path:
        yield path


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    import tempfile

    path = Path(os.path.realpath(tempfile.mkdtemp(prefix="p-", dir="/tmp")))
    mode = path.parent.stat().st_mode
    try:
        yield path
        assert path.parent.stat().st_mode == mode, f"{path.parent} is everybody's"
    finally:
        end_brokers(path)
        shutil.rmtree(path)
