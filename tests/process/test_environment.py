"""One session's environment does not rule for all, and no broker reports to anybody."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.ownership.keys import key_path
from palace.ownership.served import entry_path
from palace.settings.inherited import inherited, to_be_fixed
from palace.settings.paths import Paths
from palace.settings.process import QUIET
from palace.settings.user_settings import user_settings_path
from tests.support.brokers.embedder import serve_embedder
from tests.support.processes.brokers import Serving, is_alive, make_palace, wait_gone, wait_ready
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.process]

PREPARED = Path(__file__).parents[1] / "support" / "faults" / "prepared.py"
BROKEN = 'raise ImportError("built for another Python")\n'
# A hook that sees each connection made from Python and each file opened or made by it.
AUDIT = """
import runpy, sys, os
runpy.run_path({prepared!r})
if "serve" in sys.orig_argv:
    log = open({log!r}, "a", buffering=1)
    def hook(event, args):
        if event == "socket.connect":
            log.write(f"{{args[1]!r}}\\n")
    sys.addaudithook(hook)
"""


@pytest.fixture
def leaked(tmp_path: Path) -> dict[str, str]:
    """An environment of a session as bad as they come."""
    directory = tmp_path / "leaked"
    directory.mkdir()
    for module in ("attr", "trio", "numpy", "queue", "chromadb", "mempalace", "json"):
        (directory / f"{module}.py").write_text(BROKEN)
    return {
        "PYTHONPATH": str(directory),
        "PYTHONSTARTUP": str(directory / "attr.py"),
        "TMPDIR": "/nowhere",
        "MEMPALACE_EMBEDDING_MODEL": "openai-compat",
        "MEMPALACE_EMBEDDING_API_URL": "http://127.0.0.1:9/v1",
        "MEMPALACE_EMBEDDING_API_MODEL": "none",
        "MEMPALACE_BACKEND": "sqlite_exact",
        "CHROMA_API_IMPL": "nothing.of.the.kind",
        "http_proxy": "http://127.0.0.1:9",
        "ANONYMIZED_TELEMETRY": "True",
        "MEMPALACE_MCP_READ_ONLY": "0",
    }


def environ_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def found(site: Site, **environ: str) -> str:
    with site.shim(**environ) as client:
        return json.dumps(client.tool("search", query="herons by the mill pond"))


def file_one(site: Site, **environ: str) -> None:
    with site.shim(**environ) as client:
        client.tool("add_drawer", wing="w", room="r", content="Two herons live by the mill pond.")


def end(site: Site) -> None:
    pid = site.record()["pid"]
    assert site.run("stop").returncode == 0
    wait_gone(pid)


def assert_private(pid: int) -> None:
    """Nothing that a broker makes is others' to read or write, and no dump holds its memory."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    (cores,) = (line for line in limits.splitlines() if line.startswith("Max core"))
    assert cores.split()[4:6] == ["0", "0"]
    assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
    assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()


def test_the_session_that_starts_the_broker_does_not_decide(
    site: Site, leaked: dict[str, str]
) -> None:
    file_one(site)
    end(site)

    assert "herons live" in found(site, **leaked)
    pid = site.record()["pid"]
    given = environ_of(pid)
    assert given["no_proxy"] == "127.0.0.1,localhost,::1"
    fixed = to_be_fixed(leaked)
    assert given == inherited(given) | fixed  # those are given to be fixed, and are not in force
    assert_private(pid)
    assert "herons live" in found(site)
    site.extra |= fixed
    said = site.run("doctor")
    assert "No broker goes by MEMPALACE_BACKEND, MEMPALACE_EMBEDDING_API_MODEL" in " ".join(
        said.stdout.split()
    )


def test_a_broker_started_by_hand_obeys_the_same(
    site: Site, leaked: dict[str, str], tmp_path: Path
) -> None:
    file_one(site)
    end(site)
    (tmp_path / ".env").write_text("chroma_api_impl=nothing.of.the.kind\n")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        site.extra = leaked
        with Serving(site):
            os.chdir(here)
            site.extra = {}
            wait_ready(site)
            assert "herons live" in found(site)
    finally:
        os.chdir(here)


def test_neighbours_of_a_leaking_session_see_nothing_of_it(
    site: Site, leaked: dict[str, str]
) -> None:
    with site.shim(**leaked) as leaking, site.shim() as healthy:
        for client in (leaking, healthy, leaking, healthy):
            assert "result" in client.call("mempalace_get_aaak_spec")


def remote_addresses(pid: int) -> set[str]:
    """Return whom a process is connected to over TCP, its own loopback excepted."""
    sockets = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            sockets.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if f"socket:[{fields[9]}]" in sockets:
                found.add(fields[2].partition(":")[0])
    return {one for one in found if one.strip("0") and one != "0100007F"}


@pytest.fixture
def audited(site: Site, tmp_path: Path) -> Path:
    """A site whose brokers write down each address that they connect to from Python."""
    directory, log = tmp_path / "audit", tmp_path / "connects"
    directory.mkdir()
    log.touch()
    text = AUDIT.format(prepared=str(PREPARED), log=str(log))
    (directory / "sitecustomize.py").write_text(text)
    site.extra["PYTHONPATH"] = str(directory)
    return log


def test_nothing_phones_home(site: Site, audited: Path) -> None:
    make_palace(site)
    before = set(site.home.rglob("*"))
    with site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="Two herons live by the mill pond.")
        pid = site.record()["pid"]
        seen = set()
        for _ in range(5):
            assert client.tool("search", query="herons")["results"]
            seen |= remote_addresses(pid)
        assert is_alive(pid)
    end(site)
    assert site.run("doctor", "--drift").returncode in (0, 1)

    made = {str(path.relative_to(site.home)) for path in set(site.home.rglob("*")) - before}
    stocks = (".mempalace", ".config/mempalace")  # its locks, and its log of writes
    paths, environ = Paths(str(site.palace)), site.environ()
    ours = (  # that the palace was served there, and what is this user's of it
        entry_path(paths.root, environ),
        user_settings_path(paths, environ),
        key_path(site.palace.joinpath("palace_id").read_text().strip(), environ),
    )
    files = [Path(name).relative_to(site.home) for name in ours]
    noted = {str(path) for file in files for path in (file, *file.parents)} - {"."}
    assert {name for name in made if not name.startswith(stocks)} == {".config"} | noted
    assert not [name for name in made if "telemetry" in name]
    assert seen == set()
    connects = [line for line in audited.read_text().splitlines() if "broker.sock" not in line]
    assert connects == []


def test_a_user_who_wants_it_may_switch_it_on(site: Site) -> None:
    switched_on = ", ".join(f'{name} = "0"' for name in QUIET)
    make_palace(site, f"environment = {{ {switched_on} }}\n")
    file_one(site)

    assert list((site.home / ".cache" / "Microsoft").rglob("deviceid"))


# Other embedders.


@pytest.fixture
def embedder() -> Iterator[str]:
    with serve_embedder() as embedder:
        url = embedder.url
        yield url


def bare_site(root: Path) -> Site:
    """Return a site without the model, where none can be fetched, behind a dead proxy."""
    site = Site(home=root / "home", palace=root / "store" / "palace")
    site.home.mkdir()
    site.palace.parent.mkdir()
    closed = "http://127.0.0.1:9"
    site.extra = {
        "PIP_INDEX_URL": closed,
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "http_proxy": closed,
        "https_proxy": closed,
    }
    return site


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    yield bare_site(tmp_path)
    end_brokers(tmp_path)


def test_an_embedder_of_the_first_session_is_that_of_all(bare: Site, embedder: str) -> None:
    named = {
        "MEMPALACE_EMBEDDING_MODEL": "openai-compat",
        "MEMPALACE_EMBEDDING_API_URL": embedder,
        "MEMPALACE_EMBEDDING_API_MODEL": "stub",
    }
    file_one(bare, **named)
    end(bare)

    assert "herons live" in found(bare)
    assert "herons live" in found(bare, **named)
    assert bare.run("doctor").stdout.count("No broker goes by") == 0


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_embedder_of_config_json_needs_no_minilm(bare: Site, embedder: str, mark: str) -> None:
    directory = bare.home / ".mempalace"
    directory.mkdir()
    settings = {
        "embedding_model": " OpenAI-Compat",
        "embedding_api_url": embedder,
        "embedding_api_model": "stub",
    }
    (directory / "config.json").write_text(mark + json.dumps(settings), encoding="utf-8")

    file_one(bare)
    assert "herons live" in found(bare)
    assert "openai-compat" in bare.run("doctor", "--json").stdout
    assert "no_model" not in bare.run("doctor", "--json").stdout


def test_another_backends_files_are_named_to_client_status_and_doctor_alike(site: Site) -> None:
    settings = site.home / ".mempalace" / "config.json"
    settings.parent.mkdir()
    settings.write_text('{"backend": "sqlite_exact"}')
    file_one(site)
    end(site)
    settings.write_text('{"backend": "chroma"}')

    with site.shim() as client:
        refused = client.call("mempalace_status")["error"]["message"]
    wait_until(lambda: site.run("status").returncode == 69, what="its broker is gone")
    told = [site.run("status").stdout, site.run("doctor", "--json").stdout.replace('\\"', '"')]

    cause = f"{settings} says that the backend is chroma, and {site.palace}/sqlite_exact.sqlite3 is"
    assert all(cause in " ".join(text.split()) for text in (refused, *told)), (refused, told)
    assert all('"backend": "sqlite_exact"' in text for text in (refused, *told))
    settings.write_text('{"backend": "sqlite_exact"}')
    assert "herons live" in found(site)
