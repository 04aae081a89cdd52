"""The package as users install it: a wheel, with and without the engine."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.light import make_light
from palace.commands.try_out import PARAGRAPH_CHARS_MIN, PARAGRAPHS_MAX
from palace.protocol.errors import StoreUnavailable
from tests.support.processes.brokers import make_site
from tests.support.processes.clients import Client, Site, end_brokers

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent.parent
BYTES_MAX = 1_000_000  # of what a shim's container fetches
# Without an engine all of these say how to get one, whatever else they do before that.
NEED_THE_ENGINE = (
    *("serve", "serve --check", "ensure", "start", "doctor --drift", "rebuild"),
    *("set-embedder embeddinggemma", "move-store pgvector", "memory list"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(ROOT)], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def for_shims(wheel: Path) -> Path:
    return make_light(wheel, wheel.parent)


@pytest.fixture(scope="module", params=["wheel", "for_shims"])
def light(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """An installation without the engine, as a container that only needs the shim has it."""
    root = tmp_path_factory.mktemp("light")
    fetched = str(request.getfixturevalue(request.param))
    uv = [str(Path(sys.executable).parent / "uv"), "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(root / "venv")], check=True)
    python = ["--python", str(root / "venv/bin/python")]
    subprocess.run([*uv, "pip", "install", *python, fetched], check=True)
    subprocess.run([*uv, "pip", "check", *python], check=True)
    yield Site(home=root, palace=root / "store" / "palace")
    end_brokers(root)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Site]:
    """A palace of an installation with the engine."""
    root = tmp_path_factory.mktemp("served")
    site = make_site(root, model_home)
    yield site
    end_brokers(root)


def is_for_shims(light: Site) -> bool:
    return any((light.home / "venv").rglob("palace_shim-*"))


def remedy(light: Site) -> str:
    """Return the command that makes a broker's installation of this one."""
    python = f"--python {light.home}/venv/bin/python"
    gone = f"uv pip uninstall {python} palace-shim; " if is_for_shims(light) else ""
    return f"{gone}uv pip install {python} 'palace-broker[engine]'"


def test_the_wheel_holds_the_catalogue_the_texts_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {"palace/settings/tools.json", "palace/texts/design.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "bench"))]
    assert "palace/py.typed" not in names, "a program has no API whose types it could promise"


def test_the_wheel_for_shims_is_below_a_megabyte_without_the_engine(
    wheel: Path, for_shims: Path
) -> None:
    with zipfile.ZipFile(for_shims) as members:
        names = set(members.namelist())
    print(f"for shims {for_shims.stat().st_size} bytes, the whole {wheel.stat().st_size}")

    assert for_shims.stat().st_size < BYTES_MAX
    assert not [name for name in names if name.startswith(("palace/engine/hosting", "palace/tr"))]
    assert "palace/broker/broker.py" not in names
    assert {"palace/shim/relay.py", "palace/broker/serve.py", "palace/doctor/stores.py"} <= names


def test_what_is_installed_can_be_imported_but_for_what_needs_the_engine(light: Site) -> None:
    code = (
        "import importlib, pkgutil, palace, sys\n"
        "for module in pkgutil.walk_packages(palace.__path__, 'palace.'):\n"
        "    try: module.name == 'palace.__main__' or importlib.import_module(module.name)\n"
        "    except ModuleNotFoundError as error: print('lacks', error.name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')\n"
    )
    command = [str(light.home / "venv/bin/python"), "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = set(done.stdout.splitlines())
    lacking = {line.split()[1].partition(".")[0] for line in said if line.startswith("lacks ")}

    assert not {"chromadb", "mempalace", "numpy"} & said
    if is_for_shims(light):
        assert not lacking
        assert not {"outcome", "trio", "trio_websocket"} & said, "they are not asked for, either"
    else:
        assert "palace" not in lacking


def test_the_wheel_holds_no_text_that_no_tryout_stores(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as members:
        names = sorted(name for name in members.namelist() if name.startswith("palace/texts/"))
        texts = [members.read(name).decode() for name in names]
    stored = [
        sum(len(piece) >= PARAGRAPH_CHARS_MIN for piece in text.split("\n\n")) for text in texts
    ]

    assert sum(stored[:-1]) < PARAGRAPHS_MAX <= sum(stored)


def test_without_the_engine_the_shim_answers_and_says_what_is_missing(light: Site) -> None:
    light.palace.mkdir(parents=True, mode=0o700)
    command = [str(light.home / "venv/bin/palace"), "shim"]
    with Client(command, light.environ()) as shim:
        assert shim.initialize()["result"]["serverInfo"]["name"] == "mempalace"
        assert len(shim.request("tools/list")["result"]["tools"]) == 47
        error = shim.call("mempalace_search", query="x")["error"]

    assert error["code"] == -31047
    assert f"Install it: {remedy(light)} (" in error["message"]


def test_without_the_engine_it_reaches_an_owner_and_owns_nothing(light: Site, served: Site) -> None:
    palace = str(light.home / "venv/bin/palace")
    with served.shim() as full:
        full.initialize()
        full.tool("kg_add", subject="shim", predicate="is", object="light")
        with Client([palace, "shim"], served.environ(PALACE_NO_SPAWN="1")) as shim:
            shim.initialize()
            facts = shim.tool("kg_query", entity="shim")
    served.run("stop")

    assert "light" in str(facts)
    for words in NEED_THE_ENGINE:
        command = [palace, *words.split()]
        done = subprocess.run(
            command, env=served.environ(), capture_output=True, text=True, check=False
        )
        assert done.returncode == StoreUnavailable.exit_code, (words, done.stderr)
        assert "Traceback" not in done.stderr, words
        assert f"Install it: {remedy(light)} (" in done.stderr, words
