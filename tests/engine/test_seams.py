"""What palace needs of the engine is stated, and is there, in every version of its range."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from palace.engine.versions import SUPPORTED
from tests.support.engines.seams import PAGE, page
from tests.support.engines.successor import VERSION, stand_in
from tests.support.faults.killing import is_deep

pytestmark = [pytest.mark.engine, pytest.mark.process]

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.path[:0] = sys.argv.pop(1).split(":")
from tests.support.engines.seams import main
main()
"""


def table_of(tmp_path: Path, *first: Path) -> Any:
    """Return the table of the engine that is found first on such a path."""
    search = ":".join(str(path) for path in (*first, ROOT))
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, search],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def problems(table: Any) -> list[tuple[str, str]]:
    return [(seam["name"], seam["problem"]) for seam in table["seams"] if seam["problem"]]


def test_the_installed_engine_has_all_of_it_and_the_page_says_what(tmp_path: Path) -> None:
    table = table_of(tmp_path)

    assert problems(table) == []
    assert len(table["seams"]) > 100
    assert all(seam["file"] and seam["why"] for seam in table["seams"])
    assert PAGE.read_text() == page(table), "python -m tests.support.engines.seams --page"


def test_what_is_known_of_the_next_version_takes_nothing_away(tmp_path: Path) -> None:
    """Of a stand-in: the real one is tried once an index has it, by the tests below."""
    stand_in(tmp_path)
    table = table_of(tmp_path, tmp_path)

    assert table["version"] == VERSION
    assert problems(table) == []


def pip(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip()[-200:]}")
    return done.stdout


def unpacked(version: str, tmp_path: Path) -> Path:
    """Return a directory with a version's package, from the index."""
    wanted = f"mempalace=={version}"
    pip("download", "--quiet", "--no-deps", "--dest", str(tmp_path / version), wanted)
    [wheel] = (tmp_path / version).glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / version / "site")
    return tmp_path / version / "site"


@pytest.mark.skipif(not is_deep(), reason="asks the package index: PALACE_TEST_PROFILE=deep")
def test_every_version_of_the_range_has_all_of_it(tmp_path: Path) -> None:
    listed = pip("index", "versions", "mempalace")
    versions = re.findall(rf"\b{re.escape(SUPPORTED)}\.\d+\b", listed.partition("\n  ")[0])
    tried = {}
    for version in sorted(set(versions)):
        table = table_of(tmp_path, unpacked(version, tmp_path))
        assert table["version"] == version
        tried[version] = problems(table)

    print(f"tried: {', '.join(tried)}")
    assert tried
    assert not [found for found in tried.values() if found]


@pytest.mark.skipif(not is_deep(), reason="asks the package index: PALACE_TEST_PROFILE=deep")
def test_a_version_before_the_range_is_told_by_each_seam_that_it_lacks(tmp_path: Path) -> None:
    found = problems(table_of(tmp_path, unpacked("3.10.0", tmp_path)))

    assert {name for name, _ in found} >= {"graph_file", "watch_progress", "look_rarely"}
    for name, problem in found:
        assert f"which the adjustment '{name}' needs" in problem
        assert f"Install a {SUPPORTED}.x release" in problem
