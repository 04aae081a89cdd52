"""The wheel for shims is the other one without a broker's part; it itself: test_install.py."""

import ast
import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from images.__main__ import ROOT
from images.light import imports, left_out, make_light, of_light

METADATA = """Metadata-Version: 2.4
Name: palace-broker
Version: 1.2.3
Summary: All of it.
Requires-Dist: attrs>=24.2
Requires-Dist: outcome>=1.3
Requires-Dist: trio-websocket>=0.12
Requires-Dist: trio>=0.27
Requires-Dist: wsproto>=1.2
Provides-Extra: engine
Requires-Dist: chromadb<2,>=1.5.9; extra == 'engine'
Requires-Dist: trio-typing; extra == 'dev'

# palace

Name: of no field
Requires-Dist: said in the text
"""
MODULES = {
    "palace/__init__.py": "",
    "palace/__main__.py": "def main():\n    from palace.broker.serve import main\n",
    "palace/doctor/__init__.py": "",
    "palace/doctor/look.py": "from palace.engine.files import read\n",
    "palace/broker/__init__.py": "",
    "palace/broker/serve.py": "def main():\n    import palace.broker.broker\n",
    "palace/broker/broker.py": "import palace.engine.host\n",
    "palace/engine/__init__.py": "",
    "palace/engine/files.py": "from palace.engine import names\n",
    "palace/engine/names.py": "",
    "palace/engine/host.py": "",
    "palace/engine/hosting/__init__.py": "",
    "palace/engine/hosting/calls.py": "",
}
HEAVY = {
    *("palace/broker/broker.py", "palace/engine/host.py"),
    *("palace/engine/hosting/__init__.py", "palace/engine/hosting/calls.py"),
}


def changed(path: str, text: str) -> set[str]:
    return left_out({**MODULES, path: text})


def test_what_only_a_broker_imports_is_left_out() -> None:
    assert left_out(MODULES) == HEAVY


@pytest.mark.parametrize(
    ("path", "text", "kept"),
    [
        # Outside of a broker's rooms every import counts, whenever it is made.
        ("palace/doctor/look.py", "import palace.engine.host", {"palace/engine/host.py"}),
        (
            "palace/doctor/look.py",
            "async def f():\n    from palace.engine import host",
            {"palace/engine/host.py"},
        ),
        # A module's package is imported with it.
        (
            "palace/doctor/look.py",
            "import palace.engine.hosting.calls",
            {"palace/engine/hosting/__init__.py", "palace/engine/hosting/calls.py"},
        ),
        # Inside of them, what is imported whenever the module is.
        ("palace/engine/names.py", "import palace.engine.host", {"palace/engine/host.py"}),
        (
            "palace/engine/names.py",
            "class A:\n    import palace.engine.host",
            {"palace/engine/host.py"},
        ),
        ("palace/engine/names.py", "def f():\n    import palace.engine.host", set()),
        # What looks like an import is none.
        ("palace/doctor/look.py", "'''import palace.engine.host'''", set()),
        (
            "palace/doctor/look.py",
            "if TYPE_CHECKING:\n    import palace.engine.host",
            set(),
        ),
        (
            "palace/doctor/look.py",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import palace.engine.host",
            {"palace/engine/host.py"},
        ),
    ],
)
def test_what_anything_else_imports_is_kept(path: str, text: str, kept: set[str]) -> None:
    left = changed(path, text)

    assert not kept & left
    if not kept:
        assert "palace/engine/host.py" in left


def test_imports_are_those_of_the_module_and_with_late_of_its_functions() -> None:
    tree = ast.parse("import a.b\nfrom c import d, e as f\ndef g():\n    import h\n")

    assert list(imports(tree, late=False)) == ["a.b", "c.d", "c.e"]
    assert list(imports(tree, late=True)) == ["a.b", "c.d", "c.e", "h"]


def test_its_metadata_is_of_another_name_and_without_extras() -> None:
    told, _, text = of_light(METADATA.encode()).decode().partition("\n\n")

    assert told.splitlines()[1:3] == ["Name: palace-shim", "Version: 1.2.3"]
    assert told.splitlines()[4:] == ["Requires-Dist: attrs>=24.2", "Requires-Dist: wsproto>=1.2"]
    assert "All of it" not in told
    assert text == METADATA.partition("\n\n")[2]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    made = tmp_path / "palace_broker-1.2.3-py3-none-any.whl"
    about = "palace_broker-1.2.3.dist-info"
    with zipfile.ZipFile(made, "w") as wheel:
        for path, text in MODULES.items():
            wheel.writestr(path, text)
        wheel.writestr("palace/settings/tools.json", "[]")
        wheel.writestr(f"{about}/METADATA", METADATA)
        wheel.writestr(f"{about}/entry_points.txt", "[console_scripts]\n")
        wheel.writestr(f"{about}/RECORD", "of the other")
    return made


def test_what_is_kept_is_as_it_was_and_recorded(whole: Path, tmp_path: Path) -> None:
    light = make_light(whole, tmp_path)
    assert light.name == "palace_shim-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(whole) as theirs, zipfile.ZipFile(light) as ours:
        names = set(ours.namelist())
        about = {name for name in names if ".dist-info/" in name}
        assert names - about == {*MODULES, "palace/settings/tools.json"} - HEAVY
        assert all(ours.read(name) == theirs.read(name) for name in names - about)
        assert about == {
            f"palace_shim-1.2.3.dist-info/{name}"
            for name in ("METADATA", "RECORD", "entry_points.txt")
        }
        recorded = list(
            csv.reader(ours.read("palace_shim-1.2.3.dist-info/RECORD").decode().splitlines())
        )
        assert {row[0] for row in recorded} == names
        for name, digest, size in recorded[:-1]:
            found = hashlib.sha256(ours.read(name)).digest()
            assert digest == f"sha256={base64.urlsafe_b64encode(found).decode().rstrip('=')}"
            assert int(size) == len(ours.read(name))
    assert recorded[-1] == ["palace_shim-1.2.3.dist-info/RECORD", "", ""]


def test_the_same_wheel_makes_the_same_bytes_by_the_file_alone(whole: Path, tmp_path: Path) -> None:
    first = make_light(whole, tmp_path).read_bytes()
    (tmp_path / "again").mkdir()
    words: list[str | Path] = [sys.executable, "-I", ROOT / "images" / "light.py"]
    words += [whole, tmp_path / "again"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)

    assert Path(done.stdout.strip()).read_bytes() == first
