"""The package as users install it: a wheel, with and without the engine."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.commands.try_out import PARAGRAPH_CHARS_MIN, PARAGRAPHS_MAX
from tests.support.processes.clients import Client, Site, end_brokers

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent.parent
SHARE_BYTES_MAX = 900_000  # of what a shim's container carries, as it is fetched


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(ROOT)], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installation without the engine, as a container that only needs the shim has it."""
    root = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", str(root / "venv")], check=True)
    pip = [str(root / "venv/bin/python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(pip, check=True)
    yield Site(home=root, palace=root / "store" / "palace")
    end_brokers(root)


def test_the_wheel_holds_the_catalogue_the_texts_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {"palace/settings/tools.json", "palace/texts/design.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "bench"))]
    assert "palace/py.typed" not in names, "a program has no API whose types it could promise"


def test_a_shims_share_of_the_wheel_is_small(wheel: Path) -> None:
    """Containers that only need the shim carry the rest of the package, too."""
    with zipfile.ZipFile(wheel) as members:
        sizes = {one.filename: one.compress_size for one in members.infolist()}
    engines = sum(size for name, size in sizes.items() if name.startswith("palace/engine/"))
    print(f"wheel {wheel.stat().st_size}, of that the engine's room {engines}")

    assert wheel.stat().st_size - engines < SHARE_BYTES_MAX


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
    assert "/venv/bin/python -m pip install 'palace-broker[engine]'" in error["message"]


def test_without_the_engine_it_still_reaches_somebody_elses_broker(light: Site, site: Site) -> None:
    with site.shim() as full:
        full.initialize()
        full.tool("kg_add", subject="shim", predicate="is", object="light")
        command = [str(light.home / "venv/bin/palace"), "shim"]
        with Client(command, site.environ(PALACE_NO_SPAWN="1")) as shim:
            shim.initialize()
            facts = shim.tool("kg_query", entity="shim")

    assert "light" in str(facts)
